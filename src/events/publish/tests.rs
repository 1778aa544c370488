//! The layer over a whole store, on a modelled disk.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use http::{Method, StatusCode};
use parking_lot::Mutex;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{
    PublishLayer, Publisher, Settings,
    settings::{Ack, Data, Mode, OnError, When},
};
use crate::{
    error::{Error, Kind, QueueFault, Sent},
    events::{
        Settings as StoreSettings, Store,
        queue::{
            Offset,
            storage::model::{Fault, Model, Op},
            time::{ManualClock, Now},
        },
        settings::{Disk, Topic},
    },
    http::{
        Body, Context, Next, Peer, Request, Response, Target,
        idempotency::{IdempotencyStore as _, Judgement, Keyed},
        peer::Address,
        sink::testing::Nowhere,
    },
    telemetry::{metrics::Metrics, task::Spawner},
};

struct World {
    store: Store,
    model: Model,
    tasks: Spawner,
    metrics: Metrics,
}

impl World {
    async fn new() -> Self {
        let model = Model::new();
        let mut settings = StoreSettings::new("");
        settings.disk = Disk { low_water: 0.0, min_free: 0, reserve: 0 };
        settings.topics.push(Topic::new("orders"));
        let clock = Arc::new(ManualClock::at(Now { wall: 1_700_000_000_000, mono: 1_000 }));
        let store =
            Store::open(Arc::new(model.clone()), settings, clock, Arc::new(Nowhere)).await.unwrap();
        Self { store, model, tasks: Spawner::new(), metrics: Metrics::new() }
    }

    fn layer(&self, settings: Settings) -> PublishLayer {
        let publisher = Publisher::new(
            &[settings],
            ("test", "orders"),
            (&*self.store.targets(), self.store.ingress()),
            self.tasks.clone(),
            &self.metrics.thread(),
        );
        PublishLayer::new(Some(Arc::new(publisher)))
    }

    async fn send(&self, settings: Settings, inner: impl Next) -> Result<Response, Error> {
        self.layer(settings).layer(inner).oneshot(request()).await
    }

    /// Types of the events there are, once every exchange is over and all is on disk.
    async fn events(&self) -> Vec<String> {
        self.tasks.drained().await;
        let log = self.store.targets().named("orders").unwrap().log().unwrap();
        // Behind it is what nobody waits for.
        if let Ok(room) = log.permit(0) {
            log.append(room, Vec::new()).await.unwrap();
        }
        let block = log.reader().read(log.start(), 1 << 20).unwrap();
        let kind = |(_, record): (Offset, crate::events::queue::codec::Record<'_>)| {
            record.event_type().unwrap().to_owned()
        };
        block.records().map(kind).collect()
    }
}

fn settings() -> Settings {
    Settings {
        topic: "orders".into(),
        kind: "order.created".into(),
        mode: Mode::After,
        when: When::Success,
        ack: Ack::Durable,
        on_error: OnError::Fail,
        key: None,
        is_key_required: false,
        dedup_key: None,
        has_intent: true,
        delay: std::time::Duration::ZERO,
        expires: None,
        data: Data::Request,
        redact: Box::default(),
    }
}

fn request() -> Request {
    let peer = Peer::new("test".into(), Address::Unix, Address::Unix);
    let cx = Context::new(Arc::new(peer), Method::POST, http::Version::HTTP_11);
    cx.set_target(Target::parse_str("/orders").unwrap());
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = Method::POST;
    Request::new(parts, Body::full("{}"), cx)
}

fn ok() -> Response {
    Response::new(Body::empty())
}

#[tokio::test]
async fn nothing_is_sent_before_its_intent_is_on_disk() {
    let world = World::new().await;
    let log = world.store.ingress().log().clone();
    let seen = Arc::new(Mutex::new(None));
    let inner = service_fn({
        let (log, seen) = (log.clone(), seen.clone());
        move |_: Request| {
            *seen.lock() = Some(log.durable());
            async { Ok(ok()) }
        }
    });
    world.send(settings(), inner).await.unwrap();
    assert_eq!(*seen.lock(), Some(Offset(1)), "one record, and it is durable");
    assert_eq!(world.events().await, ["order.created"]);
}

