//! Whether the wall clock can be gone by.
//!
//! A clock that jumps would make everything stored expired, due or young at once. So the wall is held
//! against the monotonic clock while this process runs, and against the last frame when it starts; as
//! long as it is off, what goes by age stands still: retention, expiry, dedup windows, delays. Pure: the
//! time is an argument.

use crate::events::queue::time::Now;

/// More than this against the monotonic clock is a jump.
const JUMP: u64 = 5 * 60 * 1000;
/// More than this against the last frame, at start, is one.
const AT_START: u64 = 24 * 60 * 60 * 1000;
/// So long one moment of trust lasts to compare with: a clock that is disciplined creeps, and what
/// creeps for months is no jump.
const ANCHOR_FOR: u64 = 60 * 60 * 1000;

/// The guard of one store's clock.
#[derive(Clone, Debug)]
pub struct ClockGuard {
    /// A moment that is trusted.
    anchor: Now,
    /// How far the wall may be from where the anchor puts it.
    tolerance: u64,
    is_frozen: bool,
    /// The last wall time that was trusted, or what stands for it while the clock is not.
    trusted: u64,
}

/// What goes by age goes by this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Milliseconds since 1970; stands still while the clock is frozen, and never goes back.
    pub wall: u64,
    /// Whether it stands still.
    pub is_frozen: bool,
    /// What has changed since the last look.
    pub change: Option<Change>,
}

/// The clock was trusted and is not any more, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It jumped by so many milliseconds. To be told to whoever can set it right or confirm it.
    Frozen {
        /// Forward, or backward if negative.
        by: i64,
    },
    /// It is back or was confirmed. Timers are to be set again, with jitter.
    Thawed,
}

// === impl ClockGuard ===

impl ClockGuard {
    /// At start. `last`: when the newest frame of the store was written, if there is one.
    pub fn new(now: Now, last: Option<u64>) -> Self {
        let is_off = last.is_some_and(|last| now.wall.abs_diff(last) > AT_START);
        match last.filter(|_| is_off) {
            None => Self::trusting(now),
            Some(last) => Self {
                anchor: Now { wall: last, mono: now.mono },
                tolerance: AT_START,
                is_frozen: true,
                trusted: last,
            },
        }
    }

    fn trusting(now: Now) -> Self {
        Self { anchor: now, tolerance: JUMP, is_frozen: false, trusted: now.wall }
    }

    /// Whether the clock is frozen, as of the last look.
    pub fn is_frozen(&self) -> bool {
        self.is_frozen
    }

    /// Looks at the clock; to be done about once a second, and before anything is judged by age.
    pub fn look(&mut self, now: Now) -> Judged {
        let off = self.off(now);
        let is_frozen = off.unsigned_abs() > self.tolerance;
        let change = match (self.is_frozen, is_frozen) {
            (false, true) => Some(Change::Frozen { by: off }),
            (true, false) => Some(Change::Thawed),
            _ => None,
        };
        self.is_frozen = is_frozen;
        if change == Some(Change::Thawed) {
            self.anchor = now;
            self.tolerance = JUMP;
        }
        if !is_frozen {
            if now.mono.saturating_sub(self.anchor.mono) >= ANCHOR_FOR {
                self.anchor = now;
            }
            // A small step back is not seen by who goes by age.
            self.trusted = self.trusted.max(now.wall);
        }
        Judged { wall: self.trusted, is_frozen, change }
    }

    /// The clock is right as it is: somebody has said so. What was frozen goes on with the next look.
    pub fn confirm(&mut self, now: Now) -> Judged {
        let change = self.is_frozen.then_some(Change::Thawed);
        *self = Self::trusting(now);
        Judged { wall: self.trusted, is_frozen: false, change }
    }

