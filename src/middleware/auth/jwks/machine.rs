//! When an issuer's key set is fetched, and what a request with an unknown key is told. Pure.
//!
//! It alone keeps these rules (semantics 7):
//! - One fetch at a time.
//! - A good set is refreshed after its `max-age`, within [`Timing::refresh`], with jitter. A failed
//!   fetch is repeated with growing pauses, and the old set stays in use for [`Timing::stale`].
//! - An unknown key causes one fetch that bypasses every cache, at most one per
//!   [`Timing::refetch_every`], and is not asked for again for [`Timing::negative`]. So tokens from
//!   strangers never cause more traffic.

use std::{
    collections::{HashMap, VecDeque},
    hash::BuildHasher,
    ops::RangeInclusive,
    time::Duration,
};

use foldhash::quality::RandomState;
use tokio::time::Instant;

/// The intervals and time limits of fetching.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// Bounds of the interval between two refreshes, whatever `max-age` says.
    pub refresh: RangeInclusive<Duration>,
    /// A refresh comes earlier by up to this share, so that many gateways do not ask at once.
    pub jitter: f64,
    /// The pause after the first failure, and the longest pause: each failure doubles it.
    pub retry: RangeInclusive<Duration>,
    /// The least interval between two fetches for unknown keys.
    pub refetch_every: Duration,
    /// How long a request waits for a key set.
    pub wait: Duration,
    /// How long a key that was not found is not asked for again.
    pub negative: Duration,
    /// How long the last good set stays in use without a newer one.
    pub stale: Duration,
    /// The time limit of one fetch, including discovery and redirects.
    pub fetch: Duration,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Machine {
    timing: Timing,
    fetched: Option<Instant>,
    next: Instant,
    failures: u32,
    phase: Phase,
    refetched: Option<Instant>,
    negative: Negative,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to do until `next`.
    Idle,
    /// A fetch that bypasses every cache is to begin now.
    Wanted,
    Fetching,
}

/// What a request must do if its key is not in the set, or if there is no set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Wait for the end of the fetch that is running or begins now.
    Wait,
    /// There is no such key.
    Unknown,
    /// There is no key set, and none is expected soon.
    Unavailable,
}

/// Keys that were not found, as hashes: strangers choose their names, which may be long.
#[derive(Debug, Default)]
struct Negative {
    hasher: RandomState,
    until: HashMap<u64, Instant>,
    order: VecDeque<u64>,
}

/// The most keys that are remembered as unknown. Beyond it the oldest is forgotten, which costs at
/// most the fetch that [`Timing::refetch_every`] allows anyway.
const MAX_NEGATIVE: usize = 1024;

// === impl Timing ===

impl Default for Timing {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(5)..=Duration::from_hours(1),
            jitter: 0.2,
            retry: Duration::from_secs(1)..=Duration::from_mins(1),
            refetch_every: Duration::from_secs(30),
            wait: Duration::from_millis(500),
            negative: Duration::from_mins(1),
            stale: Duration::from_hours(24),
            fetch: Duration::from_secs(10),
        }
    }
}

// === impl Machine ===

impl Machine {
    /// No key set yet; the first fetch is due at once.
    pub fn new(timing: Timing, now: Instant) -> Self {
        Self {
            timing,
            fetched: None,
            next: now,
            failures: 0,
            phase: Phase::Idle,
            refetched: None,
            negative: Negative::default(),
        }
    }

    /// The intervals and time limits.
    pub fn timing(&self) -> &Timing {
        &self.timing
    }

    /// When [`Machine::begin`] or [`Machine::expire`] has something to do; `None` while a fetch runs
    /// and no set can expire.
    pub fn due(&self) -> Option<Instant> {
        let begin = match self.phase {
            Phase::Idle => Some(self.next),
            // If that is long ago, it is due at once.
            Phase::Wanted => self.refetched.or(Some(self.next)),
            Phase::Fetching => None,
        };
        [begin, self.expires()].into_iter().flatten().min()
    }

    /// Begins a fetch if one is due, and says whether it must bypass every cache.
    pub fn begin(&mut self, now: Instant) -> Option<bool> {
        let is_past_caches = match self.phase {
            Phase::Idle if now >= self.next => false,
            Phase::Wanted => true,
            Phase::Idle | Phase::Fetching => return None,
        };
        self.phase = Phase::Fetching;
        Some(is_past_caches)
    }

    /// The fetch brought a good set, valid for `max_age` if it says so. `random`: from 0 to 1.
    pub fn succeeded(&mut self, max_age: Option<Duration>, random: f64, now: Instant) {
        let (least, most) = (*self.timing.refresh.start(), *self.timing.refresh.end());
        let pause = max_age.unwrap_or(most).clamp(least, most);
        let early = (self.timing.jitter * random).clamp(0.0, 1.0);
        self.fetched = Some(now);
        self.failures = 0;
        // The minimum holds with jitter too.
        self.next = now + pause.mul_f64(1.0 - early).max(least);
        self.phase = Phase::Idle;
    }