#[tokio::test]
async fn an_answer_that_cannot_be_written_down_is_503_or_counted() {
    for on_error in [OnError::Fail, OnError::Ignore] {
        let world = World::new().await;
        let inner = service_fn({
            let model = world.model.clone();
            move |_: Request| {
                model.fail_every(Op::Sync, Fault::Io);
                async { Ok(ok()) }
            }
        });
        let answer = world.send(Settings { on_error, ..settings() }, inner).await;
        match on_error {
            OnError::Fail => {
                let error = answer.unwrap_err();
                assert!(matches!(error.kind(), Kind::Queue(QueueFault::Unavailable(_))), "{error}");
            }
            OnError::Ignore => {
                assert_eq!(answer.unwrap().status(), StatusCode::OK);
                let series = "reason=\"on-error-ignore\"} 1";
                assert!(world.metrics.render().contains(series));
            }
        }
        world.tasks.drained().await;
        // Neither is the end of it: whichever it was, one of the two is told when the log is back.
        world.model.heal();
        world.store.ingress().log().reopen().unwrap();
        let (ingress, topics) = (world.store.ingress().clone(), world.store.targets());
        let resolved = tokio::task::spawn_blocking(move || ingress.resolve(&*topics)).await;
        resolved.unwrap().unwrap();
        let events = world.events().await;
        assert_eq!(events.len(), 1, "{events:?}");
        assert_eq!(world.store.ingress().status().entries, 0);
    }
}

#[tokio::test]
async fn once_the_disk_has_taken_nothing_nothing_is_sent_until_it_does() {
    let world = World::new().await;
    let sent = Arc::new(AtomicU64::new(0));
    let inner = service_fn({
        let sent = sent.clone();
        move |_: Request| {
            sent.fetch_add(1, Ordering::SeqCst);
            async { Ok(ok()) }
        }
    });
    let settings = Settings { has_intent: false, ..settings() };
    // A quota: the disk has room, and takes nothing.
    for op in [Op::Write, Op::Allocate] {
        world.model.fail_every(op, Fault::NoSpace);
    }
    for _ in 0..20 {
        let error = world.send(settings.clone(), inner.clone()).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::Queue(QueueFault::Disk(_))), "{error}");
    }
    assert_eq!(sent.load(Ordering::SeqCst), 1, "one found it out");
    world.model.heal();
    let is_back = async {
        while world.send(settings.clone(), inner.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_mins(1), is_back).await.unwrap();
    assert_eq!(sent.load(Ordering::SeqCst), 2, "it is not tried with requests");
    assert_eq!(world.events().await, ["order.created"]);
}

fn keyed() -> Keyed {
    Keyed {
        route: "orders".into(),
        principal: "".into(),
        key: "k".into(),
        fingerprint: [7; 32],
        ttl: std::time::Duration::from_hours(1),
        may_resend: false,
    }
}

#[tokio::test]
async fn a_key_is_in_doubt_once_the_time_is_up_whoever_still_waits() {
    for is_there in [true, false] {
        let world = World::new().await;
        let (up, is_up) = tokio::sync::oneshot::channel::<()>();
        let (end, is_over) = tokio::sync::oneshot::channel::<()>();
        let waits = Arc::new(Mutex::new(Some((is_up, is_over))));
        let inner = service_fn({
            let waits = waits.clone();
            move |request: Request| {
                let (is_up, is_over) = waits.lock().take().unwrap();
                async move {
                    request.cx.begin_attempt("a/b".into(), tokio::time::Instant::now());
                    is_up.await.unwrap();
                    assert!(request.cx.begin_overtime(|| Kind::UpstreamTimeoutTotal.into()));
                    is_over.await.unwrap();
                    Ok(ok())
                }
            }
        });
        let (ingress, request) = (world.store.ingress(), request());
        let Judgement::New(rider) = ingress.judge(keyed()).await.unwrap() else { panic!() };
        request.cx.set_rider(rider);
        let mut call = Box::pin(world.layer(settings()).layer(inner).oneshot(request));
        while waits.lock().is_some() {
            assert!(futures_util::poll!(&mut call).is_pending());
            tokio::task::yield_now().await;
        }
        let mut call = is_there.then_some(call);
        up.send(()).unwrap();
        if let Some(call) = &mut call {
            assert!(call.await.is_err(), "the client is told");
        }
        let in_doubt = async {
            while !matches!(ingress.judge(keyed()).await.unwrap(), Judgement::Uncertain) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_mins(1), in_doubt).await.unwrap();
        end.send(()).unwrap();
        assert_eq!(world.events().await, ["order.created"]);
        let late = ingress.judge(keyed()).await.unwrap();
        assert!(matches!(late, Judgement::Done(..)), "{late:?}");
    }
}

