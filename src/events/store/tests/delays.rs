//! Delayed events: not before they are due, once, across restarts, and within the limit.

use super::*;
use crate::events::{
    facade::Published,
    queue::{
        log::{Purpose, Reason},
        storage::model::{Fault, Model, Op},
        time::Clock as _,
    },
};

const MINUTE: u64 = 60_000;

impl Home {
    fn wall(&self) -> u64 {
        self.clock.now().wall
    }

    /// An event that is due in this many milliseconds.
    fn due_in(&self, id: &str, millis: u64) -> Event {
        Event { not_before: Some(self.wall() + millis), ..event(id) }
    }
}

async fn delay(store: &Store, event: Event) -> Published {
    let published = store.publish("orders", vec![event]).await.unwrap();
    published.into_iter().next().unwrap()
}

/// Receives and settles events until there are `count`.
async fn drained(store: &Store, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        for leased in take(store).await {
            say(store, Verb::Ack, &leased).await;
            ids.push(leased.event.id);
        }
    }
    ids
}

#[tokio::test]
async fn an_event_waits_for_its_time_over_a_restart_and_is_there_once() {
    let home = Home::new();
    let store = home.open().await;
    assert!(
        !home
            .dir
            .path()
            .join("topics")
            .read_dir()
            .unwrap()
            .any(|topic| { topic.unwrap().path().join("delayed").exists() })
    );
    let published = delay(&store, home.due_in("late", MINUTE)).await;
    assert!(published.is_delayed && published.id == "late");
    let past = Event { not_before: Some(home.wall()), ..event("past") };
    assert!(!delay(&store, past).await.is_delayed, "it is due");
    assert_eq!(drained(&store, 1).await, ["past"]);
    let status = store.topic("orders").await.unwrap();
    assert_eq!((status.delayed, status.events), (1, 1));
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    let store = home.open().await;
    assert_eq!(store.topic("orders").await.unwrap().delayed, 1);
    home.clock.advance(MINUTE - 1);
    publish(&store, &["now"]).await;
    assert_eq!(drained(&store, 1).await, ["now"], "it is not due");
    home.clock.advance(1);
    let leased = take(&store).await;
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].event.id, "late");
    assert_eq!(say(&store, Verb::Ack, &leased[0]).await, TokenStatus::Ok);
    until(|| async { (store.topic("orders").await.unwrap().delayed == 0).then_some(()) }).await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    let store = home.open().await;
    home.clock.advance(MINUTE);
    publish(&store, &["last"]).await;
    assert_eq!(drained(&store, 1).await, ["last"], "it does not come again");
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_waits_holds_no_window_of_duplicates_and_is_one_when_it_is_due() {
    let home = Home::new();
    let store = home.open().await;
    let keyed = |id: &str, key: &'static str| Event {
        dedup_key: Some(Bytes::from_static(key.as_bytes())),
        ..event(id)
    };
    let later = |event: Event| Event { not_before: Some(home.wall() + MINUTE), ..event };
    // Published while another of its key is delayed: it reaches the topic first.
    assert!(delay(&store, later(keyed("a-late", "a"))).await.is_delayed);
    assert!(!delay(&store, keyed("a-now", "a")).await.duplicate);
    // The other way round.
    assert!(!delay(&store, keyed("b-now", "b")).await.duplicate);
    assert!(!delay(&store, later(keyed("b-late", "b"))).await.duplicate);
    // Of two delayed ones, the first to be due wins.
    assert!(!delay(&store, later(keyed("c-first", "c"))).await.duplicate);
    assert!(!delay(&store, later(keyed("c-second", "c"))).await.duplicate);
    let mut now = drained(&store, 2).await;
    now.sort_unstable();
    assert_eq!(now, ["a-now", "b-now"]);
    home.clock.advance(MINUTE);
    assert_eq!(drained(&store, 1).await, ["c-first"]);
    until(|| async { (store.topic("orders").await.unwrap().delayed == 0).then_some(()) }).await;
    let status = store.topic("orders").await.unwrap();
    assert_eq!((status.events, status.dedup.hits), (3, 3));
    let after = delay(&store, keyed("c-third", "c")).await;
    assert_eq!((after.duplicate, &*after.id), (true, "c-first"));
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn no_more_wait_than_may_and_none_for_longer_than_events_are_kept() {
    let mut home = Home::new();
    home.settings.topics[0].max_delayed = 3;
    let store = home.open().await;
    let week = 7 * 24 * 60 * MINUTE;
    let refused = store.publish("orders", vec![event("a"), home.due_in("b", week + 1)]).await;
    assert_eq!(refused, Err(Refusal::DelayTooLong { index: 1 }));
    // One frame, all or none: events that are due go through the delayed log too.
    let batch = vec![home.due_in("c", week), event("d"), home.due_in("e", 2 * MINUTE)];
    let published = store.publish("orders", batch).await.unwrap();
    assert!(published.iter().all(|it| it.is_delayed));
    assert_eq!(drained(&store, 1).await, ["d"]);
    until(|| async { (store.topic("orders").await.unwrap().delayed == 2).then_some(()) }).await;
    assert!(delay(&store, home.due_in("f", MINUTE)).await.is_delayed);
    let full = store.publish("orders", vec![home.due_in("g", MINUTE)]).await.unwrap_err();
    assert_eq!(full.reason(), "queue-full");
    publish(&store, &["h"]).await;
    assert_eq!(drained(&store, 1).await, ["h"], "others go on");
    home.clock.advance(2 * MINUTE);
    assert_eq!(drained(&store, 2).await, ["f", "e"], "by their time");
    until(|| async { store.publish("orders", vec![home.due_in("g", MINUTE)]).await.ok() }).await;
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_topic_whose_waiting_events_cannot_be_read_says_so_and_takes_others() {
    let home = Home::new();
    let store = home.open().await;
    delay(&store, home.due_in("late", MINUTE)).await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    // Zeroes a page with the header of the only file.
    let topic = home.dir.path().join("topics").read_dir().unwrap().next().unwrap().unwrap().path();
    let of_log = |name: &std::path::Path| name.extension().is_some_and(|it| it == "log");
    let files = topic.join("delayed").read_dir().unwrap().map(|file| file.unwrap().path());
    let file = files.filter(|file| of_log(file)).min().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let mut bad = whole.clone();
    bad[..4_096].fill(0xff);
    std::fs::write(&file, bad).unwrap();

    let store = home.open().await;
    let TopicState::Offline { reason, .. } = store.topic("orders").await.unwrap().state else {
        panic!("it says nothing");
    };
    assert!(reason.contains("delayed"), "{reason}");
    publish(&store, &["now"]).await;
    assert_eq!(drained(&store, 1).await, ["now"]);
    let refused = store.publish("orders", vec![home.due_in("more", MINUTE)]).await.unwrap_err();
    assert_eq!(refused.reason(), "queue-unavailable");
    std::fs::write(&file, whole).unwrap();
    assert_eq!(store.reopen("orders").await.unwrap().state, TopicState::Serving);
    home.clock.advance(MINUTE);
    assert_eq!(drained(&store, 1).await, ["late"]);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_log_that_could_not_be_made_is_made_once_it_can() {
    let home = Home::new();
    for by_hand in [false, true] {
        let model = Model::new();
        let (storage, clock) = (Arc::new(model.clone()), Arc::new(home.clock.clone()));
        let store =
            Store::open(storage, home.settings.clone(), clock, Arc::new(Nowhere)).await.unwrap();
        let topics = store.targets();
        model.fail_every(Op::CreateDir, Fault::NoSpace);
        let target = topics.delayed(topics.named("orders").unwrap().id()).unwrap();
        let refused = target.permit(Purpose::Publish, 100).unwrap_err();
        assert_eq!(refused.reason, Reason::Offline);
        let state = store.topic("orders").await.unwrap().state;
        assert!(matches!(state, TopicState::Offline { .. }), "{state:?}");
        publish(&store, &["a1"]).await;

        model.heal();
        if by_hand {
            store.reopen("orders").await.unwrap();
            assert!(target.permit(Purpose::Publish, 100).is_ok());
        } else {
            until(|| async { target.permit(Purpose::Publish, 100).ok().map(drop) }).await;
        }
        let state = store.topic("orders").await.unwrap().state;
        assert_eq!(state, TopicState::Serving);
        assert!(delay(&store, home.due_in("late", MINUTE)).await.is_delayed);
        store.shutdown(Duration::ZERO).await.unwrap();
    }
}
