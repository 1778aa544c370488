//! How connections end when the client is not the one to end them; counted by listener and worker.

use std::{error::Error as _, fmt, ops::Deref, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    connection::telling::Telling,
    http::Peer,
    telemetry::metrics::{CONNECTIONS, Cells, Counter, REFUSALS},
};

/// One worker's cells for one listener. Clones count into the same cells; a clone is one reference.
#[derive(Clone, Debug)]
pub struct Outcomes(Arc<Counters>);

/// The cells themselves.
#[derive(Debug)]
pub struct Counters {
    /// No first byte within `keepalive_timeout`.
    pub keepalive_timeout: Counter,
    /// A head that was not complete within `header_timeout`: 408.
    pub header_timeout: Counter,
    /// A write was pending for `send_idle_timeout`; on h2 also: a response body was not read for as
    /// long.
    pub send_idle: Counter,
    /// A head that hyper refused as malformed: 400.
    pub bad_framing: Counter,
    /// A head over `header_bytes` or hyper's own bounds: 431, 414.
    pub header_too_large: Counter,
    /// Too many h2 streams were reset.
    pub resets: Counter,
    /// `client-timeout`, `bad-framing` and `header-too-large` among the refusals.
    pub(super) refused_timeout: Counter,
    pub(super) refused_framing: Counter,
    pub(super) refused_size: Counter,
    refused: Mutex<Telling>,
}

// === impl Outcomes ===

impl Outcomes {
    /// The cells of this listener in `cells`, which belong to one worker.
    pub fn new(cells: &Cells, listener: &str) -> Self {
        let outcome = |outcome| cells.counter(&CONNECTIONS, &[listener, outcome]);
        let refusal = |reason| cells.counter(&REFUSALS, &[reason]);
        Self(Arc::new(Counters {
            keepalive_timeout: outcome("keepalive_timeout"),
            header_timeout: outcome("header_timeout"),
            send_idle: outcome("send_idle"),
            bad_framing: outcome("bad_framing"),
            header_too_large: outcome("header_too_large"),
            resets: outcome("resets"),
            refused_timeout: refusal("client-timeout"),
            refused_framing: refusal("bad-framing"),
            refused_size: refusal("header-too-large"),
            refused: Mutex::default(),
        }))
    }

    /// Counts what hyper refused by itself, before any request existed.
    pub(super) fn failed(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            self.header_too_large.add(1);
            self.refused_size.add(1);
        } else if error.is_parse() {
            self.bad_framing.add(1);
            self.refused_framing.add(1);
        } else if is_calmed(error) {
            self.resets.add(1);
        }
    }

    /// Logs what hyper refused by itself: it never became a request, so no access log has it.
    pub(super) fn tell(&self, error: &hyper::Error, peer: &Peer) {
        if !error.is_parse() {
            return;
        }
        let Some(untold) = self.refused.lock().begin(Instant::now()) else { return };
        let client = peer.remote.ip().map_or_else(|| "unix".to_owned(), |ip| ip.to_string());
        let listener = &*peer.listener;
        if error.is_parse_too_large() {
            tracing::info!(
                listener,
                client,
                untold,
                "431 header-too-large: a head is over `limits.header_bytes`, or has over 100 fields"
            );
        } else {
            let error = Causes(error);
            tracing::info!(listener, client, untold, %error, "400 bad-framing: a head is malformed");
        }
    }

    /// A head did not come in time.
    pub(super) fn head_timed_out(&self) {
        self.header_timeout.add(1);
        self.refused_timeout.add(1);
    }
}

impl Deref for Outcomes {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.0
    }
}

/// Whether h2 itself ended the connection because of resets.
fn is_calmed(error: &hyper::Error) -> bool {
    error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>())
        .and_then(h2::Error::reason)
        .is_some_and(|reason| reason == h2::Reason::ENHANCE_YOUR_CALM)
}

/// An error and what caused it, in one line.
pub(super) struct Causes<'a>(pub(super) &'a hyper::Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
