//! Counters of a log, which the gateway reads when it is scraped.
//!
//! All cells are relaxed: each is independent, and no decision depends on them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Upper bounds of the buckets for durations, in microseconds; a last bucket has longer ones.
pub const SPAN_BOUNDS_MICROS: [u64; 16] = [
    50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 20_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 5_000_000,
];

/// Upper bounds of the buckets for events per commit; a last bucket has larger numbers.
pub const COMMIT_BOUNDS: [u64; 12] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

/// The counters of one log.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Events appended since start.
    pub appended: Counter,
    /// Bytes of their frames.
    pub appended_bytes: Counter,
    /// From submission of a waited append to its completion, in microseconds.
    pub append_micros: Histogram<16>,
    /// Duration of a sync, in microseconds.
    pub sync_micros: Histogram<16>,
    /// Events per commit.
    pub commit_events: Histogram<12>,
    /// Appends that were refused, by reason.
    pub rejected: Rejected,
    /// Ranges of bad bytes found.
    pub corruption: Counter,
    /// Offsets that were lost to bad bytes.
    pub lost: Counter,
    /// Milliseconds that the last recovery took.
    pub recovery_millis: Gauge,
    /// Wall time, in milliseconds, at which the last clean and complete scrub ended; 0 if none did.
    pub scrubbed_at: Gauge,
    /// Events stored; an upper bound, because gaps are counted as well.
    pub events: Gauge,
    /// Bytes stored.
    pub bytes: Gauge,
    /// Whether the log takes no appends until it is reopened.
    pub is_offline: Flag,
    /// Whether the disk rejected the last write: nothing new is accepted until a write succeeds.
    pub is_full: Flag,
}

/// Refused appends, by reason.
#[derive(Debug, Default)]
pub struct Rejected {
    /// The byte budget or the log's size limit.
    pub full: Counter,
    /// Too little room on the disk.
    pub disk_low: Counter,
    /// Damage or a failed sync.
    pub offline: Counter,
    /// More than a frame or the budget can take.
    pub too_large: Counter,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that is set.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// A flag that is set.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

/// Number of values in each bucket, and their sum.
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
    /// Without values, with these bounds in ascending order.
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

    /// Counts a duration in microseconds.
    pub fn record_span(&self, span: Duration) {
        self.record(u64::try_from(span.as_micros()).unwrap_or(u64::MAX));
    }

    /// Each bound with the number of values up to it and above the previous bound; the last,
    /// without a bound, has those above all.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        let bounded = self.bounds.iter().zip(&self.counts);
        let bounded = bounded.map(|(bound, count)| (Some(*bound), count.load(Relaxed)));
        bounded.chain(std::iter::once((None, self.above.load(Relaxed))))
    }

    /// The sum of the values.
    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    /// Number of values.
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
