//! A named limit, and the buckets that it goes on with when the configuration changes.

use std::{sync::Arc, time::Duration};

use super::{
    gcra::{Judgement, Limit, Nanos, judge},
    key::{Fingerprint, Key},
    store::Store,
};
use crate::http::selector::Input;

/// One entry of `rate_limits`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key under `rate_limits`.
    pub name: Arc<str>,
    /// Who is limited.
    pub key: Key,
    /// How many, and how many at once.
    pub limit: Limit,
    /// What the rate counts in: a second, a minute, an hour, a day.
    pub per: Duration,
    /// What happens to those beyond it.
    pub mode: Mode,
    /// Keys that are remembered.
    pub max_keys: usize,
}

/// What happens to requests beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are denied.
    Enforce,
    /// They are counted and admitted.
    Shadow,
}

/// A limit with its buckets. One for all workers.
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    store: Arc<Store>,
}

/// How a key stands with a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests that would pass now.
    pub remaining: u32,
    /// Nanoseconds until the bucket is full again.
    pub reset: Nanos,
}

// === impl Policy ===

impl Policy {
    /// The policy of these settings. It goes on with the buckets of the one of `previous` that has
    /// its name, its key and the unit of its rate: a rate that changed keeps its keys.
    pub fn new(settings: Settings, previous: &[Arc<Self>]) -> Arc<Self> {
        let same = previous.iter().find(|policy| {
            let Settings { name, key, per, .. } = &policy.settings;
            *name == settings.name && *key == settings.key && *per == settings.per
        });
        let store = match same {
            Some(same) => same.store.clone(),
            None => Arc::new(Store::new(settings.max_keys)),
        };
        Arc::new(Self { settings, store })
    }

    /// It is in force now: buckets that it went on with have its bound from here on.
    pub fn take_effect(&self) {
        self.store.set_max_keys(self.settings.max_keys);
    }

    /// What it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its buckets.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The key of a request.
    pub fn fingerprint(&self, input: &Input<'_>) -> Fingerprint {
        self.settings.key.fingerprint(input, self.store.seed())
    }

    /// How a key stands, without charging it. A key that was never seen has a full bucket; if it
    /// found no room it would share the overflow bucket, which this does not look at.
    pub fn standing(&self, key: Fingerprint, now: Nanos) -> Standing {
        let full_at = self.store.peek(key, now);
        match judge(self.settings.limit, full_at, now) {
            Judgement::Pass { remaining, .. } => Standing {
                remaining: remaining + 1,
                reset: full_at.unwrap_or(now).saturating_sub(now),
            },
            Judgement::Deny { full_at, .. } => {
                Standing { remaining: 0, reset: full_at.saturating_sub(now) }
            }
        }
    }
}

// === impl Settings ===

impl Settings {
    /// The seconds after which an empty bucket is full, rounded up: `w` of `RateLimit-Policy`.
    pub fn window(&self) -> u64 {
        seconds(self.limit.window())
    }
}

/// Whole seconds, rounded up.
pub(super) fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        http::selector::{Part, Selector},
        middleware::rate_limit::gcra::limit,
    };

    fn settings(name: &str, part: &str, count: u64, per: Duration) -> Settings {
        Settings {
            name: name.into(),
            key: Key::new(Selector::new([Part::parse(part).unwrap()]), part),
            limit: limit(count, per, NonZeroU32::new(40).unwrap()).unwrap(),
            per,
            mode: Mode::Enforce,
            max_keys: 100,
        }
    }

    #[test]
    fn a_changed_rate_keeps_its_keys_and_another_key_or_unit_does_not() {
        let second = Duration::from_secs(1);
        let before = [Policy::new(settings("a", "client_ip", 20, second), &[])];
        let (key, now) = (Fingerprint::from_bits(7), Nanos::from(1));
        before[0].store().bucket(key, now).commit(now + second);
        let kept = |settings| Policy::new(settings, &before).store().keys() == 1;
        assert!(kept(settings("a", "client_ip", 30, second)));
        assert!(!kept(settings("b", "client_ip", 20, second)));
        assert!(!kept(settings("a", "host", 20, second)));
        assert!(!kept(settings("a", "client_ip", 20, Duration::from_mins(1))));
    }

    #[test]
    fn a_standing_says_what_would_pass_and_charges_nothing() {
        let second = Duration::from_secs(1);
        let policy = Policy::new(settings("a", "client_ip", 20, second), &[]);
        let (key, now) = (Fingerprint::from_bits(7), Nanos::from(1_000_000_000));
        let full = Standing { remaining: 40, reset: Nanos::default() };
        assert_eq!(policy.standing(key, now), full);
        let half = now + Duration::from_secs(1);
        policy.store().bucket(key, now).commit(half);
        let standing = Standing { remaining: 20, reset: second.into() };
        assert_eq!(policy.standing(key, now), standing);
        assert_eq!(policy.standing(key, now), standing);
        assert_eq!(policy.standing(key, half), full);
        policy.store().bucket(key, now).commit(now + Duration::from_secs(2));
        assert_eq!(policy.standing(key, now).remaining, 0);
        assert_eq!(policy.settings().window(), 2);
    }
}
