//! `rate_limits`, and which of them a route names.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use super::Resolver;
use crate::{
    config::{
        file::{self, traffic::RateLimit},
        value::{Fault, Name, ParamName, Rate, did_you_mean, selector_part},
        written::{Entries, OneOrMany, Place, Placed, Written},
    },
    http::selector::{Part, Selector},
    middleware::rate_limit::{Key, Mode, Settings, gcra},
};

/// All policies, while routes look them up.
#[derive(Default)]
pub(super) struct RateLimits {
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    place: Place,
    is_used: bool,
    settings: Settings,
}

const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// At 16 bytes and a fifth of slack each: some 2.3 GB.
const MAX_MAX_KEYS: usize = 100_000_000;
/// Each is a lock that a request holds together with the others.
const MAX_PER_ROUTE: usize = 8;

// === impl RateLimits ===

impl RateLimits {
    /// The index of the policy of this name, which is used from now on.
    fn use_named(&mut self, name: &str) -> Result<usize, Fault> {
        if let Some(index) = self.entries.iter().position(|entry| entry.name == name) {
            self.entries[index].is_used = true;
            return Ok(index);
        }
        let help = did_you_mean(name, self.entries.iter().map(|entry| entry.name.as_str()));
        Err(Fault { message: format!("no rate limit named `{name}`"), help })
    }
}

impl RateLimits {
    /// Those of `named` that requests are judged by before it is known who they are from.
    pub(super) fn before_auth(&self, named: &[usize]) -> Vec<usize> {
        let is_before = |index: &usize| !self.entries[*index].settings.key.needs_principal();
        named.iter().copied().filter(is_before).collect()
    }
}

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn rate_limits(
        &mut self,
        written: Option<&Entries<Name, Placed<RateLimit>>>,
    ) -> RateLimits {
        let mut limits = RateLimits::default();
        for (name, limit) in written.into_iter().flat_map(Entries::iter) {
            let Some(settings) = self.rate_limit(name, limit) else { continue };
            let (place, name) = (limit.place, name.text.clone());
            limits.entries.push(Entry { name, place, is_used: false, settings });
        }
        limits
    }

    /// Says which no route names, and gives the settings of all.
    pub(super) fn warn_unused_limits(&mut self, limits: RateLimits) -> Vec<Settings> {
        for entry in limits.entries.iter().filter(|entry| !entry.is_used) {
            self.warn(entry.place, Fault::new("no route uses this rate limit"));
        }
        limits.entries.into_iter().map(|entry| entry.settings).collect()
    }

    /// The policies a route names, as indexes.
    pub(super) fn route_limits_named(
        &mut self,
        route: &file::Route,
        params: &[ParamName],
        limits: &mut RateLimits,
    ) -> Vec<usize> {
        let mut indexes = Vec::new();
        for name in route.rate_limit.iter().flat_map(OneOrMany::iter) {
            let named = limits.use_named(&name.text);
            let Some(index) = self.checked(name.place, named) else { continue };
            if indexes.contains(&index) {
                self.error(name.place, Fault::new(format!("`{}` is listed twice", name.text)));
                continue;
            }
            if indexes.len() == MAX_PER_ROUTE {
                let fault = Fault::new("this route has too many rate limits")
                    .help(format!("at most {MAX_PER_ROUTE}"));
                self.error(name.place, fault);
                break;
            }
            self.check_key_fits(name, &limits.entries[index].settings.key, route, params);
            indexes.push(index);
        }
        indexes
    }

    /// A key that no request of the route can have would limit addresses instead, unseen.
    fn check_key_fits<T>(
        &mut self,
        name: &Written<T>,
        key: &Key,
        route: &file::Route,
        params: &[ParamName],
    ) {
        if key.needs_principal() && route.auth.is_none() {
            let fault = Fault::new(format!("`{}` limits by `{}`", name.text, key.written()))
                .help("add `auth` to this route");
            self.error(name.place, fault);
        }
        let unbound = |part: &Part| match part {
            Part::Path(name) if !params.contains(name) => Some(name.clone()),
            _ => None,
        };
        if let Some(param) = key.parts().iter().find_map(unbound) {
            let fault = Fault::new(format!("`{}` limits by `{}`", name.text, key.written()))
                .help(format!("add `{{{param}}}` to `match.path`"));
            self.error(name.place, fault);
        }
    }

    fn rate_limit(&mut self, name: &Written<Name>, limit: &Placed<RateLimit>) -> Option<Settings> {
        let written = &limit.value;
        let name = self.value(name).map_or_else(|| Arc::from(""), |name| name.0);
        let parts: Vec<_> = written.key.iter().filter_map(|part| self.limiter_part(part)).collect();
        if written.key.iter().len() == 0 {
            let fault =
                Fault::new("the list is empty").help("write a selector, such as `key: client_ip`");
            self.error(limit.place, fault);
        }
        let burst = self.in_range(Some(&written.burst), 1, 1..=u32::MAX, |_| "at least 1".into());
        let limit = self.bucket(&written.rate, burst);
        let mode = self.or(written.mode.as_ref(), Mode::Enforce);
        let range = 1..=MAX_MAX_KEYS;
        let max_keys = self.in_range(written.max_keys.as_ref(), DEFAULT_MAX_KEYS, range, |_| {
            format!("from 1 to {MAX_MAX_KEYS}")
        });
        // A stand-in after a problem, so that routes that name it are not told of one more.
        let once = Rate { count: 1, per: Duration::from_secs(1) };
        let stand_in = || gcra::limit(1, once.per, NonZeroU32::MIN).map(|limit| (limit, once));
        let (limit, Rate { count, per }) = limit.or_else(stand_in)?;
        let words: Vec<_> = written.key.iter().map(|part| part.text.as_str()).collect();
        let key = Key::new(Selector::new(parts), words.join(", "));
        Some(Settings { name, key, limit, count, per, mode, max_keys })
    }

    fn bucket(&mut self, written: &Written<Rate>, burst: u32) -> Option<(gcra::Limit, Rate)> {
        let rate = self.value(written)?;
        let burst = NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN);
        let limit = gcra::limit(rate.count, rate.per, burst);
        if limit.is_none() {
            let fault =
                Fault::new(format!("`{}` with a burst of {burst} is not possible", written.text))
                    .help("at most 1000000 per second, and the burst must refill within a year");
            self.error(written.place, fault);
        }
        limit.map(|limit| (limit, rate))
    }

    fn limiter_part<T>(&mut self, written: &Written<T>) -> Option<Part> {
        let part = self.checked(written.place, selector_part(&written.text))?;
        let fault = match part {
            Part::Json(_) => Fault::new("rate limits are checked before the body is read")
                .help("use `header:NAME`, `path:NAME` or `query:NAME`"),
            Part::ResponseHeader(_) | Part::ResponseJson(_) => {
                Fault::new("rate limits are checked before there is a response")
                    .help("use `client_ip`, `header:NAME` or `claim:NAME`")
            }
            part => return Some(part),
        };
        self.error(written.place, fault);
        None
    }
}
