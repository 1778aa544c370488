//! What routes need whose requests leave a record.

use std::sync::Arc;

use super::Build;
use crate::{
    config::Route, events::publish::Publisher, http::idempotency::IdempotencyStore,
    middleware::idempotency,
};

/// What a route with `idempotency` needs.
type Keys = (idempotency::Settings, Arc<str>, Arc<dyn IdempotencyStore>);

impl Build<'_> {
    /// Whether requests with a key are done once, and who remembers keys.
    pub(super) fn idempotency(&self, route: &Route) -> Option<Keys> {
        let store: Arc<dyn IdempotencyStore> = Arc::new(self.store?.ingress().clone());
        Some((route.idempotency.clone()?, route.rule.name.clone(), store))
    }

    /// What the route publishes and records with. Its topics are configured, so they are in the store.
    pub(super) fn publisher(&self, route: &Route) -> Option<Publisher> {
        if route.publish.is_empty() && route.idempotency.is_none() {
            return None;
        }
        let Some(store) = self.store else { return Some(Publisher::unavailable()) };
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
