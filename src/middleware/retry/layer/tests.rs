//! The layer over scripted attempts, on paused time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    error::{Kind, Sent},
    http::{
        Body,
        body::{End, Finish, Guard},
        names::X_SLUICE_ATTEMPT,
    },
    middleware::{
        retry::{budget, classify::On},
        testing::{data, fed, read, request},
        timeout::{self, TotalTimeoutLayer},
    },
    telemetry::metrics::Metrics,
};

/// The outcome of an attempt; the number is how many came before it.
type Outcome = fn(u32, Request) -> Result<Response>;

const BUDGET: budget::Settings =
    budget::Settings { ratio: 1.0, window: Duration::from_secs(10), min_per_second: 100 };

struct Rig {
    metrics: Metrics,
    layer: RetryLayer,
}

impl Rig {
    fn new(settings: impl Into<Option<Settings>>, budget: budget::Settings) -> Self {
        let metrics = Metrics::new();
        let cells = metrics.thread();
        let budget = Arc::new(Budget::new(budget, 0, 1));
        let upstream = Upstream::new("orders", budget, || true, &cells);
        Self { metrics, layer: RetryLayer::new(settings.into(), [upstream]) }
    }

    /// Returns the answer and the number of calls of the inner service.
    async fn send(&self, request: Request, outcome: Outcome) -> (Result<Response>, u32) {
        let calls = Arc::new(AtomicU32::new(0));
        let inner = service_fn({
            let calls = calls.clone();
            move |request: Request| {
                let number = calls.fetch_add(1, Ordering::Relaxed);
                let told = request.parts.headers[X_SLUICE_ATTEMPT].to_str().unwrap();
                assert_eq!(told, (number + 1).to_string());
                let outcome = outcome(number, request);
                async move {
                    tokio::task::yield_now().await;
                    outcome
                }
            }
        });
        let sent = self.layer.layer(inner).oneshot(request).await;
        (sent, calls.load(Ordering::Relaxed))
    }

    fn counted(&self, series: &str) -> u64 {
        let rendered = self.metrics.render();
        let line = rendered.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }
}

/// How a body ended: 1 is at its end.
struct Ended(Arc<AtomicU32>);
impl Finish for Ended {
    fn finish(self: Box<Self>, end: End) {
        let is_complete = end == End::Complete;
        self.0.store(if is_complete { 1 } else { 2 }, Ordering::Relaxed);
    }
}

/// Retries every failure, with `attempts`.
fn with_retry(attempts: u32) -> Settings {
    let statuses = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    Settings { attempts, on: On { reset: true, statuses: statuses.into_iter().collect() } }
}

fn post() -> Request {
    request(Method::POST, "/orders", Body::full("order"))
}

fn get() -> Request {
    request(Method::GET, "/orders", Body::empty())
}

fn handed_back(kind: Kind, request: Request) -> Result<Response> {
    Err(Error::new(kind).with_unsent(request))
}

fn answered(status: StatusCode) -> Response {
    let mut response = Response::new(Body::full("busy"));
    *response.status_mut() = status;
    response
}

fn reset(_: u32, request: Request) -> Result<Response> {
    drop(request);
    Err(Kind::UpstreamReset(Sent::MaybeSeen).into())
}

// === Without `retry` ===

#[tokio::test(start_paused = true)]
async fn an_unsafe_request_that_was_handed_back_is_sent_again_as_it_was() {
    let rig = Rig::new(None, BUDGET);
    let (answer, calls) = rig
        .send(post(), |before, request| {
            if before == 0 {
                return handed_back(Kind::UpstreamConnect, request);
            }
            assert_eq!(request.parts.method, Method::POST);
            Ok(Response::new(request.body))
        })
        .await;
    assert_eq!(read(answer.unwrap().into_body()).await.unwrap(), "order");
    assert_eq!(calls, 2);
    let series = "sluice_retries_total{upstream=\"orders\",reason=\"upstream-connect\"}";
    assert_eq!(rig.counted(series), 1);
}

