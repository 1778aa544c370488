//! The attempts of one exchange: each writes only to its own entry.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::Context;
use crate::telemetry::tracing::Outgoing;

/// One try of a request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// `upstream/address`, for the operator.
    pub endpoint: Arc<str>,
    /// When the endpoint was chosen.
    pub started: Instant,
    /// What it is sent, of a sampled request only.
    pub outgoing: Option<Box<Outgoing>>,
    /// From the choice of the endpoint to the response head or the failure.
    pub took: Option<Duration>,
    /// The status it was answered with.
    pub status: Option<StatusCode>,
    /// Why it failed, one of the reason words.
    pub reason: Option<&'static str>,
}

/// The right to write one entry of the list of attempts.
#[derive(Debug)]
pub struct AttemptHandle {
    cx: Context,
    index: usize,
    started: Instant,
}

// === impl Context ===

impl Context {
    /// Enters a new attempt at `endpoint` that begins `now`, which is the time its endpoint was
    /// chosen with: a reading of the clock is not free.
    pub fn begin_attempt(&self, endpoint: Arc<str>, now: Instant) -> AttemptHandle {
        self.set_connecting(false);
        let mut attempts = self.0.attempts.lock();
        let index = attempts.len();
        attempts.push(Attempt {
            endpoint,
            started: now,
            outgoing: None,
            took: None,
            status: None,
            reason: None,
        });
        AttemptHandle { cx: self.clone(), index, started: now }
    }

    /// Whether the attempt under way still waits for its connection, so that nothing of it was sent.
    pub fn is_connecting(&self) -> bool {
        self.0.is_connecting.load(Ordering::Relaxed)
    }

    /// Written by the transport, where it has to wait for a connection.
    pub fn set_connecting(&self, is_connecting: bool) {
        // Relaxed, as the read: both happen in the polls of one future.
        self.0.is_connecting.store(is_connecting, Ordering::Relaxed);
    }

    /// The attempt under way is given up for this reason, by whoever drops it next.
    pub fn give_up_attempt(&self, reason: &'static str) {
        if let Some(attempt) = self.0.attempts.lock().last_mut()
            && attempt.took.is_none()
        {
            attempt.reason = Some(reason);
        }
    }

    /// Calls `read` with the attempts so far, oldest first. The list is locked meanwhile: `read`
    /// must not enter another.
    pub fn with_attempts<R>(&self, read: impl FnOnce(&[Attempt]) -> R) -> R {
        read(&self.0.attempts.lock())
    }
}

// === impl AttemptHandle ===

impl AttemptHandle {
    /// Notes what the attempt is sent.
    pub fn describe(&self, outgoing: Box<Outgoing>) {
        if let Some(attempt) = self.cx.0.attempts.lock().get_mut(self.index) {
            attempt.outgoing = Some(outgoing);
        }
    }

    /// The attempt was answered with this status. Gives how long it took.
    pub fn answered(&self, status: StatusCode, now: Instant) -> Duration {
        self.write(now, |attempt| attempt.status = Some(status))
    }

    /// The attempt failed for this reason.
    pub fn failed(&self, reason: &'static str, now: Instant) {
        self.write(now, |attempt| attempt.reason = Some(reason));
    }

    /// The attempt was dropped before it came to anything: says how long that took, and why, if that
    /// was our decision.
    pub fn dropped(&self, now: Instant) -> (Duration, Option<&'static str>) {
        let mut reason = None;
        let took = self.write(now, |attempt| reason = attempt.reason);
        (took, reason)
    }

    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.index + 1
    }

    /// Since the endpoint was chosen.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn write(&self, now: Instant, write: impl FnOnce(&mut Attempt)) -> Duration {
        let took = now.saturating_duration_since(self.started);
        if let Some(attempt) = self.cx.0.attempts.lock().get_mut(self.index) {
            attempt.took = Some(took);
            write(attempt);
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::http::{Peer, peer::Address};

    #[test]
    fn an_attempt_took_what_its_two_readings_of_the_clock_say() {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), Method::GET, http::Version::HTTP_11);
        let start = Instant::now();
        let attempt = cx.begin_attempt("a/b".into(), start);
        attempt.answered(StatusCode::OK, start + Duration::from_secs(5));
        let took = cx.with_attempts(|attempts| attempts[0].took);
        assert_eq!(took, Some(Duration::from_secs(5)));
    }
}
