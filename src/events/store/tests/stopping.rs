//! Stopping: nothing starts any more, and what is in flight has its time.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, HeaderName, Method, StatusCode};
use tokio::sync::Notify;

use super::*;
use crate::{
    events::{
        queue::{codec::HashKey, log::Purpose},
        request::{Fingerprint, Place, Results, SECRET_BYTES, State, StoredRequest},
        settings::{Format, Push, Target},
    },
    http::sink::{Ending, Parcel, Reply, Sending, Sink},
};

/// Answers when told to.
#[derive(Debug, Default)]
struct Slow {
    sent: AtomicUsize,
    is_free: Notify,
}

impl Sink for Arc<Slow> {
    fn send(&self, _: Parcel) -> Sending {
        let slow = self.clone();
        Box::pin(async move {
            slow.sent.fetch_add(1, Ordering::SeqCst);
            slow.is_free.notified().await;
            let (status, body) = (StatusCode::OK, Bytes::new());
            Ending::Answered(Reply { status, headers: HeaderMap::new(), body, is_whole: true })
        })
    }
}

/// Two subscriptions that send requests, each from its own topic.
pub(super) fn home() -> Home {
    let mut home = Home::new();
    for name in ["a", "b"] {
        home.settings.topics.push(TopicSettings::new(name));
        let mut sending = Subscription::new(name, name);
        sending.from = StartAt::Earliest;
        sending.push = Some(Push {
            target: Target::Upstream("shop".into()),
            format: Format::Structured,
            timeout: Duration::from_secs(15),
            secrets: Vec::new(),
        });
        home.settings.subscriptions.push(sending);
    }
    home
}

async fn open(home: &Home, slow: &Arc<Slow>) -> Store {
    let opened = || async {
        let storage = Arc::new(Real::open(home.dir.path()).unwrap());
        let clock = Arc::new(home.clock.clone());
        let sink = Arc::new(slow.clone());
        Store::open(storage, home.settings.clone(), clock, sink).await.ok()
    };
    until(opened).await
}

pub(super) async fn stored(store: &Store, topic: &str) -> Place {
    stored_until(store, topic, 1_700_086_400_000).await
}

pub(super) async fn stored_until(store: &Store, topic: &str, status_until: u64) -> Place {
    let request = StoredRequest {
        method: Method::POST,
        target: "/orders".parse().unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"1"),
        key: None,
        dedup_key: None,
        route: "take-orders".into(),
        source: "/sluice/test/take-orders".into(),
        principal: Fingerprint::of(&HashKey([7; 16]), ""),
        secret: [1; SECRET_BYTES],
        time: 1_700_000_000_000,
        status_until,
        may_redeliver: false,
        key_field: HeaderName::from_static("idempotency-key"),
    };
    let (target, draft) = (store.targets().named(topic).unwrap(), request.draft());
    let permit = target.permit(Purpose::Publish, draft.encoded_bytes() as u64).unwrap();
    let appended = target.append(permit, vec![draft]).unwrap().await.unwrap();
    Place { topic: target.id(), offset: appended[0].offset }
}

async fn sent(slow: &Slow) {
    until(|| async { (slow.sent.load(Ordering::SeqCst) > 0).then_some(()) }).await;
}

#[tokio::test]
async fn no_subscription_goes_on_while_another_is_waited_for() {
    let (home, slow) = (home(), Arc::default());
    let store = open(&home, &slow).await;
    let place = stored(&store, "a").await;
    sent(&slow).await;
    let others_stop = async {
        for name in ["b", "billing"] {
            let other = store.find_subscription(name).unwrap().subscription;
            until(|| async { other.pins().await.err() }).await;
        }
        slow.is_free.notify_one();
    };
    let (stopped, ()) = tokio::join!(store.shutdown(Duration::from_mins(1)), others_stop);
    stopped.unwrap();
    assert_eq!(Results::status(store.ingress(), place).await.state, State::Succeeded);
}

#[tokio::test]
async fn a_webhook_that_is_on_its_way_is_seen_through_once() {
    let (mut home, slow) = (home(), Arc::default());
    let mut hook = home.settings.subscriptions.remove(1);
    hook.push.as_mut().unwrap().target = Target::Url("http://hooks.test/".parse().unwrap());
    hook.topic = "orders".into();
    home.settings.subscriptions.push(hook);
    let store = open(&home, &slow).await;
    publish(&store, &["a1"]).await;
    sent(&slow).await;
    store.wind_down().await;
    let hook = store.find_subscription("a").unwrap().subscription;
    let others_stop = async {
        let other = store.find_subscription("billing").unwrap().subscription;
        until(|| async { other.pins().await.err() }).await;
        slow.is_free.notify_one();
    };
    let (stopped, ()) = tokio::join!(store.shutdown(Duration::from_mins(1)), others_stop);
    stopped.unwrap();
    drop((store, hook));
    let store = open(&home, &slow).await;
    until(|| async {
        let status = store.subscription("a").await.unwrap();
        (status.lag_events == 0).then_some(())
    })
    .await;
    store.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(slow.sent.load(Ordering::SeqCst), 1, "it was seen, and not sent again");
}

#[tokio::test]
async fn what_is_not_waited_for_may_have_been_seen() {
    let (home, slow) = (home(), Arc::default());
    let store = open(&home, &slow).await;
    let place = stored(&store, "a").await;
    sent(&slow).await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    let store = open(&home, &slow).await;
    assert_eq!(Results::status(store.ingress(), place).await.state, State::Uncertain);
    store.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(slow.sent.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_begins_once_the_end_is_near_and_the_next_life_sends_it() {
    let (home, slow) = (home(), Arc::default());
    let store = open(&home, &slow).await;
    let under_way = stored(&store, "a").await;
    sent(&slow).await;
    store.wind_down().await;
    let late = stored(&store, "b").await;
    publish(&store, &["a1"]).await;
    assert_eq!(take(&store).await.len(), 1, "consumers are served up to the end");
    slow.is_free.notify_one();
    until(|| async {
        let status = Results::status(store.ingress(), under_way).await;
        (status.state == State::Succeeded).then_some(())
    })
    .await;
    // It was scanned, and otherwise would be in flight.
    until(|| async {
        let status = store.subscription("b").await.unwrap();
        (status.partitions.iter().any(|it| it.unsettled > 0)).then_some(())
    })
    .await;
    store.shutdown(Duration::from_mins(1)).await.unwrap();
    assert_eq!(Results::status(store.ingress(), late).await.state, State::Queued);
    assert_eq!(slow.sent.load(Ordering::SeqCst), 1);
    drop(store);
    let store = open(&home, &slow).await;
    until(|| async { (slow.sent.load(Ordering::SeqCst) > 1).then_some(()) }).await;
    slow.is_free.notify_one();
    store.shutdown(Duration::from_mins(1)).await.unwrap();
    assert_eq!(Results::status(store.ingress(), late).await.state, State::Succeeded);
}
