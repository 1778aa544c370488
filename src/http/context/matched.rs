//! The route of an exchange, and the values that its path template has bound.

use std::sync::Arc;

use super::{Bound, Context, Params};
use crate::telemetry::metrics::RouteMetrics;

/// What routing has found.
pub(super) struct Matched {
    route: Option<Arc<RouteInfo>>,
    bound: Option<Bound>,
}

/// What logs and metrics need of the route that a request matched.
#[derive(Debug)]
pub struct RouteInfo {
    /// `routes[].name`.
    pub name: Arc<str>,
    /// Its path pattern as written.
    pub path: Arc<str>,
    /// This worker's cells for the route.
    pub metrics: RouteMetrics,
}

// === impl Context ===

impl Context {
    /// The route, once routing has chosen it; in a claims group it is the first member until `auth`
    /// has identified the client.
    pub fn route(&self) -> Option<&Arc<RouteInfo>> {
        let matched = || self.0.matched.get()?.route.as_ref();
        self.0.member.get().or_else(matched)
    }

    /// Written by routing; `bound` are the values of a template.
    pub fn set_route(&self, route: Arc<RouteInfo>, bound: Option<Bound>) {
        super::set(&self.0.matched, Matched { route: Some(route), bound });
    }

    /// Written by a claims group: the member that matched.
    pub fn set_member(&self, route: Arc<RouteInfo>) {
        super::set(&self.0.member, route);
    }

    /// The values bound by the route's path template; empty without a template.
    pub fn params(&self) -> Params<'_> {
        let bound = self.bound().zip(self.target());
        bound.map(|(bound, target)| bound.of(target.merged())).unwrap_or_default()
    }

    /// Where in the path they are.
    pub fn bound(&self) -> Option<&Bound> {
        self.0.matched.get()?.bound.as_ref()
    }

    /// For an exchange without a route of its own.
    pub fn set_bound(&self, bound: Bound) {
        super::set(&self.0.matched, Matched { route: None, bound: Some(bound) });
    }
}