    /// The fetch failed; the old set is kept. `random`: from 0 to 1.
    pub fn failed(&mut self, random: f64, now: Instant) {
        let (least, most) = (*self.timing.retry.start(), *self.timing.retry.end());
        let doubled = least.saturating_mul(2_u32.saturating_pow(self.failures.min(16)));
        let late = (self.timing.jitter * random).clamp(0.0, 1.0);
        self.failures = self.failures.saturating_add(1);
        self.next = now + doubled.min(most).mul_f64(1.0 + late);
        self.phase = Phase::Idle;
    }

    /// When the current set expires.
    pub fn expires(&self) -> Option<Instant> {
        self.fetched.map(|at| at + self.timing.stale)
    }

    /// Whether the current set has expired; if so, drops it.
    pub fn expire(&mut self, now: Instant) -> bool {
        let is_over = self.expires().is_some_and(|at| now >= at);
        if is_over {
            self.fetched = None;
        }
        is_over
    }

    /// When the current set was fetched.
    pub fn fetched(&self) -> Option<Instant> {
        self.fetched
    }

    /// What a request must do that finds no set, or no key `kid` in it. A fetch that it causes
    /// begins with [`Machine::begin`].
    pub fn ask(&mut self, kid: Option<&str>, now: Instant) -> Ask {
        if self.fetched.is_none() {
            return match self.phase {
                Phase::Wanted | Phase::Fetching => Ask::Wait,
                Phase::Idle if now >= self.next => Ask::Wait,
                Phase::Idle => Ask::Unavailable,
            };
        }
        // Without a `kid` there is nothing to look for in a newer set.
        let Some(kid) = kid else { return Ask::Unknown };
        if self.negative.contains(kid, now) {
            return Ask::Unknown;
        }
        match self.phase {
            Phase::Wanted | Phase::Fetching => Ask::Wait,
            Phase::Idle => {
                let is_allowed = self.refetched.is_none_or(|at| {
                    now.saturating_duration_since(at) >= self.timing.refetch_every
                });
                if !is_allowed {
                    return Ask::Unknown;
                }
                self.refetched = Some(now);
                self.phase = Phase::Wanted;
                Ask::Wait
            }
        }
    }

    /// A set that came past every cache lacks `kid`: it is not asked for again for a while.
    pub fn missed(&mut self, kid: &str, now: Instant) {
        self.negative.insert(kid, now + self.timing.negative);
    }
}

// === impl Negative ===

impl Negative {
    fn contains(&self, kid: &str, now: Instant) -> bool {
        self.until.get(&self.hasher.hash_one(kid)).is_some_and(|until| now < *until)
    }

