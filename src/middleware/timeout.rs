//! How long a request, or one attempt of it, may take to its response head.
//!
//! Twice in the stack: around the retries for all attempts (504 `upstream-timeout-total`) and within
//! them for one (504 `upstream-timeout-try`). The clock starts when the request body is over, at once
//! if there is none or it is in memory: how long an upload takes is the client's affair, and the
//! body's pace judges that. It stops with the response head; the response body has a pace of its own.
//!
//! Costs a timer that is made when the rest of the stack first has to wait, in the future itself,
//! without an allocation; a streaming body costs one more, for the guard that tells of its end. When
//! the time is up, or the future is dropped, everything within is dropped: that cancels the attempt.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, Sent},
    http::{Next, Request, Response, body::Over},
};

/// `routes[].timeout` and `retry.per_attempt_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the end of the request body to the response head, all attempts and waits included.
    pub total: Duration,
    /// The same for one attempt; `None`: what is left of `total`.
    pub per_attempt: Option<Duration>,
}

/// Makes the [`Timeout`] of all attempts.
#[derive(Clone, Copy, Debug)]
pub struct TotalTimeoutLayer(Span);

/// Makes the [`Timeout`] of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimeoutLayer(Option<Span>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    span: Option<Span>,
    inner: S,
}

pin_project! {
    /// The response, or the end of the wait for it.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        span: Option<Span>,
        // While there is one, the request body is still under way and the clock stands.
        upload: Option<Over>,
        #[pin]
        sleep: Option<Sleep>,
    }
}

#[derive(Clone, Copy, Debug)]
struct Span {
    length: Duration,
    error: fn(Duration) -> Error,
}

// === impl TotalTimeoutLayer ===

impl TotalTimeoutLayer {
    /// The layer around the retries.
    pub fn new(settings: Settings) -> Self {
        Self(Span {
            length: settings.total,
            error: |length| {
                Error::new(Kind::UpstreamTimeoutTotal)
                    .with_detail(format!("no response head within {length:?}"))
            },
        })
    }
}

impl<S> Layer<S> for TotalTimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { span: Some(self.0), inner }
    }
}

// === impl AttemptTimeoutLayer ===

impl AttemptTimeoutLayer {
    /// The layer within the retries.
    pub fn new(settings: Settings) -> Self {
        Self(settings.per_attempt.map(|length| Span {
            length,
            error: |length| {
                // What the upstream has seen by now is not known here: the worse is assumed.
                Error::new(Kind::UpstreamTimeoutTry(Sent::MaybeSeen))
                    .with_detail(format!("no response head within {length:?} of this attempt"))
            },
        }))
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { span: self.0, inner }
    }
}

// === impl Timeout ===

impl<S: Next> Service<Request> for Timeout<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let upload = self.span.and_then(|_| request.body.watch());
        ResponseFuture { inner: self.inner.call(request), span: self.span, upload, sleep: None }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(result) = this.inner.poll(cx) {
            return Poll::Ready(result);
        }
        let Some(span) = this.span else {
            return Poll::Pending;
        };
        if let Some(upload) = this.upload {
            ready!(Pin::new(upload).poll(cx));
            *this.upload = None;
        }
        if this.sleep.is_none() {
            this.sleep.set(Some(tokio::time::sleep(span.length)));
        }
        if let Some(sleep) = this.sleep.as_pin_mut() {
            ready!(sleep.poll(cx));
        }
        Poll::Ready(Err((span.error)(span.length)))
    }
}
