//! `auth`: only requests with a valid credential pass.
//!
//! Touches the requests of routes with `auth`. Answers 401, 403 or 503 as `AuthFault` says, with
//! `WWW-Authenticate`; if `forward` denies, passes on that service's answer. Reads the head, the
//! target and the connection's certificate; writes the principal into the context and counts
//! `sluice_auth_total`. A token that this worker has verified before costs a hash, a comparison and
//! two locks that only this worker takes, without allocation; a new token costs its signature
//! check. The future is boxed only if somebody has to be asked (a missing key, `forward`).
//!
//! Behind everything that refuses without looking at credentials, before everything done on behalf
//! of a client. Dropping the future only stops the wait; a fetch that others need continues.

use std::{
    future::{self, Ready},
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::Either;
use tower::{Layer, Service};

use super::{
    check::{Checks, Progress, Step},
    key_source::Waiting,
    outcomes::{Outcome, Outcomes, Scheme},
};
use crate::{
    error::Error,
    http::{Context, Next, Principal, Request, Response},
};

/// Makes [`Auth`]s; without checks everybody passes. One per worker and route.
#[derive(Clone, Debug)]
pub struct AuthLayer(Option<Arc<Guard>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    guard: Option<Arc<Guard>>,
    inner: S,
}

/// For a request that was admitted, one that was refused, or one that somebody is asked about.
pub type ResponseFuture<F> = Either<F, Either<Ready<Result<Response, Error>>, Asking>>;

/// Waits for somebody who was asked.
pub type Asking = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

#[derive(Debug)]
struct Guard {
    checks: Checks,
    outcomes: Outcomes,
}

// === impl AuthLayer ===

impl AuthLayer {
    /// Admits what `checks` admit; `None`: everybody.
    pub fn new(checks: Option<(Checks, Outcomes)>) -> Self {
        Self(checks.map(|(checks, outcomes)| Arc::new(Guard { checks, outcomes })))
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth { guard: self.0.clone(), inner }
    }
}

// === impl Auth ===

impl<S: Next> Service<Request> for Auth<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Some(guard) = &self.guard else { return Either::Left(self.inner.call(request)) };
        let mut progress = Progress::default();
        match guard.checks.step(&request.parts, &request.cx, &mut progress) {
            Step::Admitted(principal, scheme, outcome) => {
                guard.admit(&request.cx, principal, scheme, outcome);
                Either::Left(self.inner.call(request))
            }
            Step::Refused(error, scheme, outcome) => {
                guard.outcomes.count(scheme, outcome);
                Either::Right(Either::Left(future::ready(Err(error))))
            }
            Step::Wait(waiting) => Either::Right(Either::Right(Box::pin(ask(
                guard.clone(),
                Some(waiting),
                progress,
                self.inner.clone(),
                request,
            )))),
            Step::Ask(_) => Either::Right(Either::Right(Box::pin(ask(
                guard.clone(),
                None,
                progress,
                self.inner.clone(),
                request,
            )))),
        }
    }
}

/// Continues from `progress` after `waiting`, and asks whoever has to be asked.
async fn ask<S: Next>(
    guard: Arc<Guard>,
    waiting: Option<Waiting>,
    mut progress: Progress,
    mut inner: S,
    mut request: Request,
) -> Result<Response, Error> {
    if let Some(waiting) = waiting {
        progress.waited(waiting.await);
    }
    loop {
        match guard.checks.step(&request.parts, &request.cx, &mut progress) {
            Step::Admitted(principal, scheme, outcome) => {
                guard.admit(&request.cx, principal, scheme, outcome);
                return inner.call(request).await;
            }
            Step::Refused(error, scheme, outcome) => {
                guard.outcomes.count(scheme, outcome);
                return Err(error);
            }
            Step::Wait(waiting) => progress.waited(waiting.await),
            Step::Ask(service) => match service.decide(&mut request.parts, &request.cx).await {
                Ok(()) => {
                    guard.admit(&request.cx, None, Scheme::Forward, Outcome::Verified);
                    return inner.call(request).await;
                }
                Err(error) => progress.denied(error),
            },
        }
    }
}

// === impl Guard ===

impl Guard {
    fn admit(
        &self,
        cx: &Context,
        principal: Option<Arc<Principal>>,
        scheme: Scheme,
        outcome: Outcome,
    ) {
        self.outcomes.count(scheme, outcome);
        if let Some(principal) = principal {
            cx.set_principal(principal);
        }
    }
}

#[cfg(test)]
mod tests;
