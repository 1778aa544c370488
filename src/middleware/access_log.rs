//! Follows every exchange to its very end, and records it there.
//!
//! Touches every request. Begins an [`Exchange`], counts the request body as it is read, and hands
//! the exchange to the response body: when that ends, fails or is dropped, the log line and the
//! metrics are written. With traces configured, the request has one valid `traceparent` from here
//! on, and a sampled request becomes spans with the same end. If the future is dropped before there
//! is a response, the client has left: the exchange's drop records 499 `client-closed`, or 503
//! `draining` if the drain cut it off. Never refuses. Costs an allocation for `traceparent` if the
//! client sent none.
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

/// Follows every exchange to its end and records it.
#[derive(Clone, Debug)]
pub struct AccessLog<S> {
    recorder: Arc<Recorder>,
    inner: S,
}

pin_project! {
    /// Holds the exchange until there is a response body to hold it.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // Declared before the exchange, so dropped first: what its drop writes into the context,
        // such as a cancelled attempt, is still in the log line.
        #[pin]
        inner: F,
        exchange: Option<Exchange>,
    }
}

// === impl AccessLogLayer ===

impl AccessLogLayer {
    /// Records exchanges with `recorder`, the worker's own.
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
        let (recorder, cx) = (self.recorder.clone(), request.cx.clone());
        let exchange = Exchange::begin(recorder, cx, &mut request.parts);
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
            if !response.body().is_in_memory() {
                exchange.begin_answer();
            }
            response.body_mut().attach(Guard::Exchange(exchange));
        }
        Poll::Ready(Ok(response))
    }
}

#[cfg(test)]
mod tests {
    use std::{future, time::Duration};

    use http::{Method, StatusCode, Version};
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::service_fn;

    use super::*;
    use crate::{
        http::{Body, Context, Peer, context::Phase, peer::Address},
        telemetry::{
            AccessLogPath, AccessLogSettings,
            access_log::{self, writer::tests::Captured},
            metrics::Metrics,
        },
    };

    struct Setup {
        log: access_log::AccessLog,
        out: Captured,
        layer: AccessLogLayer,
    }

    impl Setup {
        fn new() -> Self {
            let out = Captured::default();
            let log = access_log::AccessLog::start_with(Box::new(out.clone())).unwrap();
            let path = AccessLogPath::File("unused".into());
            let settings = AccessLogSettings { path, sample: 1.0, query: false, hidden: [].into() };
            let cells = Metrics::new().thread();
            let recorder = Recorder::new(&cells, log.sink(&settings, &cells));
            Self { log, out, layer: AccessLogLayer::new(Arc::new(recorder)) }
        }

        fn lines(&self) -> Vec<Value> {
            assert!(self.log.flush(Duration::from_secs(10)));
            self.out.take().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    fn request(body: Body) -> Request {
        let peer = Peer::new(Arc::from("web"), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), Method::POST, Version::HTTP_11);
        let parts = http::Request::post("/a").body(()).unwrap().into_parts().0;
        Request::new(parts, body, cx)
    }

    #[tokio::test]
    async fn the_line_is_written_at_the_end_of_the_body_and_not_before() {
        let setup = Setup::new();
        let inner = service_fn(|request: Request| async move {
            request.body.collect().await.unwrap();
            let mut response = Response::new(Body::full("hello"));
            *response.status_mut() = StatusCode::ACCEPTED;
            Ok(response)
        });
        let mut service = setup.layer.layer(inner);
        let response = service.call(request(Body::full("0123456"))).await.unwrap();
        assert_eq!(setup.lines().len(), 0);
        response.into_body().collect().await.unwrap();
        let lines = setup.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["status"], 202);
        assert_eq!(lines[0]["bytes_in"], 7);
        assert_eq!(lines[0]["bytes_out"], 5);
        assert_eq!(lines[0]["path"], "/a");
    }

    #[tokio::test]
    async fn the_answer_is_under_way_from_its_head_to_the_end_of_its_body() {
        let setup = Setup::new();
        let mut service = setup.layer.layer(service_fn(|_: Request| {
            future::ready(Ok(Response::new(Body::boxed(Body::full("hello")))))
        }));
        let request = request(Body::empty());
        let cx = request.cx.clone();
        let response = service.call(request);
        assert_eq!(cx.phase(), Phase::Asking);
        let response = response.await.unwrap();
        assert_eq!(cx.phase(), Phase::Answering);
        drop(response);
        assert_eq!(cx.phase(), Phase::Answered);
    }

    #[tokio::test]
    async fn nobody_has_to_wait_for_an_answer_in_memory() {
        for body in [Body::empty(), Body::full("hello")] {
            let (setup, mut body) = (Setup::new(), Some(body));
            let mut service = setup.layer.layer(service_fn(|_: Request| {
                future::ready(Ok(Response::new(body.take().unwrap())))
            }));
            let request = request(Body::empty());
            let cx = request.cx.clone();
            let response = service.call(request).await.unwrap();
            assert_eq!(cx.phase(), Phase::Asking);
            drop(response);
            assert_eq!(cx.phase(), Phase::Asking);
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_before_the_answer_is_a_499() {
        let setup = Setup::new();
        let inner = service_fn(|_: Request| future::pending::<Result<Response, Infallible>>());
        let mut service = setup.layer.layer(inner);
        let mut future = Box::pin(service.call(request(Body::empty())));
        assert!(futures_util::poll!(future.as_mut()).is_pending());
        drop(future);
        let lines = setup.lines();
        assert_eq!(lines.len(), 1);
        assert_eq!(lines[0]["status"], 499);
        assert_eq!(lines[0]["reason"], "client-closed");
    }

    #[tokio::test]
    async fn a_request_body_that_nobody_reads_counts_nothing() {
        let setup = Setup::new();
        let inner = service_fn(|_: Request| future::ready(Ok(Response::new(Body::empty()))));
        let mut service = setup.layer.layer(inner);
        drop(service.call(request(Body::full("0123456"))).await.unwrap());
        let lines = setup.lines();
        assert_eq!(lines[0]["bytes_in"], 0);
        assert_eq!(lines[0].get("reason"), None, "an empty body is complete when it is dropped");
    }

    /// The layers of every request, in order, around an edge that refuses.
    #[tokio::test]
    async fn a_refusal_at_the_edge_is_answered_named_and_logged() {
        use crate::middleware::{
            catch_panic::CatchPanicLayer,
            edge::{self, EdgeLayer},
            request_id::RequestIdLayer,
            respond::RespondLayer,
        };
        let setup = Setup::new();
        let inner = service_fn(|_: Request| {
            future::ready(crate::error::Result::Ok(Response::new(Body::empty())))
        });
        let cells = Metrics::new().thread();
        let edge = EdgeLayer::new(edge::Settings::default(), &cells).layer(inner);
        let respond = CatchPanicLayer.layer(RespondLayer.layer(edge));
        let mut stack = RequestIdLayer::new().layer(setup.layer.layer(respond));
        // No Host on HTTP/1.1.
        let response = stack.call(request(Body::empty())).await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.headers()["connection"], "close");
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Value = serde_json::from_slice(&body).unwrap();
        let lines = setup.lines();
        assert_eq!(
            (problem["code"].as_str(), problem["request_id"].as_str()),
            (Some("bad-framing"), Some(&*id))
        );
        assert_eq!(
            (lines.len(), &lines[0]["reason"], &lines[0]["request_id"]),
            (1, &problem["code"], &problem["request_id"])
        );
        assert_eq!(lines[0]["client_ip"], "unix");
    }
}
