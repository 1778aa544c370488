//! Decides whether the wall clock can be trusted. Pure; [`GuardedClock`] reads a clock.
//!
//! A clock that jumps would make everything stored expired, due or young at once. So the wall clock
//! is checked against the monotonic clock while the process runs, and against the last frame at
//! start. While it is off, everything that depends on age stops: retention, expiry, dedup windows,
//! delays. Suspending the machine is a jump too: the monotonic clock stands still meanwhile.
//!
//! A clock that is only fast or slow is followed: a drift of a thousandth, twice the rate at which
//! a kernel slews, is tolerated, so that months of it are no jump. Small steps add up to a jump.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;

use crate::events::queue::time::{Clock, Now};

/// A larger deviation from the monotonic clock is a jump.
const JUMP: u64 = 5 * 60 * 1000;
/// A larger deviation from the last frame, at start, is a jump.
const AT_START: u64 = 24 * 60 * 60 * 1000;
/// Tolerated drift: this fraction of the time on the monotonic clock.
const DRIFT: u64 = 1_000;
/// Drift is applied at this interval: a thousandth of less would be rounded away.
const FOLLOW: u64 = 10_000;

/// The guard of one store's clock.
#[derive(Clone, Debug)]
pub struct ClockGuard {
    /// Where the wall clock is expected to be; from there it advances with the monotonic clock.
    anchor: Now,
    /// Tolerated deviation from that.
    tolerance: u64,
    frozen: Option<Frozen>,
    /// The last trusted wall time, or its substitute while the clock is not trusted.
    trusted: u64,
    /// At start, how far the clock was off from when the delivery state in use was last written,
    /// whether the clock was trusted then or not.
    moved: Option<i64>,
    thaws: u64,
}

/// The time to judge age by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Milliseconds since 1970; stands still while the clock is frozen. It goes back only when a
    /// clock that was set back is confirmed.
    pub wall: u64,
    /// Whether it stands still.
    pub is_frozen: bool,
    /// Number of thaws: timers set before the last must be set again, with jitter.
    pub thaws: u64,
    /// What changed since the last look by any caller.
    pub change: Option<Change>,
}

/// The clock lost or regained trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It jumped. To be reported to whoever can correct or confirm it.
    Frozen(Frozen),
    /// It is correct again or was confirmed. Timers must be set again, with jitter.
    Thawed,
}

/// Why the clock is not trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen {
    /// Deviation in milliseconds: forward, or back if negative.
    pub by: i64,
    /// Whether it was off when the store was opened, compared to the last frame.
    pub is_at_start: bool,
}

/// A clock with the guard of its store. Cheap to clone; clones share their state.
#[derive(Clone, Debug)]
pub struct GuardedClock {
    clock: Arc<dyn Clock>,
    guard: Arc<Mutex<ClockGuard>>,
}

// === impl ClockGuard ===

impl ClockGuard {
    /// The guard at start. `last`: when the store's newest frame was written, if there is one.
    pub fn new(now: Now, last: Option<u64>) -> Self {
        let mut guard = Self::trusting(now, 0);
        if let Some(last) = last.filter(|last| last.abs_diff(now.wall) > AT_START) {
            guard.anchor.wall = last;
            guard.tolerance = AT_START;
            guard.frozen = Some(Frozen { by: guard.off(now), is_at_start: true });
            // The earlier time makes nothing expire: the last frame may have been written under a
            // wrong clock.
            guard.trusted = now.wall.min(last);
            guard.moved = guard.frozen.map(|frozen| frozen.by);
        }
        guard
    }

    /// As [`ClockGuard::new`], for a store whose clock was not trusted when it was closed: `held`
    /// is what [`ClockGuard::held`] was then. `state`: when the delivery state was last written.
    pub fn resumed(now: Now, last: Option<u64>, state: Option<u64>, held: Option<u64>) -> Self {
        let mut guard = Self::new(now, held.or(last));
        // Timed state was already moved to the clock under which it was last written, and the clock
        // may have been set right since.
        let ahead = guard.frozen.and(Self::new(now, last).moved).filter(|by| *by > 0);
        guard.moved = state.and_then(|state| moved_back(state, now.wall)).or(ahead);
        guard
    }

    fn trusting(now: Now, thaws: u64) -> Self {
        Self { anchor: now, tolerance: JUMP, frozen: None, trusted: now.wall, moved: None, thaws }
    }

    /// Why the clock is frozen, as of the last look; none if it is not.
    pub fn frozen(&self) -> Option<Frozen> {
        self.frozen
    }

