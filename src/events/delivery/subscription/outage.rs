//! The health of the endpoint: consecutive failures, the circuit, and requested waits.
//!
//! An outage uses up no attempts: after [`FAILURES`] consecutive failures of at least [`EVENTS`] events
//! the circuit opens and their attempts are uncounted; then one probe at a time, which does not count,
//! tests the endpoint. An event that fails alone never opens the circuit, so it comes to its end.
//!
//! A refusal is about the event, not the endpoint: an endpoint that looks at an event and refuses
//! it is up. A refusal ends the row of failures and, as the answer to a probe, the outage; counted
//! as a failure it would keep the circuit open for good if all remaining events are refused.

use super::{place::Place, settings::jitter};

/// Consecutive failures that open the circuit,
pub(super) const FAILURES: u32 = 7;
/// of at least this many events.
pub(super) const EVENTS: usize = 3;
/// The wait before the first probe; doubled by each failed one,
const FIRST_WAIT: u64 = 1_000;
/// up to this.
const LONGEST_WAIT: u64 = 60_000;
/// Longest wait for an endpoint that asks for one without saying how long.
const LONGEST_THROTTLE: u64 = 60_000;

/// The state of the endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outage {
    /// The circuit, if it is open.
    pub open: Option<Open>,
    /// Failures by event since the endpoint last took or refused one, while the circuit is closed.
    /// At most seven events.
    pub run: Vec<Failing>,
    /// Nothing is sent before this.
    pub until: u64,
    /// How often in a row the endpoint asked to wait without saying how long.
    pub throttled: u32,
}

/// An event in a row of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The event.
    pub place: Place,
    /// Its failures.
    pub failures: u32,
    /// How many of these count as attempts.
    pub counted: u32,
}

/// An open circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// When it opened.
    pub since: u64,
    /// No probe before this.
    pub until: u64,
    /// The wait without jitter, which is doubled.
    pub wait: u64,
}

// === impl Outage ===

impl Outage {
    /// Adds a failure to the row.
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

    /// The endpoint took or refused an event: it is up, and the row ends.
    pub(super) fn answered(&mut self) {
        self.run.clear();
        self.throttled = 0;
    }

    /// Whether the circuit should open.
    pub(super) fn is_due(&self) -> bool {
        let add = |sum: u32, failing: &Failing| sum.saturating_add(failing.failures);
        let failures = || self.run.iter().fold(0, add);
        self.open.is_none() && self.run.len() >= EVENTS && failures() >= FAILURES
    }

    /// The wait before the first probe: its end, and the value to double.
    pub(super) fn first_wait(now: u64, random: u64) -> (u64, u64) {
        (now + jitter(FIRST_WAIT, random), FIRST_WAIT)
    }

    /// The wait after a failed probe: its end, and the value to double.
    pub(super) fn next_wait(&self, now: u64, random: u64) -> (u64, u64) {
        let wait =
            self.open.map_or(FIRST_WAIT, |open| open.wait.saturating_mul(2).min(LONGEST_WAIT));
        (now + jitter(wait, random), wait)
    }

    /// The wait for an endpoint that did not say how long.
    pub(super) fn throttle(&self, random: u64) -> u64 {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.throttled.min(16)).min(LONGEST_THROTTLE);
        // Never shorter than the endpoint asked.
        doubled.max(jitter(doubled, random))
    }
}
