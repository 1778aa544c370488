//! Tests of the whole store behind the facade, on the real file system.

mod clock;
mod delays;
mod full_disk;
mod gaps;
mod gone;
mod old_snapshot;
mod places;
mod publishing;
mod stopping;
mod tailing;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::events::{
    event::Event,
    facade::{
        DeadLetterFilter, Events, Leased, Receive, Redrive, Replay, Seek, Start, TokenItem,
        TokenStatus, TopicState, Verb, Which,
    },
    queue::{
        storage::Real,
        time::{ManualClock, Now},
    },
    settings::{Disk, Order, StartAt, Subscription, Topic as TopicSettings},
};
use crate::http::sink::testing::Nowhere;

struct Home {
    dir: TempDir,
    clock: ManualClock,
    settings: Settings,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::new(dir.path());
        // The previous store is closed by its tasks, a moment after it was dropped.
        settings.lock_wait = Duration::from_secs(1);
        settings.disk = Disk { low_water: 0.0, min_free: 0, reserve: 0 };
        settings.topics.push(TopicSettings::new("orders"));
        let mut billing = Subscription::new("billing", "orders");
        billing.from = StartAt::Earliest;
        billing.retry.schedule = vec![Duration::ZERO];
        settings.subscriptions.push(billing);
        let clock = ManualClock::at(Now { wall: 1_700_000_000_000, mono: 1_000_000 });
        Self { dir, clock, settings }
    }

    async fn try_open(&self) -> Result<Store, StoreError> {
        let storage = Arc::new(Real::open(self.dir.path()).unwrap());
        let clock = Arc::new(self.clock.clone());
        Store::open(storage, self.settings.clone(), clock, Arc::new(Nowhere)).await
    }

    async fn open(&self) -> Store {
        self.try_open().await.expect("the store opens")
    }
}

fn event(id: &str) -> Event {
    Event {
        id: id.into(),
        source: "/shop".into(),
        kind: "order.created".into(),
        key: Some(Bytes::copy_from_slice(&id.as_bytes()[..1])),
        data: Bytes::from(format!("data of {id}")),
        ..Event::default()
    }
}

async fn publish(store: &Store, ids: &[&str]) {
    let published = store.publish("orders", ids.iter().map(|id| event(id)).collect()).await;
    assert_eq!(published.unwrap().len(), ids.len());
}

async fn receive(store: &Store, wait: Duration) -> Vec<Leased> {
    let receive = Receive { max_events: 100, max_bytes: 1 << 20, wait, lease: None };
    store.receive("billing", receive).await.unwrap()
}

async fn take(store: &Store) -> Vec<Leased> {
    receive(store, Duration::from_secs(5)).await
}

async fn say(store: &Store, verb: Verb, leased: &Leased) -> TokenStatus {
    let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
    store.settle("billing", verb, vec![item]).await.unwrap()[0].status
}

/// Waits until `look` returns something.
async fn until<T, F: Future<Output = Option<T>>>(look: impl Fn() -> F) -> T {
    for _ in 0..5_000 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it does not come");
}

