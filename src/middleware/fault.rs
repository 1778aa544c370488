//! `fault`: failures on purpose, to test how clients handle them.
//!
//! Touches requests of routes with `fault` that go to an upstream. A share of them is delayed; a
//! share of the rest is refused with the configured status and `fault-injected`, with nothing sent.
//! Needs `admin.allow_faults`; `/v1/routes` shows where faults are on.
//!
//! Costs up to two random numbers, and a box for a delayed request. Behind everything that refuses
//! for a reason, and outside the deadlines: a delay is the client's to notice, and counts as in
//! flight. If the future is dropped during the delay, nothing was sent.

use std::{
    future::{self, Future, Ready},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http::StatusCode;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind},
    http::{Next, Request, Response},
};

/// `routes[].fault`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The share of requests that are delayed, 0 to 1, and for how long.
    pub delay: Option<(f64, Duration)>,
    /// The share of requests that are refused, 0 to 1, and with which status.
    pub abort: Option<(f64, StatusCode)>,
}

/// Makes [`Fault`]s; without settings they do nothing.
#[derive(Clone, Copy, Debug)]
pub struct FaultLayer(Option<Settings>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Fault<S> {
    settings: Option<Settings>,
    inner: S,
}

type Refused = Ready<Result<Response, Error>>;
type Delayed = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

// === impl Settings ===

impl Settings {
    /// What happens to a request that drew these numbers, uniform from 0 to 1.
    fn draw(&self, delay: f64, abort: f64) -> (Option<Duration>, Option<StatusCode>) {
        let wait = self.delay.filter(|(share, _)| delay < *share).map(|(_, duration)| duration);
        let status = self.abort.filter(|(share, _)| abort < *share).map(|(_, status)| status);
        (wait, status)
    }
}

// === impl FaultLayer ===

impl FaultLayer {
    /// A layer with these settings; `None`: no faults are injected.
    pub fn new(settings: Option<Settings>) -> Self {
        Self(settings)
    }
}

impl<S> Layer<S> for FaultLayer {
    type Service = Fault<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Fault { settings: self.0, inner }
    }
}

// === impl Fault ===

impl<S: Next> Service<Request> for Fault<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Either<Refused, Delayed>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Some(settings) = &self.settings else { return Either::Left(self.inner.call(request)) };
        match settings.draw(fastrand::f64(), fastrand::f64()) {
            (None, None) => Either::Left(self.inner.call(request)),
            (None, Some(status)) => Either::Right(Either::Left(future::ready(refuse(status)))),
            (Some(wait), status) => {
                let mut inner = self.inner.clone();
                let delayed = async move {
                    tokio::time::sleep(wait).await;
                    match status {
                        Some(status) => refuse(status),
                        None => inner.call(request).await,
                    }
                };
                Either::Right(Either::Right(Box::pin(delayed)))
            }
        }
    }
}

fn refuse(status: StatusCode) -> Result<Response, Error> {
    Err(Kind::FaultInjected(status).into())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use tokio::time::Instant;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{http::Body, middleware::testing::get};

    const SECOND: Duration = Duration::from_secs(1);

    async fn called(settings: Option<Settings>) -> (Result<Response, Error>, usize) {
        let calls = Arc::new(AtomicUsize::new(0));
        let inner = {
            let calls = calls.clone();
            service_fn(move |_: Request| {
                calls.fetch_add(1, Ordering::Relaxed);
                future::ready(Ok(Response::new(Body::empty())))
            })
        };
        let answer = FaultLayer::new(settings).layer(inner).oneshot(get("/")).await;
        (answer, calls.load(Ordering::Relaxed))
    }

    #[test]
    fn shares_are_drawn_apart() {
        let settings =
            Settings { delay: Some((0.5, SECOND)), abort: Some((0.1, StatusCode::BAD_GATEWAY)) };
        assert_eq!(settings.draw(0.5, 0.1), (None, None));
        assert_eq!(settings.draw(0.49, 0.1), (Some(SECOND), None));
        assert_eq!(settings.draw(0.5, 0.09), (None, Some(StatusCode::BAD_GATEWAY)));
        assert_eq!(settings.draw(0.0, 0.0), (Some(SECOND), Some(StatusCode::BAD_GATEWAY)));
        let never = Settings { delay: Some((0.0, SECOND)), abort: None };
        assert_eq!(never.draw(0.0, 0.0), (None, None));
        assert_eq!(Settings::default().draw(0.0, 0.0), (None, None));
    }

    #[tokio::test]
    async fn an_aborted_request_is_not_sent() {
        let settings = Settings { delay: None, abort: Some((1.0, StatusCode::BAD_GATEWAY)) };
        let (answer, calls) = called(Some(settings)).await;
        let error = answer.unwrap_err();
        assert_eq!(error.kind().status(), 502);
        assert_eq!(error.kind().reason(), "fault-injected");
        assert_eq!(calls, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_request_is_sent_late() {
        let started = Instant::now();
        let settings = Settings { delay: Some((1.0, SECOND)), abort: None };
        let (answer, calls) = called(Some(settings)).await;
        assert!(answer.is_ok());
        assert_eq!((calls, started.elapsed()), (1, SECOND));

        let started = Instant::now();
        assert!(called(None).await.0.is_ok());
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
