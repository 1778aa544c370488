//! The border of failure: below it a failure is `Err(Error)`, above it nothing fails.
//!
//! Touches every request. `error::response` turns an error into a response, which gets the route's
//! CORS fields so that a browser may read it; the reason goes to the context, the details to the
//! process's log. Every answer, whoever made it, gets the fields of the rate limits it passed.
//! Answers to HEAD lose their body here. Costs a look at three cells.
//!
//! Above `edge`, whose refusals it answers; below `catch_panic`, which answers for it.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context as Task, Poll, ready},
};

use http::{
    HeaderMap, HeaderValue, Method,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, Result, response},
    http::{
        Body, Context, Next, Request, Response, fields,
        names::{RATELIMIT, RATELIMIT_POLICY},
    },
};

/// Adds [`Respond`].
#[derive(Clone, Copy, Debug, Default)]
pub struct RespondLayer;

/// Turns errors into responses.
#[derive(Clone, Debug)]
pub struct Respond<S> {
    inner: S,
}

pin_project! {
    /// Waits for a response or an error.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        cx: Context,
    }
}

// === impl RespondLayer ===

impl<S> Layer<S> for RespondLayer {
    type Service = Respond<S>;

    fn layer(&self, inner: S) -> Respond<S> {
        Respond { inner }
    }
}

// === impl Respond ===

impl<S: Next> Service<Request> for Respond<S> {
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let cx = request.cx.clone();
        cx.note_dialect(&request.parts.headers);
        ResponseFuture { inner: self.inner.call(request), cx }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response>>,
{
    type Output = std::result::Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = match ready!(this.inner.poll(task)) {
            Ok(response) => response,
            Err(error) => {
                log(&error, this.cx);
                return Poll::Ready(Ok(refuse(error.kind(), this.cx)));
            }
        };
        tell_limits(this.cx, response.headers_mut());
        if *this.cx.method() == Method::HEAD {
            remove_body(&mut response);
        }
        Poll::Ready(Ok(response))
    }
}

fn log(error: &Error, cx: &Context) {
    let id = cx.request_id().and_then(|id| id.to_str().ok());
    if matches!(error.kind(), Kind::Internal) {
        tracing::error!(request_id = id, %error, "a request failed inside the gateway");
    } else {
        // The access log has the reason of every failure; this has the details.
        tracing::debug!(request_id = id, %error, "a request failed");
    }
}

