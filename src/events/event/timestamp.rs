//! Parses times in CloudEvents (RFC 3339) to milliseconds since 1970.

/// Milliseconds since 1970-01-01T00:00:00Z; negative before. `None` if the text is not an RFC 3339
/// timestamp. Fractions of a millisecond are cut off.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    let (clock, mut rest) = rest.split_at_checked(9)?;
    let [year, month, day] = fields(date, b'-', [4, 2, 2])?;
    if !matches!(clock[0], b'T' | b't' | b' ') {
        return None;
    }
    let [hour, minute, second] = fields(&clock[1..], b':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let is_date = (1..=12).contains(&month) && (1..=length).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut millis = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let tenths = fraction[..digits].iter().chain(b"000").take(3);
        millis = tenths.fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        rest = &fraction[digits..];
    }
    let east = offset(rest)?;
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - east;
    Some(seconds * 1_000 + millis)
}

/// Offset of a zone from UTC, in seconds.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, rest) = text.split_first()?;
    if matches!(sign, b'Z' | b'z') {
        return rest.is_empty().then_some(0);
    }
    let [hours, minutes] = fields(rest, b':', [2, 2])?;
    let east = hours * 3_600 + minutes * 60;
    match sign {
        _ if hours > 23 || minutes > 59 => None,
        b'+' => Some(east),
        b'-' => Some(-east),
        _ => None,
    }
}

/// Days since 1970-01-01: Howard Hinnant's `days_from_civil`. Years begin in March, so the leap day is
/// their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Parses this many fields with these numbers of digits.
fn fields<const N: usize>(text: &[u8], separator: u8, widths: [usize; N]) -> Option<[i64; N]> {
    let mut parts = text.split(|byte| *byte == separator);
    let mut fields = [0; N];
    for (field, width) in fields.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        *field = part.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    }
    parts.next().is_none().then_some(fields)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::telemetry::clock;

    #[test]
    fn timestamps_are_read_as_rfc_3339_has_them() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1985-04-12T23:20:50.52Z", 482_196_050_520),
            ("1996-12-19T16:39:57-08:00", 851_042_397_000),
            ("1996-12-20t00:39:57z", 851_042_397_000),
            ("1990-12-31T23:59:60Z", 662_688_000_000),
            ("2000-02-29T00:00:00.123456789+00:00", 951_782_400_123),
            ("1969-12-31T23:59:59.5Z", -500),
            ("0000-03-01T00:00:00Z", -62_162_035_200_000),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2027-01-01",
            "2027-01-01T00:00:00",
            "2027-02-29T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:00.Z",
            "2027-01-01T00:00:00+1:00",
            "2027-01-01T00:00:00+24:00",
            "2027-01-01T00:00:00Zx",
            "+027-01-01T00:00:00Z",
            "2027-01-01T00:00:00Ż",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text: String) {
            parse(&text);
        }

        #[test]
        fn what_the_clock_writes_is_read_back(millis in 0..4_102_444_800_000_u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            prop_assert_eq!(parse(&clock::rfc3339(time)), i64::try_from(millis).ok());
        }
    }
}