#[tokio::test(start_paused = true)]
async fn without_retry_the_second_failure_is_the_answer() {
    let rig = Rig::new(None, BUDGET);
    let (answer, calls) = rig
        .send(post(), |before, request| {
            let kind = if before == 0 { Kind::UpstreamConnect } else { Kind::UpstreamTls };
            handed_back(kind, request)
        })
        .await;
    assert!(matches!(answer.unwrap_err().kind(), Kind::UpstreamTls));
    assert_eq!(calls, 2);
}

#[tokio::test(start_paused = true)]
async fn without_retry_what_may_have_been_seen_is_never_sent_twice() {
    let contradictory: Outcome =
        |_, request| handed_back(Kind::UpstreamReset(Sent::MaybeSeen), request);
    let busy: Outcome = |_, _| Ok(answered(StatusCode::SERVICE_UNAVAILABLE));
    let kept: Outcome = |_, request| {
        drop(request);
        Err(Kind::UpstreamConnect.into())
    };
    for outcome in [reset, contradictory, busy, kept] {
        for request in [get(), post()] {
            assert_eq!(Rig::new(None, BUDGET).send(request, outcome).await.1, 1);
        }
    }
}

// === With `retry` ===

#[tokio::test(start_paused = true)]
async fn only_safe_methods_are_tried_again_after_what_may_have_been_seen() {
    let failures: [Outcome; 4] = [
        reset,
        |_, request| handed_back(Kind::UpstreamClosedIdle(Sent::MaybeSeen), request),
        |_, _| Err(Kind::UpstreamBadResponse.into()),
        |_, _| Ok(answered(StatusCode::SERVICE_UNAVAILABLE)),
    ];
    for outcome in failures {
        for (method, expected) in [
            ("GET", 3),
            ("HEAD", 3),
            ("OPTIONS", 3),
            ("TRACE", 3),
            ("PUT", 3),
            ("DELETE", 3),
            ("POST", 1),
            ("PATCH", 1),
            ("PROPFIND", 1),
        ] {
            let rig = Rig::new(with_retry(3), BUDGET);
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let (_, calls) = rig.send(request(method.clone(), "/", Body::full("x")), outcome).await;
            assert_eq!(calls, expected, "{method}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_tried_again_whatever_the_method() {
    // Neither request is handed back: the copy is sent.
    for kind in [Kind::UpstreamConnect, Kind::UpstreamReset(Sent::Nothing)] {
        let rig = Rig::new(with_retry(3), BUDGET);
        let inner = service_fn(move |request: Request| {
            let kind = kind.clone();
            async move {
                if request.parts.headers[X_SLUICE_ATTEMPT] == "3" {
                    return Ok(Response::new(request.body));
                }
                Err::<Response, Error>(kind.into())
            }
        });
        let answer = rig.layer.layer(inner).oneshot(post()).await.unwrap();
        assert_eq!(read(answer.into_body()).await.unwrap(), "order");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_asked_for_is_not_tried_again() {
    let on = On { reset: false, statuses: [StatusCode::BAD_GATEWAY].into_iter().collect() };
    let settings = Settings { attempts: 3, on };
    let busy: Outcome = |_, _| Ok(answered(StatusCode::SERVICE_UNAVAILABLE));
    let late: Outcome = |_, _| Err(Kind::UpstreamTimeoutTotal.into());
    for outcome in [reset, busy, late] {
        let rig = Rig::new(settings.clone(), BUDGET);
        assert_eq!(rig.send(get(), outcome).await.1, 1);
    }
    assert_eq!(Rig::new(with_retry(1), BUDGET).send(get(), reset).await.1, 1, "one is no retry");
}

#[tokio::test(start_paused = true)]
async fn the_wait_before_a_retry_has_a_ceiling() {
    for _ in 0..50 {
        let rig = Rig::new(with_retry(3), BUDGET);
        let start = Instant::now();
        assert_eq!(rig.send(get(), reset).await.1, 3);
        assert!(start.elapsed() <= Duration::from_millis(25 + 50 + 4), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_waited_for() {
    let rig = Rig::new(with_retry(2), BUDGET);
    let throttled: Outcome = |before, _| {
        let mut response = answered(StatusCode::TOO_MANY_REQUESTS);
        if before > 0 {
            return Ok(answered(StatusCode::OK));
        }
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(7));
        Ok(response)
    };
    let start = Instant::now();
    // The clock of the answer does not run yet: seven seconds may be too long.
    let (answer, calls) = rig.send(get(), throttled).await;
    assert_eq!((answer.unwrap().status(), calls), (StatusCode::TOO_MANY_REQUESTS, 1));
    assert_eq!(start.elapsed().as_secs(), 0);

    let asked = get();
    asked.cx.set_deadline(start + Duration::from_secs(30));
    let (answer, calls) = rig.send(asked, throttled).await;
    assert_eq!((answer.unwrap().status(), calls), (StatusCode::OK, 2));
    assert_eq!(start.elapsed().as_secs(), 7);
    let series = "sluice_retries_total{upstream=\"orders\",reason=\"429\"}";
    assert_eq!(rig.counted(series), 1);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_begin_before_the_deadline_is_not_begun() {
    let calls = Arc::new(AtomicU32::new(0));
    let inner = service_fn({
        let calls = calls.clone();
        move |_: Request| {
            calls.fetch_add(1, Ordering::Relaxed);
            async {
                sleep(Duration::from_secs(1)).await;
                let mut response = answered(StatusCode::SERVICE_UNAVAILABLE);
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(3));
                Ok::<_, Error>(response)
            }
        }
    });
    let total = Duration::from_secs(4);
    let layer = TotalTimeoutLayer::new(timeout::Settings { total, per_attempt: None });
    let rig = Rig::new(with_retry(2), BUDGET);
    let start = Instant::now();
    let answer = layer.layer(rig.layer.layer(inner)).oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "the upstream's own word");
    assert_eq!(start.elapsed().as_secs(), 1, "and at once");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(read(answer.into_body()).await.unwrap(), "busy");
}

#[tokio::test(start_paused = true)]
async fn an_empty_budget_is_the_reason_and_the_status_stays() {
    let none = budget::Settings { ratio: 0.0, min_per_second: 0, ..BUDGET };
    let rig = Rig::new(with_retry(3), none);
    let asked = get();
    let cx = asked.cx.clone();
    let (answer, calls) = rig.send(asked, reset).await;
    let error = answer.unwrap_err();
    assert_eq!(calls, 1);
    assert_eq!(
        (error.kind().reason(), error.kind().status()),
        ("retry-budget", 502.try_into().unwrap())
    );
    assert_eq!(cx.reason(), None, "that is for `respond` to write");

    let asked = get();
    let cx = asked.cx.clone();
    let (answer, calls) =
        rig.send(asked, |_, _| Ok(answered(StatusCode::SERVICE_UNAVAILABLE))).await;
    assert_eq!((answer.unwrap().status(), calls), (StatusCode::SERVICE_UNAVAILABLE, 1));
    assert_eq!(cx.reason(), Some("retry-budget"));
    assert_eq!(rig.counted("sluice_retry_budget_exhausted_total{upstream=\"orders\"}"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_gets_one_retry_even_on_an_empty_budget() {
    let none = budget::Settings { ratio: 0.0, min_per_second: 0, ..BUDGET };
    let rig = Rig::new(with_retry(5), none);
    let (answer, calls) =
        rig.send(post(), |_, request| handed_back(Kind::UpstreamConnect, request)).await;
    assert_eq!(answer.unwrap_err().kind().reason(), "retry-budget");
    assert_eq!(calls, 2);
}

#[tokio::test(start_paused = true)]
async fn a_fifth_of_the_requests_may_be_tried_again() {
    let share = budget::Settings { ratio: 0.2, min_per_second: 0, ..BUDGET };
    let rig = Rig::new(with_retry(2), share);
    let mut calls = 0;
    for _ in 0..100 {
        calls += rig.send(get(), reset).await.1;
    }
    assert_eq!(calls, 120);
}

// === Bodies ===

#[tokio::test(start_paused = true)]
async fn a_streaming_body_is_sent_again_from_its_copy() {
    let (feed, body) = fed();
    feed.try_send(data("one ")).unwrap();
    let inner = service_fn(move |mut request: Request| {
        let feed = feed.clone();
        async move {
            if request.parts.headers[X_SLUICE_ATTEMPT] == "1" {
                request.body.frame().await.unwrap().unwrap();
                return Err(Error::from(Kind::UpstreamReset(Sent::MaybeSeen)));
            }
            feed.try_send(data("two")).unwrap();
            drop(feed);
            let first = request.body.frame().await.unwrap().unwrap().into_data().unwrap();
            let second = request.body.frame().await.unwrap().unwrap().into_data().unwrap();
            Ok(Response::new(Body::full([first, second].concat())))
        }
    });
    let rig = Rig::new(with_retry(2), BUDGET);
    let put = request(Method::PUT, "/", body);
    let answer = rig.layer.layer(inner).oneshot(put).await.unwrap();
    assert_eq!(read(answer.into_body()).await.unwrap(), "one two");
}

#[tokio::test(start_paused = true)]
async fn a_body_beyond_the_copy_is_not_sent_again_even_if_nothing_left() {
    for kind in [Kind::UpstreamReset(Sent::Nothing), Kind::UpstreamReset(Sent::MaybeSeen)] {
        let (feed, body) = fed();
        feed.try_send(data(vec![0; 64 * 1024 + 1])).unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let inner = service_fn({
            let calls = calls.clone();
            move |mut request: Request| {
                calls.fetch_add(1, Ordering::Relaxed);
                let kind = kind.clone();
                async move {
                    request.body.frame().await.unwrap().unwrap();
                    Err::<Response, Error>(kind.into())
                }
            }
        });
        let rig = Rig::new(with_retry(2), BUDGET);
        let put = request(Method::PUT, "/", body);
        assert!(rig.layer.layer(inner).oneshot(put).await.is_err());
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let budget = "sluice_retry_budget_exhausted_total{upstream=\"orders\"}";
        assert_eq!(rig.counted(budget), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_passed_on_is_read_to_its_end() {
    let (feed, body) = fed();
    feed.try_send(data("busy")).unwrap();
    let over = Arc::new(parking_lot::Mutex::new(Some(body)));
    let seen = Arc::new(AtomicU32::new(0));
    let inner = service_fn({
        let seen = seen.clone();
        move |_: Request| {
            let body = over.lock().take();
            let seen = seen.clone();
            async move {
                let Some(mut body) = body else { return Ok(answered(StatusCode::OK)) };
                body.attach(Guard::Upstream(Box::new(Ended(seen))));
                let mut response = Response::new(body);
                *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                Ok::<_, Error>(response)
            }
        }
    });
    drop(feed);
    let rig = Rig::new(with_retry(2), BUDGET);
    let answer = rig.layer.layer(inner).oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(seen.load(Ordering::Relaxed), 1, "its connection can be used again");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_end_does_not_hold_the_retry_up() {
    let inner = service_fn(async |request: Request| {
        if request.parts.headers[X_SLUICE_ATTEMPT] == "2" {
            return Ok(answered(StatusCode::OK));
        }
        let endless = http_body_util::StreamBody::new(futures_util::stream::repeat_with(|| {
            Ok(data(Bytes::from_static(b"busy")))
        }));
        let mut response = Response::new(Body::boxed(endless));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Ok::<_, Error>(response)
    });
    let rig = Rig::new(with_retry(2), BUDGET);
    let answer = rig.layer.layer(inner).oneshot(get()).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[test]
fn what_another_attempt_is_made_of_takes_a_quarter_kibibyte_of_each_routes_future_at_most() {
    type Plain = std::future::Ready<Result<Response>>;
    #[derive(Clone)]
    struct Inner;
    impl Service<Request> for Inner {
        type Response = Response;
        type Error = Error;
        type Future = Plain;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request) -> Self::Future {
            std::future::ready(Ok(Response::new(Body::empty())))
        }
    }
    assert!(size_of::<ResponseFuture<Inner>>() <= size_of::<Plain>() + 256);
}
