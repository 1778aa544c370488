//! How many failures are logged in addition to the sample. Pure.
//!
//! A refused client is told that the log has more, so failures are logged whatever the sample. But
//! load shedding refuses thousands, and a log that grows with an overload makes it worse: beyond
//! this number per second, failures are only sampled, like everything else.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Lines per second and sink.
const PER_SECOND: u32 = 100;

/// The current second in the upper half, its number of lines in the lower. Relaxed: one worker
/// writes, and one line more or less does no harm.
#[derive(Debug, Default)]
pub(super) struct Allowance(AtomicU64);

// === impl Allowance ===

impl Allowance {
    /// Whether one more may be written at `now`, of which only the whole seconds are used.
    pub(super) fn take(&self, now: Duration) -> bool {
        let second = now.as_secs() & u64::from(u32::MAX);
        let seen = self.0.load(Ordering::Relaxed);
        let count = if seen >> 32 == second { seen & u64::from(u32::MAX) } else { 0 };
        let is_left = count < u64::from(PER_SECOND);
        if is_left {
            self.0.store(second << 32 | (count + 1), Ordering::Relaxed);
        }
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_as_many_and_no_more() {
        let allowance = Allowance::default();
        for second in [0, 1, 7, u64::from(u32::MAX), u64::from(u32::MAX) + 1] {
            let now = |millis| Duration::from_secs(second) + Duration::from_millis(millis);
            let taken = (0..1000).filter(|millis| allowance.take(now(*millis))).count();
            assert_eq!(taken, PER_SECOND as usize, "{second}");
        }
    }
}
