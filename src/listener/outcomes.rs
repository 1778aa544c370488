//! What became of accepted sockets, counted by listener and worker.

use std::{ops::Deref, sync::Arc};

use crate::{
    listener::Refused,
    telemetry::{
        in_flight::{self, InFlight},
        metrics::{CONNECTIONS, CONNECTIONS_OPEN, Cells, Counter, Gauge},
    },
};

/// One worker's cells for one listener. Clones count into the same cells; a clone is one reference.
#[derive(Clone, Debug)]
pub struct Outcomes(Arc<Counters>);

/// The cells themselves.
#[derive(Debug)]
pub struct Counters {
    /// Passed the limits, the PROXY header and TLS.
    pub accepted: Counter,
    /// Closed, because `max_connections` was reached and no connection was idle.
    pub limit: Counter,
    /// Closed, because its address has `max_connections_per_ip` open.
    pub per_ip_limit: Counter,
    /// Closed because of its PROXY header: malformed, missing, or from a peer that may not send
    /// one.
    pub proxy_header: Counter,
    /// The TLS handshake failed.
    pub tls_failed: Counter,
    /// PROXY header and TLS handshake took longer than `handshake_timeout`.
    pub handshake_timeout: Counter,
    /// The connection broke before the client sent anything.
    pub broken: Counter,
    /// Idle, closed to make room for a new one.
    pub shed: Counter,
    open: Arc<in_flight::Counter>,
    gauge: Gauge,
}

/// One open connection in the gauge, until it is dropped.
#[derive(Debug)]
pub(super) struct Open {
    count: Option<InFlight>,
    outcomes: Outcomes,
}

// === impl Outcomes ===

impl Outcomes {
    /// The cells of this listener in `cells`, which belong to one worker.
    pub fn new(cells: &Cells, listener: &str) -> Self {
        let outcome = |outcome| cells.counter(&CONNECTIONS, &[listener, outcome]);
        Self(Arc::new(Counters {
            accepted: outcome("accepted"),
            limit: outcome("limit"),
            per_ip_limit: outcome("per_ip_limit"),
            proxy_header: outcome("proxy_header"),
            tls_failed: outcome("tls_failed"),
            handshake_timeout: outcome("handshake_timeout"),
            broken: outcome("broken"),
            shed: outcome("shed"),
            open: Arc::default(),
            gauge: cells.gauge(&CONNECTIONS_OPEN, &[listener]),
        }))
    }

    pub(super) fn refused(&self, refused: &Refused) {
        let counter = match refused {
            Refused::ProxyHeader(_) => &self.proxy_header,
            Refused::Tls(_) => &self.tls_failed,
            Refused::PerIp => &self.per_ip_limit,
            Refused::Timeout => &self.handshake_timeout,
            Refused::Io(_) => &self.broken,
        };
        counter.add(1);
    }

    pub(super) fn enter(&self) -> Open {
        let count = Some(self.open.enter());
        self.gauge.set(self.open.get() as f64);
        Open { count, outcomes: self.clone() }
    }
}

impl Deref for Outcomes {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        drop(self.count.take());
        self.outcomes.gauge.set(self.outcomes.open.get() as f64);
    }
}
