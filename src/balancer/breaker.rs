//! The circuit breaker of one endpoint: closed, open, and one probe at a time. Pure.
//!
//! It opens after a number of failures in a row, or when too few requests of its window succeeded.
//! The window is a ring of ten buckets: exact, except that the oldest tenth leaves as a whole.
//! While open, it admits one request once its wait is over. That probe's outcome closes it, or
//! reopens it for twice as long. A probe without an outcome in time (a slow upload, perhaps) loses
//! its place, and its outcome is ignored once another probe has it. Numbers and jitter are
//! Linkerd's failure accrual.

use std::time::Duration;

use tokio::time::Instant;

/// The number of parts of the window.
const BUCKETS: u32 = 10;
/// A wait is prolonged by up to this share of itself, so that endpoints that failed together are
/// not probed together.
const JITTER: f64 = 0.5;
/// The minimum time a probe holds its place: no clock runs while a client uploads its request.
const PROBE_TIME: Duration = Duration::from_secs(30);

/// `upstreams.*.breaker`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Consecutive failures that open it.
    pub consecutive_failures: u32,
    /// It opens if the share of successes is lower, 0 to 1.
    pub success_rate: f64,
    /// The time over which that share is taken.
    pub window: Duration,
    /// With fewer requests in the window, the share is ignored.
    pub min_samples: u32,
    /// The first wait before a probe.
    pub probe_after: Duration,
    /// The longest wait before a probe.
    pub max_wait: Duration,
}

/// The breaker of one endpoint.
#[derive(Debug)]
pub(crate) struct Breaker {
    ring: Ring,
    /// Failures since the last success.
    consecutive: u32,
    open: Option<Open>,
    /// The number of the last probe.
    probes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    since: Instant,
    until: Instant,
    /// The wait without jitter, which is doubled.
    wait: Duration,
    /// How long the current probe holds its place.
    probing_until: Option<Instant>,
}

/// One request through an open breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe(u64);

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// None, or it is no longer the latest probe.
    Nothing,
    /// The breaker stays open, for longer.
    Open,
    /// The breaker is closed now.
    Closed,
}

/// The state of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything passes.
    Closed,
    /// Nothing passes before `until`.
    Open { since: Instant, until: Instant },
    /// One request may pass as a probe.
    Due { since: Instant },
    /// One request is in flight as a probe.
    Probing { since: Instant },
}

/// Successes and failures within the window.
#[derive(Debug)]
struct Ring {
    origin: Instant,
    /// The length of one bucket.
    span: Duration,
    /// The number of the newest bucket, counted from `origin`.
    newest: u64,
    buckets: [Bucket; BUCKETS as usize],
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bucket {
    ok: u64,
    failed: u64,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: 7,
            success_rate: 0.8,
            window: Duration::from_secs(10),
            min_samples: 5,
            probe_after: Duration::from_secs(1),
            max_wait: Duration::from_mins(1),
        }
    }
}

// === impl Breaker ===

impl Breaker {
    /// A closed breaker.
    pub(crate) fn new(now: Instant) -> Self {
        Self { ring: Ring::new(now, Duration::ZERO), consecutive: 0, open: None, probes: 0 }
    }

    /// Its state at `now`.
    pub(crate) fn phase(&self, now: Instant) -> Phase {
        match self.open {
            None => Phase::Closed,
            Some(Open { since, probing_until: Some(until), .. }) if now < until => {
                Phase::Probing { since }
            }
            Some(Open { since, until, .. }) if now < until => Phase::Open { since, until },
            Some(Open { since, .. }) => Phase::Due { since },
        }
    }

    /// Records the outcome of a request that passed while closed; `true` if that opened it.
    /// `chance` is from 0 to 1. Changes nothing if the breaker has opened in the meantime.
    pub(crate) fn record(
        &mut self,
        is_ok: bool,
        settings: &Settings,
        now: Instant,
        chance: f64,
    ) -> bool {
        if self.open.is_some() {
            return false;
        }
        let in_window = self.ring.record(is_ok, settings.window, now);
        self.consecutive = if is_ok { 0 } else { self.consecutive.saturating_add(1) };
        let samples = in_window.ok + in_window.failed;
        let is_sampled = samples >= u64::from(settings.min_samples);
        let is_poor = (in_window.ok as f64) < settings.success_rate * samples as f64;
        let opens = self.consecutive >= settings.consecutive_failures || is_sampled && is_poor;
        if opens {
            let wait = settings.probe_after;
            self.open = Some(Open::new(now, now, wait, chance));
        }
        opens
    }

