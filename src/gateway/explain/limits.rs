//! Explains what rate limits, adaptive limits, `mirror` and `fault` would do with a request.

use std::time::Duration;

use tokio::time::Instant;

use super::{Step, Told, step};
use crate::{
    http::selector::Input,
    middleware::{
        adaptive, fault,
        rate_limit::{self, Mode},
    },
};

impl Told<'_> {
    /// Asks without charging. Without a running gateway, or if the question does not determine the
    /// key, only the configuration is shown.
    pub(super) fn rate_limit(&self, index: usize) -> Step {
        let limit = &self.config.rate_limits[index];
        let (burst, key) = (limit.limit.burst(), limit.key.written());
        let interval = limit.limit.interval();
        let described = format!("`{}`: {burst} at once, one per {interval:?}", limit.name);
        let shadow = if limit.mode == Mode::Shadow { ", in shadow" } else { "" };
        let policy = self.running.and_then(|running| running.limits.get(index));
        let input = self.input();
        let is_known = limit.key.parts().iter().all(|part| part.extract(&input).is_some());
        let Some(policy) = policy.filter(|_| is_known) else {
            let detail = format!("{described}, for each `{key}`{shadow}");
            return step("rate_limit", "limit", detail);
        };
        let now = rate_limit::layer::nanos(Instant::now());
        let standing = policy.standing(policy.fingerprint(&input), now);
        let (remaining, reset) = (standing.remaining, Duration::from(standing.reset));
        let outcome = match (remaining, limit.mode) {
            (0, Mode::Enforce) => "refuse",
            (0, Mode::Shadow) | (_, Mode::Enforce | Mode::Shadow) => "pass",
        };
        let key = limit.key.told(&input);
        let state = format!("{remaining} of {burst} left for {key}, all of them in {reset:.1?}");
        step("rate_limit", outcome, format!("{described}{shadow}; {state}"))
    }

    /// The data that limits and balancers may use.
    pub(super) fn input(&self) -> Input<'_> {
        let principal = self.principal.as_ref();
        Input {
            method: &self.asked.method,
            headers: &self.asked.headers,
            query: self.asked.target.query(),
            host: Some(&self.asked.host),
            client_ip: self.asked.client,
            params: self.params,
            principal: principal
                .map(|principal| &*principal.name)
                .or(self.asked.principal.as_deref()),
            claims: principal.map(|principal| &principal.claims),
            body: None,
            response_headers: None,
            response_body: None,
        }
    }

    pub(super) fn adaptive(&self, index: usize, settings: adaptive::Settings) -> Step {
        let adaptive::Settings { initial, min, max } = settings;
        let limiter = self.running.and_then(|running| running.adaptive.get(index)?.as_ref());
        let detail = match limiter.map(|limiter| limiter.standing()) {
            Some(now) => format!("{} of {} in flight, {min} to {max}", now.in_flight, now.limit),
            None => format!("{initial} in flight at first, {min} to {max} as latency says"),
        };
        step("adaptive_concurrency", "limit", detail)
    }
}

pub(super) fn told_fault(fault: &fault::Settings) -> String {
    let share = |share: f64| share * 100.0;
    let delay = fault.delay.map(|(of, by)| format!("{}% wait {by:?} first", share(of)));
    let abort = fault.abort.map(|(of, with)| format!("{}% are refused with {with}", share(of)));
    delay.into_iter().chain(abort).collect::<Vec<_>>().join(", ")
}
