//! What routes need whose requests leave a record.

use std::sync::Arc;

use super::Build;
use crate::{
    config::Route,
    events::publish::Publisher,
    http::idempotency::{IdempotencyStore, Unavailable},
    middleware::idempotency,
};

/// What a route with `idempotency` needs.
type Keys = (idempotency::Settings, Arc<str>, Arc<dyn IdempotencyStore>);

impl Build<'_> {
    /// Whether requests with a key are done once, and who remembers keys.
    pub(super) fn idempotency(&self, route: &Route) -> Option<Keys> {
        let settings = route.idempotency.clone()?;
        let store: Arc<dyn IdempotencyStore> = match self.store {
            Some(store) => Arc::new(store.ingress().clone()),
            None => Arc::new(Unavailable),
        };
        Some((settings, route.rule.name.clone(), store))
    }

    /// What the route publishes and records with. Its topics are configured, so they are in the store.
    pub(super) fn publisher(&self, route: &Route) -> Option<Publisher> {
        if route.publish.is_empty() && route.idempotency.is_none() {
            return None;
        }
        let Some(store) = self.store else {
            // Who has only a key is refused by who would remember it.
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
