//! Limits the size of a request body, and how slowly it may arrive.
//!
//! Touches every request with a body. If the declared length is over the limit, refuses with 413
//! `body-too-large` before a byte is read; a body that turns out to be larger fails with the same
//! kind while it is read, one that stalls with 408 `client-timeout`. Nothing is allocated here:
//! limit and pace are values in the body, and the timer is made when somebody first has to wait.
//! Sits before everything that may read the body, and before anything expensive.

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

/// `limits` for one route.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The maximum size in bytes; 413 above.
    pub bytes: u64,
    /// How long the client may send nothing while we wait for it; 408 after that.
    pub idle_timeout: Duration,
    /// Minimum bytes per second while we wait, after [`Settings::min_rate_grace`]; 0 is off; 408.
    pub min_rate: u64,
    /// Waiting time to which the rate does not apply.
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
    /// A layer with these settings.
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
        // hyper sets the lower bound from Content-Length, for h1 and h2 alike.
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

#[cfg(test)]
mod tests {
    use http::Method;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::Body,
        middleware::testing::{data, fed, get, read, request},
    };

    async fn echo(request: Request) -> Result<Response, Error> {
        Ok(Response::new(Body::full(read(request.body).await?)))
    }

    fn limit(bytes: u64) -> BodyLimitLayer {
        BodyLimitLayer::new(&Settings { bytes, ..Settings::default() })
    }

    fn post(body: Body) -> Request {
        request(Method::POST, "/", body)
    }

    #[tokio::test]
    async fn what_announces_too_much_is_refused_before_it_is_read() {
        let inner = service_fn(async |_: Request| -> Result<Response, Error> {
            panic!("the rest of the stack was called")
        });
        let refused = limit(3).layer(inner).oneshot(post(Body::full("four"))).await;
        assert!(matches!(refused.unwrap_err().kind(), Kind::BodyTooLarge));
    }

    #[tokio::test]
    async fn what_turns_out_too_large_fails_at_the_frame_that_is_too_much() {
        for (sent, passes) in [("ab", true), ("abc", true), ("abcd", false)] {
            let (feed, body) = fed();
            feed.try_send(data("a")).unwrap();
            feed.try_send(data(&sent.as_bytes()[1..])).unwrap();
            drop(feed);
            let answer = limit(3).layer(service_fn(echo)).oneshot(post(body)).await;
            match answer {
                Ok(response) => {
                    assert!(passes, "{sent} is too long");
                    assert_eq!(read(response.into_body()).await.unwrap(), sent);
                }
                Err(error) => {
                    assert!(!passes, "{sent} is short enough");
                    assert!(matches!(error.kind(), Kind::BodyTooLarge));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stalls_is_timed_out() {
        let (_feed, body) = fed();
        let answer = limit(3).layer(service_fn(echo)).oneshot(post(body)).await;
        assert!(matches!(answer.unwrap_err().kind(), Kind::ClientTimeout));
    }

    #[tokio::test]
    async fn a_request_without_a_body_passes() {
        assert!(limit(0).layer(service_fn(echo)).oneshot(get("/")).await.is_ok());
    }
}
