//! An issuer's keys against a key server that does everything wrong, on a paused clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderMap, StatusCode, header::CACHE_CONTROL};
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    http::fetch::{self, Fetch, FetchError, Fetching, Question},
    middleware::auth::{
        algorithm::Algorithm,
        key_source::{Answer, Missing, View},
    },
    telemetry::metrics::Metrics,
};

const HS256: Algorithm = Algorithm::Hs256;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);

/// A key server whose behaviour changes during the test.
#[derive(Default)]
struct Server {
    behaviour: Mutex<Behaviour>,
    asked: AtomicUsize,
    past_caches: AtomicUsize,
    is_busy: AtomicBool,
}

#[derive(Clone, Default)]
enum Behaviour {
    #[default]
    Down,
    Keys(Vec<String>),
    Slow(Duration, Vec<String>),
    Answers(u16, &'static str, &'static str),
    Hangs,
    TooLarge,
}

impl Server {
    fn set(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    fn serves(&self, kids: &[&str]) {
        self.set(Behaviour::Keys(kids.iter().map(|kid| (*kid).to_owned()).collect()));
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn document(kids: &[String]) -> fetch::Answer {
    let key = |kid: &String| json!({ "kty": "oct", "kid": kid, "k": "c2VjcmV0".repeat(11) });
    let keys: Vec<_> = kids.iter().map(key).collect();
    let body = json!({ "keys": keys }).to_string();
    fetch::Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() }
}

impl Fetch for Server {
    fn fetch(&self, question: Question) -> Fetching<'_> {
        Box::pin(async move {
            assert!(!self.is_busy.swap(true, Ordering::SeqCst), "one fetch at a time");
            self.asked.fetch_add(1, Ordering::SeqCst);
            if question.headers.contains_key(CACHE_CONTROL) {
                self.past_caches.fetch_add(1, Ordering::SeqCst);
            }
            let behaviour = self.behaviour.lock().clone();
            let answer = match behaviour {
                Behaviour::Down => Err(FetchError::Connect("refused".into())),
                Behaviour::TooLarge => Err(FetchError::TooLarge(question.max_bytes)),
                Behaviour::Keys(kids) => Ok(document(&kids)),
                Behaviour::Slow(pause, kids) => {
                    sleep(pause).await;
                    Ok(document(&kids))
                }
                Behaviour::Answers(status, content_type, body) => {
                    let mut headers = HeaderMap::new();
                    headers.insert("content-type", content_type.parse().unwrap());
                    headers.insert("location", "https://evil.example/keys".parse().unwrap());
                    let status = StatusCode::from_u16(status).unwrap();
                    Ok(fetch::Answer { status, headers, body: Bytes::from_static(body.as_bytes()) })
                }
                Behaviour::Hangs => {
                    self.is_busy.store(false, Ordering::SeqCst);
                    std::future::pending().await
                }
            };
            self.is_busy.store(false, Ordering::SeqCst);
            answer
        })
    }
}

struct Rig {
    server: Arc<Server>,
    cache: KeyCache,
    view: View,
    metrics: Metrics,
}

fn rig(prepare: impl FnOnce(&Server)) -> Rig {
    let server = Arc::new(Server::default());
    prepare(&server);
    let metrics = Metrics::new();
    let settings = Settings {
        issuer: "shop".into(),
        source: Source::Url("https://id.example/keys".parse().unwrap()),
        algorithms: Algorithms::HMAC,
        timing: Timing::default(),
        is_required: true,
    };
    let cache = KeyCache::new(settings, server.clone(), &metrics.thread());
    let view = View::new(cache.source());
    Rig { server, cache, view, metrics }
}

impl Rig {
    /// What the layer does for a token with this key: look, wait, look again.
    async fn verify(&self, kid: &str) -> Result<(), Answer> {
        verify(&self.view, kid).await
    }

