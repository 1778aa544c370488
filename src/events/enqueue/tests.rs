//! The layers over a whole store, on a modelled disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::Notify;
use tower::{Layer as _, ServiceExt as _, service_fn};
use uuid::Uuid;

use super::{
    EnqueueLayer, Enqueuer, RequestStatusLayer, Requests, Settings, requests::Around,
    settings::When,
};
use crate::{
    error::{Error, Kind, QueueFault, Sent},
    events::{
        Events as _, Settings as StoreSettings, Store,
        queue::{
            Offset, StoreId,
            codec::HashKey,
            pool::Pool,
            storage::model::{Fault, Model, Op},
            time::{ManualClock, Now},
        },
        request::{CREDENTIALS, Place, RequestIds, Results, State, Status, StoredRequest},
        settings::{Disk, Topic},
    },
    http::{
        Body, Context, Next, Outcome, Peer, Principal, Request, Response, Target, held::HeldBodies,
        idempotency::StoredAnswer, peer::Address, selector::Selector, sink::testing::Nowhere,
    },
    telemetry::{metrics::Metrics, task::Spawner},
};

/// Says of every request what a test tells it.
#[derive(Debug, Default)]
struct Told {
    status: Mutex<Option<Status>>,
    rung: Arc<Notify>,
    /// Places that are taken, and for good.
    places: Mutex<(usize, usize)>,
    is_full: AtomicBool,
}

struct World {
    store: Store,
    model: Model,
    requests: Requests,
    told: Arc<Told>,
    tasks: Spawner,
}

// === impl Told ===

impl Told {
    fn tell(&self, state: State, answer: Option<StoredAnswer>) {
        *self.status.lock() = Some(Status { state, attempts: 1, answer });
        self.rung.notify_waiters();
    }
}

impl Results for Told {
    fn status(&self, _: Place) -> BoxFuture<'_, Status> {
        let status = self.status.lock().clone().unwrap_or(Status::QUEUED);
        async move { status }.boxed()
    }

    fn changed(&self, _: Place) -> BoxFuture<'static, ()> {
        self.rung.clone().notified_owned().boxed()
    }

    fn reserve(&self) -> bool {
        let has_place = !self.is_full.load(Relaxed);
        self.places.lock().0 += usize::from(has_place);
        has_place
    }

    fn stored(&self, _: Place, _: u64) {
        self.places.lock().1 += 1;
    }

    fn give_back(&self) {
        self.places.lock().0 -= 1;
    }

    fn is_over(&self, _: Place) -> bool {
        self.status.lock().as_ref().is_some_and(|status| status.state.is_over())
    }
}

// === impl World ===

impl World {
    async fn new() -> Self {
        let model = Model::new();
        let mut settings = StoreSettings::new("");
        settings.disk = Disk { low_water: 0.0, min_free: 0, reserve: 0 };
        settings.topics.push(Topic { max_event_bytes: 1 << 10, ..Topic::new("intake") });
        let clock = Arc::new(ManualClock::at(Now { wall: 1_700_000_000_000, mono: 1_000 }));
        let store =
            Store::open(Arc::new(model.clone()), settings, clock, Arc::new(Nowhere)).await.unwrap();
        let told = Arc::new(Told::default());
        let requests = Requests::new(Around {
            ids: RequestIds::new(StoreId(Uuid::from_u128(1)), b"secret"),
            hash_key: HashKey([7; 16]),
            pool: Pool::new(1).unwrap(),
            topics: store.targets(),
            results: told.clone(),
        });
        Self { store, model, requests, told, tasks: Spawner::new() }
    }

    fn enqueuer(&self, settings: &Settings) -> Arc<Enqueuer> {
        let (requests, tasks) = (self.requests.clone(), self.tasks.clone());
        let changes = |headers: &mut HeaderMap| drop(headers.remove("server"));
        let (tasks, changes) = ((tasks, &Metrics::new().thread()), Box::new(changes));
        Arc::new(Enqueuer::new(settings, ("test", "orders"), requests, tasks, changes))
    }

    async fn send(
        &self,
        settings: Settings,
        request: Request,
        inner: impl Next,
    ) -> Result<Response, Error> {
        let layer = EnqueueLayer::new(Some(self.enqueuer(&settings)));
        layer.layer(inner).oneshot(request).await
    }

