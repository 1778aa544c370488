//! A full disk: publishes are refused, stored events are delivered and settled, and with space
//! again everything resumes without a restart.

use std::path::PathBuf;

use super::*;
use crate::events::queue::storage::model::Model;

const MIB: u64 = 1 << 20;
/// Number of events published.
const EVENTS: usize = 100;

#[tokio::test]
async fn a_full_disk_drains_by_the_reserve_and_takes_publishes_once_there_is_room() {
    let mut home = Home::new();
    home.settings.disk = Disk { low_water: 0.5, min_free: 4 * MIB, reserve: MIB };
    let billing = &mut home.settings.subscriptions[0];
    billing.order = Order::None;
    billing.retry.max_attempts = 10_000;
    let model = Model::new();
    model.set_capacity(1 << 30);
    let (storage, clock) = (Arc::new(model.clone()), Arc::new(home.clock.clone()));
    let store =
        Store::open(storage, home.settings.clone(), clock, Arc::new(Nowhere)).await.unwrap();
    let reserve = || model.files().iter().any(|path| path.ends_with("state/RESERVE"));
    assert!(reserve());
    let events = (0..EVENTS).map(|number| event(&number.to_string())).collect();
    store.publish("orders", events).await.unwrap();

    model.set_free(0);
    let refused = || async { store.publish("orders", vec![event("x")]).await.err() };
    assert_eq!(until(refused).await.reason(), "queue-disk");
    // Failures with long reasons, until the journal has used up its space and gets the reserve.
    let mut rounds = 0;
    until(|| async {
        fail_all(&store).await;
        (!reserve()).then_some(())
    })
    .await;
    let mut settled = std::collections::BTreeSet::new();
    while settled.len() < EVENTS {
        rounds += 1;
        assert!(rounds < 10_000, "{} settled", settled.len());
        for leased in leased(&store, Duration::from_secs(1)).await {
            let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
            let answer = store.settle("billing", Verb::Ack, vec![item]).await;
            if answer.is_ok_and(|all| all[0].status == TokenStatus::Ok) {
                settled.insert(leased.event.id);
            }
        }
    }
    assert_eq!(refused().await.unwrap().reason(), "queue-disk");
    assert!(!reserve());

    model.set_free(512 * MIB);
    until(|| async { store.publish("orders", vec![event("y")]).await.ok() }).await;
    assert!(reserve(), "it is taken back before anything new is accepted");
    let is_y = |leased: &Leased| leased.event.id == "y";
    until(|| async { leased(&store, Duration::ZERO).await.iter().any(is_y).then_some(()) }).await;
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_store_that_was_killed_opens_on_a_full_disk_and_goes_on_once_there_is_room() {
    // The reserve has room for the store's own logs, and in one case for the topic's.
    for (reserve, is_topic_open) in [(32 * MIB, true), (MIB, false)] {
        opens_on_a_full_disk(reserve, is_topic_open).await;
    }
}

async fn opens_on_a_full_disk(reserve: u64, is_topic_open: bool) {
    let mut home = Home::new();
    home.settings.disk = Disk { low_water: 0.0, min_free: 64 * MIB, reserve };
    home.settings.subscriptions[0].order = Order::None;
    let model = Model::new();
    model.set_capacity(1 << 30);
    let open = async |model: &Model| {
        let (storage, clock) = (Arc::new(model.clone()), Arc::new(home.clock.clone()));
        Store::open(storage, home.settings.clone(), clock, Arc::new(Nowhere)).await
    };
    let store = open(&model).await.unwrap();
    store.publish("orders", vec![event("1")]).await.unwrap();
    let first = until(|| async { leased(&store, Duration::ZERO).await.into_iter().next() }).await;
    let item = TokenItem { token: first.token.clone(), ..TokenItem::default() };
    store.settle("billing", Verb::Ack, vec![item]).await.unwrap();
    let noted: Vec<_> = checkpoints(&model).map(|path| (model.bytes(&path), path)).collect();
    let large = |id| Event { data: Bytes::from(vec![b'x'; 900 << 10]), ..event(id) };
    store.publish("orders", ["2", "3", "4"].map(large).to_vec()).await.unwrap();
    // Not all of it is proven to be on disk: it must be copied, but no space is free.
    let model = model.restart();
    for (bytes, path) in &noted {
        // However slow this test is: before the next time that it would be proven.
        model.overwrite(path, bytes);
    }
    model.set_free(0);
    let store = open(&model).await.unwrap();
    assert!(!model.files().iter().any(|path| path.ends_with("state/RESERVE")));
    assert!(store.publish("orders", vec![event("5")]).await.is_err());
    let is_open = store.topic("orders").await.unwrap().state == TopicState::Serving;
    assert_eq!(is_open, is_topic_open);

    model.set_free(512 * MIB);
    until(|| async { store.publish("orders", vec![event("5")]).await.ok() }).await;
    assert!(model.files().iter().any(|path| path.ends_with("state/RESERVE")));
    let is_new = |leased: &Leased| leased.event.id == "5";
    until(|| async { leased(&store, Duration::ZERO).await.iter().any(is_new).then_some(()) }).await;
    store.shutdown(Duration::ZERO).await.unwrap();
}

/// What proves how much of each log is on disk.
fn checkpoints(model: &Model) -> impl Iterator<Item = PathBuf> {
    model.files().into_iter().filter(|path| path.ends_with("CHECKPOINT"))
}

/// Empty for a moment while the journal has no room and the reserve is not given up yet.
async fn leased(store: &Store, wait: Duration) -> Vec<Leased> {
    let receive = Receive { max_events: EVENTS, max_bytes: 1 << 20, wait, lease: None };
    store.receive("billing", receive).await.unwrap_or_default()
}

async fn fail_all(store: &Store) {
    let leased = leased(store, Duration::from_millis(50)).await;
    let reason = Some("no such customer ".repeat(30));
    let failed = |leased: &Leased| TokenItem {
        token: leased.token.clone(),
        delay: Some(Duration::ZERO),
        reason: reason.clone(),
        ..TokenItem::default()
    };
    let items = leased.iter().map(failed).collect();
    // Refused for a moment, and then retried.
    drop(store.settle("billing", Verb::Nack, items).await);
}
