//! Live tails: in order without a gap for readers that keep up, a gap without a wait for others.

use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::*;
use crate::events::{
    facade::{Tail, TailPage},
    store::tailing::MAX_TAILS,
};

/// An event with a payload such that four exceed what is kept in memory.
fn large(id: &str) -> Event {
    Event { data: Bytes::from(vec![b'x'; 1000 << 10]), ..event(id) }
}

async fn page(tail: &mut Tail) -> TailPage {
    let page = timeout(Duration::from_secs(20), tail.pages.next()).await;
    page.expect("in time").expect("it goes on").expect("no refusal")
}

fn offsets(page: &TailPage) -> Vec<u64> {
    page.events.iter().map(|event| event.stored().offset).collect()
}

/// Reads this many events, from `next` on and without a gap.
async fn read(tail: &mut Tail, mut next: u64, count: u64) -> u64 {
    let end = next + count;
    while next < end {
        let page = page(tail).await;
        assert_eq!((page.gap, page.skipped), (0, 0));
        for offset in offsets(&page) {
            assert_eq!(offset, next);
            next += 1;
        }
    }
    next
}

#[tokio::test]
async fn a_tail_is_told_what_was_there_and_what_comes_over_a_restart() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "a2", "a3"]).await;
    let mut all = store.tail("orders", Some(1)).await.unwrap();
    let mut new = store.tail("orders", None).await.unwrap();
    assert_eq!((all.next, new.next), (1, 3));
    assert_eq!(read(&mut all, 1, 2).await, 3);
    assert!(all.pages.next().now_or_never().is_none(), "nothing more is there");
    publish(&store, &["a4", "a5"]).await;
    assert_eq!(page(&mut new).await.events[0].stored().event, event("a4"));
    assert_eq!(read(&mut all, 3, 2).await, 5);
    store.shutdown(Duration::ZERO).await.unwrap();
    drop((store, all, new));

    let store = home.open().await;
    let mut resumed = store.tail("orders", Some(4)).await.unwrap();
    publish(&store, &["a6"]).await;
    assert_eq!(read(&mut resumed, 4, 2).await, 6);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn who_was_further_than_the_topic_goes_on_at_its_end() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "a2"]).await;
    let mut tail = store.tail("orders", Some(4711)).await.unwrap();
    assert_eq!(tail.next, 2);
    publish(&store, &["a3"]).await;
    assert_eq!(read(&mut tail, 2, 1).await, 3);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn who_keeps_up_is_told_everything_in_order_under_load() {
    const PUBLISHERS: u64 = 8;
    const EACH: u64 = 500;
    let home = Home::new();
    let store = home.open().await;
    let mut tail = store.tail("orders", None).await.unwrap();
    let publishing = (0..PUBLISHERS).map(|publisher| {
        let store = &store;
        async move {
            for number in 0..EACH {
                publish(store, &[&format!("{publisher}-{number}")]).await;
            }
        }
    });
    let publishing = futures_util::future::join_all(publishing);
    let ((), end) = tokio::join!(publishing.map(drop), read(&mut tail, 0, PUBLISHERS * EACH));
    assert_eq!(end, PUBLISHERS * EACH);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn who_is_slow_is_told_of_a_gap_and_publishers_do_not_wait() {
    let home = Home::new();
    let store = home.open().await;
    let mut tail = store.tail("orders", None).await.unwrap();
    // It has caught up.
    assert!(tail.pages.next().now_or_never().is_none());
    // Twice as much as is kept, while the tail is not polled: publishes do not wait for it.
    for number in 0..8 {
        store.publish("orders", vec![large(&format!("a{number}"))]).await.unwrap();
    }
    // Only a moment behind: no reason for a gap.
    let first = page(&mut tail).await;
    assert_eq!((first.skipped, offsets(&first).first()), (0, Some(&0)));
    let since = Instant::now();
    let skipped = loop {
        if since.elapsed() > Duration::from_secs(1) {
            break page(&mut tail).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!((skipped.skipped, skipped.next), (8 - first.next, 8), "{skipped:?}");
    assert!(skipped.events.is_empty());
    publish(&store, &["b1"]).await;
    assert_eq!(read(&mut tail, 8, 1).await, 9, "it goes on from there");
    // Another tail asks for everything, and gets it from the log.
    let mut all = store.tail("orders", Some(0)).await.unwrap();
    assert_eq!(read(&mut all, 0, 9).await, 9);
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn there_are_so_many_tails_and_a_place_comes_free() {
    let home = Home::new();
    let store = home.open().await;
    let mut tails = Vec::new();
    for _ in 0..MAX_TAILS {
        tails.push(store.tail("orders", None).await.unwrap());
    }
    let refused = store.tail("orders", None).await.unwrap_err();
    assert_eq!(refused.reason(), "concurrency-full");
    assert!(refused.retry_after().is_some());
    assert!(store.tail("order", None).await.is_err_and(|error| error.reason() == "name-unknown"));
    tails.pop();
    store.tail("orders", None).await.expect("a place is free");
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn tails_that_keep_up_share_what_they_tell() {
    let home = Home::new();
    let store = home.open().await;
    let mut tails =
        [store.tail("orders", None).await.unwrap(), store.tail("orders", None).await.unwrap()];
    for number in 0..5 {
        publish(&store, &[&format!("a{number}")]).await;
        let [one, other] = &mut tails;
        let pages = (page(one).await, page(other).await);
        assert_eq!(offsets(&pages.0), [number]);
        assert!(Arc::ptr_eq(&pages.0.events, &pages.1.events));
        let first = pages.0.events[0].wire(|_| Bytes::from_static(b"1"));
        assert_eq!(pages.1.events[0].wire(|_| panic!("it is written already")), first);
    }
    store.shutdown(Duration::ZERO).await.unwrap();
}
