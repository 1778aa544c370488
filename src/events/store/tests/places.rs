//! Places of stored requests across a restart: waiting requests keep theirs, ended ones have none.

use std::sync::atomic::{AtomicUsize, Ordering};

use http::{HeaderMap, StatusCode};

use super::{
    stopping::{home, stored, stored_until},
    *,
};
use crate::{
    events::{
        delivery::runner::Backlog,
        queue::Offset,
        request::{Results, State},
    },
    http::sink::{Ending, Parcel, Reply, Sending, Sink},
};

const HOUR: u64 = 3_600_000;

/// Cannot send the first request; the others are done at once.
#[derive(Debug, Default)]
struct Fussy(AtomicUsize);

impl Sink for Fussy {
    fn send(&self, _: Parcel) -> Sending {
        let number = self.0.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            if number == 0 {
                return Ending::NotSent("nobody is there".into());
            }
            let (status, body) = (StatusCode::OK, Bytes::new());
            Ending::Answered(Reply { status, headers: HeaderMap::new(), body, is_whole: true })
        })
    }
}

async fn open(home: &Home) -> Store {
    let opened = || async {
        let storage = Arc::new(Real::open(home.dir.path()).unwrap());
        let (clock, sink) = (Arc::new(home.clock.clone()), Arc::new(Fussy::default()));
        Store::open(storage, home.settings.clone(), clock, sink).await.ok()
    };
    until(opened).await
}

async fn ended(store: &Store, place: crate::events::request::Place) {
    until(|| async {
        let status = Results::status(store.ingress(), place).await;
        (status.state == State::Succeeded).then_some(())
    })
    .await;
}

/// How many newcomers get a place now; they give it back.
fn free(store: &Store) -> usize {
    let taken = (0..100).take_while(|_| Results::reserve(store.ingress())).count();
    (0..taken).for_each(|_| Results::give_back(store.ingress()));
    taken
}

#[tokio::test]
async fn what_waits_keeps_its_place_over_a_restart_and_is_sent() {
    let mut home = home();
    home.settings.ingress.max_entries = 5;
    let store = open(&home).await;
    store.pause("a").await.unwrap();
    let first = [stored(&store, "a").await, stored(&store, "a").await];
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    let store = open(&home).await;
    assert!(free(&store) <= 3, "from the first moment on");
    until(|| async { (store.ingress().status().results == 2).then_some(()) }).await;
    assert_eq!(free(&store), 3);
    // Newcomers take all remaining places.
    (0..3).for_each(|_| assert!(Results::reserve(store.ingress())));
    store.resume("a").await.unwrap();
    for place in first {
        until(|| async {
            // The first is not sent immediately.
            home.clock.advance(1_000);
            let status = Results::status(store.ingress(), place).await;
            (status.state == State::Succeeded).then_some(())
        })
        .await;
    }
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_is_settled_gets_no_place_after_a_restart() {
    let mut home = home();
    home.settings.ingress.max_entries = 100;
    // The first waits for long, and everything after it is read again.
    for sending in &mut home.settings.subscriptions {
        sending.retry.schedule = vec![Duration::ZERO, Duration::from_hours(100)];
    }
    let store = open(&home).await;
    let soon = home.clock.now().wall + 60_000;
    let first = stored_until(&store, "a", soon).await;
    until(|| async {
        let status = Results::status(store.ingress(), first).await;
        (status.attempts == 1 && status.state == State::Queued).then_some(())
    })
    .await;
    for _ in 0..10 {
        ended(&store, stored_until(&store, "a", soon).await).await;
    }
    let subscription = store.find_subscription("a").unwrap().subscription;
    // Settled requests do not wait.
    let first_waits = Backlog { records: 0..11, waiting: 1 };
    until(|| async {
        (subscription.backlog(Offset(11)).await.unwrap() == first_waits).then_some(())
    })
    .await;
    let backlog = subscription.backlog(Offset(14)).await.unwrap();
    assert_eq!(backlog.waiting, 4, "what it did not look at may wait");
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    // Their results are forgotten meanwhile.
    home.clock.advance(2 * HOUR);
    home.settings.ingress.max_entries = 5;
    let store = open(&home).await;
    assert!(free(&store) >= 3, "newcomers have places while it is looked through");
    until(|| async { (free(&store) == 4).then_some(()) }).await;
    store.shutdown(Duration::ZERO).await.unwrap();
}
