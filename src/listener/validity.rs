//! From when until when a certificate is good. Pure.
//!
//! What an expired certificate breaks is seen by clients alone: their handshakes fail, and the gateway is
//! well. So `check` warns of it, and `sluice_tls_certificate_expiry_timestamp_seconds` tells it before.

use std::time::{Duration, SystemTime};

use crate::http::der::{GENERALIZED_TIME, INTEGER, SEQUENCE, UTC_TIME, element, tagged};

/// The version of a certificate, which one of version 1 has not.
const VERSION: u8 = 0xa0;

/// The time of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Nobody takes it before.
    pub from: SystemTime,
    /// Nobody takes it after.
    pub until: SystemTime,
}

// === impl Validity ===

impl Validity {
    /// That of a certificate in DER (RFC 5280, 4.1); `None` for what is none.
    pub fn of(mut der: &[u8]) -> Option<Self> {
        let mut certificate = tagged(&mut der, SEQUENCE)?;
        let mut signed = tagged(&mut certificate, SEQUENCE)?;
        if signed.first() == Some(&VERSION) {
            element(&mut signed)?;
        }
        let _serial = tagged(&mut signed, INTEGER)?;
        let _algorithm = tagged(&mut signed, SEQUENCE)?;
        let _issuer = tagged(&mut signed, SEQUENCE)?;
        let mut validity = tagged(&mut signed, SEQUENCE)?;
        Some(Self { from: time(&mut validity)?, until: time(&mut validity)? })
    }
}

/// A `Time` of RFC 5280, 4.1.2.5: in UTC, with seconds. What was before 1970 is taken for 1970.
fn time(der: &mut &[u8]) -> Option<SystemTime> {
    let (tag, text) = element(der)?;
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = number(text, 2)?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => number(text, 4)?,
        _ => return None,
    };
    let (month, rest) = number(rest, 2)?;
    let (day, rest) = number(rest, 2)?;
    let (hour, rest) = number(rest, 2)?;
    let (minute, rest) = number(rest, 2)?;
    let (second, rest) = number(rest, 2)?;
    let is_time = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && rest.is_empty();
    if !is_time {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn number(text: &str, digits: usize) -> Option<(i64, &str)> {
    let (number, rest) = text.split_at_checked(digits)?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, rest))
}

/// Days since 1970-01-01: Howard Hinnant's `days_from_civil`, in which years begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn reads_both_kinds_of_time() {
        let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
        // RFC 5280 has two digits for years up to 2049, and four from then on.
        params.not_before = date_time_ymd(2024, 2, 29);
        params.not_after = date_time_ymd(2050, 3, 1);
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let validity = Validity::of(certificate.der()).unwrap();
        assert_eq!(validity, Validity { from: at(1_709_164_800), until: at(2_529_705_600) });
    }

    #[test]
    fn what_is_no_certificate_has_none() {
        let certificate = CertificateParams::new(["a.example".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der();
        assert!(Validity::of(der).is_some());
        for cut in [0, 1, 4, 20, 60, 100] {
            assert_eq!(Validity::of(&der[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn a_time_is_read_to_its_end() {
        let read = |tag: u8, text: &str| {
            let mut der = vec![tag, u8::try_from(text.len()).unwrap()];
            der.extend(text.bytes());
            time(&mut &*der)
        };
        assert_eq!(read(UTC_TIME, "700101000000Z"), Some(at(0)));
        assert_eq!(read(UTC_TIME, "500101000000Z"), Some(at(0)));
        assert_eq!(read(UTC_TIME, "491231235959Z"), Some(at(2_524_607_999)));
        assert_eq!(read(GENERALIZED_TIME, "99991231235959Z"), Some(at(253_402_300_799)));
        for bad in
            ["700101000000", "701301000000Z", "7001010000Z", "70+101000000Z", "7001010000000Z"]
        {
            assert_eq!(read(UTC_TIME, bad), None, "{bad}");
        }
    }
}
