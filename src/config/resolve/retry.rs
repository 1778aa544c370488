//! `routes[].retry` and `upstreams.*.retry_budget`.

use std::time::Duration;

use smallvec::SmallVec;

use super::Resolver;
use crate::{
    config::{
        file::{self, retry::RetryBudget},
        value::{Fault, Percent, RetryOn},
        written::Written,
    },
    middleware::{
        retry::{self, MAX_ATTEMPTS, On, budget},
        timeout,
    },
};

const DEFAULT_PER_ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Of the budget's clock.
const SHORTEST_WINDOW: Duration = Duration::from_secs(1);
const LONGEST_WINDOW: Duration = Duration::from_mins(1);
/// Beyond it a budget is none.
const MAX_PER_SECOND: u32 = 1_000_000;

impl Resolver<'_> {
    /// What is sent again, and how long each attempt may take.
    pub(super) fn retry(
        &mut self,
        route: &file::Route,
        total: Duration,
    ) -> (Option<retry::Settings>, timeout::Settings) {
        let Some(written) = &route.retry else {
            return (None, timeout::Settings { total, per_attempt: None });
        };
        if route.upstream.is_none() && route.split.is_none() {
            let fault = Fault::new("`retry` has no effect on a route without an upstream")
                .help("remove it");
            self.error(written.place, fault);
        }
        let file::retry::Retry { attempts, per_attempt_timeout, on } = &written.value;
        let own = retry::Settings::default();
        let range = || format!("from 1 to {MAX_ATTEMPTS}");
        let attempts =
            self.in_range(attempts.as_ref(), own.attempts, 1..=MAX_ATTEMPTS, |_| range());
        let per_attempt = self.positive(per_attempt_timeout.as_ref(), DEFAULT_PER_ATTEMPT_TIMEOUT);
        if let Some(written) = per_attempt_timeout
            && per_attempt >= total
        {
            let fault = Fault::new("one attempt may take as long as all attempts together")
                .help(format!("write less than the route's `timeout` of {}ms", total.as_millis()));
            self.warn(written.place, fault);
        }
        let on = on.as_ref().map_or(own.on, |on| self.retry_on(on));
        let timeout = timeout::Settings { total, per_attempt: Some(per_attempt) };
        (Some(retry::Settings { attempts, on }), timeout)
    }

    fn retry_on(&mut self, written: &[Written<RetryOn>]) -> On {
        let mut on = On { reset: false, statuses: SmallVec::new() };
        let mut seen: Vec<RetryOn> = Vec::new();
        for one in written {
            let Some(value) = self.value(one) else { continue };
            if seen.contains(&value) {
                self.error(one.place, Fault::new(format!("`{}` is listed twice", one.text)));
            }
            seen.push(value);
            match value {
                // What was not sent always is tried again: the word only says so.
                RetryOn::Connect => {}
                RetryOn::Reset => on.reset = true,
                RetryOn::Status(status) => on.statuses.push(status),
            }
        }
        on
    }

    /// tower counts whole requests per retry: 30% is one for every 3.
    fn warn_of_inexact_ratio(&mut self, written: &Written<Percent>, ratio: f64) {
        let requests = 1.0 / ratio;
        if ratio > 0.0 && requests - requests.floor() > 1e-6 {
            let requests = requests.floor();
            let fault = Fault::new(format!(
                "`{}` is rounded to one retry for every {requests} requests ({:.0}%)",
                written.text,
                100.0 / requests
            ));
            self.warn(
                written.place,
                fault.help("exact values are 100%, 50%, 25%, 20%, 10%, 5%, 4%, 2%, 1%"),
            );
        }
    }

    /// `retry_budget`, or what holds without it.
    pub(super) fn retry_budget(&mut self, written: Option<&RetryBudget>) -> budget::Settings {
        let own = budget::Settings::default();
        let Some(RetryBudget { ratio, window, min_per_second }) = written else { return own };
        let share = ratio.as_ref();
        let Percent(ratio) = self.or(share, Percent(f64::from(own.ratio)));
        if let Some(share) = share {
            self.warn_of_inexact_ratio(share, ratio);
        }
        let windows = SHORTEST_WINDOW..=LONGEST_WINDOW;
        let rates = 0..=MAX_PER_SECOND;
        budget::Settings {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a share, and nobody counts so finely"
            )]
            ratio: ratio as f32,
            window: self
                .in_range(window.as_ref(), own.window, windows, |_| "from 1s to 60s".into()),
            min_per_second: self.in_range(
                min_per_second.as_ref(),
                own.min_per_second,
                rates,
                |most| format!("at most {most}"),
            ),
        }
    }
}
