//! Points in time: `2027-01-31`, `2027-01-31T12:00:00Z`.

use std::time::Duration;

use schemars::{Schema, json_schema};

use super::{Fault, Value, digits};

/// Since 1970-01-01T00:00:00Z. A day stands for its beginning in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(pub Duration);

impl Value for Timestamp {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}:[0-9]{2}(Z|[+-][0-9]{2}:[0-9]{2}))?$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        seconds(text).map(|seconds| Self(Duration::from_secs(seconds))).ok_or_else(|| {
            Fault::new(format!("`{text}` is not a point in time"))
                .help("like `2027-01-31` or `2027-01-31T12:00:00Z`")
        })
    }
}

/// RFC 3339 without fractions of a second, from 1970 on.
fn seconds(text: &str) -> Option<u64> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let [year, month, day] = fields(date, '-', [4, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if year < 1970 || !(1..=12).contains(&month) || !(1..=length).contains(&day) {
        return None;
    }
    // Howard Hinnant's `days_from_civil`: years begin in March, so the leap day is their last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    let midnight = days * 86_400;
    let Some(time) = time else { return Some(midnight) };
    let (clock, offset) = time.split_at_checked(8)?;
    let [hour, minute, second] = fields(clock, ':', [2, 2, 2])?;
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let local = midnight + hour * 3_600 + minute * 60 + second;
    if offset == "Z" {
        return Some(local);
    }
    let (sign, offset) = offset.split_at_checked(1)?;
    let [hours, minutes] = fields(offset, ':', [2, 2])?;
    let east = hours * 3_600 + minutes * 60;
    match sign {
        "+" if hours < 24 && minutes < 60 => local.checked_sub(east),
        "-" if hours < 24 && minutes < 60 => Some(local + east),
        _ => None,
    }
}

/// So many fields of so many digits each.
fn fields<const N: usize>(text: &str, separator: char, widths: [usize; N]) -> Option<[u64; N]> {
    let mut parts = text.split(separator);
    let mut fields = [0; N];
    for (field, width) in fields.iter_mut().zip(widths) {
        *field = digits(parts.next().filter(|part| part.len() == width)?)?;
    }
    parts.next().is_none().then_some(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_day_and_a_moment_are_read_as_rfc_3339_has_them() {
        for (text, expected) in [
            ("1970-01-01", 0),
            ("2000-02-29T00:00:00Z", 951_782_400),
            ("2024-02-29T23:59:59Z", 1_709_251_199),
            ("2100-03-01", 4_107_542_400),
            ("2026-01-01T01:30:00+01:30", 1_767_225_600),
            ("2025-12-31T23:00:00-01:00", 1_767_225_600),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2027",
            "2027-1-1",
            "2027-02-29",
            "2027-13-01",
            "2027-00-10",
            "1969-12-31",
            "2027-01-01T",
            "2027-01-01T24:00:00Z",
            "2027-01-01T00:00:00",
            "2027-01-01 00:00:00Z",
            "2027-01-01T00:00:00+1:00",
            "+027-01-01",
            "2027-01-01T00:00:00Zx",
            "1970-01-01T00:00:00+01:00",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text: String) {
            drop(Timestamp::parse(&text));
        }
    }
}