    /// While the clock is frozen: the time that the next start should compare with, since frames
    /// written meanwhile carry an untrusted time.
    pub fn held(&self) -> Option<u64> {
        self.frozen.map(|_| self.anchor.wall)
    }

    /// Checks the clock; call it about once a second, and before anything is judged by age.
    pub fn look(&mut self, now: Now) -> Judged {
        let off = self.off(now);
        let elapsed = now.mono.saturating_sub(self.anchor.mono);
        let forgiven = if self.frozen.is_some() { 0 } else { elapsed / DRIFT };
        let is_off = off.unsigned_abs().saturating_sub(forgiven) > self.tolerance;
        let change = match (self.frozen, is_off) {
            (None, true) => {
                let frozen = Frozen { by: off, is_at_start: false };
                self.frozen = Some(frozen);
                Some(Change::Frozen(frozen))
            }
            (Some(_), false) => {
                *self = Self::trusting(now, self.thaws + 1);
                Some(Change::Thawed)
            }
            _ => None,
        };
        if !is_off {
            self.follow(now, off, elapsed);
        }
        self.judged(change)
    }

    fn follow(&mut self, now: Now, off: i64, elapsed: u64) {
        if elapsed >= FOLLOW {
            let drift = (elapsed / DRIFT).cast_signed();
            let expected = self.anchor.wall.saturating_add(elapsed);
            let wall = expected.saturating_add_signed(off.clamp(-drift, drift));
            self.anchor = Now { wall, mono: now.mono };
        }
        // Small steps back stay hidden from judgements by age.
        self.trusted = self.trusted.max(now.wall);
    }

    /// Somebody has confirmed that the clock is right.
    pub fn confirm(&mut self, now: Now) -> Judged {
        if self.frozen.is_none() {
            return self.look(now);
        }
        *self = Self::trusting(now, self.thaws + 1);
        self.judged(Some(Change::Thawed))
    }

    fn judged(&self, change: Option<Change>) -> Judged {
        let is_frozen = self.frozen.is_some();
        Judged { wall: self.trusted, is_frozen, thaws: self.thaws, change }
    }

    /// Deviation of the wall clock from its expected time, in milliseconds.
    fn off(&self, now: Now) -> i64 {
        let elapsed = now.mono.saturating_sub(self.anchor.mono);
        let expected = self.anchor.wall.saturating_add(elapsed);
        let off = i128::from(now.wall) - i128::from(expected);
        i64::try_from(off).unwrap_or(if off < 0 { -i64::MAX } else { i64::MAX })
    }
}

// === impl Frozen ===

impl fmt::Display for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.by.unsigned_abs() / 1_000;
        match (self.is_at_start, self.by > 0) {
            (true, true) => {
                write!(f, "the system's clock is {seconds} s ahead of the last event stored")
            }
            (true, false) => {
                write!(f, "the system's clock is {seconds} s behind the last event stored")
            }
            (false, true) => write!(
                f,
                "the system's clock went {seconds} s forward, or this machine was suspended"
            ),
            (false, false) => write!(f, "the system's clock went {seconds} s back"),
        }
    }
}

// === impl GuardedClock ===

impl GuardedClock {
    /// The guard at start; `last` as for [`ClockGuard::new`].
    pub fn new(clock: Arc<dyn Clock>, last: Option<u64>) -> Self {
        let guard = ClockGuard::new(clock.now(), last);
        Self { clock, guard: Arc::new(Mutex::new(guard)) }
    }

    /// Restarts the guard once everything stored was looked at, and logs it if the clock is not
    /// trusted. `last`: when the newest of it was written; `state`: when the delivery state was.
    pub fn begin(&self, last: Option<u64>, state: Option<u64>, held: Option<u64>) {
        let mut guard = self.guard.lock();
        *guard = ClockGuard::resumed(self.clock.now(), last, state, held);
        if let Some(frozen) = guard.frozen() {
            tell(&frozen);
        }
    }

    /// Checks the clock.
    pub fn judge(&self) -> Judged {
        let mut guard = self.guard.lock();
        // Read under the lock: a reading older than the last one would look like a step back.
        let judged = guard.look(self.clock.now());
        match judged.change {
            Some(Change::Frozen(frozen)) => tell(&frozen),
            Some(Change::Thawed) => {
                tracing::warn!("the system's clock came back: retention and delays go on");
            }
            None => {}
        }
        judged
    }

    /// Somebody has confirmed that the clock is right. Returns whether it was frozen.
    pub fn confirm(&self) -> bool {
        let mut guard = self.guard.lock();
        let was_frozen = guard.frozen().is_some();
        let now = self.clock.now();
        guard.confirm(now);
        if was_frozen {
            tracing::warn!("the system's clock is confirmed: retention and delays go on");
        }
        was_frozen
    }

