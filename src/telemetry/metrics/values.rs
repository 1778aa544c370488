//! What is counted in: numbers that grow, numbers that are set, and durations.

use std::{
    ops::Deref,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The upper bounds of the buckets of all duration histograms, in microseconds.
pub(super) const BUCKETS_MICROS: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// A number that only grows.
#[derive(Clone, Debug, Default)]
pub struct Counter(pub(super) Arc<Count>);

/// The cell of a number that only grows.
#[derive(Debug, Default)]
pub struct Count(pub(super) AtomicU64);

/// A number that is set; the values of all threads are added up.
#[derive(Clone, Debug, Default)]
pub struct Gauge(pub(super) Arc<AtomicU64>);

/// Durations in fixed buckets.
#[derive(Clone, Debug, Default)]
pub struct Histogram(pub(super) Arc<Buckets>);

/// The cells of a histogram.
#[derive(Debug, Default)]
pub struct Buckets {
    pub(super) counts: [AtomicU64; BUCKETS_MICROS.len() + 1],
    pub(super) micros: AtomicU64,
}

/// The cells of one route. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RouteMetrics(pub(super) Arc<RouteCells>);

/// One block per thread and route, written by every request of the route: on its own cache lines,
/// two because processors fetch pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCells {
    /// By class of status, 1xx first; a class below or above counts as the first or the last.
    pub(super) statuses: [Count; 5],
    /// [`REQUEST_DURATION`](super::REQUEST_DURATION).
    pub(super) duration: Buckets,
    /// [`REQUEST_BYTES`](super::REQUEST_BYTES).
    pub(super) request_bytes: Count,
    /// [`RESPONSE_BYTES`](super::RESPONSE_BYTES).
    pub(super) response_bytes: Count,
}

// === impl Counter ===

impl Counter {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.add(n);
    }

    /// Counts `n` more, without the read-modify-write of [`Counter::add`]: for what every request
    /// counts. Only for the thread that the cells belong to, if no other counts in this one.
    pub fn add_alone(&self, n: u64) {
        add_alone(&self.0.0, n);
    }

    /// This thread's count.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

// === impl Count ===

// All cells are Relaxed: they order nothing, and a scrape may see related counts out of order.
impl Count {
    /// Counts `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// This thread's count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Adds to a cell that only this thread writes.
fn add_alone(cell: &AtomicU64, n: u64) {
    cell.store(cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

// === impl Gauge ===

impl Gauge {
    /// Sets this thread's value.
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// This thread's value.
    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts one that took `duration`.
    pub fn record(&self, duration: Duration) {
        self.0.record(duration);
    }
}

// === impl Buckets ===

impl Buckets {
    /// Counts one that took `duration`.
    pub fn record(&self, duration: Duration) {
        let (bucket, micros) = bucket_of(duration);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// The bucket of a duration, and the duration in microseconds.
fn bucket_of(duration: Duration) -> (usize, u64) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    (BUCKETS_MICROS.partition_point(|&bound| bound < micros), micros)
}

// === impl RouteCells ===

impl RouteCells {
    /// Counts an exchange that was answered with `status` and `sent` bytes after `took`, and of
    /// whose request `received` bytes were read. Only for the thread that the cells belong to.
    pub fn count(&self, status: u16, took: Duration, received: u64, sent: u64) {
        let class = usize::from(status / 100).clamp(1, 5);
        let (bucket, micros) = bucket_of(took);
        add_alone(&self.statuses[class - 1].0, 1);
        add_alone(&self.duration.counts[bucket], 1);
        add_alone(&self.duration.micros, micros);
        add_alone(&self.request_bytes.0, received);
        add_alone(&self.response_bytes.0, sent);
    }
}

// === impl RouteMetrics ===

impl Deref for RouteMetrics {
    type Target = RouteCells;

    fn deref(&self) -> &RouteCells {
        &self.0
    }
}
