//! Turns a panic into a 500, so that it costs one request instead of a connection.
//!
//! A panic in `call`, or while the request's future is polled, is logged with its message and
//! answered 500 `internal` in the same form as `respond` would use: without a body for HEAD, with
//! its own status for gRPC. The future is dropped and never polled again. A panic of the response
//! body after the head is left to hyper, which ends the connection. Costs one look at
//! `Content-Type`.
//!
//! Below `access_log`, which must see the 500; above everything that could panic.

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
    error::Kind,
    http::{Context, Request, Response},
    middleware::respond::refuse,
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
        cx.note_dialect(&request.parts.headers);
        // Unwind safe: a layer keeps no state between calls that a panic could leave half written;
        // what is shared is atomics and locks that do not poison.
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
        Poll::Ready(Ok(refuse(&Kind::Internal, this.cx)))
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use http::{
        HeaderValue, Method, Version,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
    };
    use http_body::Body as _;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::http::{Body, Peer, peer::Address};

    fn request() -> Request {
        request_of(Method::GET)
    }

    fn request_of(method: Method) -> Request {
        let peer = Peer::new(Arc::from("web"), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), method, Version::HTTP_11);
        let parts = http::Request::new(()).into_parts().0;
        Request::new(parts, Body::empty(), cx)
    }

    #[tokio::test]
    async fn a_panic_in_call_is_a_500() {
        type Never = future::Ready<Result<Response, Infallible>>;
        let inner = service_fn(|_: Request| -> Never { panic!("in call") });
        let request = request();
        let cx = request.cx.clone();
        let response = CatchPanicLayer.layer(inner).oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(cx.reason(), Some("internal"));
    }

    #[tokio::test]
    async fn a_panic_is_answered_as_its_client_can_read_it() {
        type Never = future::Ready<Result<Response, Infallible>>;
        let inner = service_fn(|_: Request| -> Never { panic!("in call") });
        let head = request_of(Method::HEAD);
        let response = CatchPanicLayer.layer(inner).oneshot(head).await.unwrap();
        assert_eq!(response.status(), 500);
        assert!(response.body().is_end_stream(), "the answer to HEAD has no body");
        assert!(response.headers().contains_key(CONTENT_LENGTH));

        let mut grpc = request_of(Method::POST);
        grpc.parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let response = CatchPanicLayer.layer(inner).oneshot(grpc).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["grpc-status"], "13");
    }

    #[tokio::test]
    async fn a_panic_while_polled_is_a_500_and_drops_the_future() {
        let held = Arc::new(());
        let witness = held.clone();
        let inner = service_fn(move |_: Request| {
            let held = witness.clone();
            async move {
                tokio::task::yield_now().await;
                assert_eq!(Arc::strong_count(&held), 0, "in poll");
                Ok(Response::new(Body::empty()))
            }
        });
        let mut future = Box::pin(CatchPanicLayer.layer(inner).call(request()));
        let response = future.as_mut().await.unwrap();
        assert_eq!(response.status(), 500);
        // Only the test's own: the service's was dropped, and so was that of the panicked future.
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn what_works_is_untouched() {
        let inner = service_fn(|_: Request| future::ready(Ok(Response::new(Body::full("a")))));
        let response = CatchPanicLayer.layer(inner).oneshot(request()).await.unwrap();
        assert_eq!(response.status(), 200);
    }
}
