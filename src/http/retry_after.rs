//! `Retry-After`: when a server wants to be asked again. Pure: the time is an argument.

use std::time::{Duration, SystemTime};

use http::HeaderValue;

/// How long a `Retry-After` asks to wait, in seconds or until a date (RFC 9110, 10.2.3); `None` if
/// it is neither.
pub fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // A number of seconds that does not fit is past any deadline too.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let of = |value| retry_after(&HeaderValue::from_static(value), now);
        assert_eq!(of("0"), Some(Duration::ZERO));
        assert_eq!(of(" 120 "), Some(Duration::from_mins(2)));
        assert_eq!(of("99999999999999999999999"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:47 GMT"), Some(Duration::from_secs(10)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:27 GMT"), Some(Duration::ZERO), "it is past");
        for neither in ["", "soon", "-1", "1.5", "+3", "Sun, 06 Nov 1994"] {
            assert_eq!(of(neither), None, "{neither}");
        }
    }

    proptest! {
        #[test]
        fn any_retry_after_is_read_without_harm(value in "\\PC{0,40}") {
            if let Ok(value) = HeaderValue::from_str(&value) {
                let _any = retry_after(&value, SystemTime::UNIX_EPOCH);
            }
        }
    }
}
