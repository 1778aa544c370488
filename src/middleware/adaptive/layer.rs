//! The adaptive limit around each attempt.
//!
//! Touches the attempts at upstreams with `adaptive_concurrency`. An attempt beyond the limit waits
//! up to 100 ms for a place, newest first, and is then refused with 503 `shed-overload` and
//! `Retry-After`; nothing was sent, and the error carries the request. A retry waits like a first
//! attempt: for the upstream it is just one more. A shed attempt is not retried, which would only
//! queue it again.
//!
//! An attempt holds its place from its call to its response head, the span its latency is measured
//! over, so a long download keeps nobody out. Answers below 500 are measured. Failures and
//! cancelled attempts are measured only if they took long, because a quick failure says nothing
//! about load. Dropping the future frees the place.
//!
//! Costs two clock readings and a few shared atomic operations; waiting costs a box and a lock.
//! Without a limit it is a look at an `Option`. Inside the deadline of one attempt, so that the
//! wait counts, and around the balancer, because the limit covers the whole upstream.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::future::Either;
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::limiter::Limiter;
use crate::{
    error::{Error, Kind},
    http::{Next, Request, Response},
    telemetry::clock,
};

/// Makes [`Adaptive`]s.
#[derive(Clone, Debug)]
pub struct AdaptiveLayer(Option<Limits>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Adaptive<S> {
    limits: Option<Limits>,
    inner: S,
}

pin_project! {
    /// The response of an attempt that has a place.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // `None` if there is no limit.
        place: Option<Place>,
    }
}

/// One for each upstream of the route, in the order `Context::upstream` counts.
type Limits = Arc<[Option<Arc<Share>>]>;

/// One worker's reference to a limiter: attempts clone an `Arc` of it, not one that all share.
#[derive(Debug)]
struct Share(Arc<Limiter>);

/// Counts one attempt until it is dropped.
#[derive(Debug)]
struct Place {
    share: Arc<Share>,
    started: Instant,
    is_measured: bool,
}

type Waiting = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

// === impl AdaptiveLayer ===

impl AdaptiveLayer {
    /// Applies the limits of the route's upstreams, in its order. One layer per worker.
    pub fn new(limiters: impl IntoIterator<Item = Option<Arc<Limiter>>>) -> Self {
        let share = |limiter| Arc::new(Share(limiter));
        let limits: Limits = limiters.into_iter().map(|limiter| limiter.map(share)).collect();
        Self(limits.iter().any(Option::is_some).then_some(limits))
    }
}

impl<S> Layer<S> for AdaptiveLayer {
    type Service = Adaptive<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Adaptive { limits: self.0.clone(), inner }
    }
}

// === impl Adaptive ===

impl<S: Next> Service<Request> for Adaptive<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<ResponseFuture<S::Future>, Waiting>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let limits = self.limits.as_ref();
        let share = limits.and_then(|limits| limits.get(request.cx.upstream())?.as_ref());
        let Some(share) = share else {
            return Either::Left(ResponseFuture { inner: self.inner.call(request), place: None });
        };
        if share.0.try_enter() {
            let place = Some(Place::new(share.clone()));
            return Either::Left(ResponseFuture { inner: self.inner.call(request), place });
        }
        Either::Right(Box::pin(wait(share.clone(), self.inner.clone(), request)))
    }
}

async fn wait<S: Next>(
    share: Arc<Share>,
    mut inner: S,
    request: Request,
) -> Result<Response, Error> {
    let Some(token) = share.0.wait().await else {
        return Err(Error::new(Kind::ShedOverload).with_unsent(request));
    };
    token.take();
    let mut place = Place::new(share);
    let result = inner.call(request).await;
    place.measure(&result);
    result
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = ready!(this.inner.poll(cx));
        if let Some(mut place) = this.place.take() {
            place.measure(&result);
        }
        Poll::Ready(result)
    }
}

// === impl Place ===

impl Place {
    /// Wraps a place that was just taken.
    fn new(share: Arc<Share>) -> Self {
        Self { share, started: Instant::now(), is_measured: false }
    }

    fn measure(&mut self, result: &Result<Response, Error>) {
        if result.as_ref().is_ok_and(|response| !response.status().is_server_error()) {
            self.is_measured = true;
            let now = Instant::now();
            self.share.0.sample(now - self.started, clock::elapsed(now));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_measured {
            let now = Instant::now();
            self.share.0.sample_if_long(now - self.started, clock::elapsed(now));
        }
        self.share.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use futures_util::FutureExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::Body,
        middleware::{
            adaptive::{Settings, limiter::PATIENCE},
            testing::get,
        },
    };

    fn one() -> (Arc<Limiter>, AdaptiveLayer) {
        let limiter = Arc::new(Limiter::new(Settings { initial: 1, min: 1, max: 1 }));
        (limiter.clone(), AdaptiveLayer::new([Some(limiter)]))
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_beyond_the_limit_waits_and_is_then_shed_unsent() {
        let (limiter, layer) = one();
        let hanging = service_fn(|_: Request| future::pending::<Result<Response, Error>>());
        let mut first = Box::pin(layer.layer(hanging).oneshot(get("/")));
        assert!(first.as_mut().now_or_never().is_none());
        let started = Instant::now();
        let mut error = layer.layer(hanging).oneshot(get("/")).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::ShedOverload));
        assert_eq!(error.kind().status(), 503);
        assert!(error.kind().retry_after().is_some());
        assert!(error.take_unsent().is_some());
        assert_eq!(started.elapsed(), PATIENCE);
        drop(first);
        assert_eq!(limiter.standing().in_flight, 0, "a drop gives the place back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_comes_free_is_taken_by_who_waits() {
        let (limiter, layer) = one();
        let slow = service_fn(async |_: Request| {
            tokio::time::sleep(PATIENCE / 2).await;
            Ok::<_, Error>(Response::new(Body::empty()))
        });
        let both = future::ready(());
        let (first, second) = tokio::join!(
            layer.layer(slow).oneshot(get("/")),
            both.then(|()| layer.layer(slow).oneshot(get("/"))),
        );
        assert!(first.is_ok() && second.is_ok());
        assert_eq!(limiter.standing().in_flight, 0);
    }

    #[tokio::test]
    async fn a_place_ends_with_the_response_head() {
        let (limiter, layer) = one();
        let inner = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::full("x"))));
        let response = layer.layer(inner).oneshot(get("/")).await.unwrap();
        assert_eq!(limiter.standing().in_flight, 0);
        drop(response);
    }

    #[tokio::test]
    async fn each_upstream_has_its_own_limit_and_some_have_none() {
        let (limiter, _) = one();
        let layer = AdaptiveLayer::new([None, Some(limiter.clone())]);
        assert!(limiter.try_enter());
        let inner = service_fn(async |_: Request| Ok::<_, Error>(Response::new(Body::empty())));
        assert!(layer.layer(inner).oneshot(get("/")).await.is_ok(), "the first has none");
        let request = get("/");
        request.cx.set_upstream(1);
        assert!(layer.layer(inner).oneshot(request).await.is_err());
        let none = AdaptiveLayer::new([None]);
        assert!(none.0.is_none());
    }
}