#[tokio::test]
async fn what_is_published_is_received_and_settled_over_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "b1"]).await;
    let leased = take(&store).await;
    assert_eq!(leased.len(), 2);
    assert_eq!(leased[0].event, event(&leased[0].event.id));
    assert_eq!(say(&store, Verb::Ack, &leased[0]).await, TokenStatus::Ok);
    store.shutdown(Duration::ZERO).await.unwrap();
    assert_eq!(store.publish("orders", vec![event("c1")]).await, Err(Refusal::Draining));
    drop(store);

    let store = home.open().await;
    assert!(receive(&store, Duration::ZERO).await.is_empty(), "leases outlive a restart");
    assert_eq!(say(&store, Verb::Ack, &leased[0]).await, TokenStatus::Settled);
    assert_eq!(say(&store, Verb::Ack, &leased[1]).await, TokenStatus::Ok);
    let status = store.subscription("billing").await.unwrap();
    assert_eq!((status.lag_events, status.in_flight), (0, 0));
    let duplicate = store.publish("orders", vec![event("a1")]).await.unwrap();
    assert!(duplicate[0].duplicate && !duplicate[0].mismatch, "dedup outlives a restart");
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn two_processes_do_not_share_a_directory() {
    let home = Home::new();
    let store = home.open().await;
    assert!(
        home.try_open().await.is_err_and(|error| error.to_string().contains("another process"))
    );
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    until(|| async { home.try_open().await.ok() }).await.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_dead_letter_is_shown_redriven_and_purged() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "b1"]).await;
    for leased in take(&store).await {
        assert_eq!(say(&store, Verb::Reject, &leased).await, TokenStatus::Ok);
    }
    let filter = DeadLetterFilter::default;
    let page = until(|| async {
        let page = store.dead_letters("billing", None, 1, filter()).await.unwrap();
        page.next.is_some().then_some(page)
    });
    let page = page.await;
    let (letter, whole) = store.dead_letter("billing", page.entries[0].id).await.unwrap();
    assert_eq!((&letter, whole), (&page.entries[0], event(&letter.event_id)));
    assert_eq!((letter.attempts, letter.reason.word()), (1, "rejected"));
    let rest = store.dead_letters("billing", page.next, 10, filter()).await.unwrap();
    assert_eq!((rest.entries.len(), rest.next), (1, None));

    let which = Which::Ids(vec![letter.id]);
    let redrive = Redrive { which, rate: None, dry_run: true, force: false };
    let tried = store.redrive("billing", redrive.clone()).await.unwrap();
    assert_eq!((tried.job, tried.matching), (None, 1));
    let redriven = store.redrive("billing", Redrive { dry_run: false, ..redrive }).await.unwrap();
    let again = take(&store).await;
    assert!(again[0].is_replay && again[0].event.id == letter.event_id);
    assert_eq!(say(&store, Verb::Ack, &again[0]).await, TokenStatus::Ok);
    let job = store.job(&redriven.job.unwrap()).await.unwrap();
    assert_eq!((job.delivered, job.total), (1, 1));

    assert!(store.purge("billing", filter(), 2).await.is_err(), "one is left");
    assert_eq!(store.purge("billing", filter(), 1).await, Ok(1));
    assert_eq!(store.subscription("billing").await.unwrap().dead_letters.count, 0);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn events_are_found_by_place_and_id_and_replayed() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "b1", "c1"]).await;
    for leased in take(&store).await {
        say(&store, Verb::Ack, &leased).await;
    }
    let trace = store.event("b1").await.unwrap();
    assert_eq!((trace.events.len(), trace.partial), (1, false));
    let found = &trace.events[0];
    assert_eq!(&*found.states[0].0, "billing");
    let (partition, offset) = (found.stored.partition, found.stored.offset);
    assert_eq!(store.event_at("orders", partition, offset).await.unwrap(), found.stored);
    assert!(store.event_at("orders", partition + 1, offset).await.is_err());
    let replay = Replay {
        subscription: "billing".into(),
        from: Start::Offset(1),
        to: None,
        rate: None,
        publishes: false,
    };
    let job = store.replay("orders", replay).await.unwrap();
    assert_eq!(take(&store).await.len(), 2);
    store.cancel(&job.id).await.unwrap();
    store.seek("billing", Seek::Earliest).await.unwrap();
    assert_eq!(take(&store).await.len(), 3);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_reload_starts_what_is_new_and_keeps_what_is_gone() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1"]).await;
    let mut settings = home.settings.clone();
    settings.topics.push(TopicSettings::new("audit"));
    settings.subscriptions.push(Subscription::new("late", "orders"));
    store.reload(settings.clone()).await.unwrap();
    assert_eq!(store.subscription("late").await.unwrap().lag_events, 0, "from the latest");
    store.publish("audit", vec![event("a1")]).await.unwrap();
    settings.subscriptions.retain(|it| &*it.name != "billing");
    store.reload(settings.clone()).await.unwrap();
    assert!(store.subscription("billing").await.unwrap().is_orphaned);
    settings.subscriptions[0].topic = "audit".into();
    let refused = store.reload(settings.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), "config-invalid");
    settings.dir = "elsewhere".into();
    assert_eq!(store.reload(settings).await.unwrap_err().reason(), "needs-restart");
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    let store = home.open().await;
    assert_eq!(take(&store).await.len(), 1, "it was kept, and is back");
    let audit = store.topic("audit").await.unwrap();
    assert!(audit.is_orphaned && audit.state == TopicState::Serving);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_snapshot_and_the_journal_after_it_are_the_state() {
    let home = Home::new();
    let mut before = None;
    for round in 0..4 {
        let store = home.open().await;
        // Events of the topic after the snapshot are scanned again first.
        until(|| async {
            let status = store.subscription("billing").await.unwrap();
            let seen = (status.in_flight, status.lag_events, status.partitions);
            before.as_ref().is_none_or(|before| *before == seen).then_some(())
        })
        .await;
        // Each with its own key, because a key with an event in flight delivers no other.
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let new = &names[2 * round..2 * round + 2];
        publish(&store, new).await;
        // Events that were given back may come alone.
        let mut leased = Vec::new();
        while leased.len() < new.len() {
            let taken = take(&store).await.into_iter();
            leased.extend(taken.filter(|leased| new.contains(&&*leased.event.id)));
        }
        assert_eq!(say(&store, Verb::Ack, &leased[0]).await, TokenStatus::Ok);
        if round % 2 == 0 {
            store.snapshot().await.unwrap();
            assert_eq!(say(&store, Verb::Nack, &leased[1]).await, TokenStatus::Ok);
        }
        let status = store.subscription("billing").await.unwrap();
        before = Some((status.in_flight, status.lag_events, status.partitions));
        // As a killed process leaves it, except that everything is written.
        let closing = store.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
    }
}
