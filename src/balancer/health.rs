//! Active health checks: what a series of probes says about an endpoint. Pure; `check` sends the
//! probes.
//!
//! An endpoint without any result takes requests: not knowing is no reason to refuse. Its first
//! success marks it up; after that a number of failures in a row mark it down, and a number of
//! successes up again. It is probed sooner while its state is changing, and less often while it is
//! down.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use tokio::time::Instant;

/// An interval varies by up to this share of itself, so that endpoints are not all probed at the
/// same moment.
const JITTER: f64 = 0.2;

/// `upstreams.*.health_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How an endpoint is checked.
    pub check: Check,
    /// The interval between probes.
    pub interval: Duration,
    /// The interval while the state is changing.
    pub changing_interval: Duration,
    /// The interval while the endpoint is down.
    pub down_interval: Duration,
    /// The time limit for connection, handshakes and answer together.
    pub timeout: Duration,
    /// Consecutive failures that mark it down.
    pub fall: u32,
    /// Consecutive successes that mark it up again.
    pub rise: u32,
}

/// The request of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A GET for this path, answered with one of these statuses.
    Http {
        /// Path and query.
        path: Box<str>,
        /// Statuses that are a success.
        expect: Vec<RangeInclusive<u16>>,
    },
    /// The gRPC health protocol for this service; empty means the server as a whole.
    Grpc {
        /// Its full name.
        service: Box<str>,
    },
    /// A connection, with TLS if the upstream uses it.
    Tcp,
}

/// What the probes of one endpoint have shown so far.
#[derive(Debug, Default)]
pub(crate) struct Health {
    settings: Option<Arc<Settings>>,
    state: State,
    since: Option<Instant>,
    /// Consecutive results that contradict the state.
    against: u32,
    /// The reason of the last failure.
    reason: Option<Box<str>>,
    /// When the next probe is due: a reload that changes nothing does not delay it.
    next: Option<Instant>,
}

/// Whether requests may go to the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum State {
    /// There is no result yet.
    #[default]
    Unknown,
    Up,
    Down,
}

// === impl Settings ===

impl Settings {
    /// The pause until the next probe in this `state`.
    fn pause(&self, state: State, is_changing: bool) -> Duration {
        match state {
            _ if is_changing => self.changing_interval,
            State::Down => self.down_interval,
            State::Unknown | State::Up => self.interval,
        }
    }
}

// === impl Health ===

impl Health {
    /// Adopts `settings`: forgets everything if they check differently than before. If only the
    /// timing differs, just the next probe is planned anew, because the old pause may be long.
    pub(crate) fn adopt(&mut self, settings: Option<&Arc<Settings>>) {
        if self.settings.as_ref() == settings {
            return;
        }
        let check = |settings: Option<&Arc<Settings>>| settings.map(|it| it.check.clone());
        if check(self.settings.as_ref()) == check(settings) {
            self.next = None;
        } else {
            *self = Self::default();
        }
        self.settings = settings.cloned();
    }

