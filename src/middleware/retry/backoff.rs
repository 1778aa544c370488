//! How long to wait before the next attempt. Pure: chance and time are arguments.

use std::time::Duration;

use tokio::time::Instant;

/// The upper bound of the wait before the first retry, as in Envoy.
const BASE: Duration = Duration::from_millis(25);
/// Every wait is shorter than this.
const CAP: Duration = Duration::from_millis(250);

/// The wait before retry `number`, from 1: uniform in [0, min([`BASE`] x 2^(n-1), [`CAP`])). This
/// full jitter keeps requests that failed together from coming back together. `random` is uniform
/// over all numbers.
pub fn delay(number: u32, random: u64) -> Duration {
    let factor = 1_u32.checked_shl(number.saturating_sub(1)).unwrap_or(u32::MAX);
    let ceiling = BASE.saturating_mul(factor).min(CAP).as_nanos();
    // The upper half of the product: below `ceiling`, whatever `random` is.
    let nanos = (ceiling * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// Whether an attempt that begins `delay` after `now` begins before `deadline`. There is no
/// deadline until the request body is read, and nobody reads it during the wait: then only our own
/// waits are allowed, so that no upstream decides how long a request is held.
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
    }
}
