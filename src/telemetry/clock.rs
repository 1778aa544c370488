//! The only wall clock: an anchor plus tokio's elapsed time, so that a paused test pauses it too
//! and a step of the system clock never makes time go back.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

struct Anchor {
    wall: SystemTime,
    instant: Instant,
}

static ANCHOR: OnceLock<Anchor> = OnceLock::new();

/// Now, as an operator's watch shows it.
pub fn now() -> SystemTime {
    at(Instant::now())
}

/// The wall time of `instant`.
pub fn at(instant: Instant) -> SystemTime {
    let anchor = anchor();
    match instant.checked_duration_since(anchor.instant) {
        Some(after) => anchor.wall + after,
        None => anchor.wall - (anchor.instant - instant),
    }
}

/// How long `instant` is after the first look at this clock, for who counts time and does not tell
/// it; nothing if it is before.
pub fn elapsed(instant: Instant) -> Duration {
    instant.saturating_duration_since(anchor().instant)
}

/// Since 1970-01-01T00:00:00Z, leap seconds not counted.
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// `2026-11-22T10:00:00.000Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let mut out = Vec::with_capacity(24);
    push_rfc3339(time, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends `time` as RFC 3339 in UTC with milliseconds: `2026-11-22T12:41:42.007Z`.
///
/// Howard Hinnant's `civil_from_days`: eras of 400 years that begin on the first of March, so that
/// the leap day is the last of its year.
pub fn push_rfc3339(time: SystemTime, out: &mut Vec<u8>) {
    let since = since_epoch(time);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    push_digits(year, 4, out);
    for (mark, value) in [
        (b'-', month),
        (b'-', day),
        (b'T', second / 3_600),
        (b':', second / 60 % 60),
        (b':', second % 60),
    ] {
        out.push(mark);
        push_digits(value, 2, out);
    }
    out.push(b'.');
    push_digits(since.subsec_millis().into(), 3, out);
    out.push(b'Z');
}

/// The last `width` decimal digits of `value`.
fn push_digits(value: u64, width: u32, out: &mut Vec<u8>) {
    for place in (0..width).rev() {
        let digit = value / 10_u64.pow(place) % 10;
        out.push(b"0123456789"[usize::try_from(digit).unwrap_or(0)]);
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn anchor() -> &'static Anchor {
    ANCHOR.get_or_init(|| Anchor { wall: SystemTime::now(), instant: Instant::now() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rfc3339(millis: u64) -> String {
        let mut out = Vec::new();
        push_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis), &mut out);
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
    }
}
