//! Outlier detection: which endpoint is ejected for failing live requests, and for how long. Pure.
//!
//! Failures in a row eject. Failures answered by the endpoint and failures on the way to it are
//! counted separately, so that neither hides the other. Each ejection lasts twice as long as the
//! one before, and each clean interval takes one doubling back. The group bounds how many may be
//! ejected at a time: a fault that all endpoints share is no endpoint's fault.

use std::time::Duration;

use tokio::time::Instant;

/// An ejection is prolonged by up to this share of itself, so that endpoints ejected together do
/// not come back together.
const JITTER: f64 = 0.2;
/// Further doublings change nothing.
const MAX_DOUBLINGS: u32 = 30;
/// From this number of endpoints on, the panic share must remain.
pub(crate) const PANIC_FROM: usize = 3;

/// `upstreams.*.outlier`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Consecutive failures that eject.
    pub consecutive_failures: u32,
    /// Each such time without an ejection takes back one doubling.
    pub interval: Duration,
    /// The length of the first ejection.
    pub base_ejection: Duration,
    /// The maximum length of an ejection.
    pub max_ejection: Duration,
    /// The share that may be ejected, 0 to 1, but at least one endpoint; 0 is off.
    pub max_ejected: f64,
}

/// The ejections of one endpoint.
#[derive(Debug, Default)]
pub(crate) struct Ejection {
    current: Option<Span>,
    /// Ejections in a row, minus the clean intervals before its last return.
    times: u32,
    returned: Option<Instant>,
}

/// When an ejection began and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) since: Instant,
    pub(crate) until: Instant,
}

/// The state of a group when an endpoint is to be ejected.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Census {
    /// All endpoints.
    pub(crate) total: usize,
    /// Those ejected already.
    pub(crate) ejected: usize,
    /// Those that get requests: healthy, and not ejected.
    pub(crate) sound: usize,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_mins(5),
            max_ejected: 0.3,
        }
    }
}

// === impl Ejection ===

impl Ejection {
    /// The current ejection, if any; one that is over counts until [`Ejection::settle`].
    pub(crate) fn current(&self) -> Option<Span> {
        self.current
    }

    /// The number of doublings of the next ejection.
    pub(crate) fn times(&self, settings: &Settings, now: Instant) -> u32 {
        let clean = self.returned.map_or(0, |returned| {
            let since = now.saturating_duration_since(returned).as_nanos();
            u32::try_from(since / settings.interval.as_nanos().max(1)).unwrap_or(u32::MAX)
        });
        self.times.saturating_sub(clean)
    }

    /// Ejects it; returns until when. `chance` is from 0 to 1.
    pub(crate) fn eject(&mut self, settings: &Settings, now: Instant, chance: f64) -> Instant {
        let times = self.times(settings, now).min(MAX_DOUBLINGS);
        let length = settings.base_ejection.saturating_mul(1 << times).min(settings.max_ejection);
        let until = now + length.mul_f64(1.0 + JITTER * chance);
        self.times = times + 1;
        self.returned = None;
        self.current = Some(Span { since: now, until });
        until
    }

    /// Whether the ejection is over; `true` only once.
    pub(crate) fn settle(&mut self, now: Instant) -> bool {
        let is_over = self.current.is_some_and(|span| span.until <= now);
        if is_over {
            self.current = None;
            self.returned = Some(now);
        }
        is_over
    }
}

// === impl Census ===

impl Census {
    /// The census with one more endpoint.
    pub(crate) fn with(self, is_ejected: bool, is_sound: bool) -> Self {
        Self {
            total: self.total + 1,
            ejected: self.ejected + usize::from(is_ejected),
            sound: self.sound + usize::from(is_sound),
        }
    }

    /// Whether one more sound endpoint may be ejected. One always stays; with three or more, so
    /// does the share below which the group would panic.
    pub(crate) fn may_eject(&self, max_ejected: f64, panic_threshold: f64) -> bool {
        let share = |share: f64| share * self.total as f64;
        let limit = share(max_ejected).floor().max(1.0);
        let stays = if self.total >= PANIC_FROM { share(panic_threshold).max(1.0) } else { 1.0 };
        max_ejected > 0.0 && self.ejected as f64 + 1.0 <= limit && self.sound as f64 - 1.0 >= stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn census(total: usize, ejected: usize, sound: usize) -> Census {
        Census { total, ejected, sound }
    }

    #[tokio::test(start_paused = true)]
    async fn ejections_double_up_to_a_bound_and_clean_intervals_take_it_back() {
        let settings = Settings::default();
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            let until = ejection.eject(&settings, now, 0.0);
            assert_eq!(until - now, Duration::from_secs(seconds));
            assert!(!ejection.settle(until - Duration::from_millis(1)));
            assert!(ejection.settle(until));
            assert!(!ejection.settle(until), "told once");
            now = until;
        }
        // Ejected seven times, then four clean intervals.
        now += Duration::from_secs(45);
        assert_eq!(ejection.times(&settings, now), 3);
        assert_eq!(ejection.eject(&settings, now, 0.0) - now, Duration::from_secs(80));
        now += Duration::from_secs(80);
        assert!(ejection.settle(now));
        now += Duration::from_mins(10);
        assert_eq!(ejection.eject(&settings, now, 1.0) - now, Duration::from_secs(12), "jitter");
    }

    #[test]
    fn one_may_always_go_but_never_the_last() {
        let may = |total, ejected, sound| census(total, ejected, sound).may_eject(0.3, 0.5);
        assert!(!may(1, 0, 1), "a single one is never ejected");
        assert!(may(2, 0, 2));
        assert!(!may(2, 1, 1));
        assert!(may(3, 0, 3), "30 % of three is less than one, but one may go");
        assert!(!may(3, 1, 2));
        assert!(!may(3, 0, 2), "health checks took one already: two of three have to stay");
        assert!(may(10, 2, 8) && !may(10, 3, 7));
        assert!(!census(10, 0, 10).may_eject(0.0, 0.5), "off");
    }

    proptest! {
        /// Whatever fails in whatever order, no more are ejected than allowed, and somebody stays.
        #[test]
        fn ejection_never_exceeds_the_share(
            total in 1usize..60, down in 0usize..60, share in 0.0f64..1.0, panic in 0.0f64..1.0,
            failing in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        ) {
            let down = down.min(total);
            let mut out = vec![false; total];
            for index in failing {
                let index = index.index(total);
                let ejected = out.iter().filter(|out| **out).count();
                let sound = (down..total).filter(|at| !out[*at]).count();
                // Endpoints that are down or ejected get no requests, so they fail none.
                let is_asked = index >= down && !out[index];
                if is_asked && census(total, ejected, sound).may_eject(share, panic) {
                    out[index] = true;
                }
            }
            let ejected = out.iter().filter(|out| **out).count();
            prop_assert!(ejected as f64 <= (share * total as f64).max(1.0));
            let sound = (down..total).filter(|at| !out[*at]).count();
            if ejected > 0 {
                prop_assert!(sound >= 1);
                prop_assert!(total < PANIC_FROM || sound as f64 >= panic * total as f64);
            }
        }
    }
}
