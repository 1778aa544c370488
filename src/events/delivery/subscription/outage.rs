//! Whether the endpoint is there: failures in a row, the circuit, and how long it asked to be left alone.
//!
//! An outage burns nobody's attempts: after [`FAILURES`] failures in a row over at least [`EVENTS`]
//! events the circuit opens and their counts are given back; then one probe at a time, which does not
//! count, goes to see. An event that fails alone never opens it, so it comes to its end.
//!
//! A refusal speaks of the event, not of the endpoint: one that looks at an event and does not want it is
//! as alive as one that takes it. It ends the row and, as the answer to a probe, the outage; counted as a
//! failure it would hold the circuit open for good where all that is left is refused.

use super::{place::Place, settings::jitter};

/// Failures in a row that open the circuit,
pub(super) const FAILURES: u32 = 7;
/// over so many events.
pub(super) const EVENTS: usize = 3;
/// The first wait before a probe; doubled by each that fails,
const FIRST_WAIT: u64 = 1_000;
/// up to this.
const LONGEST_WAIT: u64 = 60_000;
/// An endpoint that asks for time without saying how much waits at most so long.
const LONGEST_THROTTLE: u64 = 60_000;

/// What is known of the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// The circuit, if it is open.
    pub open: Option<Open>,
    /// Failures since the endpoint last took or refused something, by event, as long as the circuit is
    /// closed. At most seven events.
    pub run: Vec<Failing>,
    /// Nothing is sent before.
    pub until: u64,
    /// How often in a row the endpoint asked for time without saying how much.
    pub throttled: u32,
}

/// An event that failed in a row of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// Which.
    pub place: Place,
    /// How often.
    pub failures: u32,
    /// How many of these count.
    pub counted: u32,
}

/// An open circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// Since when.
    pub since: u64,
    /// No probe before.
    pub until: u64,
    /// The wait without jitter: what is doubled.
    pub wait: u64,
}

// === impl Outage ===

impl Outage {
    /// One more failure in a row.
    pub(super) fn fail(&mut self, place: Place, counts: bool) {
        if self.open.is_some() {
            return;
        }
        let counted = u32::from(counts);
        match self.run.iter_mut().find(|failing| failing.place == place) {
            Some(failing) => {
                failing.failures = failing.failures.saturating_add(1);
                failing.counted = failing.counted.saturating_add(counted);
            }
            None => self.run.push(Failing { place, failures: 1, counted }),
        }
    }

    /// The endpoint took an event, or refused it: it is there, and the row ends.
    pub(super) fn answered(&mut self) {
        self.run.clear();
        self.throttled = 0;
    }

    /// Whether the circuit is to open.
    pub(super) fn is_due(&self) -> bool {
        let add = |sum: u32, failing: &Failing| sum.saturating_add(failing.failures);
        let failures = || self.run.iter().fold(0, add);
        self.open.is_none() && self.run.len() >= EVENTS && failures() >= FAILURES
    }

    /// The wait before the first probe: until when, and what is doubled.
    pub(super) fn first_wait(now: u64, random: u64) -> (u64, u64) {
        (now + jitter(FIRST_WAIT, random), FIRST_WAIT)
    }

    /// The wait after a failed probe.
    pub(super) fn next_wait(&self, now: u64, random: u64) -> (u64, u64) {
        let wait =
            self.open.map_or(FIRST_WAIT, |open| open.wait.saturating_mul(2).min(LONGEST_WAIT));
        (now + jitter(wait, random), wait)
    }

    /// How long the endpoint waits that did not say so.
    pub(super) fn throttle(&self, random: u64) -> u64 {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.throttled.min(16)).min(LONGEST_THROTTLE);
        // Never less than what is asked for.
        doubled.max(jitter(doubled, random))
    }
}
