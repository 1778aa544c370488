//! The listeners of the process: which ports are taken, and under which terms.

use std::{collections::HashMap, sync::Arc};

use tokio::time::Instant;

use crate::{
    config::Config,
    gateway::{
        StartError,
        worker::{Listening, Terms},
    },
    http::peer::Address,
    listener::{BindAddress, Bound, Limits, Refreshed, Tls},
};

/// What is open now, by name.
#[derive(Debug, Default)]
pub(super) struct Listeners(HashMap<Arc<str>, Open>);

#[derive(Clone, Debug)]
struct Open {
    /// What the file asks for: port 0 stays 0 here, so that asking again is no change.
    asked: BindAddress,
    bound: Arc<Bound>,
    terms: Terms,
}

/// Listeners of a configuration that is not in force yet. Dropping it leaves the new ports again.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Open, IsNew)>);

type IsNew = bool;

// === impl Listeners ===

impl Listeners {
    /// Takes the ports that `config` adds and loads its TLS files. Nothing that is open changes.
    pub(super) fn prepare(&self, config: &Config) -> Result<Prepared, StartError> {
        let mut prepared = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            let settings = &listener.socket;
            let before = self.0.get(&settings.name);
            let tls = settings
                .tls
                .as_ref()
                .map(|tls| {
                    let previous = before.and_then(|open| open.terms.tls.as_deref());
                    Tls::load(tls, settings.h1, settings.h2, previous)
                })
                .transpose()
                .map_err(|source| StartError::Tls { listener: settings.name.clone(), source })?;
            let kept = before.filter(|open| open.asked == settings.address);
            let bound = match kept {
                Some(open) => open.bound.clone(),
                None => Arc::new(Bound::open(&settings.address).map_err(|source| {
                    StartError::Bind { listener: settings.name.clone(), source }
                })?),
            };
            let limits = match kept {
                Some(open) => open.terms.limits.changed(settings),
                None => Limits::new(settings),
            };
            let terms = Terms {
                listener: Arc::new(settings.clone()),
                connection: Arc::new(listener.connection.clone()),
                limits,
                tls: tls.map(Arc::new),
            };
            let asked = settings.address.clone();
            prepared.push((Open { asked, bound, terms }, kept.is_none()));
        }
        Ok(Prepared(prepared))
    }

    /// These are the listeners now.
    pub(super) fn keep(&mut self, prepared: Prepared) {
        let open = prepared.0.into_iter().map(|(open, _)| (open.terms.listener.name.clone(), open));
        self.0 = open.collect();
    }

    /// Serves changed certificates to connections that come from now on.
    pub(super) fn refresh_certificates(&self) {
        let now = Instant::now();
        for (name, open) in &self.0 {
            let Some(tls) = &open.terms.tls else { continue };
            if tls.reload_if_changed(now) == Refreshed::Replaced {
                tracing::info!(listener = %name, "new certificates");
            }
        }
    }
}

// === impl Prepared ===

impl Prepared {
    /// One worker's share. Connections arrive on a new socket from now on.
    pub(super) fn for_worker(&self) -> Result<Vec<Listening>, StartError> {
        let share = |(open, is_new): &(Open, IsNew)| {
            let socket =
                is_new.then(|| open.bound.worker_socket()).transpose().map_err(|source| {
                    StartError::Bind { listener: open.terms.listener.name.clone(), source }
                })?;
            Ok(Listening { socket, terms: open.terms.clone() })
        };
        self.0.iter().map(share).collect()
    }

    /// Where they listen, by name.
    pub(super) fn addresses(&self) -> Vec<(Arc<str>, Address)> {
        let address = |open: &Open| match open.bound.address() {
            BindAddress::Inet(address) => Address::Inet(*address),
            BindAddress::Unix(_) => Address::Unix,
        };
        self.0.iter().map(|(open, _)| (open.terms.listener.name.clone(), address(open))).collect()
    }
}