    fn metric(&self, series: &str) -> f64 {
        self.cache.report();
        let text = self.metrics.render();
        let value = |line: &str| line.strip_prefix(series)?.trim().parse().ok();
        text.lines().find_map(value).unwrap_or(0.0)
    }
}

async fn verify(view: &View, kid: &str) -> Result<(), Answer> {
    let has = || view.with(|set, _| set.is_some_and(|set| set.find(Some(kid), HS256).is_ok()));
    if has() {
        return Ok(());
    }
    let answer = match view.missing(Some(kid)) {
        Missing::Now(answer) => answer,
        Missing::Wait(waiting) => waiting.await,
    };
    if answer == Answer::Published && has() { Ok(()) } else { Err(answer) }
}

/// Everything that is not a usable key set, whatever it claims to be.
fn nonsense() -> Vec<(Behaviour, &'static str)> {
    const JSON: &str = "application/json";
    vec![
        (Behaviour::Down, "connect"),
        (Behaviour::Hangs, "timeout"),
        (Behaviour::TooLarge, "too-large"),
        (Behaviour::Answers(500, JSON, "{}"), "status"),
        (Behaviour::Answers(404, JSON, r#"{"keys":[{"kid":"evil"}]}"#), "status"),
        (Behaviour::Answers(302, JSON, ""), "redirect"),
        (Behaviour::Answers(200, "text/html", "<html>maintenance</html>"), "type"),
        (Behaviour::Answers(200, JSON, r#"{"keys":[{"kid":"ne"#), "invalid"),
        (Behaviour::Answers(200, JSON, "null"), "invalid"),
        (Behaviour::Answers(200, JSON, r#"{"error":"maintenance"}"#), "invalid"),
        (Behaviour::Answers(200, JSON, r#"{"keys":[]}"#), "empty"),
    ]
}

#[tokio::test(start_paused = true)]
async fn a_thousand_requests_at_start_are_one_fetch() {
    let slow = Behaviour::Slow(Duration::from_millis(300), vec!["a".to_owned()]);
    let rig = rig(|server| server.set(slow));
    let verified = join_all((0..1000).map(|_| rig.verify("a"))).await;
    assert!(verified.iter().all(Result::is_ok), "all waited for the one");
    assert_eq!(rig.server.asked(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_unknown_keys_are_one_fetch() {
    let rig = rig(|server| server.serves(&["a"]));
    rig.verify("a").await.unwrap();
    let start = Instant::now();
    let unknown: Vec<_> = (0..1000).map(|number| format!("random-{number}")).collect();
    let verified = join_all(unknown.iter().map(|kid| rig.verify(kid))).await;
    assert!(verified.iter().all(|verified| *verified == Err(Answer::Unknown)));
    assert_eq!(rig.server.asked(), 2, "the first one, and one for all of them");
    assert_eq!(rig.server.past_caches.load(Ordering::SeqCst), 1);
    assert_eq!(start.elapsed(), Duration::ZERO);

    // For ten minutes strangers send new ones all the time.
    for number in 0..600 {
        sleep(SECOND).await;
        let kid = format!("later-{number}");
        assert_eq!(rig.verify(&kid).await, Err(Answer::Unknown));
        rig.verify("a").await.unwrap();
    }
    assert!(rig.server.asked() <= 2 + 20, "{} fetches", rig.server.asked());
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_is_there_at_its_first_token() {
    let rig = rig(|server| server.serves(&["a"]));
    rig.verify("a").await.unwrap();
    rig.server.serves(&["a", "b"]);
    rig.verify("b").await.unwrap();
    assert_eq!(rig.server.asked(), 2);
    rig.verify("a").await.unwrap();

    // A revoked key is refused from the next refresh on, at the latest after an hour.
    rig.server.serves(&["b"]);
    sleep(HOUR).await;
    assert_eq!(rig.verify("a").await, Err(Answer::Unknown));
    rig.verify("b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_key_that_strangers_asked_for_first_is_found_within_the_minute() {
    let rig = rig(|server| server.serves(&["a"]));
    rig.verify("a").await.unwrap();
    assert_eq!(rig.verify("b").await, Err(Answer::Unknown));
    rig.server.serves(&["a", "b"]);
    assert_eq!(rig.verify("b").await, Err(Answer::Unknown), "that was looked for just now");
    sleep(60 * SECOND).await;
    rig.verify("b").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whatever_the_server_does_known_keys_serve_for_a_day() {
    for (behaviour, outcome) in nonsense() {
        let rig = rig(|server| server.serves(&["a"]));
        rig.verify("a").await.unwrap();
        let start = Instant::now();
        rig.server.set(behaviour);
        while start.elapsed() + 60 * SECOND < 24 * HOUR {
            rig.verify("a").await.unwrap();
            // Strangers keep asking meanwhile, and wait no longer than allowed.
            let asked = Instant::now();
            assert_eq!(rig.verify("evil").await, Err(Answer::Unknown), "{outcome}");
            assert!(asked.elapsed() <= Duration::from_millis(501));
            sleep(Duration::from_mins(1)).await;
        }
        let failures = rig
            .metric(&format!("sluice_jwks_fetches_total{{issuer=\"shop\",outcome=\"{outcome}\"}}"));
        assert!((24.0..=2_000.0).contains(&failures), "{outcome}: {failures} fetches in a day");
        assert!(rig.metric("sluice_jwks_age_seconds{issuer=\"shop\"}") > 86_000.0);

        sleep(3 * Duration::from_mins(1)).await;
        assert_eq!(rig.verify("a").await, Err(Answer::Unavailable), "{outcome}: a day is over");
        assert!(rig.metric("sluice_jwks_age_seconds{issuer=\"shop\"}").is_infinite());

        rig.server.serves(&["a"]);
        sleep(Duration::from_mins(2)).await;
        rig.verify("a").await.unwrap();
        assert!(rig.metric("sluice_jwks_age_seconds{issuer=\"shop\"}") < 120.0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_down_at_the_start_is_asked_again_by_itself() {
    let rig = rig(|server| server.set(Behaviour::Down));
    assert!(rig.cache.lack().is_some());
    assert_eq!(rig.verify("a").await, Err(Answer::Unavailable));
    let told = rig.cache.lack().unwrap();
    assert!(told.contains("`shop`") && told.contains("refused"), "{told}");

    // Requests are answered at once, and cause no fetch.
    sleep(10 * SECOND).await;
    let before = rig.server.asked();
    let verified = join_all((0..1000).map(|_| rig.verify("a"))).await;
    assert!(verified.iter().all(|verified| *verified == Err(Answer::Unavailable)));
    assert_eq!(rig.server.asked(), before);

    rig.server.serves(&["a"]);
    sleep(Duration::from_mins(2)).await;
    rig.verify("a").await.unwrap();
    assert_eq!(rig.cache.lack(), None);
    assert!(rig.server.asked() < 12);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_costs_a_request_half_a_second_at_most() {
    let rig = rig(|server| server.set(Behaviour::Slow(3 * SECOND, vec!["a".to_owned()])));
    let start = Instant::now();
    assert_eq!(rig.verify("a").await, Err(Answer::Unavailable));
    assert_eq!(start.elapsed(), Duration::from_millis(500));
    sleep(3 * SECOND).await;
    rig.verify("a").await.unwrap();
    assert_eq!(rig.server.asked(), 1, "the fetch is not the request's: it went on");
}

#[tokio::test(start_paused = true)]
async fn the_same_document_keeps_its_number() {
    let rig = rig(|server| server.serves(&["a"]));
    rig.verify("a").await.unwrap();
    let number = rig.view.changes();
    sleep(2 * HOUR).await;
    assert!(rig.server.asked() > 2);
    assert_eq!(rig.view.changes(), number);
    rig.server.serves(&["a", "b"]);
    sleep(HOUR).await;
    assert_ne!(rig.view.changes(), number);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_cache_asks_nobody_and_its_last_set_stays() {
    let Rig { server, cache, view, .. } = rig(|server| server.serves(&["a"]));
    sleep(SECOND).await;
    drop(cache);
    sleep(5 * HOUR).await;
    assert_eq!(server.asked(), 1);
    assert_eq!(verify(&view, "a").await, Ok(()));
    assert_eq!(verify(&view, "b").await, Err(Answer::Unknown));
}
