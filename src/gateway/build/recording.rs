//! The parts of routes whose requests are recorded.

use std::sync::Arc;

use super::{Build, own_headers};
use crate::{
    config::Route,
    events::{enqueue::Enqueuer, publish::Publisher},
    gateway::status_paths::StatusPaths,
    http::idempotency::{IdempotencyStore, Unavailable},
    middleware::idempotency,
    routing::OwnPaths,
};

/// What a route with `idempotency` needs.
type Keys = (idempotency::Settings, Arc<str>, Arc<dyn IdempotencyStore>);

impl Build<'_> {
    /// Whether requests with a key are done only once, and who remembers the keys.
    pub(super) fn idempotency(&self, route: &Route) -> Option<Keys> {
        let settings = route.idempotency.clone()?;
        let store: Arc<dyn IdempotencyStore> = match self.store {
            Some(store) => Arc::new(store.ingress().clone()),
            None => Arc::new(Unavailable),
        };
        Some((settings, route.rule.name.clone(), store))
    }

    /// Stores the route's requests. Its topic is configured, so it is in the store.
    pub(super) fn enqueuer(&self, route: &Route) -> Option<Enqueuer> {
        let (settings, name) = (route.enqueue.as_ref()?, &route.rule.name);
        let Some(store) = self.store else { return Some(Enqueuer::unavailable(settings, name)) };
        let changes = own_headers(&route.headers).response;
        Some(Enqueuer::new(
            settings,
            (&store.name(), name),
            store.requests().clone(),
            (self.worker.tasks.clone(), &self.worker.cells),
            Box::new(move |headers| changes.apply(headers)),
        ))
    }

    /// Tells which routes answer for the requests they have stored.
    pub(super) fn status_paths(&self) -> Option<Box<dyn OwnPaths>> {
        let ids = self.store.map(|store| store.requests().ids().clone());
        let names = self.plan.config.routes.iter().enumerate();
        let storing = names.filter(|(_, route)| route.enqueue.is_some());
        let storing = storing.map(|(index, route)| (&*route.rule.name, index));
        StatusPaths::new(ids, storing).map(|paths| Box::new(paths) as Box<dyn OwnPaths>)
    }

    /// Publishes and records for the route. Its topics are configured, so they are in the store.
    pub(super) fn publisher(&self, route: &Route) -> Option<Publisher> {
        if route.publish.is_empty() && route.idempotency.is_none() {
            return None;
        }
        let Some(store) = self.store else {
            // A route with only `idempotency` is refused by its store of keys.
            return (!route.publish.is_empty()).then(Publisher::unavailable);
        };
        let worker = self.worker;
        Some(Publisher::new(
            &route.publish,
            (&store.name(), &route.rule.name),
            (&*store.targets(), store.ingress()),
            worker.tasks.clone(),
            &worker.cells,
        ))
    }
}
