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

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use http::Method;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        error::{Kind, Sent},
        http::Body,
        middleware::testing::{read, request},
    };

    /// What an attempt comes to; the number is how many there were before it.
    type Outcome = fn(u32, Request) -> Result<Response, Error>;

    /// Retries with `attempts`; gives the answer and how often the inner service was called.
    async fn tried(attempts: u32, outcome: Outcome) -> (Result<Response, Error>, u32) {
        let calls = Arc::new(AtomicU32::new(0));
        let inner = service_fn({
            let calls = calls.clone();
            move |request: Request| {
                let outcome = outcome(calls.fetch_add(1, Ordering::Relaxed), request);
                async move {
                    tokio::task::yield_now().await;
                    outcome
                }
            }
        });
        let post = request(Method::POST, "/orders", Body::full("order"));
        let retry = RetryLayer::new(Settings { attempts }).layer(inner);
        (retry.oneshot(post).await, calls.load(Ordering::Relaxed))
    }

    fn handed_back(request: Request) -> Result<Response, Error> {
        Err(Error::new(Kind::UpstreamConnect).with_unsent(request))
    }

    #[tokio::test]
    async fn an_unsafe_request_that_was_handed_back_is_sent_again_as_it_was() {
        let (answer, calls) = tried(2, |before, request| {
            if before == 0 {
                return handed_back(request);
            }
            assert_eq!(request.parts.method, Method::POST);
            Ok(Response::new(request.body))
        })
        .await;
        assert_eq!(read(answer.unwrap().into_body()).await.unwrap(), "order");
        assert_eq!(calls, 2);
    }

    #[tokio::test]
    async fn the_last_failure_is_the_answer() {
        let (answer, calls) = tried(3, |before, request| {
            let kind = if before < 2 { Kind::UpstreamConnect } else { Kind::UpstreamTls };
            Err(Error::new(kind).with_unsent(request))
        })
        .await;
        assert!(matches!(answer.unwrap_err().kind(), Kind::UpstreamTls));
        assert_eq!(calls, 3);
    }

    #[tokio::test]
    async fn what_may_have_been_seen_is_never_sent_twice() {
        let maybe_seen: Outcome = |_, request| {
            drop(request);
            Err(Kind::UpstreamReset(Sent::MaybeSeen).into())
        };
        let (answer, calls) = tried(5, maybe_seen).await;
        assert!(matches!(answer.unwrap_err().kind(), Kind::UpstreamReset(Sent::MaybeSeen)));
        assert_eq!(calls, 1);

        let contradictory: Outcome =
            |_, request| Err(Error::new(Kind::UpstreamReset(Sent::MaybeSeen)).with_unsent(request));
        assert_eq!(tried(5, contradictory).await.1, 1, "the kind has the last word");
    }

    #[tokio::test]
    async fn what_was_not_handed_back_cannot_be_sent_again() {
        let kept: Outcome = |_, request| {
            drop(request);
            Err(Kind::UpstreamConnect.into())
        };
        assert_eq!(tried(2, kept).await.1, 1);
    }

    #[tokio::test]
    async fn one_attempt_is_no_retry() {
        let (answer, calls) = tried(1, |_, request| handed_back(request)).await;
        assert!(answer.unwrap_err().take_unsent().is_some(), "the request is still in the error");
        assert_eq!(calls, 1);
    }
}