/// The complete answer to a request that failed with `kind`, in a form its client can read; sets
/// the reason in the context.
pub(super) fn refuse(kind: &Kind, cx: &Context) -> Response {
    cx.set_reason(kind.reason());
    let mut response = response::response(kind, cx.dialect(), cx.request_id());
    if let Some(cors) = cx.cors() {
        response.headers_mut().extend(cors.clone());
    }
    tell_limits(cx, response.headers_mut());
    if *cx.method() == Method::HEAD {
        remove_body(&mut response);
    }
    if *cx.method() == Method::CONNECT {
        // What follows may be meant for a tunnel that the client assumes, and is no request.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Adds the rate limit fields of the request, besides any that the upstream sent.
fn tell_limits(cx: &Context, headers: &mut HeaderMap) {
    for fields in cx.rate_limits() {
        fields::add(headers, RATELIMIT_POLICY, fields.policy());
        fields::add(headers, RATELIMIT, fields.state());
    }
}

/// An answer to HEAD states how long the body would be and has none (RFC 9110, 9.3.2).
fn remove_body(response: &mut Response) {
    if response.body().is_end_stream() {
        return;
    }
    let length = response.body().size_hint().exact();
    let mut body = std::mem::replace(response.body_mut(), Body::empty());
    response.body_mut().take_guards(&mut body);
    let headers = response.headers_mut();
    let has_length =
        headers.contains_key(CONTENT_LENGTH) || headers.contains_key(TRANSFER_ENCODING);
    if let Some(length) = length.filter(|_| !has_length) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
}

#[cfg(test)]
mod tests {
    use std::{future, sync::Arc};

    use http::{
        HeaderMap, StatusCode, Version,
        header::{ACCESS_CONTROL_ALLOW_ORIGIN, CONTENT_TYPE},
    };
    use http_body_util::BodyExt;
    use parking_lot::Mutex;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::{Peer, body::Guard, peer::Address},
        telemetry::in_flight::Counter,
    };

    fn request(method: Method, content_type: &'static str) -> Request {
        let peer = Peer::new(Arc::from("web"), Address::Unix, Address::Unix);
        let cx = Context::new(Arc::new(peer), method.clone(), Version::HTTP_11);
        let builder = http::Request::builder().method(method).header(CONTENT_TYPE, content_type);
        Request::new(builder.body(()).unwrap().into_parts().0, Body::empty(), cx)
    }

    async fn refused(request: Request) -> Response {
        let inner = service_fn(|_: Request| {
            let error = Error::new(Kind::UpstreamConnect).with_detail("10.0.0.1:9001 refused");
            future::ready(Err(error))
        });
        RespondLayer.layer(inner).oneshot(request).await.unwrap()
    }

    #[tokio::test]
    async fn an_error_becomes_its_response_and_the_log_its_reason() {
        let request = request(Method::GET, "text/plain");
        let cx = request.cx.clone();
        let response = refused(request).await;
        assert_eq!(response.status(), 502);
        assert_eq!(cx.reason(), Some("upstream-connect"));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = str::from_utf8(&body).unwrap();
        assert!(body.contains("upstream-connect"));
        assert!(!body.contains("10.0.0.1"), "a client never sees an upstream's address");
    }

    #[tokio::test]
    async fn a_refusal_has_the_cors_fields_of_its_route() {
        let request = request(Method::GET, "text/plain");
        let mut cors = HeaderMap::new();
        cors.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("https://a.example"));
        request.cx.set_cors(cors);
        let response = refused(request).await;
        assert_eq!(response.headers()[ACCESS_CONTROL_ALLOW_ORIGIN], "https://a.example");
    }

    #[tokio::test]
    async fn a_grpc_client_gets_a_grpc_status() {
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc;a=b"] {
            let response = refused(request(Method::POST, content_type)).await;
            assert_eq!(response.status(), StatusCode::OK);
            assert_eq!(response.headers()["grpc-status"], "14");
        }
        let response = refused(request(Method::POST, "application/grpc-web")).await;
        assert_eq!(response.status(), 502);
    }

    #[tokio::test]
    async fn the_answer_to_head_has_no_body_but_its_length() {
        let refused = refused(request(Method::HEAD, "text/plain")).await;
        assert!(refused.body().is_end_stream());
        let length: u64 = refused.headers()[CONTENT_LENGTH].to_str().unwrap().parse().unwrap();
        assert!(length > 50);

        let inner = service_fn(|_: Request| future::ready(Ok(Response::new(Body::full("hello")))));
        let request = request(Method::HEAD, "text/plain");
        let answered = RespondLayer.layer(inner).oneshot(request).await.unwrap();
        assert!(answered.body().is_end_stream());
        assert_eq!(answered.headers()[CONTENT_LENGTH], "5");
    }

    #[tokio::test]
    async fn what_hangs_on_the_body_of_an_answer_to_head_goes_on() {
        let running = Arc::new(Counter::default());
        let guard = Arc::new(Mutex::new(Some(running.enter())));
        let inner = service_fn(move |_: Request| {
            let mut body = Body::full("hello");
            body.attach(Guard::InFlight(guard.lock().take().unwrap()));
            future::ready(Ok(Response::new(body)))
        });
        let request = request(Method::HEAD, "text/plain");
        let response = RespondLayer.layer(inner).oneshot(request).await.unwrap();
        assert_eq!(running.get(), 1);
        drop(response);
        assert_eq!(running.get(), 0);
    }

    #[tokio::test]
    async fn other_answers_keep_their_body() {
        let inner = service_fn(|_: Request| future::ready(Ok(Response::new(Body::full("hello")))));
        let request = request(Method::GET, "text/plain");
        let response = RespondLayer.layer(inner).oneshot(request).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
}