    async fn enqueue(&self, request: Request) -> Result<Response, Error> {
        self.send(settings(), request, never()).await
    }

    /// As the route of these settings tells of it.
    async fn ask(&self, path: &str, who: &str, settings: Settings) -> Result<Response, Error> {
        let layer = RequestStatusLayer::new(Some(self.enqueuer(&settings)));
        layer.layer(never()).oneshot(request(Method::GET, path, who, "")).await
    }

    fn stored(&self) -> Vec<StoredRequest> {
        let log = self.store.targets().named("intake").unwrap().log().unwrap();
        let block = log.reader().read(log.start(), 1 << 20).unwrap();
        let read = |(_, record): (Offset, crate::events::queue::codec::Record<'_>)| {
            StoredRequest::read(&record, Bytes::copy_from_slice).unwrap()
        };
        block.records().map(read).collect()
    }
}

fn settings() -> Settings {
    Settings {
        topic: "intake".into(),
        when: When::Always { may_wait: false },
        key: Some(Selector::parse("json:/customer").unwrap()),
        credentials: CREDENTIALS.into(),
        parameters: ["access_token".into()].into(),
        key_field: HeaderName::from_static("idempotency-key"),
        status_ttl: Duration::from_hours(1),
        may_redeliver: false,
    }
}

fn spill() -> Settings {
    Settings { when: When::Unsent, ..settings() }
}

fn request(method: Method, target: &str, who: &str, body: &str) -> Request {
    let peer = Peer::new("test".into(), Address::Unix, Address::Unix);
    let cx = Context::new(Arc::new(peer), method.clone(), http::Version::HTTP_11);
    cx.set_target(Target::parse_str(target).unwrap());
    if !who.is_empty() {
        cx.set_principal(Arc::new(Principal::named(who)));
    }
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = target.parse().unwrap();
    for (name, value) in [
        ("content-type", "application/json"),
        ("authorization", "Bearer secret"),
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("content-length", "999"),
        ("x-kept", "1"),
    ] {
        parts.headers.append(name, HeaderValue::from_static(value));
    }
    Request::new(parts, Body::full(body.to_owned()), cx)
}

const ORDER: &str = r#"{"customer":"c7"}"#;

const OTHER: &str = r#"{"customer":"other"}"#;

fn post(body: &str) -> Request {
    request(Method::POST, "/orders?a=1", "shop:alice", body)
}

fn keyed(key: &'static str, who: &str, body: &str) -> Request {
    let mut request = request(Method::POST, "/orders?a=1", who, body);
    request.parts.headers.insert("idempotency-key", HeaderValue::from_static(key));
    request
}

fn never() -> impl Next {
    service_fn(|_: Request| async { panic!("it was sent") })
}

/// Fails every request, and counts them.
fn failing(kind: Kind, count: Arc<AtomicUsize>) -> impl Next {
    service_fn(move |request: Request| {
        count.fetch_add(1, Relaxed);
        request.cx.begin_attempt("a/b".into(), tokio::time::Instant::now());
        let kind = kind.clone();
        async move { Err(kind.into()) }
    })
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

async fn json(response: Response) -> Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn reason(answer: Result<Response, Error>) -> &'static str {
    answer.map(|response| response.status()).unwrap_err().kind().reason()
}