    /// Whether these are the settings it adopted.
    pub(crate) fn is_under(&self, settings: &Arc<Settings>) -> bool {
        self.settings.as_ref() == Some(settings)
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether it is probed at all.
    pub(crate) fn is_checked(&self) -> bool {
        self.settings.is_some()
    }

    /// When it entered its state.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// The reason of the last failed probe.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// When the next probe is due; the first one at any time within the interval. `chance` is from
    /// 0 to 1.
    pub(crate) fn next(&mut self, settings: &Settings, now: Instant, chance: f64) -> Instant {
        *self.next.get_or_insert_with(|| now + settings.interval.mul_f64(chance))
    }

    /// Takes the result of a probe sent under `settings`; returns the new state if it changed.
    pub(crate) fn record(
        &mut self,
        result: Result<(), Box<str>>,
        settings: &Arc<Settings>,
        now: Instant,
        chance: f64,
    ) -> Option<State> {
        if !self.is_under(settings) {
            return None;
        }
        let before = self.state;
        let is_ok = result.is_ok();
        self.reason = result.err().or_else(|| self.reason.take());
        let is_against = if is_ok { before != State::Up } else { before != State::Down };
        self.against = if is_against { self.against.saturating_add(1) } else { 0 };
        let needed = match before {
            State::Unknown if is_ok => 1,
            State::Unknown | State::Up => settings.fall,
            State::Down => settings.rise,
        };
        if self.against >= needed {
            self.state = if is_ok { State::Up } else { State::Down };
            self.since = Some(now);
            self.against = 0;
        }
        let pause = settings.pause(self.state, self.against > 0);
        self.next = Some(now + pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance));
        (self.state != before).then_some(self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Arc<Settings> {
        Arc::new(Settings {
            check: Check::Tcp,
            interval: Duration::from_secs(5),
            changing_interval: Duration::from_secs(1),
            down_interval: Duration::from_secs(15),
            timeout: Duration::from_secs(2),
            fall: 3,
            rise: 2,
        })
    }

    fn health() -> Health {
        let mut health = Health::default();
        health.adopt(Some(&settings()));
        health
    }

    /// The transition, and the pause in seconds, with jitter at its mean.
    fn told(health: &mut Health, is_ok: bool, now: Instant) -> (Option<State>, u64) {
        let result = if is_ok { Ok(()) } else { Err("refused".into()) };
        let told = health.record(result, &settings(), now, 0.5);
        (told, (health.next(&settings(), now, 0.0) - now).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn rise_and_fall() {
        let now = Instant::now();
        let mut health = health();
        assert_eq!(told(&mut health, true, now), (Some(State::Up), 5), "the first success");
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(told(&mut health, true, now), (None, 5), "three in a row were needed");
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(told(&mut health, false, now), (Some(State::Down), 15));
        assert_eq!(health.reason(), Some("refused"));
        assert_eq!(told(&mut health, true, now), (None, 1));
        assert_eq!(told(&mut health, false, now), (None, 15));
        assert_eq!(told(&mut health, true, now), (None, 1));
        assert_eq!(told(&mut health, true, now), (Some(State::Up), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_was_never_well_takes_as_long_to_fall() {
        let now = Instant::now();
        let mut health = health();
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(health.state(), State::Unknown);
        assert_eq!(told(&mut health, false, now), (None, 1));
        assert_eq!(told(&mut health, false, now), (Some(State::Down), 15));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_probe_is_anywhere_within_the_interval_and_not_put_off() {
        let now = Instant::now();
        let mut health = health();
        let first = health.next(&settings(), now, 0.3);
        assert_eq!(first - now, Duration::from_millis(1500));
        // A reload checks anew.
        let later = now + Duration::from_secs(1);
        assert_eq!(health.next(&settings(), later, 0.9), first);
    }

    #[tokio::test(start_paused = true)]
    async fn another_pace_keeps_what_is_known() {
        let now = Instant::now();
        let mut health = health();
        for _ in 0..3 {
            told(&mut health, false, now);
        }
        let later = now + Duration::from_secs(1);
        let other =
            Arc::new(Settings { interval: Duration::from_secs(6), ..(*settings()).clone() });
        health.adopt(Some(&other));
        assert!(health.is_under(&other));
        assert_eq!(health.state(), State::Down);
        assert_eq!((health.since(), health.reason()), (Some(now), Some("refused")));
        let next = health.next(&other, later, 0.5);
        assert_eq!(next - later, Duration::from_secs(3), "by the new interval");
        assert_eq!(health.record(Ok(()), &settings(), later, 0.5), None, "sent by the old rules");
        assert_eq!(health.record(Ok(()), &other, later, 0.5), None);
        assert_eq!(health.record(Ok(()), &other, later, 0.5), Some(State::Up));
    }

    #[tokio::test(start_paused = true)]
    async fn another_check_begins_anew_and_late_results_of_the_old_one_are_dropped() {
        let now = Instant::now();
        let mut health = health();
        for _ in 0..3 {
            told(&mut health, false, now);
        }
        health.adopt(Some(&settings()));
        assert_eq!(health.state(), State::Down, "the same settings keep it");
        let check = Check::Grpc { service: "".into() };
        let other = Arc::new(Settings { check, ..(*settings()).clone() });
        health.adopt(Some(&other));
        assert_eq!(health.state(), State::Unknown);
        assert_eq!(health.record(Ok(()), &settings(), now, 0.5), None);
        assert_eq!(health.state(), State::Unknown);
        health.adopt(None);
        assert!(!health.is_checked());
    }

    #[tokio::test(start_paused = true)]
    async fn intervals_have_jitter() {
        let now = Instant::now();
        let mut health = health();
        health.record(Ok(()), &settings(), now, 0.0);
        assert_eq!(health.next(&settings(), now, 0.0) - now, Duration::from_secs(4));
        health.record(Ok(()), &settings(), now, 1.0);
        assert_eq!(health.next(&settings(), now, 0.0) - now, Duration::from_secs(6));
    }
}
