//! Measures one endpoint: requests in flight, and response latency.
//!
//! The latency is Finagle's Peak-EWMA: a slower sample is taken at once, a faster one is blended in
//! with a weight that depends on the time since the last one. Estimate and time live in one atomic
//! word, so that no reader sees one without the other and no lock is needed.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use tokio::time::Instant;

/// A faster sample takes over by 1 - 1/e in this time; as in Linkerd.
const DECAY: Duration = Duration::from_secs(10);
/// The estimate for an endpoint without measurements; as in Linkerd.
const INITIAL: Duration = Duration::from_millis(30);
/// The least latency assumed, in seconds: with a cost of zero, an endpoint would attract every
/// request however many are in flight.
const FLOOR_SECONDS: f32 = 0.001;
/// A failed attempt, a 5xx or a 429 counts as this slow, so that fast failures attract no requests.
pub const PENALTY: Duration = Duration::from_secs(5);

/// Measurements of one endpoint, over all workers.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicUsize,
    /// Upper half: seconds as `f32`; lower half: milliseconds since `epoch`, modulo 2^32.
    latency: AtomicU64,
    epoch: Instant,
}

/// A latency estimate at a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Estimate {
    seconds: f32,
    at_millis: u32,
}

// === impl Load ===

impl Default for Load {
    fn default() -> Self {
        let initial = Estimate { seconds: INITIAL.as_secs_f32(), at_millis: 0 };
        Self {
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(initial.pack()),
            epoch: Instant::now(),
        }
    }
}

// Every access is Relaxed: each word stands alone and orders nothing else.
impl Load {
    /// Requests in flight, over all workers.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// The latency expected at `now`, in seconds. It decays while there are no samples, so that an
    /// endpoint that was slow once is tried again.
    pub fn expected(&self, now: Instant) -> f32 {
        Estimate::unpack(self.latency.load(Ordering::Relaxed))
            .at(self.millis(now))
            .seconds
            .max(FLOOR_SECONDS)
    }

    /// Adds a sample: an answer took `sample`.
    pub fn record(&self, sample: Duration, now: Instant) {
        let millis = self.millis(now);
        // The closure never gives up, so this cannot fail.
        let _updated = self.latency.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            Some(Estimate::unpack(word).with(sample.as_secs_f32(), millis).pack())
        });
    }

    /// Replaces the estimate by `seconds`, until the next answer.
    pub fn expect(&self, seconds: f32, now: Instant) {
        let estimate = Estimate { seconds, at_millis: self.millis(now) };
        self.latency.store(estimate.pack(), Ordering::Relaxed);
    }

    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 is meant")]
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_millis() as u32
    }
}

// === impl Estimate ===

impl Estimate {
    fn pack(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.at_millis)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves are what is meant")]
    fn unpack(word: u64) -> Self {
        Self { seconds: f32::from_bits((word >> 32) as u32), at_millis: word as u32 }
    }

    /// The weight that the old estimate keeps at `millis`.
    fn keep(self, millis: u32) -> f32 {
        let since = millis.wrapping_sub(self.at_millis);
        // Under load most samples come in the millisecond of another: nothing to compute. Two
        // workers' clocks may cross: what looks like 49 days ahead is slightly behind.
        if since == 0 || since > u32::MAX / 2 {
            return 1.0;
        }
        (-(since as f32) / (DECAY.as_millis() as f32)).exp()
    }

    fn at(self, millis: u32) -> Self {
        Self { seconds: self.seconds * self.keep(millis), at_millis: millis }
    }

    fn with(self, sample: f32, millis: u32) -> Self {
        let seconds = if sample > self.seconds {
            sample
        } else {
            let keep = self.keep(millis);
            self.seconds * keep + sample * (1.0 - keep)
        };
        Self { seconds, at_millis: millis }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn secs(seconds: f32) -> Duration {
        Duration::from_secs_f32(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slower_sample_is_taken_at_once() {
        let load = Load::default();
        let now = Instant::now();
        load.record(secs(2.0), now);
        assert!((load.expected(now) - 2.0).abs() < 1e-6);
    }

    #[tokio::test(start_paused = true)]
    async fn a_faster_sample_is_blended() {
        let load = Load::default();
        let start = Instant::now();
        load.record(secs(2.0), start);
        let later = start + DECAY;
        load.record(secs(1.0), later);
        let expected = 1.0 + 1.0 / std::f32::consts::E;
        assert!((load.expected(later) - expected).abs() < 1e-3);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_makes_an_endpoint_attractive_again() {
        let load = Load::default();
        let start = Instant::now();
        load.record(PENALTY, start);
        let expected = load.expected(start + Duration::from_mins(5));
        assert!((expected - FLOOR_SECONDS).abs() < f32::EPSILON, "but it is never free");
    }

    proptest! {
        #[test]
        fn an_estimate_stays_between_what_it_was_and_the_sample(
            old in 0.0f32..10.0, sample in 0.0f32..10.0, at: u32, after in 0u32..1_000_000,
        ) {
            let before = Estimate { seconds: old, at_millis: at };
            prop_assert_eq!(Estimate::unpack(before.pack()), before);
            let new = before.with(sample, at.wrapping_add(after)).seconds;
            prop_assert!(new >= old.min(sample) - 1e-5 && new <= old.max(sample) + 1e-5);
        }
    }
}
