//! Limits the time from a request, or one attempt of it, to the response head.
//!
//! Used twice in the stack: around the retries for all attempts (504 `upstream-timeout-total`), and
//! within them for one attempt (504 `upstream-timeout-try`). The clock starts when the request body
//! has been sent; at once if there is none or it is in memory. How long an upload takes is up to
//! the client, and judged by the body's pace. The clock stops with the response head; the response
//! body has a pace of its own.
//!
//! Costs a reference of the context, and for a streaming body one more, for the guard that reports
//! its end. Registering a timer for each request and removing it again would cost more than most
//! layers, so one is made only when the rest of the stack has to wait and either the deadline is
//! near or nothing else is sure to poll again before it ([`clock::poll_again`]).
//!
//! On timeout everything within is dropped before the error is returned, so that the next attempt
//! finds its place free; dropping the future cancels it as well. The timeout is written to the
//! attempt first, so that its endpoint is blamed. The deadline for all attempts is written to the
//! context, for whoever considers another attempt.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, Sent},
    http::{self as ours, Next, Request, Response, body::Over},
    telemetry::clock,
};

/// `routes[].timeout` and `retry.per_attempt_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the end of the request body to the response head, including all attempts and waits.
    pub total: Duration,
    /// The same for one attempt; `None`: whatever is left of `total`.
    pub per_attempt: Option<Duration>,
}

/// Makes the [`Timeout`] of all attempts.
#[derive(Clone, Copy, Debug)]
pub struct TotalTimeoutLayer(Span);

/// Makes the [`Timeout`] of one attempt.
#[derive(Clone, Copy, Debug)]
pub struct AttemptTimeoutLayer(Option<Span>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Timeout<S> {
    span: Option<Span>,
    inner: S,
}

pin_project! {
    /// The response, or the timeout.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        // `None` after the timeout: the attempt ends with its error, not with this future.
        #[pin]
        inner: Option<F>,
        clock: Option<Clock>,
        // While it is set, the request body is being sent and the clock does not run.
        upload: Option<Over>,
        wait: Wait,
        is_overtime: bool,
    }
}

#[derive(Debug)]
enum Wait {
    /// The clock has not started.
    Not,
    /// So far away that whoever polls us will poll again before.
    Until(Instant),
    /// Boxed, to keep the future small for requests that need no timer.
    Timer(Pin<Box<Sleep>>),
}

#[derive(Clone, Copy, Debug)]
struct Span {
    length: Duration,
    /// How long to wait for a late answer, if the context allows it.
    overtime: Duration,
    is_total: bool,
    error: fn(Duration, &ours::Context) -> Error,
}

/// A span, and the context whose attempts end with it.
#[derive(Debug)]
struct Clock {
    span: Span,
    cx: ours::Context,
}

// === impl TotalTimeoutLayer ===

impl TotalTimeoutLayer {
    /// The layer around the retries.
    pub fn new(settings: Settings) -> Self {
        Self(Span {
            length: settings.total,
            overtime: settings.total,
            is_total: true,
            error: |length, _| {
                Error::new(Kind::UpstreamTimeoutTotal)
                    .with_detail(format!("no response head within {length:?}"))
            },
        })
    }
}

impl<S> Layer<S> for TotalTimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { span: Some(self.0), inner }
    }
}

// === impl AttemptTimeoutLayer ===

impl AttemptTimeoutLayer {
    /// The layer within the retries.
    pub fn new(settings: Settings) -> Self {
        Self(settings.per_attempt.map(|length| Span {
            length,
            overtime: settings.total,
            is_total: false,
            error: |length, cx| {
                // What the upstream has seen is not known here: assume the worse, unless there was
                // no connection to see it on.
                let sent = if cx.is_connecting() { Sent::Nothing } else { Sent::MaybeSeen };
                Error::new(Kind::UpstreamTimeoutTry(sent))
                    .with_detail(format!("no response head within {length:?} of this attempt"))
            },
        }))
    }
}

