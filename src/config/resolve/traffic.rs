//! What is done to traffic on purpose: `adaptive_concurrency`, `mirror`, `fault`.

use std::time::Duration;

use super::{Named, Resolver};
use crate::{
    config::{
        Mirror,
        file::{
            self,
            traffic::{self, AdaptiveMap},
        },
        value::{Fault, Percent},
        written::{Entries, Placed},
    },
    middleware::{adaptive, fault, mirror},
};

/// Copies under way, on one worker and for one route.
const MAX_COPIES: usize = 128;

/// A line of waiters is as long, and each of them holds a request.
const MAX_LIMIT: u32 = 1_000_000;

impl Resolver<'_> {
    /// `adaptive_concurrency` of each of so many upstreams: those of the file, and then those without
    /// a name of their own, which have none.
    pub(super) fn adaptive_limits(
        &mut self,
        file: &file::File,
        upstreams: usize,
    ) -> Vec<Option<adaptive::Settings>> {
        let written = file.upstreams.iter().flat_map(Entries::iter);
        let mut limits: Vec<_> = written
            .map(|(_, upstream)| self.adaptive(upstream.value.adaptive_concurrency.as_ref()))
            .collect();
        limits.resize(upstreams, None);
        limits
    }

    fn adaptive(&mut self, written: Option<&traffic::Adaptive>) -> Option<adaptive::Settings> {
        let traffic::Adaptive::On(AdaptiveMap { initial, min, max }) = written? else {
            return None;
        };
        let own = adaptive::Settings::default();
        let range = || 1..=MAX_LIMIT;
        let tell = |_: &u32| format!("from 1 to {MAX_LIMIT}");
        let max_value = self.in_range(max.as_ref(), own.max, range(), tell);
        let min_value = self.in_range(min.as_ref(), own.min.min(max_value), range(), tell);
        let fitting = own.initial.clamp(min_value.min(max_value), max_value);
        let initial_value = self.in_range(initial.as_ref(), fitting, range(), tell);
        if let Some(min) = min.as_ref().filter(|_| min_value > max_value) {
            let fault = Fault::new(format!("`min` is greater than `max`, which is {max_value}"));
            self.error(min.place, fault);
        } else if let Some(initial) =
            initial.as_ref().filter(|_| !(min_value..=max_value).contains(&initial_value))
        {
            let fault = Fault::new("`initial` is not between `min` and `max`")
                .help(format!("from {min_value} to {max_value}"));
            self.error(initial.place, fault);
        }
        Some(adaptive::Settings { initial: initial_value, min: min_value, max: max_value })
    }

    /// Where copies go. `used` are the route's own upstreams, `deadline` its own.
    pub(super) fn mirror(
        &mut self,
        route: &file::Route,
        named: &mut Named<'_>,
        used: &[usize],
        deadline: Duration,
    ) -> Option<Mirror> {
        let Placed { value, place } = route.mirror.as_ref()?;
        let name = &value.upstream;
        let upstream = self.checked(name.place, named.upstreams.use_named(&name.text));
        let share = self.or(Some(&value.percent), Percent(0.0)).0;
        if route.upstream.is_none() && route.split.is_none() {
            let fault = Fault::new("`mirror` needs a route that sends requests to an upstream")
                .help("this route has neither `upstream` nor `split`");
            self.error(*place, fault);
        }
        if upstream.is_some_and(|upstream| used.contains(&upstream)) {
            let fault = Fault::new("the copies go to the same upstream as the requests")
                .help("it gets these requests twice; choose another upstream");
            self.warn(name.place, fault);
        }
        let credentials = self.key_fields.clone();
        let settings = mirror::Settings { share, credentials, deadline, max_in_flight: MAX_COPIES };
        Some(Mirror { upstream: upstream?, settings })
    }

    pub(super) fn fault(
        &mut self,
        route: &file::Route,
        named: &Named<'_>,
    ) -> Option<fault::Settings> {
        let Placed { value, place } = route.fault.as_ref()?;
        let traffic::Fault { delay, abort } = value;
        if !named.allow_faults {
            let fault = Fault::new("`fault` is not allowed on this gateway")
                .help("write `admin: { allow_faults: true }` to allow it");
            self.error(*place, fault);
        }
        if route.upstream.is_none() && route.split.is_none() {
            let fault = Fault::new("`fault` needs a route that sends requests to an upstream")
                .help("this route has neither `upstream` nor `split`");
            self.error(*place, fault);
        }
        if delay.is_none() && abort.is_none() {
            self.error(*place, Fault::new("`fault` does nothing").help("add `delay` or `abort`"));
        }
        self.warn(*place, Fault::new("this route delays or fails requests on purpose"));
        let delay = delay.as_ref().map(|delay| {
            let duration = self.positive(Some(&delay.duration), Duration::from_millis(1));
            (self.or(Some(&delay.percent), Percent(0.0)).0, duration)
        });
        let abort = abort.as_ref().and_then(|abort| {
            let status = self.value(&abort.status)?;
            if !status.is_client_error() && !status.is_server_error() {
                let fault = Fault::new(format!("{} is not an error status", status.as_u16()))
                    .help("write 400 to 599");
                self.error(abort.status.place, fault);
            }
            Some((self.or(Some(&abort.percent), Percent(0.0)).0, status))
        });
        Some(fault::Settings { delay, abort })
    }
}