    /// How far the clock was off at start from when anything was last written, until the clock
    /// changes: timed state that should go on as before moves by this much.
    pub fn moved_at_start(&self) -> Option<i64> {
        self.judge();
        self.guard.lock().moved
    }

    /// While the clock is frozen: see [`ClockGuard::held`]. Does not check the clock.
    pub fn held(&self) -> Option<u64> {
        self.guard.lock().held()
    }

    /// Checks the clock, and returns why it is frozen; none if it is not.
    pub fn frozen(&self) -> Option<Frozen> {
        self.judge();
        self.guard.lock().frozen()
    }
}

impl Clock for GuardedClock {
    fn now(&self) -> Now {
        self.clock.now()
    }
}

/// How far the wall clock jumped between two readings of one clock, if it did. Timed state that
/// should go on as before moves by this much.
pub fn jump(before: Now, now: Now) -> Option<i64> {
    let mut guard = ClockGuard::new(before, None);
    match guard.look(now).change {
        Some(Change::Frozen(frozen)) => Some(frozen.by),
        _ => None,
    }
}

/// How far the clock was set back between `state`, when the delivery state was written, and `now`, the
/// start. A lower bound: nobody knows how much time passed between them.
fn moved_back(state: u64, now: u64) -> Option<i64> {
    let by = state.saturating_sub(now);
    (by > JUMP).then(|| i64::try_from(by).map_or(-i64::MAX, |by| -by))
}

