//! Follows every exchange to its very end, and writes it down there.
//!
//! Touches every request. Begins an [`Exchange`], counts the request body as it is read, and hands
//! the exchange to the response body, whose end, failure or drop writes the one line and the
//! metrics. Dropped before there is a response, the client has left: 499 `client-closed`, written by
//! the exchange's own drop. Never refuses. Costs one allocation.
//!
//! Above everything that can fail or replace a response, so that it sees the final one; below
//! `request_id`, whose ID is in the line.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll, ready},
};

use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    http::{Request, Response, body::Guard},
    telemetry::exchange::{Exchange, Recorder},
};

/// Adds [`AccessLog`].
#[derive(Clone, Debug)]
pub struct AccessLogLayer {
    recorder: Arc<Recorder>,
}

/// Follows every exchange to its end.
#[derive(Clone, Debug)]
pub struct AccessLog<S> {
    recorder: Arc<Recorder>,
    inner: S,
}

pin_project! {
    /// Holds the exchange until the response body can.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // Before the exchange: what the inner future still writes into the context when it is
        // dropped, such as a cancelled attempt, is in the line.
        #[pin]
        inner: F,
        exchange: Option<Box<Exchange>>,
    }
}

// === impl AccessLogLayer ===

impl AccessLogLayer {
    /// Writes exchanges down with `recorder`, the worker's own.
    pub fn new(recorder: Arc<Recorder>) -> Self {
        Self { recorder }
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLog<S>;

    fn layer(&self, inner: S) -> AccessLog<S> {
        AccessLog { recorder: self.recorder.clone(), inner }
    }
}

// === impl AccessLog ===

impl<S> Service<Request> for AccessLog<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let exchange = Exchange::begin(self.recorder.clone(), request.cx.clone(), &request.parts);
        if !request.body.is_end_stream() {
            request.body.count_received(request.cx.clone());
        }
        ResponseFuture { inner: self.inner.call(request), exchange: Some(exchange) }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.inner.poll(cx));
        if let Some(mut exchange) = this.exchange.take() {
            exchange.set_status(response.status());
            response.body_mut().attach(Guard::Exchange(exchange));
        }
        Poll::Ready(Ok(response))
    }
}
