//! Turns a panic into a 500, so that it costs one request and not a connection.
//!
//! Touches nothing that works. A panic while the request is handled, in `call` or while its future
//! is polled, is logged with its message and answered 500 `internal`; the future is dropped and
//! never polled again. A panic of a response body after its head is hyper's to see: it ends that
//! connection. Costs nothing.
//!
//! Below `access_log`, which is to see the 500; above everything that could panic.

use std::{
    any::Any,
    convert::Infallible,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context as Task, Poll},
};

use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{
        Kind,
        response::{self, Dialect},
    },
    http::{Context, Request, Response},
};

/// Adds [`CatchPanic`].
#[derive(Clone, Copy, Debug, Default)]
pub struct CatchPanicLayer;

/// Turns a panic into a 500.
#[derive(Clone, Debug)]
pub struct CatchPanic<S> {
    inner: S,
}

pin_project! {
    /// Polls the inner future until it panics.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // Empty once it has panicked.
        #[pin]
        inner: Option<F>,
        cx: Context,
    }
}

// === impl CatchPanicLayer ===

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic { inner }
    }
}

// === impl CatchPanic ===

impl<S> Service<Request> for CatchPanic<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let cx = request.cx.clone();
        // Unwind safe: a layer keeps no state of its own between calls that a panic could leave
        // half written; what is shared is atomics and locks that do not poison.
        let called = catch_unwind(AssertUnwindSafe(|| self.inner.call(request)));
        let inner = called.map_err(|panic| log(&cx, &*panic)).ok();
        ResponseFuture { inner, cx }
    }
}

fn log(cx: &Context, panic: &(dyn Any + Send)) {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let request_id = cx.request_id().and_then(|id| id.to_str().ok());
    let route = cx.route().map(|route| &*route.name);
    tracing::error!(request_id, route, panic = message, "a request panicked; this is a bug");
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(inner) = this.inner.as_mut().as_pin_mut() {
            match catch_unwind(AssertUnwindSafe(|| inner.poll(task))) {
                Ok(polled) => return polled,
                Err(panic) => {
                    log(this.cx, &*panic);
                    this.inner.set(None);
                }
            }
        }
        this.cx.set_reason(Kind::Internal.reason());
        Poll::Ready(Ok(response::response(&Kind::Internal, Dialect::Problem, this.cx.request_id())))
    }
}