    /// Takes the place of the probe, if one is due.
    pub(crate) fn try_probe(&mut self, now: Instant) -> Option<Probe> {
        let is_due = matches!(self.phase(now), Phase::Due { .. });
        let open = self.open.as_mut().filter(|_| is_due)?;
        open.probing_until = Some(now + open.wait.max(PROBE_TIME));
        self.probes += 1;
        Some(Probe(self.probes))
    }

    /// Records the outcome of a probe; `None` if it had none: then another may go. A probe that
    /// lost its place to another is ignored.
    pub(crate) fn probed(
        &mut self,
        probe: Probe,
        outcome: Option<bool>,
        settings: &Settings,
        now: Instant,
        chance: f64,
    ) -> Probed {
        let is_last = probe.0 == self.probes;
        let Some(open) = self.open.as_mut().filter(|_| is_last) else { return Probed::Nothing };
        match outcome {
            None => {
                open.probing_until = None;
                Probed::Nothing
            }
            Some(true) => {
                *self = Self { probes: self.probes, ..Self::new(now) };
                Probed::Closed
            }
            Some(false) => {
                let wait = open.wait.saturating_mul(2).min(settings.max_wait);
                *open = Open::new(open.since, now, wait, chance);
                Probed::Open
            }
        }
    }
}

// === impl Open ===

impl Open {
    fn new(since: Instant, now: Instant, wait: Duration, chance: f64) -> Self {
        let until = now + wait.mul_f64(1.0 + JITTER * chance);
        Self { since, until, wait, probing_until: None }
    }
}

// === impl Ring ===

impl Ring {
    fn new(origin: Instant, span: Duration) -> Self {
        Self { origin, span, newest: 0, buckets: [Bucket::default(); BUCKETS as usize] }
    }

