//! What routes with equal settings share on one worker.
//!
//! A request for one of thousands of routes finds whatever is the route's own cold in the
//! processor's caches. What routes share was just used by the request for another.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use super::Build;
use crate::{
    balancer::GroupHandle,
    config::Route,
    gateway::control::worker_count,
    middleware::{
        adaptive::AdaptiveLayer,
        rate_limit::{Limits, RateLimitLayer},
        retry::{self, RetryLayer},
    },
};

/// What the routes built so far share.
#[derive(Default)]
pub(super) struct Shared {
    /// By [`Route::rate_limits`], and whether it is the layer after `auth`.
    rate_limits: RefCell<HashMap<(Vec<usize>, bool), RateLimitLayer>>,
    /// By [`Route::upstreams`].
    upstreams: RefCell<HashMap<Vec<usize>, Upstreams>>,
}

/// The upstreams of some routes, in their order.
#[derive(Clone)]
pub(super) struct Upstreams {
    pub(super) groups: Arc<[GroupHandle]>,
    pub(super) adaptive: AdaptiveLayer,
    /// The layer of a route without `retry`.
    unretried: RetryLayer,
}

impl Build<'_> {
    pub(super) fn rate_limit(&self, route: &Route, after_auth: bool) -> RateLimitLayer {
        let make = || {
            let named = route.rate_limits.iter().map(|&index| &self.plan.limits[index]);
            RateLimitLayer::new(Limits::new(named, after_auth, &self.worker.cells))
        };
        let mut made = self.shared.rate_limits.borrow_mut();
        made.entry((route.rate_limits.clone(), after_auth)).or_insert_with(make).clone()
    }

    pub(super) fn upstreams(&self, route: &Route) -> Upstreams {
        let make = || {
            let adaptive = route.upstreams.iter().map(|&index| self.plan.adaptive[index].clone());
            Upstreams {
                groups: route.upstreams.iter().map(|&index| self.groups[index].clone()).collect(),
                adaptive: AdaptiveLayer::new(adaptive),
                unretried: RetryLayer::new(None, self.retried(route)),
            }
        };
        let mut made = self.shared.upstreams.borrow_mut();
        made.entry(route.upstreams.clone()).or_insert_with(make).clone()
    }

    pub(super) fn retry(&self, route: &Route, upstreams: &Upstreams) -> RetryLayer {
        match &route.retry {
            None => upstreams.unretried.clone(),
            Some(settings) => RetryLayer::new(Some(settings.clone()), self.retried(route)),
        }
    }

    /// The retry counters and budgets of a route.
    fn retried(&self, route: &Route) -> Box<[retry::Upstream]> {
        let Self { plan, worker, groups, .. } = self;
        let workers = worker_count(&plan.config);
        let upstream = |&index: &usize| {
            let group = groups[index].clone();
            let name = group.name().clone();
            let budget = worker.budgets.of(&name, plan.config.retry_budgets[index], workers);
            retry::Upstream::new(&name, budget, move || group.is_alone(), &worker.cells)
        };
        route.upstreams.iter().map(upstream).collect()
    }
}
