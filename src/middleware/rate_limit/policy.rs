//! A named limit, and the buckets that survive a change of the configuration.

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
    /// What is limited separately.
    pub key: Key,
    /// The rate and the burst.
    pub limit: Limit,
    /// How many per `per`, as written: the limit's interval is in whole nanoseconds.
    pub count: u64,
    /// The unit of the rate: a second, a minute, an hour, a day.
    pub per: Duration,
    /// What happens to requests beyond it.
    pub mode: Mode,
    /// How many keys are remembered.
    pub max_keys: usize,
}

/// What happens to requests beyond a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Deny them.
    Enforce,
    /// Count and admit them.
    Shadow,
}

/// A limit with its buckets. One for all workers.
#[derive(Debug)]
pub struct Policy {
    settings: Settings,
    store: Arc<Store>,
}

/// The state of a key under a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Requests that would pass now.
    pub remaining: u32,
    /// Nanoseconds until the bucket is full again.
    pub reset: Nanos,
}

// === impl Policy ===

impl Policy {
    /// A policy with these settings. It takes over the buckets of the policy in `previous` with the
    /// same name, key and unit of the rate: a changed rate keeps its keys.
    ///
    /// The previous policy stays unchanged until [`take_effect`](Self::take_effect). If `max_keys`
    /// grew too far for its shards, the buckets are copied, and what is charged to the old ones
    /// from here on is lost.
    pub fn new(settings: Settings, previous: &[Arc<Self>]) -> Arc<Self> {
        let same = previous.iter().find(|policy| {
            let Settings { name, key, per, .. } = &policy.settings;
            *name == settings.name && *key == settings.key && *per == settings.per
        });
        let store = match same {
            Some(same) => match same.store.regrown(settings.max_keys) {
                Some(store) => Arc::new(store),
                None => same.store.clone(),
            },
            None => Arc::new(Store::new(settings.max_keys)),
        };
        Arc::new(Self { settings, store })
    }

    /// Puts it in force: buckets that it took over get its bound from here on.
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

    /// The state of a key, without charging it. An unknown key counts as a full bucket; if it found
    /// no room it would share the overflow bucket, which is not considered here.
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
    /// The seconds an empty bucket takes to fill, rounded up: `w` of `RateLimit-Policy`.
    pub fn window(&self) -> u64 {
        let burst = u128::from(self.limit.burst().get());
        whole_seconds(burst * self.per.as_nanos(), self.count())
    }

    /// The seconds until a bucket is full, given `reset`, rounded up: `t` of `RateLimit`.
    ///
    /// The interval of a limit is whole nanoseconds, so the 60 of 60/s take 20 nanoseconds more
    /// than a second to come back: here they take one second, as the rate says.
    pub fn seconds(&self, reset: Nanos) -> u64 {
        let reset = u128::from(reset.as_u64());
        let interval = self.limit.interval().as_nanos();
        whole_seconds(reset * self.per.as_nanos(), interval * self.count())
    }

    fn count(&self) -> u128 {
        u128::from(self.count.max(1))
    }
}

/// `nanos` nanoseconds divided by `by`, in seconds, rounded up.
fn whole_seconds(nanos: u128, by: u128) -> u64 {
    u64::try_from(nanos.div_ceil(by * 1_000_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::{hash::BuildHasher, num::NonZeroU32};

    use proptest::prelude::*;

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
            count,
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
    fn a_key_that_is_written_otherwise_keeps_its_keys() {
        let second = Duration::from_secs(1);
        let before = [Policy::new(settings("a", "header:X-User", 20, second), &[])];
        let (key, now) = (Fingerprint::from_bits(7), Nanos::from(1));
        before[0].store().bucket(key, now).commit(now + second);
        let after = Policy::new(settings("a", "header:x-user", 20, second), &before);
        assert_eq!(after.store().keys(), 1);
        assert_eq!(after.settings().key.written(), "header:x-user");
    }

    /// A reload that fails after this leaves the previous policies unchanged.
    #[test]
    fn a_policy_changes_the_one_before_it_only_once_it_is_in_force() {
        let second = Duration::from_secs(1);
        let few = |max_keys| Settings { max_keys, ..settings("a", "client_ip", 20, second) };
        let before = [Policy::new(few(100), &[])];
        let after = Policy::new(few(1), &before);
        let now = Nanos::from(1);
        let is_overflow = |policy: &Policy, key| {
            let bucket = policy.store().bucket(Fingerprint::from_bits(key), now);
            let is_overflow = bucket.is_overflow();
            bucket.commit(now + second);
            is_overflow
        };
        assert!((1..10).all(|key| !is_overflow(&before[0], key)));
        after.take_effect();
        assert!(is_overflow(&after, 11));
    }

    #[test]
    fn a_bound_that_is_far_larger_gets_shards_to_match_and_keeps_the_keys() {
        let second = Duration::from_secs(1);
        let few = |max_keys| Settings { max_keys, ..settings("a", "client_ip", 20, second) };
        let before = [Policy::new(few(1_000), &[])];
        let (key, now) = (Fingerprint::from_bits(7), Nanos::from(1));
        before[0].store().bucket(key, now).commit(now + second);
        let twice = Policy::new(few(2_000), &before);
        assert_eq!(twice.store().id(), before[0].store().id());
        let many = Policy::new(few(10_000_000), &before);
        assert_eq!(many.store().shards(), Store::new(10_000_000).shards());
        assert_eq!(many.store().peek(key, now), Some(now + second));
        assert_eq!(many.store().seed().hash_one(5), before[0].store().seed().hash_one(5));
        many.take_effect();
        assert_eq!(before[0].store().keys(), 1, "the one before it goes on until the end");
    }

    proptest! {
        /// Clients are told the rate as written, whatever it is in nanoseconds.
        #[test]
        fn whole_seconds_are_those_of_the_rate_as_it_is_written(
            count in 1_u64..20_000,
            burst in 1_u32..5_000,
            per in prop::sample::select(vec![1_u64, 60, 3_600, 86_400]),
        ) {
            let nonzero = NonZeroU32::new(burst).unwrap();
            let limit = limit(count, Duration::from_secs(per), nonzero);
            prop_assume!(limit.is_some());
            let limit = limit.unwrap();
            let per = Duration::from_secs(per);
            let settings = Settings { limit, count, per, ..settings("a", "client_ip", 1, per) };
            let exact = (u64::from(burst) * per.as_secs()).div_ceil(count);
            prop_assert_eq!(settings.window(), exact);
            prop_assert_eq!(settings.seconds(limit.window().into()), exact);
            prop_assert_eq!(settings.seconds(Nanos::default()), 0);
            prop_assert_eq!(settings.seconds(Nanos::from(1)), 1);
        }
    }

    #[test]
    fn sixty_in_a_second_are_back_in_one() {
        for count in [6, 7, 15, 60, 600] {
            let second = Duration::from_secs(1);
            let burst = NonZeroU32::new(u32::try_from(count).unwrap()).unwrap();
            let limit = limit(count, second, burst).unwrap();
            let settings = Settings { limit, count, ..settings("a", "client_ip", 1, second) };
            let empty = limit.window().into();
            assert_eq!((settings.window(), settings.seconds(empty)), (1, 1), "{count}/s");
        }
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
