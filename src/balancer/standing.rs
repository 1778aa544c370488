//! The standing of one endpoint: health, ejection, breaker and slow start; shared by all workers
//! and kept across reloads.
//!
//! A request touches two atomic words, which are read always and written only around failures.
//! Everything else is behind a lock that is taken when something changes. With a breaker
//! configured, each outcome takes that lock for the few steps of its ring.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::balancer::{
    Settings,
    breaker::{Breaker, Phase, Probe, Probed},
    health::{self, Health},
    outlier::Ejection,
    roster::Seen,
};

/// The share of its weight that an endpoint begins slow start with, in percent.
const FIRST_SHARE: u8 = 10;
/// The steps of slow start in percent: each is published to all workers.
const STEP: u8 = 5;
/// The full weight.
pub(crate) const FULL_SHARE: u8 = 100;

/// The state of one endpoint.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Consecutive failures that it answered with.
    answered: AtomicU32,
    /// Consecutive failures without an answer.
    local: AtomicU32,
    record: Mutex<Record>,
}

/// The part that seldom changes.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) health: Health,
    pub(crate) ejection: Ejection,
    pub(crate) breaker: Breaker,
    /// Since when it has been in slow start.
    warming: Option<Instant>,
}

/// What an attempt says about its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It works.
    Success,
    /// It answered, with a failure.
    Failed,
    /// It could not be reached, or did not answer.
    Unreached,
    /// Nothing: the client or we ended the attempt.
    Nothing,
}

/// The effects of an outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// It has failed often enough in a row to be ejected.
    pub(crate) is_outlier: bool,
    /// How its breaker changed.
    pub(crate) breaker: Option<Turned>,
    /// Its breaker waits again, for longer.
    pub(crate) is_still_open: bool,
}

/// A transition of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    Opened,
    Closed,
}

/// The state at a moment, after what is over has been ended.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) seen: Seen,
    /// When the state next changes by itself.
    pub(crate) next: Option<Instant>,
    /// It has come back from an ejection.
    pub(crate) is_back: bool,
}

// === impl Standing ===

impl Standing {
    /// A new endpoint. `is_added`: others served before it, so it begins slowly.
    pub(crate) fn new(now: Instant, is_added: bool) -> Arc<Self> {
        let record = Record {
            health: Health::default(),
            ejection: Ejection::default(),
            breaker: Breaker::new(now),
            warming: is_added.then_some(now),
        };
        Arc::new(Self {
            answered: AtomicU32::new(0),
            local: AtomicU32::new(0),
            record: Mutex::new(record),
        })
    }

    pub(crate) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock()
    }

    /// Records the outcome of an attempt; `probe`: it went through the open breaker.
    pub(crate) fn observe(
        &self,
        outcome: Outcome,
        probe: Option<Probe>,
        settings: &Settings,
        now: Instant,
    ) -> Told {
        let threshold = settings.outlier.consecutive_failures;
        // Relaxed: outcomes of several workers come in any order anyway, so a count of consecutive
        // failures need not be exact.
        let is_outlier = match outcome {
            Outcome::Success => {
                reset(&self.answered);
                reset(&self.local);
                false
            }
            Outcome::Failed => {
                reset(&self.local);
                count(&self.answered, threshold)
            }
            Outcome::Unreached => count(&self.local, threshold),
            Outcome::Nothing => false,
        };
        let mut told = Told { is_outlier, ..Told::default() };
        let Some(breaker) =
            settings.breaker.as_ref().filter(|_| probe.is_some() || outcome.is_told())
        else {
            return told;
        };
        let mut record = self.record();
        if let Some(probe) = probe {
            let is_ok = outcome.is_told().then_some(outcome == Outcome::Success);
            match record.breaker.probed(probe, is_ok, breaker, now, fastrand::f64()) {
                Probed::Nothing => {}
                Probed::Open => told.is_still_open = true,
                Probed::Closed => {
                    record.warming = Some(now);
                    told.breaker = Some(Turned::Closed);
                }
            }
        } else if record.breaker.record(outcome == Outcome::Success, breaker, now, fastrand::f64())
        {
            told.breaker = Some(Turned::Opened);
        }
        told
    }

    /// Takes the place of the probe, if one is due.
    pub(crate) fn try_probe(&self, now: Instant) -> Option<Probe> {
        self.record().breaker.try_probe(now)
    }

    /// The state at `now`, without ending anything: only the configuration in force may do that.
    pub(crate) fn look(&self, settings: &Settings, now: Instant) -> Settled {
        Settled { seen: self.record().seen(settings, now), next: None, is_back: false }
    }

    /// Ends what is over at `now`, and returns the state after that.
    pub(crate) fn settle(&self, settings: &Settings, now: Instant) -> Settled {
        let mut record = self.record();
        let is_back = record.ejection.settle(now);
        if is_back {
            reset(&self.answered);
            reset(&self.local);
            record.warming = Some(now);
        }
        let (share, step) = record.share(settings.slow_start, now);
        if step.is_none() {
            record.warming = None;
        }
        let seen = record.seen(settings, now);
        let reopens = match seen.breaker {
            Phase::Open { until, .. } => Some(until),
            Phase::Closed | Phase::Due { .. } | Phase::Probing { .. } => None,
        };
        let returns = record.ejection.current().map(|span| span.until);
        let next = [step, returns, reopens].into_iter().flatten().min();
        Settled { seen: Seen { share, ..seen }, next, is_back }
    }
}