impl<S> Layer<S> for AttemptTimeoutLayer {
    type Service = Timeout<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Timeout { span: self.0, inner }
    }
}

// === impl Timeout ===

impl<S: Next> Service<Request> for Timeout<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let upload = self.span.and_then(|_| request.body.watch());
        let clock = self.span.map(|span| Clock { span, cx: request.cx.clone() });
        let inner = Some(self.inner.call(request));
        ResponseFuture { inner, clock, upload, wait: Wait::Not, is_overtime: false }
    }
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Pending };
        if let Poll::Ready(result) = inner.poll(cx) {
            return Poll::Ready(result);
        }
        let Some(Clock { span, cx: exchange }) = this.clock else {
            return Poll::Pending;
        };
        if let Some(upload) = this.upload {
            ready!(Pin::new(upload).poll(cx));
            *this.upload = None;
        }
        if matches!(*this.wait, Wait::Not) {
            let end = clock::tick() + span.length;
            if span.is_total {
                exchange.set_deadline(end);
            }
            *this.wait = Wait::Until(end);
        }
        if let Wait::Until(end) = *this.wait {
            if end > clock::tick() + 2 * clock::AGAIN_WITHIN && clock::poll_again() {
                return Poll::Pending;
            }
            *this.wait = Wait::Timer(Box::pin(sleep_until(end)));
        }
        if let Wait::Timer(sleep) = this.wait {
            ready!(sleep.as_mut().poll(cx));
            let runs_on = !*this.is_overtime && may_run_on(*span, exchange);
            if runs_on && exchange.begin_overtime(|| (span.error)(span.length, exchange)) {
                *this.is_overtime = true;
                sleep.as_mut().reset(Instant::now() + span.overtime);
                // Registers for the new end; if that is over already, the next poll notices.
                ready!(sleep.as_mut().poll(cx));
            }
        }
        let error = (span.error)(span.length, exchange);
        exchange.give_up_attempt(error.kind().reason());
        this.inner.set(None);
        Poll::Ready(Err(error))
    }
}