    /// Counts one more and returns the sums over the window.
    fn record(&mut self, is_ok: bool, window: Duration, now: Instant) -> Bucket {
        let span = (window / BUCKETS).max(Duration::from_nanos(1));
        if span != self.span {
            // A reload changed the window: the old buckets have other borders.
            *self = Self::new(now, span);
        }
        let since = now.saturating_duration_since(self.origin);
        let number = u64::try_from(since.as_nanos() / span.as_nanos()).unwrap_or(u64::MAX);
        let passed = number.saturating_sub(self.newest).min(u64::from(BUCKETS));
        // A worker whose clock reading is slightly behind counts into the newest bucket.
        self.newest = self.newest.max(number);
        for step in 0..passed {
            *self.bucket(self.newest - step) = Bucket::default();
        }
        let newest = self.newest;
        let bucket = self.bucket(newest);
        if is_ok {
            bucket.ok += 1;
        } else {
            bucket.failed += 1;
        }
        self.buckets.iter().fold(Bucket::default(), |sum, bucket| Bucket {
            ok: sum.ok + bucket.ok,
            failed: sum.failed + bucket.failed,
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a remainder of ten fits")]
    fn bucket(&mut self, number: u64) -> &mut Bucket {
        &mut self.buckets[(number % u64::from(BUCKETS)) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const SETTINGS: Settings = Settings {
        consecutive_failures: 7,
        success_rate: 0.8,
        window: Duration::from_secs(10),
        min_samples: 5,
        probe_after: Duration::from_secs(1),
        max_wait: Duration::from_mins(1),
    };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(now);
        let settings = Settings { min_samples: u32::MAX, ..SETTINGS };
        for _ in 0..6 {
            assert!(!breaker.record(false, &settings, now, 0.0));
        }
        assert!(breaker.record(false, &settings, now, 0.0), "the seventh in a row");
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_a_success_between_starts_anew() {
        let now = Instant::now();
        let settings = Settings { min_samples: u32::MAX, ..SETTINGS };
        let mut breaker = Breaker::new(now);
        for _ in 0..20 {
            for _ in 0..6 {
                assert!(!breaker.record(false, &settings, now, 0.0));
            }
            assert!(!breaker.record(true, &settings, now, 0.0));
        }
        opened(now);
    }

    #[tokio::test(start_paused = true)]
    async fn a_poor_share_opens_it_once_there_are_samples() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        for is_ok in [true, true, false, true] {
            assert!(!breaker.record(is_ok, &SETTINGS, now, 0.0));
        }
        assert!(!breaker.record(true, &SETTINGS, now, 0.0), "four of five are 80 %");
        assert!(breaker.record(false, &SETTINGS, now, 0.0), "four of six are less");
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_the_window_counts_no_more() {
        let start = Instant::now();
        let mut breaker = Breaker::new(start);
        for _ in 0..100 {
            breaker.record(true, &SETTINGS, start, 0.0);
        }
        let later = start + SETTINGS.window;
        for _ in 0..4 {
            assert!(!breaker.record(false, &SETTINGS, later, 0.0));
        }
        assert!(breaker.record(false, &SETTINGS, later, 0.0), "five of five failed");
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_waits_that_double_up_to_a_bound() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let mut at = now;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            let until = at + Duration::from_secs(wait);
            assert_eq!(breaker.phase(at), Phase::Open { since: now, until });
            assert_eq!(breaker.try_probe(until - Duration::from_millis(1)), None);
            let probe = breaker.try_probe(until).unwrap();
            assert_eq!(breaker.try_probe(until), None, "one is on its way");
            assert!(!breaker.record(false, &SETTINGS, until, 0.0), "late news from before");
            let probed = breaker.probed(probe, Some(false), &SETTINGS, until, 0.0);
            assert_eq!(probed, Probed::Open);
            at = until;
        }
        let until = at + Duration::from_mins(1);
        let probe = breaker.try_probe(until).unwrap();
        assert_eq!(breaker.probed(probe, Some(true), &SETTINGS, until, 0.0), Probed::Closed);
        assert_eq!(breaker.phase(until), Phase::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_came_to_nothing_frees_its_place() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + SETTINGS.probe_after;
        let probe = breaker.try_probe(due).unwrap();
        assert_eq!(breaker.phase(due), Phase::Probing { since: now });
        assert_eq!(breaker.probed(probe, None, &SETTINGS, due, 0.0), Probed::Nothing);
        assert!(breaker.try_probe(due).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_without_an_outcome_gives_way_and_is_not_heard_after_that() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let due = now + SETTINGS.probe_after;
        let slow = breaker.try_probe(due).unwrap();
        let until = due + PROBE_TIME;
        assert_eq!(breaker.try_probe(until - Duration::from_millis(1)), None);
        assert_eq!(breaker.phase(until), Phase::Due { since: now });
        let next = breaker.try_probe(until).unwrap();
        for outcome in [None, Some(true), Some(false)] {
            let probed = breaker.probed(slow, outcome, &SETTINGS, until, 0.0);
            assert_eq!(probed, Probed::Nothing, "another is on its way");
            assert_eq!(breaker.phase(until), Phase::Probing { since: now });
        }
        assert_eq!(breaker.probed(next, Some(true), &SETTINGS, until, 0.0), Probed::Closed);
        assert_eq!(breaker.probed(slow, Some(false), &SETTINGS, until, 0.0), Probed::Nothing);
        for _ in 0..7 {
            breaker.record(false, &SETTINGS, until, 0.0);
        }
        let open = breaker.phase(until);
        assert!(matches!(open, Phase::Open { .. }));
        assert_eq!(breaker.probed(slow, Some(true), &SETTINGS, until, 0.0), Probed::Nothing);
        assert_eq!(breaker.phase(until), open, "nor in another life of the breaker");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_probe_is_heard_as_long_as_it_is_the_last() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let slow = breaker.try_probe(now + SETTINGS.probe_after).unwrap();
        let late = now + Duration::from_mins(10);
        assert_eq!(breaker.probed(slow, Some(true), &SETTINGS, late, 0.0), Probed::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_drawn_out_by_up_to_half() {
        let now = Instant::now();
        let mut breaker = Breaker::new(now);
        let settings = Settings { consecutive_failures: 1, ..SETTINGS };
        assert!(breaker.record(false, &settings, now, 1.0));
        let until = now + Duration::from_millis(1500);
        assert_eq!(breaker.phase(now), Phase::Open { since: now, until });
    }

    proptest! {
        /// The ring equals a list of everything ever recorded.
        #[test]
        fn the_ring_equals_a_naive_model(
            events in prop::collection::vec((0u64..3_000, any::<bool>()), 1..200),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            let _entered = runtime.as_ref().unwrap().enter();
            let origin = Instant::now();
            let span = SETTINGS.window / 10;
            let mut ring = Ring::new(origin, span);
            let mut all: Vec<(u64, bool)> = Vec::new();
            let mut millis = 0;
            for (step, is_ok) in events {
                millis += step;
                let number = millis / 1000;
                all.push((number, is_ok));
                let live = all.iter().filter(|(at, _)| at + 10 > number);
                let ok = live.clone().filter(|(_, is_ok)| *is_ok).count() as u64;
                let expected = Bucket { ok, failed: live.count() as u64 - ok };
                let now = origin + Duration::from_millis(millis);
                prop_assert_eq!(ring.record(is_ok, SETTINGS.window, now), expected);
            }
        }
    }
}
