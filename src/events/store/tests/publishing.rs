//! Limits on publishes, the effects of a full topic and a slow reader, and searches for events.

use super::*;
use crate::events::{
    queue::{Offset, log::Purpose},
    store::topics::millis,
};

/// An event with a payload of this many bytes.
fn large(id: &str, bytes: usize) -> Event {
    Event { data: Bytes::from(vec![b'x'; bytes]), ..event(id) }
}

#[tokio::test]
async fn room_is_taken_before_there_are_events_and_counts_as_stored() {
    let mut home = Home::new();
    home.settings.topics[0].max_bytes = 1 << 20;
    let store = home.open().await;
    let target = store.targets().named("orders").unwrap();
    let permit = target.permit(Purpose::Publish, 900 << 10).unwrap();
    let full = store.publish("orders", vec![large("b1", 200 << 10)]).await.unwrap_err();
    assert_eq!(full.reason(), "queue-full", "what is permitted counts as stored");
    drop(permit);
    store.publish("orders", vec![large("b1", 200 << 10)]).await.expect("and is given back");
    let sequel = target.permit(Purpose::Accepted, 900 << 10);
    assert!(sequel.is_ok(), "what follows from something accepted may exceed it by a tenth");
    assert!(target.permit(Purpose::Publish, 900 << 10).is_err());
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_batch_that_is_published_again_is_answered_with_its_originals() {
    let home = Home::new();
    let store = home.open().await;
    let keyed = |id: &str, key: &str| {
        let dedup_key = Some(Bytes::copy_from_slice(key.as_bytes()));
        Event { dedup_key, ..event(id) }
    };
    let first = vec![keyed("a1", "a"), event("b1"), keyed("c1", "c")];
    let first = store.publish("orders", first).await.unwrap();
    publish(&store, &["x1"]).await;
    let second = vec![keyed("d1", "d")];
    let second = store.publish("orders", second).await.unwrap();
    let again = vec![
        keyed("d2", "d"),
        keyed("c2", "c"),
        event("b1"),
        event("e1"),
        keyed("a2", "a"),
        keyed("a3", "a"),
    ];
    let again = store.publish("orders", again).await.unwrap();
    let told = again.iter().map(|it| (&*it.id, it.offset, it.duplicate));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("d1", second[0].offset, true),
            ("c1", first[2].offset, true),
            ("b1", first[1].offset, true),
            ("e1", 5, false),
            ("a1", first[0].offset, true),
            ("a1", first[0].offset, true),
        ]
    );
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_has_received_nothing_for_too_long_stops_publishes() {
    let mut home = Home::new();
    home.settings.topics[0].max_oldest_age = Some(Duration::from_mins(5));
    let store = home.open().await;
    publish(&store, &["a1"]).await;
    home.clock.advance(5 * 60_000 + 1);
    let refused = until(|| async { store.publish("orders", vec![event("b1")]).await.err() }).await;
    assert_eq!(refused.reason(), "queue-full");
    assert!(refused.to_string().contains("`backpressure.oldest_age`"), "{refused}");
    assert_eq!(store.topic("orders").await.unwrap().state, TopicState::Full);
    for leased in take(&store).await {
        say(&store, Verb::Ack, &leased).await;
    }
    until(|| async {
        for leased in receive(&store, Duration::ZERO).await {
            say(&store, Verb::Ack, &leased).await;
        }
        store.publish("orders", vec![event("c1")]).await.ok()
    })
    .await;
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_saga_is_found_in_sealed_segments_of_all_topics() {
    let mut home = Home::new();
    home.settings.topics.push(TopicSettings::new("audit"));
    home.settings.topics[0].max_bytes = 16 << 20;
    let store = home.open().await;
    let of_saga = |id: &str| Event { correlation: Some("s0".into()), ..large(id, 400 << 10) };
    store.publish("orders", vec![large("s0", 10)]).await.unwrap();
    for id in ["s1", "s2", "s3", "s4", "s5"] {
        store.publish("orders", vec![of_saga(id)]).await.unwrap();
    }
    store.publish("audit", vec![of_saga("t1")]).await.unwrap();
    assert!(store.topic("orders").await.unwrap().segments > 1);
    // The keys of a segment are written when it is sealed.
    let trace = until(|| async {
        let trace = store.saga("s0").await.unwrap();
        (!trace.partial).then_some(trace)
    });
    let trace = trace.await;
    let mut ids: Vec<_> = trace.events.iter().map(|found| &*found.stored.event.id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["s0", "s1", "s2", "s3", "s4", "s5", "t1"]);
    assert_eq!(store.saga("s1").await.unwrap().events.len(), 0, "it belongs to another");
    assert_eq!(store.event("s1").await.unwrap().events.len(), 1);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn the_registry_knows_where_a_new_generation_begins() {
    let mut home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "b1"]).await;
    home.settings.topics[0].partitions = 32;
    store.reload(home.settings.clone()).await.unwrap();
    publish(&store, &["c1"]).await;
    let opened = || async {
        let registry = store.0.registry.lock();
        let newest = registry.topic("orders")?.generation();
        (newest.opened != Offset(u64::MAX)).then_some((newest.number, newest.opened))
    };
    assert_eq!(until(opened).await, (1, Offset(2)));
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_a_policy_gives_up_is_counted_by_which() {
    let mut home = Home::new();
    home.settings.topics[0].max_bytes = 4 << 20;
    home.settings.subscriptions[0].is_pinning = false;
    let store = home.open().await;
    let dropped = || async { store.topic("orders").await.unwrap().dropped };
    publish(&store, &["a1"]).await;
    assert_eq!(say(&store, Verb::Reject, &take(&store).await[0]).await, TokenStatus::Ok);
    for number in 0..10 {
        let large = large(&format!("b{number}"), 900 << 10);
        until(|| async { store.publish("orders", vec![large.clone()]).await.ok() }).await;
    }
    until(|| async { (dropped().await.unpinned > 0).then_some(()) }).await;
    let letters = home.settings.subscriptions[0].dead_letter.as_ref().unwrap();
    home.clock.advance(millis(letters.max_age) + 1);
    until(|| async { (dropped().await.dead_letters > 0).then_some(()) }).await;
    assert_eq!((dropped().await.dead_letters, dropped().await.oldest), (1, 0));
    store.shutdown(Duration::ZERO).await.unwrap();
}
