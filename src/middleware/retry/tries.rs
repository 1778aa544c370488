//! Counts the attempts of one request, and decides what follows each.

use std::{fmt, sync::Arc, time::Duration};

use http::header;
use tokio::time::Instant;

use super::{
    backoff,
    classify::{Class, Verdict, judge},
    layer::{Shared, Upstream},
    pause::Pause,
    resend::{Kept, Resend},
};
use crate::{
    error::{Error, Kind, Result, Unsent},
    http::{Response, retry_after},
    telemetry::clock,
};

/// The attempts of one request.
pub(super) struct Tries {
    shared: Arc<Shared>,
    /// Attempts begun, including the current one.
    begun: u32,
    /// Whether class A has used its one retry outside the budget.
    has_had_free: bool,
}

/// What follows an attempt.
pub(super) enum Next {
    /// No more attempts: this is the result.
    Done(Result<Response>),
    /// Another attempt, at once.
    Now(Resend),
    /// Another attempt, after a wait.
    Later(Pause),
}

/// A failure that may be retried.
struct Failure {
    class: Class,
    /// The wait that `Retry-After` asks for.
    wait: Duration,
}

// === impl Tries ===

impl Tries {
    /// The first attempt is in progress.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, begun: 1, has_had_free: false }
    }

    /// Counts the next attempt and returns its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.begun += 1;
        self.begun
    }

    /// Decides what follows `outcome`. `kept` exists on a route with `retry`.
    pub(super) fn after(&mut self, outcome: Result<Response>, kept: Option<&Kept>) -> Next {
        let Some(failure) = self.failure(&outcome) else {
            return done(outcome, kept);
        };
        let settings = &self.shared.settings;
        if judge(&settings.on, failure.class, self.begun, settings.attempts) == Verdict::Stop {
            return done(outcome, kept);
        }
        match kept {
            Some(kept) => self.armed(outcome, &failure, kept),
            None => self.unarmed(outcome),
        }
    }

    fn failure(&self, outcome: &Result<Response>) -> Option<Failure> {
        match outcome {
            Err(error) => {
                let class = Class::of_failure(error.kind())?;
                Some(Failure { class, wait: Duration::ZERO })
            }
            // Most routes list none, and then nothing is looked up.
            Ok(_) if self.shared.settings.on.statuses.is_empty() => None,
            Ok(response) => {
                let after = response.headers().get(header::RETRY_AFTER);
                let is_listed = self.shared.settings.on.lists(response.status(), after.is_some());
                let wait = || after.and_then(|value| retry_after(value, clock::now()));
                is_listed
                    .then(|| Failure { class: Class::Answered, wait: wait().unwrap_or_default() })
            }
        }
    }

    /// Without `retry`: sends only what was handed back, at once.
    fn unarmed(&self, outcome: Result<Response>) -> Next {
        let mut error = match outcome {
            Err(error) => error,
            Ok(response) => return Next::Done(Ok(response)),
        };
        let unsent = error.take_unsent().and_then(|unsent| Resend::unsent(unsent, None));
        let Some(resend) = unsent else { return Next::Done(Err(error)) };
        if let Some(upstream) = self.upstream(resend.cx().upstream()) {
            upstream.count_retry(error.kind().reason());
        }
        Next::Now(resend)
    }

    fn armed(&mut self, mut outcome: Result<Response>, failure: &Failure, kept: &Kept) -> Next {
        let may_be_sent = match failure.class {
            Class::NotSent => true,
            Class::MaybeSeen | Class::Answered => kept.is_repeatable(),
        };
        let delay = backoff::delay(self.begun, fastrand::u64(..)).max(failure.wait);
        let is_in_time = backoff::fits(Instant::now(), delay, kept.cx().deadline());
        if !may_be_sent || !kept.is_whole() || !is_in_time {
            return done(outcome, kept.into());
        }
        if !self.is_affordable(failure.class, kept) {
            return done(exhausted(outcome, kept), kept.into());
        }
        let resend = match failure.class {
            Class::NotSent => unsent(&mut outcome).and_then(|it| Resend::unsent(it, Some(kept))),
            Class::MaybeSeen | Class::Answered => Resend::repeat(kept),
        };
        let Some(resend) = resend else { return done(outcome, kept.into()) };
        if failure.class != Class::NotSent {
            kept.cx().set_repeated();
        }
        if let Some(upstream) = self.upstream(kept.cx().upstream()) {
            match &outcome {
                Ok(response) => upstream.count_retry(response.status().as_str()),
                Err(error) => upstream.count_retry(error.kind().reason()),
            }
        }
        let rest = outcome.ok().map(Response::into_body);
        Next::Later(Pause::new(delay, rest, resend))
    }

    /// Whether the budget allows this retry, or it needs none.
    fn is_affordable(&mut self, class: Class, kept: &Kept) -> bool {
        let Some(upstream) = self.upstream(kept.cx().upstream()) else { return true };
        if upstream.withdraw() {
            return true;
        }
        // A request that never left has cost the upstream nothing.
        if class == Class::NotSent && !self.has_had_free {
            self.has_had_free = true;
            return true;
        }
        upstream.count_exhausted();
        false
    }

    fn upstream(&self, index: usize) -> Option<&Upstream> {
        self.shared.upstreams.get(index)
    }
}

/// No more attempts: the copy is no longer needed.
fn done(outcome: Result<Response>, kept: Option<&Kept>) -> Next {
    if let Some(kept) = kept {
        kept.release();
    }
    Next::Done(outcome)
}

fn unsent(outcome: &mut Result<Response>) -> Option<Unsent> {
    outcome.as_mut().err().and_then(Error::take_unsent)
}

/// The failure as reported if only the budget prevented a retry.
fn exhausted(outcome: Result<Response>, kept: &Kept) -> Result<Response> {
    match outcome {
        Ok(response) => {
            // The answer is the upstream's and stays as it is; the log says why it was not retried.
            kept.cx().set_reason(Kind::RETRY_BUDGET);
            Ok(response)
        }
        Err(error) => {
            let kind = Kind::RetryBudget(Box::new(error.kind().clone()));
            Err(Error::new(kind).with_source(error))
        }
    }
}

impl fmt::Debug for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tries").field("begun", &self.begun).finish_non_exhaustive()
    }
}
