//! The decision of one bucket about one request: governor's GCRA, with decision and effect
//! separated.
//!
//! Pure: the time is an argument. governor asks its state store to measure and replace in one step.
//! The store used here only records the replacement, so that several buckets can be asked before
//! any is charged. Costs a little arithmetic, no lock, no allocation.

use std::{cell::Cell, num::NonZeroU32, time::Duration};

pub use governor::nanos::Nanos;
use governor::{
    Quota, RateLimiter,
    clock::Clock,
    middleware::StateInformationMiddleware,
    state::{NotKeyed, StateStore},
};

/// How large a bucket is and how fast it fills.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    quota: Quota,
    /// How long an empty bucket takes to fill.
    window: Nanos,
}

/// The answer of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// There is room.
    Pass {
        /// The state after this request, if it is charged: when the bucket will be full again (the
        /// theoretical arrival time).
        next: Nanos,
        /// How many more would pass right after it.
        remaining: u32,
    },
    /// There is no room.
    Deny {
        /// How long until there is room for one.
        wait: Duration,
        /// The unchanged state.
        full_at: Nanos,
    },
}

/// A state store for one state, read from `now` and never written back.
struct Staged {
    now: Option<Nanos>,
    next: Cell<Option<Nanos>>,
}

/// A clock that shows the time it was set to.
struct Told(Cell<Nanos>);

/// Asks a bucket with this limit and state `full_at` about one request at `now`. Times count from
/// any fixed moment. A bucket without a state is full.
///
/// A state beyond that of an empty bucket comes from another limit, before a reload: it counts as
/// an empty bucket of this limit.
pub fn judge(limit: Limit, full_at: Option<Nanos>, now: Nanos) -> Judgement {
    let Limit { quota, window } = limit;
    let empty = now + window;
    let state = full_at.map(|full_at| full_at.min(empty));
    let staged = Staged { now: state, next: Cell::new(None) };
    // Built for each request: it is a few words, and takes its start from the clock.
    let told = Told(Cell::new(Nanos::default()));
    let limiter = RateLimiter::<_, _, _, StateInformationMiddleware>::new(quota, staged, told);
    limiter.clock().0.set(now);
    match limiter.check() {
        Ok(snapshot) => Judgement::Pass {
            // governor stages the next state with every pass.
            next: limiter.into_state_store().next.get().unwrap_or(now),
            remaining: snapshot.remaining_burst_capacity(),
        },
        Err(not_until) => {
            Judgement::Deny { wait: not_until.wait_time_from(now), full_at: state.unwrap_or(now) }
        }
    }
}

/// A limit of `count` per `per`, and at most `burst` at once. `None` if the interval is less than a
/// microsecond (it is kept in whole nanoseconds and must be exact to a thousandth), or if a burst
/// takes longer than a year to refill.
pub fn limit(count: u64, per: Duration, burst: NonZeroU32) -> Option<Limit> {
    const LEAST: u128 = 1_000;
    const YEAR: u128 = 366 * 86_400 * 1_000_000_000;
    let count = u128::from(count.max(1));
    let interval = (per.as_nanos() + count / 2) / count;
    if interval < LEAST || interval * u128::from(burst.get()) > YEAR {
        return None;
    }
    let interval = Duration::from_nanos(u64::try_from(interval).ok()?);
    let quota = Quota::with_period(interval)?.allow_burst(burst);
    Some(Limit { quota, window: quota.burst_size_replenished_in().into() })
}

// === impl Limit ===

impl Limit {
    /// How many pass at once.
    pub fn burst(self) -> NonZeroU32 {
        self.quota.burst_size()
    }

    /// The time between two that pass at the full rate.
    pub fn interval(self) -> Duration {
        self.quota.replenish_interval()
    }

    /// How long an empty bucket takes to fill.
    pub fn window(self) -> Duration {
        self.window.into()
    }
}

// === impl Staged ===

impl StateStore for Staged {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = measure(self.now)?;
        self.next.set(Some(next));
        Ok(outcome)
    }
}

// === impl Told ===

impl Clock for Told {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.get()
    }
}

#[cfg(test)]
mod tests {
    use governor::{clock::FakeRelativeClock, state::InMemoryState};
    use proptest::prelude::*;

    use super::*;

    fn per_second(count: u64, burst: u32) -> Limit {
        limit(count, Duration::from_secs(1), NonZeroU32::new(burst).unwrap()).unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_one_per_interval() {
        let limit = per_second(10, 3);
        let mut state = None;
        let start = Nanos::from(5_000_000_000);
        for remaining in [2, 1, 0] {
            let Judgement::Pass { next, remaining: told } = judge(limit, state, start) else {
                panic!("denied within the burst")
            };
            assert_eq!(told, remaining);
            state = Some(next);
        }
        let denied = judge(limit, state, start);
        let full_at = Nanos::from(5_300_000_000);
        assert_eq!(denied, Judgement::Deny { wait: Duration::from_millis(100), full_at });
        let later = start + Duration::from_millis(100);
        assert!(matches!(judge(limit, state, later), Judgement::Pass { remaining: 0, .. }));
    }

    #[test]
    fn a_state_of_a_slower_quota_is_at_most_an_empty_bucket() {
        let now = Nanos::from(1_000_000_000);
        let hours_ahead = Some(now + Duration::from_hours(5));
        let Judgement::Deny { wait, .. } = judge(per_second(10, 3), hours_ahead, now) else {
            panic!("an empty bucket let one through")
        };
        assert_eq!(wait, Duration::from_millis(100));
    }

    #[test]
    fn limits_that_cannot_be_kept_are_none() {
        let one = NonZeroU32::MIN;
        assert!(limit(1_000_001, Duration::from_secs(1), one).is_some());
        assert!(limit(2_000_000, Duration::from_secs(1), one).is_none());
        assert!(limit(1, Duration::from_hours(24), NonZeroU32::new(366).unwrap()).is_some());
        assert!(limit(1, Duration::from_hours(24), NonZeroU32::MAX).is_none());
        let interval = per_second(7_000, 1).interval();
        assert_eq!(interval, Duration::from_nanos(142_857));
    }

    proptest! {
        /// With every pass charged at once, the outcome equals that of governor's own limiter.
        #[test]
        fn agrees_with_governor(
            count in 1_u64..5_000,
            burst in 1_u32..50,
            steps in prop::collection::vec(0_u64..3_000_000, 1..200),
        ) {
            let limit = per_second(count, burst);
            let clock = FakeRelativeClock::default();
            let theirs = RateLimiter::<_, _, _, StateInformationMiddleware>::new(
                limit.quota,
                InMemoryState::default(),
                clock.clone(),
            );
            let (mut state, mut now) = (None, Nanos::default());
            for step in steps {
                clock.advance(Duration::from_nanos(step));
                now = now + Nanos::from(step);
                match (judge(limit, state, now), theirs.check()) {
                    (Judgement::Pass { next, remaining }, Ok(snapshot)) => {
                        prop_assert_eq!(remaining, snapshot.remaining_burst_capacity());
                        state = Some(next);
                    }
                    (Judgement::Deny { wait, .. }, Err(not_until)) => {
                        prop_assert_eq!(wait, not_until.wait_time_from(now));
                    }
                    (ours, theirs) => prop_assert!(false, "{ours:?} beside {theirs:?}"),
                }
            }
        }
    }
}
