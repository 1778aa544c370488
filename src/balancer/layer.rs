//! Sends each request to an endpoint of its upstream.
//!
//! Touches every request that is proxied. Picks an endpoint of the upstream named in the context,
//! enters the attempt there, calls the transport, and records how long the response head took;
//! failures, 5xx and 429 count as five seconds. The outcome also goes to the endpoint's outlier
//! detection and breaker; for them neither a 429 nor a connection that was closed while idle is a
//! failure. Refuses with `upstream-none` without an endpoint, `upstream-dns` when names do not
//! resolve, `breaker-open` when every breaker is open, `concurrency-full` at the upstream's
//! `max_in_flight`; the error carries the request, because nothing was sent. Counts
//! `sluice_attempts_total`. If the request is sampled, its `traceparent` names the attempt.
//!
//! Dropping the future cancels the attempt. If a timeout did it (the context says so), that is a
//! failure like any other. If the client left, it only shows that the answer takes at least this
//! long. Without these two rules an endpoint that never answers would look like the fastest. A
//! cancelled breaker probe gives its place to the next request. Costs one uncontended lock and two
//! references of the worker's own; only a request that has to wait for a name's first resolution
//! pays for a box.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::StatusCode;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::Service;

use crate::{
    balancer::{
        GroupHandle,
        handle::{Picked, Ticket},
        standing::Outcome,
    },
    error::{Error, Kind, Result},
    http::{Request, Response, context::AttemptHandle},
    telemetry::{clock, tracing::Outgoing},
    upstream::{Call, load::PENALTY},
};

/// Chooses an endpoint of the route's upstream and calls the transport with it.
#[derive(Clone, Debug)]
pub struct Balance<S> {
    groups: Arc<[GroupHandle]>,
    inner: S,
}

pin_project! {
    /// The response, or the reason for none.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling { attempt: Attempt, #[pin] inner: F },
        Waiting { inner: Waiting },
        Refused { error: Option<Error> },
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Response>> + Send>>;

/// Who has to be told when an attempt ends.
struct Attempt {
    ticket: Ticket,
    handle: AttemptHandle,
    is_over: bool,
}

// === impl Balance ===

impl<S> Balance<S> {
    /// `groups` are the route's upstreams, in the order of `Context::upstream`.
    pub fn new(groups: impl Into<Arc<[GroupHandle]>>, inner: S) -> Self {
        Self { groups: groups.into(), inner }
    }
}

impl<S> Service<Request> for Balance<S>
where
    S: Service<Call, Response = Response, Error = Error, Future: Send + 'static>
        + Clone
        + Send
        + 'static,
{
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let Some(group) = self.groups.get(request.cx.upstream()) else {
            return ResponseFuture::refused(Error::new(Kind::UpstreamNone).with_unsent(request));
        };
        let now = clock::tick();
        match group.pick(&request, now) {
            Picked::Endpoint(flight, ticket) => {
                let attempt = Attempt::begin(ticket, &mut request, now);
                let inner = self.inner.call(Call { request, flight });
                ResponseFuture { state: State::Calling { attempt, inner } }
            }
            Picked::Pending => {
                let waiting = Box::pin(wait(group.clone(), self.inner.clone(), request));
                ResponseFuture { state: State::Waiting { inner: waiting } }
            }
            Picked::Refused(kind) => ResponseFuture::refused(Error::new(kind).with_unsent(request)),
        }
    }
}

/// Waits for the first resolution, then does the same as `call`.
async fn wait<S>(group: GroupHandle, mut inner: S, mut request: Request) -> Result<Response>
where
    S: Service<Call, Response = Response, Error = Error>,
{
    if let Err(error) = group.resolved().await {
        return Err(error.with_unsent(request));
    }
    let now = Instant::now();
    match group.pick(&request, now) {
        Picked::Endpoint(flight, ticket) => {
            let mut attempt = Attempt::begin(ticket, &mut request, now);
            let result = inner.call(Call { request, flight }).await;
            attempt.end(&result);
            result
        }
        Picked::Pending => Err(Error::new(Kind::UpstreamDns).with_unsent(request)),
        Picked::Refused(kind) => Err(Error::new(kind).with_unsent(request)),
    }
}

// === impl ResponseFuture ===

impl<F> ResponseFuture<F> {
    fn refused(error: Error) -> Self {
        Self { state: State::Refused { error: Some(error) } }
    }
}

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response>>,
{
    type Output = Result<Response>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { attempt, inner } => {
                let result = ready!(inner.poll(cx));
                attempt.end(&result);
                Poll::Ready(result)
            }
            StateProj::Waiting { inner } => inner.as_mut().poll(cx),
            StateProj::Refused { error } => {
                // Being polled again after its end is a bug of ours, reported as one.
                Poll::Ready(Err(error.take().unwrap_or_else(|| Kind::Internal.into())))
            }
        }
    }
}

// === impl Attempt ===

impl Attempt {
    fn begin(ticket: Ticket, request: &mut Request, now: Instant) -> Self {
        let local = ticket.local();
        let handle = request.cx.begin_attempt(local.label().clone(), now);
        if let Some(trace) = request.cx.trace().filter(|trace| trace.is_sampled()) {
            trace.stamp(&mut request.parts.headers, handle.number());
            let is_tls = local.transport().is_tls();
            handle.describe(Box::new(Outgoing::of(&request.parts, is_tls)));
        }
        Self { ticket, handle, is_over: false }
    }

    fn end(&mut self, result: &Result<Response>) {
        self.is_over = true;
        let now = clock::tick();
        let load = self.ticket.local().endpoint().load();
        match result {
            Ok(response) => {
                let status = response.status();
                let took = self.handle.answered(status, now);
                self.ticket.group().count_answer(status);
                let is_bad = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                load.record(if is_bad { PENALTY } else { took }, now);
            }
            Err(error) => {
                let reason = error.kind().reason();
                self.handle.failed(reason, now);
                self.ticket.group().count_failure(reason);
                // Failures of the client or of ours say nothing about the endpoint.
                if error.kind().side() == crate::error::Side::Upstream {
                    load.record(PENALTY, now);
                }
            }
        }
        self.ticket.tell(outcome(result), now);
    }
}

/// What the result says about the endpoint.
fn outcome(result: &Result<Response>) -> Outcome {
    match result.as_ref().map_err(Error::kind) {
        Ok(response) if response.status().is_server_error() => Outcome::Failed,
        Ok(_) => Outcome::Success,
        Err(Kind::UpstreamBadResponse) => Outcome::Failed,
        Err(
            Kind::UpstreamConnect
            | Kind::UpstreamTls
            | Kind::UpstreamReset(_)
            | Kind::UpstreamTimeoutTry(_)
            | Kind::UpstreamTimeoutTotal,
        ) => Outcome::Unreached,
        // A service may close idle connections.
        Err(_) => Outcome::Nothing,
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = Instant::now();
        let load = self.ticket.local().endpoint().load();
        let (took, reason) = self.handle.dropped(now);
        if let Some(reason) = reason {
            self.ticket.group().count_failure(reason);
            load.record(PENALTY, now);
            self.ticket.tell(Outcome::Unreached, now);
        } else if took.as_secs_f32() > load.expected(now) {
            load.record(took, now);
        }
    }
}
