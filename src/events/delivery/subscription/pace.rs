//! Limits concurrency and rates. Learned again after a restart: it is not state.

/// Concurrent deliveries before anything is known of the endpoint.
const START: u32 = 10;
/// Minimum time between two cuts: what was sent before a cut says nothing new.
const CUT_PAUSE: u64 = 1_000;

/// How many concurrent deliveries the endpoint takes: one more for each round of successes, half as
/// many after an overload.
#[derive(Debug)]
pub(super) struct Window {
    size: f64,
    cut_at: u64,
}

/// A token bucket with room for a second's worth (GCRA).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    /// When it will be full again, in microseconds.
    full_at: u64,
}

// === impl Window ===

impl Default for Window {
    fn default() -> Self {
        Self { size: f64::from(START), cut_at: 0 }
    }
}

impl Window {
    /// The current concurrency, at most `most`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 1 to a u32, floored"
    )]
    pub(super) fn size(&self, most: u32) -> u32 {
        (self.size as u32).clamp(1, most.max(1))
    }

    /// A success with `in_flight` in flight. A window that is not half used teaches nothing.
    pub(super) fn succeed(&mut self, in_flight: u32, most: u32) {
        if u64::from(in_flight) * 2 >= u64::from(self.size(most)) {
            self.size = (self.size + 1.0 / self.size.max(1.0)).min(f64::from(most.max(1)));
        }
    }

    /// The endpoint was overloaded.
    pub(super) fn cut(&mut self, now: u64, most: u32) {
        if now.saturating_sub(self.cut_at) >= CUT_PAUSE || self.cut_at == 0 {
            self.size = (self.size.min(f64::from(most)) / 2.0).max(1.0);
            self.cut_at = now.max(1);
        }
    }
}

// === impl Rate ===

impl Rate {
    /// When the next one may go, at this rate per thousand seconds.
    pub(super) fn next(self, rate: u64) -> u64 {
        let step = 1_000_000_000 / rate.max(1);
        // A second's worth may go at once, but at least one.
        (self.full_at + step).saturating_sub(step.max(1_000_000)).div_ceil(1000)
    }

    /// One goes at `now`.
    pub(super) fn take(&mut self, rate: u64, now: u64) {
        let step = 1_000_000_000 / rate.max(1);
        self.full_at = self.full_at.max(now.saturating_mul(1000)) + step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_grows_by_one_a_round_and_halves_once_a_second() {
        let mut window = Window::default();
        assert_eq!(window.size(64), 10);
        assert_eq!(window.size(4), 4);
        for _ in 0..11 {
            window.succeed(10, 64);
        }
        assert_eq!(window.size(64), 11, "one more after a round");
        for _ in 0..100 {
            window.succeed(2, 64);
        }
        assert_eq!(window.size(64), 11, "idle successes teach nothing");
        for _ in 0..10_000 {
            window.succeed(64, 64);
        }
        assert_eq!(window.size(64), 64);
        for at in [5_000, 5_001, 5_999] {
            window.cut(at, 64);
            assert_eq!(window.size(64), 32);
        }
        window.cut(6_000, 64);
        assert_eq!(window.size(64), 16);
        for at in 0..20 {
            window.cut(10_000 + at * 1_000, 64);
        }
        assert_eq!(window.size(64), 1, "never none");
    }

    #[test]
    fn a_rate_is_kept_over_time_with_a_seconds_worth_at_once() {
        for rate in [500, 2_000, 100_000, 5_000_000] {
            let mut bucket = Rate::default();
            let start = 1_000_000;
            let mut sent = 0;
            for now in start..start + 20_000 {
                while bucket.next(rate) <= now {
                    bucket.take(rate, now);
                    sent += 1;
                }
            }
            let expected = rate * 20 / 1000 + (rate / 1000).max(1);
            assert!(
                sent <= expected + 1 && sent + 10 >= expected,
                "{sent} of {expected} at {rate}"
            );
        }
    }
}
