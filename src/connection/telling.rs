//! Limits how often an event that clients can cause at will is logged; the next line says how many
//! were left out. Pure; time is an argument.

use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two log lines.
const PAUSE: Duration = Duration::from_secs(1);

/// When it was logged last, and how many were left out since.
#[derive(Debug, Default)]
pub(super) struct Telling {
    last: Option<Instant>,
    untold: u64,
}

// === impl Telling ===

impl Telling {
    /// It happened again. `Some`: log it, and this many were left out since the last line.
    pub(super) fn begin(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_in_a_second_one_is_told_and_the_others_are_counted() {
        let start = Instant::now();
        let mut telling = Telling::default();
        assert_eq!(telling.begin(start), Some(0));
        for millis in [0, 500, 999] {
            assert_eq!(telling.begin(start + Duration::from_millis(millis)), None);
        }
        assert_eq!(telling.begin(start + PAUSE), Some(3));
        assert_eq!(telling.begin(start + PAUSE * 2), Some(0));
    }
}
