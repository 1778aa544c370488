//! Boxes the future of everything below, so that the layers above move a pointer.
//!
//! Each layer's `call` returns its future by value, inside the future of the layer above. Without
//! this box the attempt with its timers and retries, several hundred bytes, would be copied once
//! per layer. Touches every request for an upstream, changes none. Costs one allocation; a drop
//! cancels what is below.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tower::{Layer, Service};

use crate::{
    error::{Error, Result},
    http::{Next, Request, Response},
};

/// Makes [`OnHeap`].
#[derive(Clone, Copy, Debug)]
pub struct OnHeapLayer;

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct OnHeap<S>(S);

// === impl OnHeapLayer ===

impl<S> Layer<S> for OnHeapLayer {
    type Service = OnHeap<S>;

    fn layer(&self, inner: S) -> Self::Service {
        OnHeap(inner)
    }
}

// === impl OnHeap ===

impl<S: Next> Service<Request> for OnHeap<S> {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<S::Future>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        Box::pin(self.0.call(request))
    }
}