#[tokio::test]
async fn a_key_is_held_after_what_may_have_been_seen() {
    let world = World::new().await;
    let keyed = keyed();
    let inner = service_fn(|request: Request| async move {
        request.cx.begin_attempt("a/b".into(), tokio::time::Instant::now());
        Err(Kind::UpstreamReset(Sent::MaybeSeen).into())
    });
    let ingress = world.store.ingress();
    let request = request();
    match ingress.judge(keyed.clone()).await.unwrap() {
        Judgement::New(rider) => request.cx.set_rider(rider),
        other => panic!("{other:?}"),
    }
    let again = ingress.judge(keyed.clone()).await.unwrap();
    assert!(matches!(again, Judgement::Running), "{again:?}");
    let answer = world.layer(settings()).layer(inner).oneshot(request).await;
    assert!(answer.is_err());
    let again = ingress.judge(keyed).await.unwrap();
    assert!(matches!(again, Judgement::Uncertain), "{again:?}");
    assert_eq!(world.events().await, ["order.created.uncertain"]);
    assert_eq!(ingress.uncertain_keys()[0].request.key, "k");
}

#[tokio::test]
async fn without_its_topic_a_route_sends_nothing() {
    let world = World::new().await;
    let inner = service_fn(|_: Request| async { panic!("it was sent") });
    let settings = Settings { topic: "none".into(), ..settings() };
    let error = world.send(settings, inner).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Queue(QueueFault::Unavailable(_))), "{error}");
}

#[tokio::test]
async fn a_panic_below_is_no_silence() {
    let world = World::new().await;
    let inner = service_fn(|request: Request| async move {
        request.cx.begin_attempt("a/b".into(), tokio::time::Instant::now());
        panic!("on purpose");
        #[expect(unreachable_code, reason = "says what the future would give")]
        Ok(ok())
    });
    let error = world.send(settings(), inner).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::Internal), "{error}");
    assert_eq!(world.events().await, ["order.created.uncertain"]);
}

/// Steps are those of the disk and of the upstream together: each is one that somebody may be waiting for.
#[tokio::test]
async fn after_whichever_step_its_client_leaves_an_effect_has_its_word() {
    let routes = [
        settings(),
        Settings { has_intent: false, ..settings() },
        Settings { ack: Ack::Async, ..settings() },
        Settings { mode: Mode::Before, ..settings() },
        Settings { on_error: OnError::Ignore, ..settings() },
    ];
    for (settings, is_seen) in routes.into_iter().flat_map(|it| [(it.clone(), true), (it, false)]) {
        for last in 0.. {
            let world = World::new().await;
            let (stages, effects) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
            let before = world.model.operations();
            let step = || world.model.operations() - before + stages.load(Ordering::SeqCst);
            let inner = service_fn({
                let (stages, effects) = (stages.clone(), effects.clone());
                move |request: Request| {
                    let (stages, effects) = (stages.clone(), effects.clone());
                    async move {
                        request.cx.begin_attempt("a/b".into(), tokio::time::Instant::now());
                        stages.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        effects.fetch_add(1, Ordering::SeqCst);
                        stages.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                        stages.fetch_add(1, Ordering::SeqCst);
                        if is_seen {
                            Ok(ok())
                        } else {
                            Err(Kind::UpstreamReset(Sent::MaybeSeen).into())
                        }
                    }
                }
            });
            let mut call = Box::pin(world.layer(settings.clone()).layer(inner).oneshot(request()));
            let is_answered = loop {
                if step() >= last {
                    break false;
                }
                if futures_util::poll!(&mut call).is_ready() {
                    break true;
                }
                tokio::task::yield_now().await;
            };
            drop(call);
            let events = world.events().await;
            let effects = effects.load(Ordering::SeqCst);
            let case = format!("{:?} {:?}, {is_seen}, step {last}", settings.mode, settings.ack);
            let certain = is_seen || settings.mode == Mode::Before;
            let word = if certain { "order.created" } else { "order.created.uncertain" };
            assert_eq!(events, vec![word; usize::try_from(effects).unwrap()], "{case}");
            assert_eq!(effects, u64::from(last > 0), "{case}: what has begun goes to its end");
            if is_answered {
                assert!(last >= 3, "{case}: at least what the upstream does");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_drops_only_its_wait() {
    let world = World::new().await;
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let gone = Arc::new(Mutex::new(Some(gone)));
    let inner = service_fn(move |_: Request| {
        let gone = gone.lock().take().unwrap();
        async move {
            gone.await.unwrap();
            Ok(ok())
        }
    });
    let mut call = Box::pin(world.layer(settings()).layer(inner).oneshot(request()));
    assert!(futures_util::poll!(&mut call).is_pending());
    drop(call);
    assert_eq!(world.tasks.running(), 1);
    go.send(()).unwrap();
    assert_eq!(world.events().await, ["order.created"]);
}