    fn insert(&mut self, kid: &str, until: Instant) {
        let hash = self.hasher.hash_one(kid);
        if self.until.insert(hash, until).is_none() {
            self.order.push_back(hash);
        }
        if self.order.len() > MAX_NEGATIVE
            && let Some(oldest) = self.order.pop_front()
        {
            self.until.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn started() -> (Machine, Instant) {
        let now = Instant::now();
        (Machine::new(Timing::default(), now), now)
    }

    /// A machine with a good set.
    fn serving() -> (Machine, Instant) {
        let (mut machine, now) = started();
        assert_eq!(machine.begin(now), Some(false));
        machine.succeeded(None, 0.0, now);
        (machine, now)
    }

    #[test]
    fn a_refresh_keeps_its_bounds_and_comes_early_rather_than_late() {
        for (max_age, random, after) in [
            (None, 0.0, Duration::from_hours(1)),
            (None, 1.0, Duration::from_mins(48)),
            (Some(Duration::from_hours(9)), 0.0, Duration::from_hours(1)),
            (Some(Duration::from_mins(20)), 0.5, Duration::from_mins(18)),
            (Some(SECOND), 0.0, Duration::from_mins(5)),
            (Some(Duration::from_mins(5)), 1.0, Duration::from_mins(5)),
        ] {
            let (mut machine, now) = started();
            machine.begin(now);
            machine.succeeded(max_age, random, now);
            assert_eq!(machine.due(), Some(now + after), "{max_age:?} {random}");
            assert_eq!(machine.begin(now + after - SECOND), None);
            assert_eq!(machine.begin(now + after), Some(false));
        }
    }

    #[test]
    fn failures_are_repeated_with_growing_pauses() {
        let (mut machine, mut now) = started();
        for pause in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(machine.begin(now), Some(false));
            assert_eq!(machine.begin(now), None, "one at a time");
            machine.failed(0.0, now);
            now += pause * SECOND;
            assert_eq!(machine.due(), Some(now));
        }
    }

    #[test]
    fn before_the_first_set_requests_wait_only_for_a_fetch_that_is_near() {
        let (mut machine, now) = started();
        assert_eq!(machine.ask(Some("a"), now), Ask::Wait);
        machine.begin(now);
        assert_eq!(machine.ask(None, now), Ask::Wait);
        machine.failed(0.0, now);
        assert_eq!(machine.ask(Some("a"), now), Ask::Unavailable);
        assert_eq!(machine.ask(Some("a"), now + SECOND), Ask::Wait, "the next one is due");
    }

    #[test]
    fn an_unknown_key_causes_one_fetch_past_the_caches_and_then_none_for_a_while() {
        let (mut machine, now) = serving();
        assert_eq!(machine.ask(Some("a"), now), Ask::Wait);
        assert_eq!(machine.ask(Some("b"), now), Ask::Wait, "the same fetch");
        assert_eq!(machine.begin(now), Some(true));
        assert_eq!(machine.begin(now), None);
        machine.succeeded(None, 0.0, now);
        machine.missed("a", now);
        assert_eq!(machine.ask(Some("a"), now), Ask::Unknown);
        assert_eq!(machine.ask(Some("c"), now + 29 * SECOND), Ask::Unknown, "one per 30 s");
        assert_eq!(machine.ask(Some("a"), now + 31 * SECOND), Ask::Unknown, "known to be unknown");
        assert_eq!(machine.begin(now + 31 * SECOND), None);
        assert_eq!(machine.ask(Some("c"), now + 31 * SECOND), Ask::Wait);
        assert_eq!(machine.begin(now + 31 * SECOND), Some(true));
        machine.failed(0.0, now + 31 * SECOND);
        assert_eq!(machine.ask(Some("a"), now + 2 * MINUTE), Ask::Wait, "forgotten by now");
    }

    #[test]
    fn a_token_without_a_kid_asks_for_nothing() {
        let (mut machine, now) = serving();
        assert_eq!(machine.ask(None, now), Ask::Unknown);
        assert_eq!(machine.begin(now), None);
    }

    #[test]
    fn what_a_cache_may_have_answered_proves_nothing() {
        let (mut machine, now) = serving();
        let later = now + Duration::from_hours(1);
        machine.begin(later);
        assert_eq!(machine.ask(Some("a"), later), Ask::Wait, "a fetch runs already");
        machine.succeeded(None, 0.0, later);
        assert_eq!(machine.ask(Some("a"), later), Ask::Wait, "and was not past the caches");
        assert_eq!(machine.begin(later), Some(true));
    }

    #[test]
    fn the_last_good_set_serves_for_a_day() {
        let (mut machine, now) = serving();
        let mut at = now;
        while at < now + Duration::from_hours(24) {
            assert!(!machine.expire(at));
            if machine.begin(at).is_some() {
                machine.failed(0.0, at);
            }
            at = machine.due().unwrap();
        }
        assert!(machine.expire(now + Duration::from_hours(24)));
        assert!(!machine.expire(now + Duration::from_hours(24)), "told once");
        assert_eq!(machine.fetched(), None);
        machine.begin(at);
        machine.succeeded(None, 0.0, at);
        assert_eq!(machine.fetched(), Some(at), "back again");
    }

    #[test]
    fn what_is_remembered_as_unknown_is_bounded() {
        let (mut machine, now) = serving();
        for kid in 0..MAX_NEGATIVE * 4 {
            machine.missed(&kid.to_string(), now);
            machine.missed(&kid.to_string(), now);
        }
        assert_eq!(machine.negative.until.len(), MAX_NEGATIVE);
        assert_eq!(machine.negative.order.len(), MAX_NEGATIVE);
        assert!(machine.negative.contains(&(MAX_NEGATIVE * 4 - 1).to_string(), now));
        assert!(!machine.negative.contains("0", now));
    }

    proptest! {
        /// Whatever strangers ask for, whenever: the key server gets at most one fetch per 30 s for
        /// it, besides refreshes and retries.
        #[test]
        fn strangers_are_not_amplified(
            asks in prop::collection::vec((0_u64..2_000, 0_u8..40, any::<bool>()), 1..400),
        ) {
            let (mut machine, start) = serving();
            let mut now = start;
            let mut past_caches = 0;
            for (millis, kid, is_up) in asks {
                now += Duration::from_millis(millis);
                let kid = kid.to_string();
                let asked = machine.ask(Some(&kid), now);
                if let Some(is_past_caches) = machine.begin(now) {
                    past_caches += u32::from(is_past_caches);
                    if is_up { machine.succeeded(None, 0.5, now) } else { machine.failed(0.5, now) }
                }
                if asked == Ask::Wait {
                    machine.missed(&kid, now);
                }
            }
            let allowed = 1 + (now - start).as_secs() / 30;
            prop_assert!(u64::from(past_caches) <= allowed, "{past_caches} of {allowed}");
        }
    }
}