    /// How far the wall is from where it should be, in milliseconds.
    fn off(&self, now: Now) -> i64 {
        let elapsed = now.mono.saturating_sub(self.anchor.mono);
        let expected = self.anchor.wall.saturating_add(elapsed);
        let off = i128::from(now.wall) - i128::from(expected);
        i64::try_from(off).unwrap_or(if off < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const MINUTE: u64 = 60 * 1000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const START: Now = Now { wall: 1_785_000_000_000, mono: 3_600_000 };

    fn after(millis: u64, moved: i64) -> Now {
        let wall = (START.wall + millis).checked_add_signed(moved).unwrap();
        Now { wall, mono: START.mono + millis }
    }

    #[test]
    fn a_jump_freezes_and_the_way_back_thaws() {
        for by in [-6, 6, 60 * 24 * 365] {
            let by = by * MINUTE.cast_signed();
            let mut guard = ClockGuard::new(START, Some(START.wall));
            assert_eq!(guard.look(after(1_000, 0)).change, None);
            let judged = guard.look(after(2_000, by));
            assert_eq!(judged.change, Some(Change::Frozen { by }));
            assert_eq!((judged.wall, judged.is_frozen), (START.wall + 1_000, true));
            let judged = guard.look(after(HOUR, by));
            assert_eq!((judged.wall, judged.change), (START.wall + 1_000, None), "told once");
            let judged = guard.look(after(2 * HOUR, 0));
            assert_eq!(judged.change, Some(Change::Thawed));
            assert_eq!(judged.wall, START.wall + 2 * HOUR);
            assert!(!guard.is_frozen());
        }
    }

    #[test]
    fn a_jump_is_taken_as_right_once_it_is_confirmed() {
        let mut guard = ClockGuard::new(START, None);
        let by = (3 * DAY).cast_signed();
        assert!(guard.look(after(1_000, by)).is_frozen);
        let judged = guard.confirm(after(2_000, by));
        assert_eq!(judged.change, Some(Change::Thawed));
        assert_eq!(judged.wall, START.wall + 2_000 + 3 * DAY);
        assert!(!guard.look(after(3_000, by)).is_frozen);
        let back = guard.look(after(4_000, 0));
        assert_eq!(back.change, Some(Change::Frozen { by: -by }));
        assert_eq!(back.wall, START.wall + 3_000 + 3 * DAY);
    }

    #[test]
    fn five_minutes_are_no_jump_and_age_never_goes_back() {
        let mut guard = ClockGuard::new(START, None);
        assert!(!guard.look(after(1_000, 5 * MINUTE.cast_signed())).is_frozen);
        let judged = guard.look(after(2_000, -5 * MINUTE.cast_signed()));
        assert!(!judged.is_frozen);
        assert_eq!(judged.wall, START.wall + 1_000 + 5 * MINUTE);
    }

    #[test]
    fn at_start_the_last_frame_is_what_to_go_by() {
        let last = |by: i64| Some(START.wall.checked_add_signed(by).unwrap());
        let day = DAY.cast_signed();
        assert!(!ClockGuard::new(START, last(day)).is_frozen());
        assert!(!ClockGuard::new(START, last(-day)).is_frozen());
        assert!(!ClockGuard::new(START, None).is_frozen(), "an empty store says nothing");
        for by in [day + 1, -day - 1] {
            let mut guard = ClockGuard::new(START, last(by));
            let judged = guard.look(after(1_000, 0));
            assert!(judged.is_frozen);
            assert_eq!(Some(judged.wall), last(by));
            assert!(guard.confirm(after(2_000, 0)).change.is_some());
        }
        // The machine's clock is set by the network a little later.
        let boot = Now { wall: 0, mono: 5 };
        let mut guard = ClockGuard::new(boot, Some(START.wall));
        assert!(guard.look(Now { wall: 1_000, mono: 1_005 }).is_frozen);
        let set = guard.look(Now { wall: START.wall + HOUR, mono: 2_005 });
        assert_eq!(set.change, Some(Change::Thawed));
    }

    #[test]
    fn what_creeps_for_months_is_no_jump() {
        let mut guard = ClockGuard::new(START, None);
        for hour in 1..24 * 180 {
            // Half a second an hour, fast: 36 minutes in half a year.
            let judged = guard.look(after(hour * HOUR, hour.cast_signed() * 500));
            assert!(!judged.is_frozen, "hour {hour}");
        }
    }

    proptest! {
        #[test]
        fn age_never_goes_back_and_stands_still_when_frozen(
            steps in prop::collection::vec((0u64..3 * HOUR, -(2 * DAY.cast_signed())..2 * DAY.cast_signed(), any::<bool>()), 1..60),
        ) {
            let mut guard = ClockGuard::new(START, Some(START.wall));
            let mut last = START.wall;
            let (mut millis, mut moved) = (0, 0);
            for (step, jump, is_jump) in steps {
                millis += step;
                moved += if is_jump { jump } else { 0 };
                let now = Now {
                    wall: (START.wall + millis).saturating_add_signed(moved),
                    mono: START.mono + millis,
                };
                let was_frozen = guard.is_frozen();
                let judged = guard.look(now);
                prop_assert!(judged.wall >= last || judged.change == Some(Change::Thawed));
                if judged.is_frozen {
                    prop_assert_eq!(judged.wall, last);
                }
                let is_change = was_frozen != judged.is_frozen;
                prop_assert_eq!(judged.change.is_some(), is_change);
                last = judged.wall;
            }
        }
    }
}
