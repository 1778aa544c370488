//! How large and how slow a request body may be.
//!
//! Touches every request with a body. One that announces more than the limit is refused with 413
//! `body-too-large` before a byte of it is read; one that turns out to be larger fails with the same
//! kind while it is read, one that stalls with 408 `client-timeout`. Nothing is allocated here: limit
//! and pace are values in the body, and the pace's timer is made when somebody first has to wait.
//! It sits before everything that may read the body, and before anything is paid for.

use std::{
    future::{self, Ready},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::Either;
use http_body::Body as _;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind},
    http::{Next, Pace, Request, Response},
};

/// `limits` as it holds for one route.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes; 413 above.
    pub bytes: u64,
    /// How long the client may send nothing while we wait for it; 408.
    pub idle_timeout: Duration,
    /// Bytes per second while we wait for it, after [`Settings::min_rate_grace`]; 0 is off; 408.
    pub min_rate: u64,
    /// Waiting that is not judged by the rate.
    pub min_rate_grace: Duration,
}

/// Makes [`BodyLimit`]s.
#[derive(Clone, Debug)]
pub struct BodyLimitLayer {
    bytes: u64,
    pace: Pace,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct BodyLimit<S> {
    bytes: u64,
    pace: Pace,
    inner: S,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            bytes: 10 * 1024 * 1024,
            idle_timeout: Duration::from_secs(30),
            min_rate: 240,
            min_rate_grace: Duration::from_secs(5),
        }
    }
}

// === impl BodyLimitLayer ===

impl BodyLimitLayer {
    /// A layer of these settings.
    pub fn new(settings: &Settings) -> Self {
        let pace = Pace::client(settings.idle_timeout, settings.min_rate, settings.min_rate_grace);
        Self { bytes: settings.bytes, pace }
    }
}

impl<S> Layer<S> for BodyLimitLayer {
    type Service = BodyLimit<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BodyLimit { bytes: self.bytes, pace: self.pace, inner }
    }
}

// === impl BodyLimit ===

impl<S: Next> Service<Request> for BodyLimit<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        // hyper takes the lower bound from Content-Length, for h1 and h2 alike.
        if request.body.size_hint().lower() > self.bytes {
            return Either::Right(future::ready(Err(Kind::BodyTooLarge.into())));
        }
        if !request.body.is_in_memory() {
            request.body.set_limit(self.bytes);
            request.body.set_pace(self.pace);
        }
        Either::Left(self.inner.call(request))
    }
}
