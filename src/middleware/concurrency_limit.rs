//! `max_in_flight`: sheds load before anything is paid for.
//!
//! Refuses with 503 `concurrency-full`. A request counts from its call until its response body is
//! over or its future is dropped; a tunnel (101) stops counting with its head. Costs one shared
//! atomic operation each way, no lock, no allocation. The counter is passed in, so that a reload
//! that changes the limit keeps the count. Sits before everything expensive: only there is shedding
//! cheap. (An upstream's own limit is enforced by the balancer, around each attempt.)

use std::{
    future::{self, Future, Ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::future::Either;
use http::StatusCode;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind},
    http::{Next, Request, Response, body::Guard},
    telemetry::in_flight::{Counter, InFlight},
};

/// `routes[].max_in_flight`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Requests in flight, over all workers; 503 above.
    pub max_in_flight: usize,
}

/// Makes [`ConcurrencyLimit`]s.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimitLayer(Option<Limit>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit<S> {
    limit: Option<Limit>,
    inner: S,
}

pin_project! {
    /// The response of an admitted request.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // `None` if there is no limit.
        place: Option<InFlight>,
    }
}

#[derive(Clone, Debug)]
struct Limit {
    max_in_flight: usize,
    /// One `Arc` per worker around the count that all share: see [`Counter`].
    counter: Arc<Counter>,
}

// === impl ConcurrencyLimitLayer ===

impl ConcurrencyLimitLayer {
    /// Limits with the count of `counter`; `None`: no limit. One layer per worker.
    pub fn new(limit: Option<(Settings, Counter)>) -> Self {
        Self(limit.map(|(settings, counter)| Limit {
            max_in_flight: settings.max_in_flight,
            counter: Arc::new(counter),
        }))
    }
}

impl<S> Layer<S> for ConcurrencyLimitLayer {
    type Service = ConcurrencyLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        ConcurrencyLimit { limit: self.0.clone(), inner }
    }
}

// === impl ConcurrencyLimit ===

impl<S: Next> Service<Request> for ConcurrencyLimit<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<ResponseFuture<S::Future>, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let place = match &self.limit {
            None => None,
            Some(limit) => match limit.counter.try_enter(limit.max_in_flight) {
                Some(place) => Some(place),
                None => return Either::Right(future::ready(Err(Kind::ConcurrencyFull.into()))),
            },
        };
        Either::Left(ResponseFuture { inner: self.inner.call(request), place })
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        // Whatever the outcome, the future gives up its place.
        let place = this.place.take();
        if let (Ok(response), Some(place)) = (&mut result, place)
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            response.body_mut().attach(Guard::InFlight(place));
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::Body,
        middleware::testing::{fed, get, read},
    };

    fn limit_of_one() -> (Counter, ConcurrencyLimitLayer) {
        let counter = Counter::default();
        let limit = (Settings { max_in_flight: 1 }, counter.clone());
        (counter, ConcurrencyLimitLayer::new(Some(limit)))
    }

    #[tokio::test]
    async fn a_place_is_held_until_the_response_body_is_over() {
        let (counter, layer) = limit_of_one();
        let inner = service_fn(async |_: Request| Ok(Response::new(Body::full("x"))));
        let limited = layer.layer(inner);

        let response = limited.clone().oneshot(get("/")).await.unwrap();
        assert_eq!(counter.get(), 1);
        let refused = limited.clone().oneshot(get("/")).await.unwrap_err();
        assert!(matches!(refused.kind(), Kind::ConcurrencyFull));

        read(response.into_body()).await.unwrap();
        assert_eq!(counter.get(), 0);
        drop(limited.oneshot(get("/")).await.unwrap());
        assert_eq!(counter.get(), 0, "dropping the body ends it too");
    }

    #[tokio::test]
    async fn a_failure_and_a_cancelled_request_give_their_place_back() {
        let (counter, layer) = limit_of_one();
        let failing = service_fn(async |_: Request| Err::<Response, Error>(Kind::Internal.into()));
        assert!(layer.layer(failing).oneshot(get("/")).await.is_err());
        assert_eq!(counter.get(), 0);

        let hanging = service_fn(|_: Request| future::pending::<Result<Response, Error>>());
        let mut call = Box::pin(layer.layer(hanging).oneshot(get("/")));
        assert!(call.as_mut().now_or_never().is_none());
        assert_eq!(counter.get(), 1);
        drop(call);
        assert_eq!(counter.get(), 0);
    }

    #[tokio::test]
    async fn a_tunnel_is_outside_the_limit() {
        let (counter, layer) = limit_of_one();
        let inner = service_fn(async |_: Request| {
            let mut response = Response::new(fed().1);
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            Ok(response)
        });
        let tunnel = layer.layer(inner).oneshot(get("/")).await.unwrap();
        assert_eq!(counter.get(), 0);
        drop(tunnel);
        assert_eq!(counter.get(), 0);
    }

    #[tokio::test]
    async fn without_a_limit_nothing_is_counted() {
        let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
        assert!(ConcurrencyLimitLayer::new(None).layer(inner).oneshot(get("/")).await.is_ok());
    }
}