#[tokio::test]
async fn a_request_is_on_disk_as_it_would_have_been_sent_when_it_is_answered() {
    let world = World::new().await;
    let request = post(ORDER);
    let cx = request.cx.clone();
    let response = world.enqueue(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(cx.reason(), Some("enqueued"));
    let log = world.store.targets().named("intake").unwrap().log().unwrap();
    assert_eq!(log.durable(), Offset(1));
    let all = world.stored();
    let [stored] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((&stored.method, stored.target.as_str()), (&Method::POST, "/orders?a=1"));
    assert_eq!((&*stored.body, stored.key.as_deref()), (ORDER.as_bytes(), Some(&b"c7"[..])));
    let mut fields: Vec<_> = stored.headers.keys().map(HeaderName::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["content-type", "x-kept"], "neither credentials nor framing");
    let body = json(response).await;
    assert_eq!((&body["state"], &body["attempts"]), (&"queued".into(), &0.into()));
}

#[tokio::test]
async fn credentials_are_stored_where_the_route_keeps_them_and_secrets_of_its_own_never() {
    let world = World::new().await;
    let mut request = post(ORDER);
    let mut own = HeaderValue::from_static("of the gateway");
    own.set_sensitive(true);
    request.parts.headers.insert("x-upstream-token", own);
    let settings = Settings { credentials: Box::default(), ..settings() };
    world.send(settings, request, never()).await.unwrap();
    let stored = world.stored().remove(0);
    assert_eq!(stored.headers["authorization"], "Bearer secret");
    assert!(!stored.headers.contains_key("x-upstream-token"));
}

#[tokio::test]
async fn a_token_in_the_query_is_not_stored_and_another_one_makes_no_other_request() {
    let world = World::new().await;
    let send = |target: &str| {
        let mut request = request(Method::POST, target, "shop:alice", ORDER);
        request.parts.headers.insert("idempotency-key", HeaderValue::from_static("k"));
        world.enqueue(request)
    };
    let first = location(&send("/orders?a=%31&access%5Ftoken=old&b").await.unwrap());
    let again = location(&send("/orders?access_token=new&a=%31&b").await.unwrap());
    assert_eq!(first, again);
    for target in ["/only?access_token=t", "/none?access_tokens=1"] {
        let request = request(Method::POST, target, "shop:alice", ORDER);
        world.enqueue(request).await.unwrap();
    }
    let stored = world.stored();
    let targets: Vec<_> = stored.iter().map(|it| it.target.as_str()).collect();
    assert_eq!(targets, ["/orders?a=%31&b", "/only", "/none?access_tokens=1"]);
}

#[tokio::test]
async fn its_status_is_told_to_who_sent_it_and_to_nobody_else() {
    let world = World::new().await;
    let path = location(&world.enqueue(post(ORDER)).await.unwrap());
    let answer = world.ask(&path, "shop:alice", settings()).await.unwrap();
    assert_eq!(
        (answer.status(), &answer.headers()["retry-after"]),
        (StatusCode::OK, &"1".parse().unwrap())
    );
    assert_eq!(json(answer).await["state"], "queued");
    for who in ["shop:bob", ""] {
        assert_eq!(reason(world.ask(&path, who, settings()).await), "route-none", "{who}");
    }
    let last = if path.ends_with('a') { 'b' } else { 'a' };
    let wrong = format!("{}{last}", &path[..path.len() - 1]);
    assert_eq!(reason(world.ask(&wrong, "shop:alice", settings()).await), "route-none");
    let other = RequestIds::new(StoreId(Uuid::from_u128(2)), b"secret");
    let id = world.requests.ids().read(&path["/.sluice/requests/".len()..]).unwrap();
    let path = format!("/.sluice/requests/{}", other.text(&id));
    assert_eq!(reason(world.ask(&path, "shop:alice", settings()).await), "other-instance");
}

#[tokio::test]
async fn after_its_time_a_status_is_gone_for_who_sent_it() {
    let world = World::new().await;
    let brief = Settings { status_ttl: Duration::ZERO, ..settings() };
    let path = location(&world.send(brief, post(ORDER), never()).await.unwrap());
    assert_eq!(reason(world.ask(&path, "shop:alice", settings()).await), "status-gone");
    assert_eq!(reason(world.ask(&path, "shop:bob", settings()).await), "route-none");
}

#[tokio::test]
async fn a_long_poll_ends_with_the_result_and_a_stored_answer_is_changed_as_a_live_one() {
    let world = World::new().await;
    let path = location(&world.enqueue(post(ORDER)).await.unwrap());
    let patient = format!("{path}?wait=20s");
    let mut asked = Box::pin(world.ask(&patient, "shop:alice", settings()));
    assert!(futures_util::poll!(&mut asked).is_pending());
    world.told.tell(State::Running, None);
    let headers = [("server", "mine"), ("x-a", "1"), ("connection", "close")]
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    let body = Some(Bytes::from_static(b"{\"id\":9}"));
    let answer =
        StoredAnswer { status: StatusCode::CREATED, headers: headers.into_iter().collect(), body };
    world.told.tell(State::Succeeded, Some(answer));
    let answer = asked.await.unwrap();
    assert!(!answer.headers().contains_key("retry-after"));
    let told = json(answer).await;
    assert_eq!((&told["state"], &told["attempts"]), (&"succeeded".into(), &1.into()));
    assert_eq!(
        told["answer"],
        serde_json::json!({ "status": 201, "headers": { "x-a": "1" }, "body": "{\"id\":9}" })
    );
    for (wait, expected) in [("wait=x", Some("bad-target")), ("wait=1m", Some("bad-target"))] {
        let answer = world.ask(&format!("{path}?{wait}"), "shop:alice", settings()).await;
        assert_eq!(answer.err().map(|error| error.kind().reason()), expected);
    }
    let posted = request(Method::POST, &path, "shop:alice", "");
    let layer = RequestStatusLayer::new(Some(world.enqueuer(&settings())));
    assert_eq!(reason(layer.layer(never()).oneshot(posted).await), "method-not-allowed");
}

#[tokio::test]
async fn one_key_is_one_request_of_one_sender() {
    let world = World::new().await;
    let first = location(&world.enqueue(keyed("k", "shop:alice", ORDER)).await.unwrap());
    let again = location(&world.enqueue(keyed("k", "shop:alice", ORDER)).await.unwrap());
    assert_eq!(first, again);
    assert_eq!(reason(world.enqueue(keyed("k", "shop:alice", "{}")).await), "idempotency-mismatch");
    let other = location(&world.enqueue(keyed("k", "shop:bob", ORDER)).await.unwrap());
    assert_ne!(first, other);
    assert_eq!(world.stored().len(), 2);
}

#[tokio::test]
async fn without_room_nothing_is_stored() {
    let world = World::new().await;
    let long = "x".repeat(2 << 10);
    assert_eq!(reason(world.enqueue(post(&long)).await), "event-too-large");
    let none = Settings { topic: "none".into(), ..settings() };
    let refused = world.send(none, post(ORDER), never()).await;
    assert_eq!(reason(refused), "queue-unavailable");
    let target = world.store.targets().named("intake").unwrap();
    let purpose = crate::events::queue::log::Purpose::Publish;
    let mut permits = Vec::new();
    while let Ok(permit) = target.permit(purpose, 1 << 20) {
        permits.push(permit);
    }
    while let Ok(permit) = target.permit(purpose, 1) {
        permits.push(permit);
    }
    let error = world.enqueue(post(ORDER)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Queue(QueueFault::Full(_))), "{error}");
    assert!(world.stored().is_empty());
    drop(permits);
    world.model.fail_every(Op::Sync, Fault::Io);
    assert_eq!(reason(world.enqueue(post(ORDER)).await), "queue-unavailable", "nobody is told 202");
}

