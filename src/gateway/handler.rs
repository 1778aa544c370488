//! The top of a worker's stack, which gets the requests of its connections.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use tower::Service;

use crate::{
    connection::Handle,
    http::{Request, Response},
};

/// The top of the stack. Locked while a request's future is made, which is synchronous. Only this
/// thread takes the lock, so it costs two uncontended atomic operations, less than cloning the
/// layers.
pub(super) struct Handler<S>(Mutex<S>);

pin_project! {
    /// An answer: nothing fails above `respond`.
    pub(super) struct Answer<F> {
        #[pin]
        inner: F,
    }
}

// === impl Handler ===

impl<S> Handler<S> {
    /// Passes requests to `stack`.
    pub(super) fn new(stack: S) -> Self {
        Self(Mutex::new(stack))
    }

    /// Passes requests to `stack` from now on. Returns the old one.
    pub(super) fn replace(&self, stack: S) -> S {
        std::mem::replace(&mut *self.0.lock(), stack)
    }
}

impl<S> Handle for Handler<S>
where
    S: Service<Request, Response = Response, Error = Infallible, Future: Send + 'static>
        + Send
        + 'static,
{
    type Future = Answer<S::Future>;

    fn handle(&self, request: Request) -> Self::Future {
        Answer { inner: self.0.lock().call(request) }
    }
}

// === impl Answer ===

impl<F> Future for Answer<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Response;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        match ready!(self.project().inner.poll(cx)) {
            Ok(response) => Poll::Ready(response),
            Err(never) => match never {},
        }
    }
}
