//! Counters of a subscription, which the gateway reads when it is scraped.
//!
//! Counted since the process started, where decisions are made; reading involves no other task.

use std::sync::Arc;

use parking_lot::Mutex;

use super::dead_letters::Reason;
use crate::events::queue::gauges::{Counter, Flag, Histogram};

/// Upper bounds of the buckets for durations, in milliseconds; a last bucket has longer ones.
static SPAN_BOUNDS_MILLIS: [u64; 16] =
    [1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 10_000, 30_000, 60_000, 600_000, 3_600_000];

/// Upper bounds of the buckets for attempts; a last bucket has larger numbers.
static ATTEMPT_BOUNDS: [u64; 12] = [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 40, 60];

/// The counters of one subscription.
#[derive(Debug)]
pub struct Tally {
    deliveries: [Counter; DeliveryEnd::ALL.len()],
    /// Counted attempts of events that ended, successfully or not.
    pub attempts: Histogram<12>,
    /// From the start of a delivery to its result, in milliseconds.
    pub delivery_millis: Histogram<16>,
    /// From publication to success, in milliseconds. Replays and redrives are not counted.
    pub end_to_end_millis: Histogram<16>,
    dead_letters: [Counter; Reason::ALL.len()],
    /// Unsettled events dropped because their bytes were gone.
    pub lost: Counter,
    /// Events given up without a dead letter: by policy, or by an operator.
    pub discarded: Counter,
    /// Events without a follower because their saga was too deep.
    pub stopped_sagas: Counter,
    /// Whether only probes are sent to the endpoint.
    pub is_circuit_open: Flag,
    failing: Mutex<Option<Arc<str>>>,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryEnd {
    /// The event was taken.
    Succeeded,
    /// It failed, and the event may be delivered again.
    Failed,
    /// It failed, and the event is never delivered again.
    Rejected,
    /// It ended without a result.
    Lapsed,
    /// Given back: the attempt does not count.
    Released,
}

// === impl Tally ===

impl Tally {
    /// Counts a delivery that ended this way.
    pub fn count_delivery(&self, end: DeliveryEnd) {
        self.deliveries[end as usize].add(1);
    }

    /// Number of deliveries by how they ended.
    pub fn deliveries(&self) -> impl Iterator<Item = (DeliveryEnd, u64)> {
        DeliveryEnd::ALL.into_iter().zip(self.deliveries.iter().map(Counter::get))
    }

    /// Counts a dead letter that is on disk.
    pub fn count_dead_letter(&self, reason: Reason) {
        self.dead_letters[reason as usize].add(1);
    }

    /// Number of dead letters since start, by reason.
    pub fn dead_letters(&self) -> impl Iterator<Item = (Reason, u64)> {
        Reason::ALL.into_iter().zip(self.dead_letters.iter().map(Counter::get))
    }

    /// Sets why the last push failed; `None` if it succeeded.
    pub fn set_failing(&self, why: Option<Arc<str>>) {
        *self.failing.lock() = why;
    }

    /// Why the last push failed; `None` if it succeeded.
    pub fn failing(&self) -> Option<Arc<str>> {
        self.failing.lock().clone()
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            deliveries: Default::default(),
            attempts: Histogram::new(&ATTEMPT_BOUNDS),
            delivery_millis: Histogram::new(&SPAN_BOUNDS_MILLIS),
            end_to_end_millis: Histogram::new(&SPAN_BOUNDS_MILLIS),
            dead_letters: Default::default(),
            lost: Counter::default(),
            discarded: Counter::default(),
            stopped_sagas: Counter::default(),
            is_circuit_open: Flag::default(),
            failing: Mutex::default(),
        }
    }
}

// === impl DeliveryEnd ===

impl DeliveryEnd {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Succeeded, Self::Failed, Self::Rejected, Self::Lapsed, Self::Released];

    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Lapsed => "lapsed",
            Self::Released => "released",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_as_itself() {
        let tally = Tally::default();
        for (times, end) in (1..).zip(DeliveryEnd::ALL) {
            (0..times).for_each(|_| tally.count_delivery(end));
        }
        for (times, reason) in (1..).zip(Reason::ALL) {
            (0..times).for_each(|_| tally.count_dead_letter(reason));
        }
        assert!((1..).zip(tally.deliveries()).all(|(times, (_, count))| times == count));
        assert!((1..).zip(tally.dead_letters()).all(|(times, (_, count))| times == count));
    }
}
