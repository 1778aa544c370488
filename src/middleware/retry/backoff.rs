//! How long to wait before the next attempt. Pure: chance and time are arguments.

use std::time::{Duration, SystemTime};

use http::HeaderValue;
use tokio::time::Instant;

/// The ceiling of the wait before the first retry; the same in Envoy.
const BASE: Duration = Duration::from_millis(25);
/// No wait is as long, whichever retry it is.
const CAP: Duration = Duration::from_millis(250);

/// The wait before retry `number`, from 1: uniform in [0, min([`BASE`] x 2^(n-1), [`CAP`])), the
/// full jitter that keeps those that failed together from coming back together. `random` is uniform
/// over all numbers.
pub fn delay(number: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
    let ceiling = BASE.saturating_mul(factor).min(CAP).as_nanos();
    // The product's upper half: below `ceiling`, whatever `random` is.
    let nanos = (ceiling * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// How long a `Retry-After` asks to wait, in seconds or until a date (RFC 9110, 10.2.3); `None` when
/// it is neither.
pub fn retry_after(value: &HeaderValue, now: SystemTime) -> Option<Duration> {
    let value = value.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More seconds than a number holds are past any deadline as well.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Whether an attempt that begins `delay` after `now` begins before `deadline`. There is none before
/// the request body is over, which nobody reads during the wait: then only our own waits are short
/// enough, and no upstream says how long a request is held.
pub fn fits(now: Instant, delay: Duration, deadline: Option<Instant>) -> bool {
    let Some(deadline) = deadline else { return delay < CAP };
    now.checked_add(delay).is_some_and(|begins| begins < deadline)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let ceilings: Vec<_> = (1..=7).map(|n| delay(n, u64::MAX).as_millis()).collect();
        assert_eq!(ceilings, [24, 49, 99, 199, 249, 249, 249]);
        assert_eq!(delay(1, 0), Duration::ZERO);
        assert_eq!(delay(1, u64::MAX / 2).as_micros(), 12_499);
    }

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

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_cannot_begin_in_time_does_not() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        assert!(fits(now, second, Some(now + second * 2)));
        assert!(!fits(now, second, Some(now + second)));
        assert!(!fits(now, Duration::MAX, Some(now + second)));
        assert!(fits(now, delay(9, u64::MAX), None));
        assert!(!fits(now, second, None), "an upload under way waits for no `Retry-After`");
    }

    proptest! {
        #[test]
        fn a_wait_stays_below_its_ceiling(number in 0u32..100, random: u64) {
            prop_assert!(delay(number, random) < CAP);
            prop_assert!(number > 1 || delay(number, random) < BASE);
        }

        #[test]
        fn any_retry_after_is_read_without_harm(value in "\\PC{0,40}") {
            if let Ok(value) = HeaderValue::from_str(&value) {
                let _any = retry_after(&value, SystemTime::UNIX_EPOCH);
            }
        }
    }
}
