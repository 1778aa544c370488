//! Counts the attempts of one request, and decides what follows each.

use std::time::Duration;

use http::header;
use tokio::time::Instant;

use super::{
    Settings, backoff,
    classify::{Class, Verdict, judge},
    layer::Shared,
    pause::Pause,
    resend::{Kept, Resend},
};
use crate::{
    error::{Error, Kind, Result, Unsent},
    http::{Response, retry_after},
    telemetry::clock,
};

/// The attempts of one request.
#[derive(Debug)]
pub(super) struct Tries {
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
    pub(super) fn new() -> Self {
        Self { begun: 1, has_had_free: false }
    }

    /// Counts the next attempt and returns its number.
    pub(super) fn begin(&mut self) -> u32 {
        self.begun += 1;
        self.begun
    }

    /// Decides what follows `outcome` on the route of `shared`. `kept` exists with `retry`.
    pub(super) fn after(
        &mut self,
        shared: &Shared,
        outcome: Result<Response>,
        kept: Option<&Kept>,
    ) -> Next {
        let settings = &shared.settings;
        let Some(failure) = failure(settings, &outcome) else {
            return done(outcome, kept);
        };
        if judge(&settings.on, failure.class, self.begun, settings.attempts) == Verdict::Stop {
            return done(outcome, kept);
        }
        match kept {
            Some(kept) => self.armed(shared, outcome, &failure, kept),
            None => unarmed(shared, outcome),
        }
    }

    fn armed(
        &mut self,
        shared: &Shared,
        mut outcome: Result<Response>,
        failure: &Failure,
        kept: &Kept,
    ) -> Next {
        let may_be_sent = match failure.class {
            Class::NotSent => true,
            Class::MaybeSeen | Class::Answered => kept.is_repeatable(),
        };
        let delay = backoff::delay(self.begun, fastrand::u64(..)).max(failure.wait);
        let is_in_time = backoff::fits(Instant::now(), delay, kept.cx().deadline());
        if !may_be_sent || !kept.is_whole() || !is_in_time {
            return done(outcome, kept.into());
        }
        if !self.is_affordable(shared, failure.class, kept) {
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
        if let Some(upstream) = shared.upstream(kept.cx()) {
            match &outcome {
                Ok(response) => upstream.count_retry(response.status().as_str()),
                Err(error) => upstream.count_retry(error.kind().reason()),
            }
        }
        let rest = outcome.ok().map(Response::into_body);
        Next::Later(Pause::new(delay, rest, resend))
    }

    /// Whether the budget allows this retry, or it needs none.
    fn is_affordable(&mut self, shared: &Shared, class: Class, kept: &Kept) -> bool {
        let Some(upstream) = shared.upstream(kept.cx()) else { return true };
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
}

fn failure(settings: &Settings, outcome: &Result<Response>) -> Option<Failure> {
    match outcome {
        Err(error) => {
            let class = Class::of_failure(error.kind())?;
            Some(Failure { class, wait: Duration::ZERO })
        }
        // Nearly always, and then nothing is looked up.
        Ok(response) if !settings.on.statuses.contains(&response.status()) => None,
        Ok(response) => {
            let after = response.headers().get(header::RETRY_AFTER);
            let is_listed = settings.on.lists(response.status(), after.is_some());
            let wait = || after.and_then(|value| retry_after(value, clock::now()));
            is_listed.then(|| Failure { class: Class::Answered, wait: wait().unwrap_or_default() })
        }
    }
}

/// Without `retry`: sends only what was handed back, at once.
fn unarmed(shared: &Shared, outcome: Result<Response>) -> Next {
    let mut error = match outcome {
        Err(error) => error,
        Ok(response) => return Next::Done(Ok(response)),
    };
    let unsent = error.take_unsent().and_then(|unsent| Resend::unsent(unsent, None));
    let Some(resend) = unsent else { return Next::Done(Err(error)) };
    if let Some(upstream) = shared.upstream(resend.cx()) {
        upstream.count_retry(error.kind().reason());
    }
    Next::Now(resend)
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
