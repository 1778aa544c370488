//! Sends a request again if it was handed back unsent.
//!
//! Touches requests whose attempt failed before a byte of them left (class A: no connection, no TLS
//! session, a kept-alive connection found dead). The upstream layer then hands the whole request
//! back inside the error, and only what was handed back can be sent again: class B and C are not
//! refused here, they cannot be expressed. Which endpoint is next is the balancer's choice, which
//! avoids those in the context's list of attempts.
//!
//! Costs a clone of the inner service per request, nothing else: no box, no lock, no copy of the
//! body. It sits within the total timeout, which bounds all attempts, and around the timeout of one.
//! A drop cancels the attempt under way and starts no other.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    Settings,
    classify::{Verdict, judge},
};
use crate::{
    error::Error,
    http::{Next, Request, Response},
};

/// Makes [`Retry`]s.
#[derive(Clone, Copy, Debug)]
pub struct RetryLayer(Settings);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    settings: Settings,
    inner: S,
}

pin_project! {
    /// The response of the attempt that was answered, or the failure of the last one.
    #[derive(Debug)]
    pub struct ResponseFuture<S>
    where
        S: Service<Request>,
    {
        #[pin]
        attempt: S::Future,
        inner: S,
        attempts: u32,
        // Attempts begun, the one under way included.
        tried: u32,
    }
}

// === impl RetryLayer ===

impl RetryLayer {
    /// A layer of these settings.
    pub fn new(settings: Settings) -> Self {
        Self(settings)
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { settings: self.0, inner }
    }
}

// === impl Retry ===

impl<S: Next> Service<Request> for Retry<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let mut inner = self.inner.clone();
        let attempt = inner.call(request);
        ResponseFuture { attempt, inner, attempts: self.settings.attempts, tried: 1 }
    }
}

// === impl ResponseFuture ===

impl<S: Next> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let mut error = match ready!(this.attempt.as_mut().poll(cx)) {
                Ok(response) => return Poll::Ready(Ok(response)),
                Err(error) => error,
            };
            if judge(error.kind(), *this.tried, *this.attempts) == Verdict::Stop {
                return Poll::Ready(Err(error));
            }
            let Some(request) = error.take_unsent() else {
                return Poll::Ready(Err(error));
            };
            *this.tried += 1;
            this.attempt.set(this.inner.call(request));
        }
    }
}
