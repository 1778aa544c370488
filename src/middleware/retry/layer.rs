//! Sends a request again if that can do no harm, and is configured and allowed.
//!
//! Touches every request for an upstream. Without `retry`, a request that was handed back unsent is
//! sent once more, at once. With `retry`: class A whatever the method, B and C of methods that may
//! be repeated (see the module's documentation), after a random wait or what `Retry-After` asks
//! for. No retry begins if it cannot fit before the deadline, or if the upstream's budget is spent
//! (except the first of class A): then the failure is the answer, with the reason `retry-budget`.
//! The balancer chooses the next endpoint and avoids those in the context's list of attempts.
//! Writes `x-sluice-attempt`; counts `sluice_retries_total` and
//! `sluice_retry_budget_exhausted_total`.
//!
//! Costs one reference per request; with `retry` also a copy of the head, a box, a deposit, and
//! what `replay` says about the body. Inside the total timeout, which bounds all attempts and waits,
//! and around the timeout of one attempt. Dropping the future cancels the current attempt or wait
//! and starts no other.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    Settings,
    budget::Budget,
    pause::Pause,
    resend::{Kept, Resend, set_number},
    tries::{Next as Step, Tries},
};
use crate::{
    error::{Error, Result},
    http::{self as ours, Next, Request, Response},
    telemetry::metrics::{Cells, Counter, RETRIES, RETRY_BUDGET_EXHAUSTED},
};

/// Makes [`Retry`]s.
#[derive(Clone, Debug)]
pub struct RetryLayer(Arc<Shared>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    is_armed: bool,
    again: Arc<Again<S>>,
}

/// The retry counters and the budget of one upstream on this worker.
pub struct Upstream {
    name: Arc<str>,
    budget: Arc<Budget>,
    is_alone: Box<dyn Fn() -> bool + Send + Sync>,
    exhausted: Counter,
    cells: Cells,
}

/// The settings of a route, and its upstreams in the order of `Context::upstream`.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Settings,
    is_armed: bool,
    upstreams: Box<[Upstream]>,
}

/// What a request may need after its first attempt, and nearly all do not: shared, so that none
/// clones a service for it.
#[derive(Debug)]
struct Again<S> {
    shared: Arc<Shared>,
    /// To be cloned. Locked only because a service need not be `Sync`.
    inner: Mutex<S>,
}

pin_project! {
    /// The response of the attempt that was answered, or the failure of the last one.
    pub struct ResponseFuture<S>
    where
        S: Service<Request>,
    {
        #[pin]
        attempt: S::Future,
        again: Arc<Again<S>>,
        tries: Tries,
        // Used only on a route with `retry`: no other should move what it would hold.
        armed: Option<Box<Armed>>,
    }
}

/// What another attempt is made from, and the wait for it.
struct Armed {
    kept: Kept,
    pause: Option<Pin<Box<Pause>>>,
}

// === impl RetryLayer ===

impl RetryLayer {
    /// A layer for requests to `upstreams`; `None`: a route without `retry`.
    pub fn new(settings: Option<Settings>, upstreams: impl Into<Box<[Upstream]>>) -> Self {
        Self(Arc::new(Shared {
            is_armed: settings.is_some(),
            settings: settings.unwrap_or(Settings::NOT_SENT),
            upstreams: upstreams.into(),
        }))
    }
}

impl<S: Clone> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let again = Again { shared: self.0.clone(), inner: Mutex::new(inner.clone()) };
        Retry { inner, is_armed: self.0.is_armed, again: Arc::new(again) }
    }
}

// === impl Shared ===

impl Shared {
    /// The upstream that was chosen for the exchange of `cx`.
    pub(super) fn upstream(&self, cx: &ours::Context) -> Option<&Upstream> {
        self.upstreams.get(cx.upstream())
    }
}

// === impl Upstream ===

impl Upstream {
    /// The upstream with this name, whose retries draw from `budget`; `is_alone` tells whether it
    /// has only one endpoint now.
    pub fn new(
        name: &str,
        budget: Arc<Budget>,
        is_alone: impl Fn() -> bool + Send + Sync + 'static,
        cells: &Cells,
    ) -> Self {
        Self {
            name: name.into(),
            budget,
            is_alone: Box::new(is_alone),
            exhausted: cells.counter(&RETRY_BUDGET_EXHAUSTED, &[name]),
            cells: cells.clone(),
        }
    }

    /// Takes one retry from the budget.
    pub(super) fn withdraw(&self) -> bool {
        self.budget.withdraw((self.is_alone)())
    }

    pub(super) fn count_exhausted(&self) {
        self.exhausted.add(1);
    }

    /// Counts one retry, labelled with the failure: a reason or a listed status.
    pub(super) fn count_retry(&self, reason: &str) {
        self.cells.counter(&RETRIES, &[&self.name, reason]).add(1);
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Retry ===

impl<S: Next> Service<Request> for Retry<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let armed = self.is_armed.then(|| {
            if let Some(upstream) = self.again.shared.upstream(&request.cx) {
                upstream.budget.deposit();
            }
            Box::new(Armed { kept: Kept::of(&mut request), pause: None })
        });
        set_number(&mut request.parts.headers, 1);
        let attempt = self.inner.call(request);
        ResponseFuture { attempt, again: self.again.clone(), tries: Tries::new(), armed }
    }
}

// === impl ResponseFuture ===

impl<S: Next> Future for ResponseFuture<S> {
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let pause = this.armed.as_mut().and_then(|armed| armed.pause.as_mut());
            let resend: Resend = if let Some(pause) = pause {
                let Some(resend) = ready!(pause.as_mut().poll(cx)) else { return Poll::Pending };
                resend
            } else {
                let outcome = ready!(this.attempt.as_mut().poll(cx));
                let kept = this.armed.as_ref().map(|armed| &armed.kept);
                match this.tries.after(&this.again.shared, outcome, kept) {
                    Step::Done(outcome) => return Poll::Ready(outcome),
                    Step::Now(resend) => resend,
                    Step::Later(pause) => {
                        if let Some(armed) = this.armed {
                            armed.pause = Some(Box::pin(pause));
                        }
                        continue;
                    }
                }
            };
            if let Some(armed) = this.armed {
                armed.pause = None;
            }
            let number = this.tries.begin();
            let mut inner = this.again.inner.lock().clone();
            this.attempt.set(inner.call(resend.into_request(number)));
        }
    }
}

impl<S> fmt::Debug for ResponseFuture<S>
where
    S: Service<Request>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").field("tries", &self.tries).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
