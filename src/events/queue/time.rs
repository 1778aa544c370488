//! The time of the queue: passed as an argument everywhere, read in one place.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::telemetry::clock;

/// One moment on two clocks.
///
/// `wall` judges what is stored. `mono`, which nobody sets, measures durations within this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub wall: u64,
    /// Milliseconds since some moment before the process started.
    pub mono: u64,
}

/// Reads the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// This moment.
    fn now(&self) -> Now;
}

/// The clock of the gateway ([`crate::telemetry::clock`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

/// A clock that stands still until it is moved. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<Mutex<Now>>);

// === impl SystemClock ===

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let instant = Instant::now();
        let millis =
            |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Now { wall: millis(clock::unix(instant)), mono: millis(clock::elapsed(instant)) }
    }
}

// === impl ManualClock ===

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: Now) -> Self {
        Self(Arc::new(Mutex::new(now)))
    }

    /// Advances both clocks.
    pub fn advance(&self, millis: u64) {
        let mut now = self.0.lock();
        now.wall = now.wall.saturating_add(millis);
        now.mono = now.mono.saturating_add(millis);
    }

    /// Sets the wall clock; the monotonic one is unaffected.
    pub fn set_wall(&self, wall: u64) {
        self.0.lock().wall = wall;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_it_is_moved() {
        let clock = ManualClock::at(Now { wall: 1_000, mono: 10 });
        let same = clock.clone();
        clock.advance(5);
        assert_eq!(same.now(), Now { wall: 1_005, mono: 15 });
        clock.set_wall(3);
        assert_eq!(same.now(), Now { wall: 3, mono: 15 });
    }

    #[test]
    fn the_system_s_clock_goes_on() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.mono >= first.mono);
        assert!(first.wall > 1_600_000_000_000, "milliseconds since the epoch: {}", first.wall);
    }
}