fn tell(frozen: &Frozen) {
    tracing::error!(
        reason = %frozen,
        "retention, expiry, duplicates and delays stand still until the clock is back; if it is right: \
         `sluice queue confirm-clock`, or POST /v1/queue/confirm-clock"
    );
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    use proptest::prelude::*;

    use crate::events::queue::time::{ManualClock, SystemClock};

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
            assert_eq!(judged.change, Some(Change::Frozen(Frozen { by, is_at_start: false })));
            assert_eq!((judged.wall, judged.is_frozen), (START.wall + 1_000, true));
            let judged = guard.look(after(HOUR, by));
            assert_eq!((judged.wall, judged.change), (START.wall + 1_000, None), "told once");
            let judged = guard.look(after(2 * HOUR, 0));
            assert_eq!(judged.change, Some(Change::Thawed));
            assert_eq!(judged.wall, START.wall + 2 * HOUR);
            assert!(guard.frozen().is_none());
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
        assert_eq!(back.change, Some(Change::Frozen(Frozen { by: -by, is_at_start: false })));
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
        assert!(ClockGuard::new(START, last(day)).frozen().is_none());
        assert!(ClockGuard::new(START, last(-day)).frozen().is_none());
        assert!(ClockGuard::new(START, None).frozen().is_none(), "an empty store says nothing");
        for by in [day + 1, -day - 1] {
            let mut guard = ClockGuard::new(START, last(by));
            let judged = guard.look(after(1_000, 0));
            assert!(judged.is_frozen);
            assert_eq!(Some(judged.wall), last(by).min(Some(START.wall)), "nothing gets old by it");
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
    fn a_restart_confirms_nothing_and_moves_what_is_timed_once() {
        let by = (3 * DAY).cast_signed();
        let guard = ClockGuard::new(after(3 * DAY, 0), Some(START.wall));
        assert_eq!((guard.held(), guard.moved), (Some(START.wall), Some(by)));
        // Written since, by the clock as it is.
        let written = Some(START.wall + 3 * DAY + HOUR);
        let again =
            ClockGuard::resumed(after(3 * DAY + 2 * HOUR, 0), written, written, guard.held());
        assert_eq!((again.held(), again.moved), (Some(START.wall), None));
        assert!(again.frozen().is_some_and(|frozen| frozen.is_at_start));
        // It was set right while the store was closed.
        let right = ClockGuard::resumed(after(HOUR, 0), written, written, guard.held());
        assert_eq!((right.frozen(), right.held(), right.moved), (None, None, Some(-by)));
        // The state was written since, and nothing else.
        let state = Some(START.wall + HOUR);
        let again_right = ClockGuard::resumed(after(2 * HOUR, 0), written, state, None);
        assert_eq!(again_right.moved, None, "not by what others have written");
        let mut confirmed = again;
        confirmed.confirm(after(3 * DAY + 3 * HOUR, 0));
        assert_eq!(confirmed.held(), None);
    }

    #[test]
    fn two_readings_tell_of_a_jump_and_not_of_time_that_went_by() {
        assert_eq!(jump(START, after(DAY, 0)), None);
        assert_eq!(jump(START, after(30 * DAY, 20 * MINUTE.cast_signed())), None, "it crept");
        for by in [6 * MINUTE.cast_signed(), -6 * MINUTE.cast_signed()] {
            assert_eq!(jump(START, after(1_000, by)), Some(by));
        }
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

    #[test]
    fn a_suspended_machine_is_a_jump_forward() {
        let mut guard = ClockGuard::new(START, None);
        // The monotonic clock stood still.
        let judged = guard.look(after(0, (8 * HOUR).cast_signed()));
        assert!(judged.is_frozen);
        let told = guard.frozen().map(|frozen| frozen.to_string());
        let expected = "the system's clock went 28800 s forward, or this machine was suspended";
        assert_eq!(told.as_deref(), Some(expected));
    }

    #[test]
    fn small_steps_add_up_to_a_jump() {
        let mut guard = ClockGuard::new(START, None);
        let step = |n: u64| after(n * HOUR, (n * 4 * MINUTE).cast_signed());
        let frozen = (1..100).find(|&n| guard.look(step(n)).is_frozen);
        assert_eq!(frozen, Some(2), "four minutes an hour are no drift");
    }

    #[test]
    fn a_frame_of_the_far_future_makes_nothing_old() {
        let written = START.wall + 12 * 365 * DAY;
        let mut guard = ClockGuard::new(START, Some(written));
        let judged = guard.look(after(HOUR, 0));
        assert_eq!((judged.wall, judged.is_frozen), (START.wall, true));
        let told = guard.frozen().map(|frozen| frozen.to_string());
        let expected = "the system's clock is 378432000 s behind the last event stored";
        assert_eq!(told.as_deref(), Some(expected));
        assert_eq!(guard.confirm(after(HOUR, 0)).wall, START.wall + HOUR);
    }

    #[test]
    fn a_clock_at_its_bounds_is_not_trusted() {
        let mut guard = ClockGuard::new(START, None);
        assert!(guard.look(Now { wall: u64::MAX, mono: START.mono + 1 }).is_frozen);
        assert!(guard.look(Now { wall: 0, mono: 0 }).is_frozen);
        assert!(guard.look(Now { wall: 0, mono: u64::MAX }).is_frozen);
        let mut guard = ClockGuard::new(Now { wall: 0, mono: 0 }, Some(u64::MAX));
        assert!(guard.look(Now { wall: 0, mono: 1 }).is_frozen);
        assert!(!guard.look(Now { wall: u64::MAX, mono: 1 }).is_frozen);
    }

    #[tokio::test(start_paused = true)]
    async fn paused_time_is_steady() {
        let clock = GuardedClock::new(Arc::new(SystemClock), None);
        for _ in 0..100 {
            tokio::time::advance(Duration::from_hours(7)).await;
            let judged = clock.judge();
            assert_eq!((judged.wall, judged.is_frozen), (clock.now().wall, false));
        }
    }

    #[test]
    fn whoever_looks_at_a_guarded_clock_hears_of_a_jump_and_of_its_end() {
        let manual = ManualClock::at(START);
        let clock = GuardedClock::new(Arc::new(manual.clone()), None);
        manual.set_wall(START.wall + DAY);
        assert!(clock.judge().is_frozen, "no look was taken between");
        assert!(clock.clone().confirm());
        assert!(!clock.confirm(), "it is trusted");
        assert_eq!((clock.judge().wall, clock.judge().thaws), (START.wall + DAY, 1));
        manual.set_wall(START.wall);
        assert_eq!(clock.frozen().map(|frozen| frozen.by), Some(-DAY.cast_signed()));
        manual.set_wall(START.wall + DAY);
        let (first, second) = (clock.judge(), clock.judge());
        assert_eq!((first.change, second.change), (Some(Change::Thawed), None));
        assert_eq!((first.thaws, second.thaws), (2, 2), "the second one sees it too");
    }

    proptest! {
        /// Half a thousandth too fast or too slow, two seconds of noise, looked at now and then.
        #[test]
        fn a_steady_clock_never_freezes(
            drift in -500_i64..=500,
            looks in prop::collection::vec((0_u64..30 * DAY, 0_i64..=2_000), 1..200),
        ) {
            let mut guard = ClockGuard::new(START, Some(START.wall));
            let mut mono = 0;
            for (span, noise) in looks {
                mono += span;
                let now = after(mono, mono.cast_signed() / 1_000_000 * drift + noise);
                prop_assert!(!guard.look(now).is_frozen);
            }
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
                let was_frozen = guard.frozen().is_some();
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