fn reset(count: &AtomicU32) {
    if count.load(Ordering::Relaxed) != 0 {
        count.store(0, Ordering::Relaxed);
    }
}

/// Counts one more; `true` if that reaches `threshold`, which resets the count.
fn count(count: &AtomicU32, threshold: u32) -> bool {
    let reached = count.fetch_add(1, Ordering::Relaxed) + 1 >= threshold;
    reached && count.swap(0, Ordering::Relaxed) >= threshold
}

// === impl Record ===

impl Record {
    /// Begins slow start after a recovery.
    pub(crate) fn warm_up(&mut self, now: Instant) {
        self.warming = Some(now);
    }

    /// Its state.
    pub(crate) fn seen(&self, settings: &Settings, now: Instant) -> Seen {
        Seen {
            is_up: self.health.state() != health::State::Down,
            is_ejected: self.ejection.current().is_some(),
            breaker: match &settings.breaker {
                Some(_) => self.breaker.phase(now),
                None => Phase::Closed,
            },
            share: self.share(settings.slow_start, now).0,
        }
    }

    /// Its current share of its weight, in percent, and when the next step comes.
    fn share(&self, slow_start: Duration, now: Instant) -> (u8, Option<Instant>) {
        let Some(since) = self.warming else { return (FULL_SHARE, None) };
        let share = share(now.saturating_duration_since(since), slow_start);
        if share >= FULL_SHARE {
            return (FULL_SHARE, None);
        }
        let next = f64::from(share + STEP - FIRST_SHARE) / f64::from(FULL_SHARE - FIRST_SHARE);
        (share, Some(since + slow_start.mul_f64(next)))
    }
}

/// Rises linearly from [`FIRST_SHARE`], in steps.
fn share(elapsed: Duration, slow_start: Duration) -> u8 {
    if elapsed >= slow_start {
        return FULL_SHARE;
    }
    let part = elapsed.as_secs_f64() / slow_start.as_secs_f64();
    let steps = part * f64::from((FULL_SHARE - FIRST_SHARE) / STEP);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 18")]
    let steps = (steps + 1e-6) as u8;
    FIRST_SHARE + steps * STEP
}

// === impl Outcome ===

impl Outcome {
    fn is_told(self) -> bool {
        self != Self::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_rises_linearly_from_a_tenth() {
        let at = |seconds: f64| share(Duration::from_secs_f64(seconds), Duration::from_secs(30));
        assert_eq!([at(0.0), at(5.0), at(10.0), at(20.0), at(29.9)], [10, 25, 40, 70, 95]);
        assert_eq!(at(30.0), 100);
        assert_eq!(share(Duration::ZERO, Duration::ZERO), 100, "off");
    }

    #[tokio::test(start_paused = true)]
    async fn each_step_says_when_the_next_one_comes() {
        let now = Instant::now();
        let standing = Standing::new(now, true);
        let (mut at, mut seen) = (now, Vec::new());
        loop {
            let (share, next) = standing.record().share(Duration::from_secs(30), at);
            seen.push(share);
            let Some(next) = next else { break };
            assert!(next > at);
            at = next;
        }
        assert_eq!(seen, (2..=20).map(|step| step * 5).collect::<Vec<u8>>());
        assert!(at - now <= Duration::from_secs(30) + Duration::from_millis(1));
    }

    #[test]
    fn of_many_failures_one_reaches_the_threshold() {
        let failures = AtomicU32::new(0);
        let reached: Vec<bool> = (0..10).map(|_| count(&failures, 5)).collect();
        assert_eq!(reached.iter().filter(|reached| **reached).count(), 2);
        assert!(reached[4] && reached[9]);
    }
}
