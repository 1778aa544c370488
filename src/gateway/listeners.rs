//! The listeners of the process: which ports are open, and with which settings.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    config::Config,
    gateway::{
        StartError,
        worker::{ListenerId, Listening, Serves, Terms},
    },
    http::peer::Address,
    listener::{self, BindAddress, Bound, Limits, Refreshed, Tls},
    telemetry::{
        clock,
        metrics::{CERTIFICATE_EXPIRY, Cells},
    },
};

/// What is open now.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: Vec<Open>,
    /// How many ports have been opened so far.
    taken: u64,
}

#[derive(Clone, Debug)]
struct Open {
    id: ListenerId,
    /// The configured address: port 0 stays 0 here, so that asking again is no change.
    asked: BindAddress,
    bound: Arc<Bound>,
    terms: Terms,
}

/// Listeners of a configuration that is not in force yet. Dropping it closes the new ports.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Open, IsNew)>);

type IsNew = bool;

// === impl Listeners ===

impl Listeners {
    /// Opens the ports that `config` adds and loads its TLS files. Nothing that is open changes.
    ///
    /// A port is identified by its address, whatever the listener's name; the TLS sessions of a
    /// listener are kept by its name.
    pub(super) fn prepare(&mut self, config: &Config) -> Result<Prepared, StartError> {
        let mut prepared: Vec<(Open, IsNew)> = Vec::with_capacity(config.listeners.len());
        let routes = config.listeners.iter().map(|listener| (Serves::Routes, listener));
        let events = config.events_api.iter().map(|api| (Serves::Events, &api.listener));
        for (serves, listener) in routes.chain(events) {
            let settings = &listener.socket;
            let kept = self.kept(serves, settings, &prepared).cloned();
            let is_new = kept.is_none();
            let (id, bound, limits) = if let Some(open) = kept {
                (open.id, open.bound, open.terms.limits.changed(settings))
            } else {
                let bound = Bound::open(&settings.address).map_err(|source| StartError::Bind {
                    listener: settings.name.clone(),
                    source,
                })?;
                self.taken += 1;
                (ListenerId(self.taken), Arc::new(bound), Limits::new(settings))
            };
            let terms = Terms {
                serves,
                listener: Arc::new(settings.clone()),
                connection: Arc::new(listener.connection.clone()),
                limits,
                tls: self.tls(settings)?.map(Arc::new),
            };
            prepared.push((Open { id, asked: settings.address.clone(), bound, terms }, is_new));
        }
        Ok(Prepared(prepared))
    }

    /// The open listener that continues with `settings`, preferably the one with the same name.
    fn kept(
        &self,
        serves: Serves,
        settings: &listener::Settings,
        prepared: &[(Open, IsNew)],
    ) -> Option<&Open> {
        let is_free = |open: &&Open| {
            let is_same = open.asked == settings.address && open.terms.serves == serves;
            is_same && prepared.iter().all(|(other, _)| other.id != open.id)
        };
        let mut free = self.open.iter().filter(is_free);
        let own = free.clone().find(|open| open.terms.listener.name == settings.name);
        own.or_else(|| free.next())
    }

    fn tls(&self, settings: &listener::Settings) -> Result<Option<Tls>, StartError> {
        let Some(tls) = &settings.tls else { return Ok(None) };
        let before = self.open.iter().find(|open| open.terms.listener.name == settings.name);
        let previous = before.and_then(|open| open.terms.tls.as_deref());
        Tls::load(tls, settings.h1, settings.h2, previous)
            .map(Some)
            .map_err(|source| StartError::Tls { listener: settings.name.clone(), source })
    }

    /// Makes these the current listeners.
    pub(super) fn keep(&mut self, prepared: Prepared, cells: &Cells) {
        for open in &self.open {
            cells.forget_gauge(&CERTIFICATE_EXPIRY, &[&open.terms.listener.name]);
        }
        self.open = prepared.0.into_iter().map(|(open, _)| open).collect();
        self.open.iter().for_each(|open| open.tell_expiry(cells));
    }

    /// Serves changed certificates to new connections.
    pub(super) fn refresh_certificates(&self, cells: &Cells) {
        let now = Instant::now();
        for open in &self.open {
            let Some(tls) = &open.terms.tls else { continue };
            if tls.reload_if_changed(now) == Refreshed::Replaced {
                tracing::info!(listener = %open.terms.listener.name, "new certificates");
                open.tell_expiry(cells);
            }
        }
    }
}

// === impl Open ===

impl Open {
    fn tell_expiry(&self, cells: &Cells) {
        if let Some(until) = self.terms.tls.as_ref().and_then(|tls| tls.until()) {
            let gauge = cells.gauge(&CERTIFICATE_EXPIRY, &[&self.terms.listener.name]);
            gauge.set(clock::since_epoch(until).as_secs_f64());
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// One worker's share. New sockets get connections from now on.
    pub(super) fn for_worker(&self) -> Result<Vec<Listening>, StartError> {
        let share = |(open, is_new): &(Open, IsNew)| {
            let socket =
                is_new.then(|| open.bound.worker_socket()).transpose().map_err(|source| {
                    StartError::Bind { listener: open.terms.listener.name.clone(), source }
                })?;
            Ok(Listening { id: open.id, socket, terms: open.terms.clone() })
        };
        self.0.iter().map(share).collect()
    }

    /// The listening addresses, by name.
    pub(super) fn addresses(&self) -> Vec<(Arc<str>, Address)> {
        let address = |open: &Open| match open.bound.address() {
            BindAddress::Inet(address) => Address::Inet(*address),
            BindAddress::Unix(_) => Address::Unix,
        };
        self.0.iter().map(|(open, _)| (open.terms.listener.name.clone(), address(open))).collect()
    }
}
