//! The only wall clock: an anchor plus tokio's elapsed time, so that a paused test pauses it too.
//!
//! Elapsed time stops while the machine is suspended, and the anchor may date from before the
//! system's clock was set: tokens could then be judged an hour off. So the control thread compares
//! once a second ([`follow`]) and adjusts the clock if it is off by more than a second, with one
//! line in the log. Durations are measured with tokio's clock, which is never adjusted; everything
//! in one poll of a connection has the same time ([`tick`]).

use std::{
    cell::Cell,
    marker::PhantomData,
    sync::{
        OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::{Instant, sleep};

/// How often the clock is compared with the system's.
const LOOK: Duration = Duration::from_secs(1);
/// Smaller differences, in milliseconds, are ignored: a disciplined clock drifts harmlessly.
const TOLERANCE: i64 = 1_000;

/// Instants from this long before the first use of the clock still differ.
const HEAD_START: Duration = Duration::from_hours(1);

struct Anchor {
    /// Since 1970.
    wall: Duration,
    instant: Instant,
}

static ANCHOR: OnceLock<Anchor> = OnceLock::new();

/// The system clock's offset from the anchor, in milliseconds. Relaxed: it guards no memory.
static MOVED: AtomicI64 = AtomicI64::new(0);

/// Whoever asks to be [polled again](poll_again) will be within this time: a later deadline needs
/// no timer yet.
pub const AGAIN_WITHIN: Duration = Duration::from_secs(1);

thread_local! {
    static POLL: Cell<Option<Running>> = const { Cell::new(None) };
    /// A second since 1970, and its text.
    static SECOND: Cell<(u64, [u8; 24])> = const { Cell::new((0, *b"1970-01-01T00:00:00.000Z")) };
}

/// While it lives, [`tick`] returns the same moment on this thread. A task's poll holds it to read
/// the clock once for all that happens in it; it is polled again if asked.
#[derive(Debug)]
pub struct Poll {
    before: Option<Running>,
    // It belongs to its thread.
    _is_local: PhantomData<*const ()>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    now: Instant,
    is_again_asked: bool,
}

/// The time at the beginning of the current poll, or now. For timeouts much longer than a poll; not
/// for code that computes or blocks in between.
pub fn tick() -> Instant {
    POLL.get().map_or_else(Instant::now, |poll| poll.now)
}

/// Asks to be polled again within [`AGAIN_WITHIN`], however this poll ends. `false`: nobody will,
/// as the current poll is not a [`Poll`].
pub fn poll_again() -> bool {
    let running = POLL.get();
    POLL.set(running.map(|poll| Running { is_again_asked: true, ..poll }));
    running.is_some()
}

/// The current wall time.
pub fn now() -> SystemTime {
    at(Instant::now())
}

/// The wall time of `instant`.
pub fn at(instant: Instant) -> SystemTime {
    SystemTime::UNIX_EPOCH + unix(instant)
}

/// The wall time of `instant`, as the time since 1970-01-01T00:00:00Z without leap seconds.
pub fn unix(instant: Instant) -> Duration {
    moved(unmoved(instant), MOVED.load(Ordering::Relaxed))
}

/// Keeps the clock in step with the system's for ever. For the control thread, not paused tests.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub async fn follow() {
    loop {
        sleep(LOOK).await;
        let before = MOVED.load(Ordering::Relaxed);
        if let Some(now) = drift(since_epoch(SystemTime::now()), unmoved(Instant::now()), before) {
            MOVED.store(now, Ordering::Relaxed);
            let by_ms = now - before;
            tracing::warn!(by_ms, "the system's clock has moved, or this machine was suspended");
        }
    }
}

/// The offset of `system` from the anchored clock, in milliseconds, if it is not `moved` already.
fn drift(system: Duration, unmoved: Duration, moved: i64) -> Option<i64> {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let now = match system.checked_sub(unmoved) {
        Some(ahead) => millis(ahead),
        None => -millis(unmoved.abs_diff(system)),
    };
    (now.abs_diff(moved) > TOLERANCE.unsigned_abs()).then_some(now)
}

/// `time` shifted by `millis`, forwards or backwards.
fn moved(time: Duration, millis: i64) -> Duration {
    let span = Duration::from_millis(millis.unsigned_abs());
    let moved = if millis < 0 { time.checked_sub(span) } else { time.checked_add(span) };
    moved.unwrap_or(time)
}

fn unmoved(instant: Instant) -> Duration {
    let anchor = anchor();
    match instant.checked_duration_since(anchor.instant) {
        Some(after) => anchor.wall + after,
        None => anchor.wall.saturating_sub(anchor.instant - instant),
    }
}

/// The time from a moment well before the first use of this clock to `instant`, for counting time
/// without showing it.
pub fn elapsed(instant: Instant) -> Duration {
    let first = anchor().instant;
    match instant.checked_duration_since(first) {
        Some(after) => HEAD_START + after,
        // Another thread may have been first only now: slightly older instants count as well.
        None => HEAD_START.saturating_sub(first - instant),
    }
}

/// The time since 1970-01-01T00:00:00Z, without leap seconds.
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// `2026-11-22T10:00:00.000Z`.
pub fn rfc3339(time: SystemTime) -> String {
    // Only digits and punctuation.
    str::from_utf8(&rfc3339_bytes(since_epoch(time))).unwrap_or_default().to_owned()
}

/// Appends the time `since` 1970 as RFC 3339 in UTC with milliseconds.
pub fn push_rfc3339(since: Duration, out: &mut Vec<u8>) {
    out.extend_from_slice(&rfc3339_bytes(since));
}

/// The time `since` 1970 as RFC 3339 in UTC with milliseconds: `2026-11-22T12:41:42.007Z`. Most
/// calls are for the second of the one before on this thread: they cost three digits.
pub fn rfc3339_bytes(since: Duration) -> [u8; 24] {
    let (second, mut text) = SECOND.get();
    if second != since.as_secs() {
        text = rfc3339_second(since.as_secs());
        SECOND.set((since.as_secs(), text));
    }
    let millis = since.subsec_millis().into();
    [text[20], text[21], text[22]] = [digit(millis / 100), digit(millis / 10), digit(millis)];
    text
}

/// Howard Hinnant's `civil_from_days`: eras of 400 years that begin on the first of March, so that
/// the leap day is the last of its year.
fn rfc3339_second(since: u64) -> [u8; 24] {
    let (days, second) = (since / 86_400, since % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let mut text = *b"0000-00-00T00:00:00.000Z";
    for (place, value) in [
        (0, year / 100),
        (2, year),
        (5, month),
        (8, day),
        (11, second / 3_600),
        (14, second / 60 % 60),
        (17, second % 60),
    ] {
        text[place] = digit(value / 10);
        text[place + 1] = digit(value);
    }
    text
}

/// The last decimal digit of `value`.
fn digit(value: u64) -> u8 {
    b"0123456789"[usize::try_from(value % 10).unwrap_or(0)]
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn anchor() -> &'static Anchor {
    ANCHOR.get_or_init(|| Anchor { wall: since_epoch(SystemTime::now()), instant: Instant::now() })
}

// === impl Poll ===

impl Poll {
    /// Reads the clock. Whoever begins a poll must keep the promise of [`Poll::again_by`].
    pub fn begin() -> Self {
        let running = Running { now: Instant::now(), is_again_asked: false };
        Self { before: POLL.replace(Some(running)), _is_local: PhantomData }
    }

    /// By when somebody asked to be polled again.
    pub fn again_by(&self) -> Option<Instant> {
        let running = POLL.get().filter(|poll| poll.is_again_asked)?;
        Some(running.now + AGAIN_WITHIN)
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        POLL.set(self.before);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_poll_looks_at_the_clock_once() {
        let began = Instant::now();
        let poll = Poll::begin();
        advance(Duration::from_secs(1)).await;
        assert_eq!(tick(), began);
        {
            let _inner = Poll::begin();
            assert_eq!(tick() - began, Duration::from_secs(1));
        }
        assert_eq!(tick(), began, "who is polled inside has its own, and gives it back");
        drop(poll);
        assert_eq!(tick(), Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_promised_it_is_asked_to_poll_again() {
        assert!(!poll_again());
        let poll = Poll::begin();
        assert_eq!(poll.again_by(), None);
        {
            let inner = Poll::begin();
            assert!(poll_again());
            assert_eq!(inner.again_by(), Some(Instant::now() + AGAIN_WITHIN));
        }
        assert_eq!(poll.again_by(), None);
        drop(poll);
        assert!(!poll_again());
    }

    #[test]
    fn what_was_before_the_first_look_is_told_apart_too() {
        let first = anchor().instant;
        let before = first - Duration::from_millis(500);
        assert_eq!(elapsed(first), elapsed(before) + Duration::from_millis(500));
        assert_eq!(elapsed(first - HEAD_START * 2), Duration::ZERO);
    }

    #[test]
    fn a_clock_that_left_the_anchor_is_followed_and_a_creeping_one_is_not() {
        let anchored = Duration::from_secs(1_000_000);
        let ahead = |millis| moved(anchored, millis);
        assert_eq!(drift(ahead(900), anchored, 0), None);
        assert_eq!(drift(ahead(8 * 3_600_000), anchored, 0), Some(8 * 3_600_000), "suspended");
        assert_eq!(drift(ahead(8 * 3_600_000), anchored, 8 * 3_600_000), None, "once is enough");
        assert_eq!(drift(ahead(-5_000), anchored, 0), Some(-5_000), "set back");
        assert_eq!(drift(ahead(0), anchored, -5_000), Some(0), "and right again");
    }

    proptest! {
        #[test]
        fn after_a_move_the_clock_shows_what_the_system_does(at in 0u64..1 << 40, by: i32) {
            let anchored = Duration::from_millis(at + (1 << 32));
            let system = moved(anchored, by.into());
            let now = drift(system, anchored, 0).unwrap_or(0);
            let shown = moved(anchored, now);
            let off = system.abs_diff(shown);
            prop_assert!(off <= LOOK);
        }
    }

    fn rfc3339(millis: u64) -> String {
        let mut out = Vec::new();
        push_rfc3339(Duration::from_millis(millis), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_are_written_as_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_709_251_199_999), "2024-02-29T23:59:59.999Z");
        assert_eq!(rfc3339(1_709_251_200_007), "2024-03-01T00:00:00.007Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_767_225_599_500), "2025-12-31T23:59:59.500Z");
        assert_eq!(rfc3339(1_767_225_599_087), "2025-12-31T23:59:59.087Z", "in the same second");
    }
}