/// Whether a late answer would be of use: some of the request may have left, and it will not be
/// repeated at once.
fn may_run_on(span: Span, exchange: &ours::Context) -> bool {
    let is_sent = !exchange.is_connecting() && !exchange.with_attempts(<[_]>::is_empty);
    let is_repeated = ours::is_repeatable(exchange.method()) || exchange.key_honoured().is_some();
    is_sent && (span.is_total || !is_repeated)
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, sync::Arc};

    use futures_util::{FutureExt, stream};
    use http::Method;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::{advance, sleep};
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::Body,
        middleware::testing::{data, fed, get, request},
        telemetry::task::Spawner,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn settings(total: Duration, per_attempt: Option<Duration>) -> Settings {
        Settings { total, per_attempt }
    }

    /// Reads the request body to its end, then takes `span` to answer.
    fn answering_after(span: Duration) -> impl Next {
        service_fn(move |mut request: Request| async move {
            while let Some(frame) = request.body.frame().await {
                frame?;
            }
            drop(request);
            sleep(span).await;
            Ok(Response::new(Body::empty()))
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_head_is_a_timeout_of_all_attempts() {
        let layer = TotalTimeoutLayer::new(settings(3 * SECOND, None));
        assert!(layer.layer(answering_after(2 * SECOND)).oneshot(get("/")).await.is_ok());

        let start = Instant::now();
        let late = layer.layer(answering_after(4 * SECOND)).oneshot(get("/")).await;
        assert!(matches!(late.unwrap_err().kind(), Kind::UpstreamTimeoutTotal));
        assert_eq!(start.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_end_is_far_it_leaves_it_to_who_polls() {
        let layer = TotalTimeoutLayer::new(settings(30 * SECOND, None));
        let mut late = pin!(layer.layer(answering_after(60 * SECOND)).oneshot(get("/")));
        let start = Instant::now();
        let mut looks = 0;
        let result = loop {
            let poll = |cx: &mut Context<'_>| {
                let poll = clock::Poll::begin();
                let polled = late.as_mut().poll(cx);
                Poll::Ready((polled, poll.again_by()))
            };
            match poll_fn(poll).await {
                (Poll::Ready(result), _) => break result,
                (Poll::Pending, Some(by)) => sleep_until(by).await,
                // Now it has a timer of its own.
                (Poll::Pending, None) => break late.await,
            }
            looks += 1;
        };
        assert!(matches!(result.unwrap_err().kind(), Kind::UpstreamTimeoutTotal));
        assert_eq!((looks, start.elapsed().as_secs()), (28, 30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_head_of_one_attempt_may_mean_that_it_was_seen() {
        let layer = AttemptTimeoutLayer::new(settings(30 * SECOND, Some(SECOND)));
        let late = layer.layer(answering_after(2 * SECOND)).oneshot(get("/")).await;
        let error = late.unwrap_err();
        assert!(matches!(error.kind(), Kind::UpstreamTimeoutTry(Sent::MaybeSeen)));

        let none = AttemptTimeoutLayer::new(settings(SECOND, None));
        assert!(none.layer(answering_after(60 * SECOND)).oneshot(get("/")).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_never_had_a_connection_was_not_sent() {
        let layer = AttemptTimeoutLayer::new(settings(30 * SECOND, Some(SECOND)));
        let inner = service_fn(async |request: Request| {
            request.cx.set_connecting(true);
            sleep(60 * SECOND).await;
            Ok(Response::new(Body::empty()))
        });
        let error = layer.layer(inner).oneshot(get("/")).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::UpstreamTimeoutTry(Sent::Nothing)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_is_over_before_its_failure_is_told() {
        let place = Arc::new(());
        let inner = service_fn({
            let place = place.clone();
            move |_: Request| {
                let place = place.clone();
                async move {
                    sleep(60 * SECOND).await;
                    drop(place);
                    Ok(Response::new(Body::empty()))
                }
            }
        });
        let layer = AttemptTimeoutLayer::new(settings(30 * SECOND, Some(SECOND)));
        let mut service = layer.layer(inner);
        let taken = Arc::strong_count(&place);
        let mut call = Box::pin(service.call(get("/")));
        assert_eq!(Arc::strong_count(&place), taken + 1);
        call.as_mut().await.unwrap_err();
        assert_eq!(Arc::strong_count(&place), taken, "while whoever retries still holds the call");
    }

    #[tokio::test(start_paused = true)]
    async fn the_attempt_is_told_that_its_time_was_up() {
        let asked = get("/");
        let cx = asked.cx.clone();
        let inner = service_fn(async |request: Request| {
            let attempt = request.cx.begin_attempt("a/b".into(), Instant::now());
            sleep(60 * SECOND).await;
            attempt.answered(http::StatusCode::OK, Instant::now());
            Ok(Response::new(Body::empty()))
        });
        let layer = TotalTimeoutLayer::new(settings(SECOND, None));
        layer.layer(inner).oneshot(asked).await.unwrap_err();
        let reason = cx.with_attempts(|attempts| attempts[0].reason);
        assert_eq!(reason, Some("upstream-timeout-total"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_stands_while_the_request_body_is_under_way() {
        let layer = TotalTimeoutLayer::new(settings(3 * SECOND, None));
        let (feed, body) = fed();
        let upload = async move {
            for _ in 0..10 {
                sleep(2 * SECOND).await;
                feed.send(data("x")).await.unwrap();
            }
        };
        let start = Instant::now();
        let call =
            layer.layer(answering_after(4 * SECOND)).oneshot(request(Method::PUT, "/", body));
        let (late, ()) = tokio::join!(call, upload);
        assert!(matches!(late.unwrap_err().kind(), Kind::UpstreamTimeoutTotal));
        assert_eq!(start.elapsed().as_secs(), 20 + 3, "the upload, and then the timeout");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_nobody_reads_on_does_not_stop_the_clock() {
        let layer = TotalTimeoutLayer::new(settings(3 * SECOND, None));
        let (_feed, body) = fed();
        let inner = service_fn(async |request: Request| {
            drop(request);
            sleep(60 * SECOND).await;
            Ok(Response::new(Body::empty()))
        });
        let late = layer.layer(inner).oneshot(request(Method::PUT, "/", body)).await;
        assert!(matches!(late.unwrap_err().kind(), Kind::UpstreamTimeoutTotal));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_answer_is_waited_for_once_more_where_somebody_writes_it_down() {
        let attempting = |span: Duration| {
            service_fn(move |request: Request| async move {
                request.cx.begin_attempt("a/b".into(), Instant::now());
                sleep(span).await;
                Ok(Response::new(Body::empty()))
            })
        };
        for (method, per_attempt, is_late) in [
            (Method::POST, None, true),
            (Method::PUT, None, true),
            (Method::POST, Some(SECOND), true),
            // Its next attempt is just as good.
            (Method::PUT, Some(SECOND), false),
        ] {
            let settings = settings(3 * SECOND, per_attempt);
            let (total, attempt) =
                (TotalTimeoutLayer::new(settings), AttemptTimeoutLayer::new(settings));
            let first = per_attempt.unwrap_or(3 * SECOND);
            for (late, is_answered) in [(2 * SECOND, is_late), (4 * SECOND, false)] {
                let stack = total.layer(attempt.layer(attempting(first + late)));
                let asked = request(method.clone(), "/", Body::empty());
                let cx = asked.cx.clone();
                cx.allow_overtime();
                let start = Instant::now();
                let answer = stack.oneshot(asked).await;
                assert_eq!(answer.is_ok(), is_answered, "{method} {per_attempt:?} {late:?}");
                assert_eq!(cx.take_overtime().is_some(), is_late, "what the client gets meanwhile");
                let span = if is_late { first + late.min(3 * SECOND) } else { first };
                assert_eq!(start.elapsed().as_secs(), span.as_secs());
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_goes_with_work_that_goes_on_by_itself() {
        let inner = service_fn(|_: Request| std::future::pending::<Result<Response, Error>>());
        let (tasks, start) = (Spawner::new(), Instant::now());
        let stack = TotalTimeoutLayer::new(settings(30 * SECOND, None)).layer(inner);
        let mut work = tasks.runs_on("work", stack.oneshot(get("/")));
        {
            // With a promise to be polled again, it makes no timer.
            let poll = clock::Poll::begin();
            assert!(futures_util::poll!(&mut work).is_pending());
            assert!(poll.again_by().is_some());
        }
        drop(work);
        tasks.drained().await;
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_sent_does_not_run_on() {
        let inner = service_fn(async |request: Request| {
            request.cx.begin_attempt("a/b".into(), Instant::now());
            request.cx.set_connecting(true);
            sleep(60 * SECOND).await;
            Ok(Response::new(Body::empty()))
        });
        let asked = get("/");
        asked.cx.allow_overtime();
        let start = Instant::now();
        let layer = TotalTimeoutLayer::new(settings(SECOND, None));
        layer.layer(inner).oneshot(asked).await.unwrap_err();
        assert_eq!(start.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_response_body_may_take_longer() {
        let inner = service_fn(async |_: Request| {
            Ok(Response::new(Body::boxed(StreamBody::new(stream::pending()))))
        });
        let layer = TotalTimeoutLayer::new(settings(SECOND, None));
        let mut response = layer.layer(inner).oneshot(get("/")).await.unwrap();
        advance(60 * SECOND).await;
        assert!(response.body_mut().frame().now_or_never().is_none());
    }
}