#[tokio::test]
async fn without_a_place_among_the_results_nothing_is_stored() {
    let world = World::new().await;
    world.told.is_full.store(true, Relaxed);
    let error = world.enqueue(post(ORDER)).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Queue(QueueFault::Full(_))), "{error}");
    assert!(world.stored().is_empty());
    world.told.is_full.store(false, Relaxed);
    for _ in 0..2 {
        world.enqueue(keyed("k", "shop:ann", ORDER)).await.unwrap();
    }
    assert_eq!(*world.told.places.lock(), (1, 1), "the second is the first");
    world.model.fail_every(Op::Sync, Fault::Io);
    assert_eq!(reason(world.enqueue(post(ORDER)).await), "queue-unavailable");
    assert_eq!(*world.told.places.lock(), (1, 1));
}

#[tokio::test]
async fn a_client_that_prefers_to_wait_gets_the_answer_itself() {
    let may_wait = || Settings { when: When::Always { may_wait: true }, ..settings() };
    let patient = || {
        let mut request = post(ORDER);
        request.parts.headers.insert("prefer", HeaderValue::from_static("respond-async, wait=20"));
        request
    };
    let world = World::new().await;
    let not_asked = world.send(settings(), patient(), never()).await.unwrap();
    assert_eq!(not_asked.status(), StatusCode::ACCEPTED, "the route does not offer it");
    assert_eq!(not_asked.headers()["preference-applied"], "respond-async");
    let (room, request) = (HeldBodies::new(100), patient());
    let mut held = room.hold();
    assert!(held.grow_to(100));
    request.cx.hold_body(held);
    let mut waiting = Box::pin(world.send(may_wait(), request, never()));
    let is_kept = async {
        while world.stored().len() < 2 || !room.hold().grow_to(100) {
            assert!(futures_util::poll!(&mut waiting).is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let is_kept = tokio::time::timeout(Duration::from_secs(10), is_kept).await;
    is_kept.expect("it is stored, and while its client waits no body is held for it");
    let headers = HeaderMap::new();
    let answer = StoredAnswer { status: StatusCode::CREATED, headers, body: Some("done".into()) };
    world.told.tell(State::Succeeded, Some(answer));
    let response = waiting.await.unwrap();
    assert_eq!(response.status(), StatusCode::CREATED);
    assert_eq!(response.headers()["preference-applied"], "respond-async, wait=20");
    assert!(response.headers().contains_key("content-location"));
    // What nobody knows the outcome of has no answer, and says so where it can be asked for.
    world.told.tell(State::Uncertain, None);
    let response = world.send(may_wait(), patient(), never()).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    assert_eq!(json(response).await["state"], "uncertain");
}

#[tokio::test]
async fn what_could_not_be_sent_is_spilled_and_what_may_have_been_seen_is_not() {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let refused = failing(Kind::UpstreamConnect, count.clone());
    let request = post(ORDER);
    let cx = request.cx.clone();
    let response = world.send(spill(), request, refused).await.unwrap();
    assert_eq!((response.status(), cx.reason()), (StatusCode::ACCEPTED, Some("spilled")));
    assert!(cx.is_deferred());
    assert_eq!((world.stored().len(), count.load(Relaxed)), (1, 1));
    world.told.tell(State::Succeeded, None);
    for kind in [Kind::UpstreamReset(Sent::MaybeSeen), Kind::UpstreamTimeoutTotal, Kind::Internal] {
        let expected = kind.reason();
        let answer = world.send(spill(), post(ORDER), failing(kind, count.clone())).await;
        assert_eq!(reason(answer), expected);
    }
    let get = request_of(Method::GET);
    let answer = world.send(spill(), get, failing(Kind::UpstreamConnect, count.clone())).await;
    assert_eq!(reason(answer), "upstream-connect", "a question is not asked later");
    assert_eq!(world.stored().len(), 1);
    let ok = service_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
    assert_eq!(world.send(spill(), post(ORDER), ok).await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.stored().len(), 1);
}

fn request_of(method: Method) -> Request {
    request(method, "/orders", "shop:alice", "")
}

#[tokio::test]
async fn while_one_of_its_key_waits_a_request_is_not_sent() {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let refused = || failing(Kind::BreakerOpen(Duration::ZERO), count.clone());
    world.send(spill(), post(ORDER), refused()).await.unwrap();
    let response = world.send(spill(), post(ORDER), never()).await.unwrap();
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    world.send(spill(), post(OTHER), refused()).await.unwrap();
    world.send(spill(), post("{}"), refused()).await.unwrap();
    assert_eq!(count.load(Relaxed), 3, "another key, and none, are sent first");
    world.told.tell(State::Succeeded, None);
    let ok = service_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
    assert_eq!(world.send(spill(), post(ORDER), ok).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_is_stored_already_is_not_sent_when_its_client_comes_again() {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    // Of no order key: all that holds it back is that it is known.
    let again = |body| keyed("k", "shop:alice", body);
    let refused = failing(Kind::UpstreamConnect, count.clone());
    let first = location(&world.send(spill(), again("{}"), refused).await.unwrap());
    let answer = world.send(spill(), again("{}"), never()).await.unwrap();
    assert_eq!((answer.status(), location(&answer)), (StatusCode::ACCEPTED, first.clone()));
    assert_eq!(reason(world.send(spill(), again("[]"), never()).await), "idempotency-mismatch");
    world.told.tell(State::Succeeded, None);
    let answer = world.send(spill(), again("{}"), never()).await.unwrap();
    assert_eq!(location(&answer), first, "when it is done, too");
    assert_eq!(world.stored().len(), 1);
    let ok = service_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
    let other = keyed("k", "shop:bob", "{}");
    assert_eq!(world.send(spill(), other, ok).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn what_finds_neither_an_upstream_nor_room_may_come_again_when_the_queue_says() {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let send = async |settings: Settings, request: Request| {
        let (refused, cx) = (failing(Kind::UpstreamConnect, count.clone()), request.cx.clone());
        let answer = world.send(settings, request, refused).await;
        assert_eq!(Outcome::of(&answer, &cx), Outcome::NotSent);
        let error = answer.unwrap_err();
        (error.kind().reason(), error.kind().retry_after().is_some())
    };
    world.told.is_full.store(true, Relaxed);
    assert_eq!(send(spill(), post(ORDER)).await, ("queue-full", true));
    world.told.is_full.store(false, Relaxed);
    let none = Settings { topic: "none".into(), ..spill() };
    assert_eq!(send(none, post("{}")).await, ("queue-unavailable", true));
    assert_eq!(count.load(Relaxed), 2, "it is sent first");
    let long = "x".repeat(2 << 10);
    let told = send(spill(), post(&long)).await;
    assert_eq!(told, ("upstream-connect", false), "it is too large whenever it comes");
    assert!(world.stored().is_empty());
}

#[tokio::test]
async fn while_its_topic_is_not_there_what_may_have_been_seen_is_told_and_what_has_a_key_is_not_sent()
 {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let none = || Settings { topic: "none".into(), ..spill() };
    let reset = failing(Kind::UpstreamReset(Sent::MaybeSeen), count.clone());
    assert_eq!(reason(world.send(none(), post("{}"), reset).await), "upstream-reset");
    let ok = service_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
    assert_eq!(world.send(none(), post("{}"), ok).await.unwrap().status(), StatusCode::OK);
    for keyed in [post(ORDER), keyed("k", "shop:alice", "{}")] {
        let answer = world.send(none(), keyed, never()).await;
        assert_eq!(reason(answer), "queue-unavailable", "what is stored of its key nobody knows");
    }
}

#[tokio::test]
async fn a_topic_that_is_opened_again_is_taken_to_have_requests_of_every_key() {
    let world = World::new().await;
    let count = Arc::new(AtomicUsize::new(0));
    let refused = || failing(Kind::UpstreamConnect, count.clone());
    let ok = || service_fn(|_: Request| async { Ok(Response::new(Body::empty())) });
    world.model.fail_nth(Op::Sync, 0, Fault::Io);
    let request = post(ORDER);
    let cx = request.cx.clone();
    let unknown = world.send(spill(), request, refused()).await;
    assert_eq!(Outcome::of(&unknown, &cx), Outcome::MaybeSeen, "it is sent later if it is there");
    assert_eq!(reason(unknown), "queue-unavailable");
    for keyed in [post(ORDER), post(OTHER), keyed("k", "shop:alice", "{}")] {
        assert_eq!(reason(world.send(spill(), keyed, never()).await), "queue-unavailable");
    }
    assert_eq!(world.send(spill(), post("{}"), ok()).await.unwrap().status(), StatusCode::OK);
    world.store.reopen("intake").await.unwrap();
    assert_eq!(world.stored().len(), 1, "the one whose sync failed");
    for body in [ORDER, OTHER] {
        let answer = world.send(spill(), post(body), never()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::ACCEPTED);
    }
}

#[tokio::test]
async fn a_request_that_may_be_spilled_comes_to_its_end_without_its_client() {
    let world = World::new().await;
    let go = Arc::new(Notify::new());
    let inner = service_fn({
        let go = go.clone();
        move |_: Request| {
            let go = go.clone();
            async move {
                go.notified().await;
                Err(Kind::UpstreamConnect.into())
            }
        }
    });
    let mut call = Box::pin(world.send(spill(), post(ORDER), inner));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    tokio::task::yield_now().await;
    go.notify_one();
    world.tasks.drained().await;
    assert_eq!(world.stored().len(), 1);
}
