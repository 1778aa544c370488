//! The attempts of one exchange: each writes only to its own entry.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::StatusCode;
use tokio::time::Instant;

use super::Context;
use crate::telemetry::tracing::Outgoing;

/// One attempt of a request.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// `upstream/address`, for the operator.
    pub endpoint: Arc<str>,
    /// When the endpoint was chosen.
    pub started: Instant,
    /// What is sent, for a sampled request only.
    pub outgoing: Option<Box<Outgoing>>,
    /// The time from the choice of the endpoint to the response head or the failure.
    pub took: Option<Duration>,
    /// The status of the answer.
    pub status: Option<StatusCode>,
    /// Why it failed, as a reason word.
    pub reason: Option<&'static str>,
}

/// The right to write one entry in the list of attempts.
#[derive(Debug)]
pub struct AttemptHandle {
    cx: Context,
    index: usize,
    started: Instant,
}

// === impl Context ===

impl Context {
    /// Adds an attempt at `endpoint` that begins `now`. The caller passes the time of the choice,
    /// because reading the clock is not free.
    pub fn begin_attempt(&self, endpoint: Arc<str>, now: Instant) -> AttemptHandle {
        self.set_connecting(false);
        // Relaxed: the lock orders it, and whoever reads it before the first attempt polls the same
        // future.
        self.0.has_attempts.store(true, Ordering::Relaxed);
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

    /// Whether the current attempt still waits for a connection, so that nothing was sent.
    pub fn is_connecting(&self) -> bool {
        self.0.is_connecting.load(Ordering::Relaxed)
    }

    /// Written by the transport while it waits for a connection.
    pub fn set_connecting(&self, is_connecting: bool) {
        // Relaxed, like the read: both happen in polls of the same future.
        self.0.is_connecting.store(is_connecting, Ordering::Relaxed);
    }

    /// The current attempt is being cancelled for this reason; its future is dropped next.
    pub fn give_up_attempt(&self, reason: &'static str) {
        if let Some(attempt) = self.0.attempts.lock().last_mut()
            && attempt.took.is_none()
        {
            attempt.reason = Some(reason);
        }
    }

    /// Calls `read` with the attempts so far, oldest first. The list is locked meanwhile: `read`
    /// must not add one.
    pub fn with_attempts<R>(&self, read: impl FnOnce(&[Attempt]) -> R) -> R {
        if !self.0.has_attempts.load(Ordering::Relaxed) {
            return read(&[]);
        }
        read(&self.0.attempts.lock())
    }
}

// === impl AttemptHandle ===

impl AttemptHandle {
    /// Records what the attempt sends.
    pub fn describe(&self, outgoing: Box<Outgoing>) {
        if let Some(attempt) = self.cx.0.attempts.lock().get_mut(self.index) {
            attempt.outgoing = Some(outgoing);
        }
    }

    /// Records that the attempt was answered with this status. Returns how long it took.
    pub fn answered(&self, status: StatusCode, now: Instant) -> Duration {
        self.write(now, |attempt| attempt.status = Some(status))
    }

    /// Records that the attempt failed for this reason.
    pub fn failed(&self, reason: &'static str, now: Instant) {
        self.write(now, |attempt| attempt.reason = Some(reason));
    }

    /// Records that the attempt was dropped before it had a result. Returns how long it took, and
    /// the reason if the decision was ours.
    pub fn dropped(&self, now: Instant) -> (Duration, Option<&'static str>) {
        let mut reason = None;
        let took = self.write(now, |attempt| reason = attempt.reason);
        (took, reason)
    }

    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.index + 1
    }

    /// The time since the endpoint was chosen.
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
