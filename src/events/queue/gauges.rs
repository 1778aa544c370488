//! What a log counts of itself, for the gateway to read when it is scraped.
//!
//! All cells are relaxed: each is a word for itself, and nothing is decided by them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets of spans, in microseconds; a last bucket has what is longer.
pub const SPAN_BOUNDS_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 5_000_000,
];

/// Upper bounds of the buckets of events in a commit; a last bucket has what is more.
pub const COMMIT_BOUNDS: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

/// The numbers of one log.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Events appended since start.
    pub appended: Counter,
    /// Bytes of their frames.
    pub appended_bytes: Counter,
    /// From the hand-over of a waited append to its completion, in microseconds.
    pub append_micros: Histogram<16>,
    /// Duration of a sync, in microseconds.
    pub sync_micros: Histogram<16>,
    /// Events of a commit.
    pub commit_events: Histogram<12>,
    /// Appends that were refused, by reason.
    pub rejected: Rejected,
    /// Ranges of bad bytes found.
    pub corruption: Counter,
    /// Offsets that were lost to bad bytes.
    pub lost: Counter,
    /// Milliseconds that the last recovery took.
    pub recovery_millis: Gauge,
    /// Wall time, in milliseconds, at which the last complete scrub ended without a finding; 0: none.
    pub scrubbed_at: Gauge,
    /// Events kept, an upper bound: gaps are counted as well.
    pub events: Gauge,
    /// Bytes kept.
    pub bytes: Gauge,
    /// Whether the log takes no appends until it is reopened.
    pub is_offline: Flag,
    /// Whether the disk did not take what was last written: nothing new is accepted until it does.
    pub is_full: Flag,
}

/// Refused appends, by reason.
#[derive(Debug, Default)]
pub struct Rejected {
    /// The byte budget or the log's own bound.
    pub full: Counter,
    /// Too little room on the disk.
    pub disk_low: Counter,
    /// Bad bytes or a failed sync.
    pub offline: Counter,
    /// More than a frame or the budget takes.
    pub too_large: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// A yes or no that is set.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

/// How many values fell under each bound, and their sum.
#[derive(Debug)]
pub struct Histogram<const BOUNDS: usize> {
    bounds: &'static [u64; BOUNDS],
    counts: [AtomicU64; BOUNDS],
    above: AtomicU64,
    sum: AtomicU64,
}

// === impl Counter ===

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Gauge ===

impl Gauge {
    /// Sets the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

// === impl Flag ===

impl Flag {
    /// Sets it.
    pub fn set(&self, value: bool) {
        self.0.store(value, Relaxed);
    }

    /// Whether it is set.
    pub fn get(&self) -> bool {
        self.0.load(Relaxed)
    }
}

// === impl Histogram ===

impl<const BOUNDS: usize> Histogram<BOUNDS> {
    /// None yet, with these bounds, ascending.
    pub const fn new(bounds: &'static [u64; BOUNDS]) -> Self {
        Self {
            bounds,
            counts: [const { AtomicU64::new(0) }; BOUNDS],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// Counts `value`.
    pub fn record(&self, value: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts.get(bucket).unwrap_or(&self.above).fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// Counts a span in microseconds.
    pub fn record_span(&self, span: Duration) {
        self.record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    /// Each bound with how many values were at most it and above the one before; the last, without a
    /// bound, has those above all.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounded = self.bounds.iter().zip(&self.counts);
        let bounded = bounded.map(|(bound, count)| (Some(*bound), count.load(Relaxed)));
        bounded.chain(std::iter::once((None, self.above.load(Relaxed))))
    }

    /// The sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets().map(|(_, count)| count).sum()
    }
}

impl Default for Histogram<16> {
    fn default() -> Self {
        Self::new(&SPAN_BOUNDS_MICROS)
    }
}

impl Default for Histogram<12> {
    fn default() -> Self {
        Self::new(&COMMIT_BOUNDS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_falls_under_the_first_bound_it_does_not_exceed() {
        let sizes = Histogram::<12>::default();
        for value in [0, 1, 2, 3, 4_096, 4_097] {
            sizes.record(value);
        }
        let buckets: Vec<_> = sizes.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            buckets,
            [(Some(1), 2), (Some(2), 1), (Some(4), 1), (Some(4_096), 1), (None, 1)]
        );
        assert_eq!((sizes.count(), sizes.sum()), (6, 8_199));
    }
}
