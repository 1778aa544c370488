//! An untrusted clock: everything that depends on age stands still, timers run on, and an operator
//! is told and can confirm the clock.

use super::*;
use crate::events::{queue::time::Clock as _, request::Results as _, store::topics::millis};

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;

impl Home {
    fn now(&self) -> u64 {
        self.clock.now().wall
    }

    fn set(&self, by: i64) {
        self.clock.set_wall(self.now().checked_add_signed(by).unwrap());
    }
}

async fn is_frozen(store: &Store) -> bool {
    store.topic("orders").await.unwrap().is_clock_frozen
}

async fn nack(store: &Store, leased: &Leased, delay: Duration) {
    let delay = Some(delay);
    let item = TokenItem { token: leased.token.clone(), delay, ..TokenItem::default() };
    let answer = store.settle("billing", Verb::Nack, vec![item]).await.unwrap();
    assert_eq!(answer[0].status, TokenStatus::Ok);
}

async fn take_two(store: &Store) -> Vec<Leased> {
    let mut leased = take(store).await;
    while leased.len() < 2 {
        leased.extend(take(store).await);
    }
    leased
}

#[tokio::test]
async fn after_a_jump_leases_and_retries_go_on_as_before_and_the_rest_stands_still() {
    for by in [HOUR.cast_signed(), -HOUR.cast_signed()] {
        let mut home = Home::new();
        home.settings.subscriptions[0].retry.max_attempts = 9;
        let store = home.open().await;
        let expiring = Event { expiry: Some(home.now() + 30 * MINUTE), ..event("c1") };
        let delayed = Event { not_before: Some(home.now() + MINUTE), ..event("d1") };
        publish(&store, &["a1", "b1"]).await;
        store.publish("orders", vec![delayed]).await.unwrap();
        let leased = take_two(&store).await;
        let [held, failed] = &leased[..] else { panic!("{leased:?}") };
        nack(&store, failed, Duration::from_mins(2)).await;
        store.publish("orders", vec![expiring]).await.unwrap();

        home.set(by);
        assert!(is_frozen(&store).await);
        // With a correct clock it would have expired.
        let third = take(&store).await;
        assert_eq!((third.len(), &*third[0].event.id), (1, "c1"), "by {by}");
        assert_eq!(say(&store, Verb::Ack, &third[0]).await, TokenStatus::Ok);
        home.clock.advance(25_000);
        assert_eq!(say(&store, Verb::Ack, held).await, TokenStatus::Ok, "leased for 30 s");
        assert!(receive(&store, Duration::ZERO).await.is_empty(), "not its time yet, by {by}");
        // The 2 minutes are over, and so is the spread after a jump.
        home.clock.advance(2 * MINUTE - 25_000 + 1_000);
        let again = take(&store).await;
        assert_eq!((again.len(), &again[0].event.id), (1, &failed.event.id), "by {by}");
        assert_eq!(say(&store, Verb::Ack, &again[0]).await, TokenStatus::Ok);
        assert_eq!(store.topic("orders").await.unwrap().delayed, 1, "delays stand still");

        home.set(-by);
        assert!(!is_frozen(&store).await, "it is back");
        let late = until(|| async {
            // What became due meanwhile is released within a minute and a few seconds.
            home.clock.advance(1_000);
            receive(&store, Duration::ZERO).await.into_iter().next()
        });
        assert_eq!(late.await.event.id, "d1");
        store.shutdown(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_store_that_was_idle_for_a_day_stands_still_until_the_clock_is_confirmed() {
    let mut home = Home::new();
    home.settings.subscriptions[0].retry.max_attempts = 9;
    let store = home.open().await;
    let expiring = Event { expiry: Some(home.now() + HOUR), ..event("a1") };
    let delayed = Event { not_before: Some(home.now() + HOUR), ..event("d1") };
    store.publish("orders", vec![expiring.clone(), event("b1")]).await.unwrap();
    store.publish("orders", vec![delayed]).await.unwrap();
    let leased = take_two(&store).await;
    let [first, second] = &leased[..] else { panic!("{leased:?}") };
    nack(&store, first, Duration::ZERO).await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    home.clock.advance(24 * HOUR + MINUTE);
    let mut store = home.open().await;
    assert!(is_frozen(&store).await);
    // Nobody knows whether a day passed: leases hold, and nothing has expired.
    assert_eq!(say(&store, Verb::Ack, second).await, TokenStatus::Ok);
    home.clock.advance(1_000);
    let again = take(&store).await;
    assert_eq!((again.len(), &*again[0].event.id), (1, "a1"));
    nack(&store, &again[0], Duration::ZERO).await;
    assert_eq!(store.topic("orders").await.unwrap().delayed, 1);

    // What was written since carries a time that nobody has confirmed.
    for id in ["x1", "x2"] {
        store.shutdown(Duration::ZERO).await.unwrap();
        drop(store);
        store = home.open().await;
        assert!(is_frozen(&store).await, "a restart confirms nothing");
        publish(&store, &[id]).await;
    }

    store.confirm_clock().await.unwrap();
    assert!(!is_frozen(&store).await);
    let late = until(|| async {
        home.clock.advance(1_000);
        let came = receive(&store, Duration::ZERO).await;
        assert!(came.iter().all(|it| it.event.id != "a1"), "it has expired");
        came.iter().any(|it| it.event.id == "d1").then_some(())
    });
    late.await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    let store = home.open().await;
    assert!(!is_frozen(&store).await, "it is not asked again");
    store.shutdown(Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_is_leased_by_a_clock_that_is_set_right_between_two_runs_is_not_held_for_longer() {
    for wrong in [HOUR, 7 * 24 * HOUR] {
        let home = Home::new();
        let store = home.open().await;
        publish(&store, &["a1"]).await;
        home.set(wrong.cast_signed());
        assert!(is_frozen(&store).await);
        let leased = take(&store).await;
        assert_eq!(leased.len(), 1);
        assert!(!store.0.ingress.is_past(home.now()), "nothing is over");
        store.shutdown(Duration::ZERO).await.unwrap();
        drop(store);

        home.set(-wrong.cast_signed());
        for _ in 0..2 {
            let store = home.open().await;
            assert!(receive(&store, Duration::ZERO).await.is_empty(), "it is leased");
            store.shutdown(Duration::ZERO).await.unwrap();
        }
        let store = home.open().await;
        home.clock.advance(31_000);
        assert_eq!(take(&store).await.len(), 1, "off by {wrong}");
        store.shutdown(Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn a_dead_letter_of_a_wrong_clock_goes_at_its_age_not_later_and_not_sooner() {
    let year = (365 * 24 * HOUR).cast_signed();
    // Wrong for a while; or from the first day on, and set right for good.
    for (wrong, is_trusted) in [(year, false), (-year, false), (year, true)] {
        let home = Home::new();
        if is_trusted {
            home.set(wrong);
        }
        let store = home.open().await;
        publish(&store, &["a1"]).await;
        let leased = take(&store).await;
        if !is_trusted {
            home.set(wrong);
        }
        assert_eq!(is_frozen(&store).await, !is_trusted);
        assert_eq!(say(&store, Verb::Reject, &leased[0]).await, TokenStatus::Ok);
        let count = async || {
            store.age_letters().await.unwrap();
            store.subscription("billing").await.unwrap().dead_letters.count
        };
        until(|| async { (count().await == 1).then_some(()) }).await;

        home.set(-wrong);
        assert_eq!(is_frozen(&store).await, is_trusted);
        store.confirm_clock().await.unwrap();
        assert_eq!(count().await, 1, "it has just died, off by {wrong}");
        let page = store.dead_letters("billing", None, 1, DeadLetterFilter::default()).await;
        assert_eq!(page.unwrap().entries[0].died / MINUTE, home.now() / MINUTE);
        let max_age = millis(home.settings.subscriptions[0].dead_letter.as_ref().unwrap().max_age);
        home.clock.advance(max_age - MINUTE);
        assert_eq!(count().await, 1, "off by {wrong}");
        home.clock.advance(2 * MINUTE);
        assert_eq!(count().await, 0, "off by {wrong}");
        store.shutdown(Duration::ZERO).await.unwrap();
    }
}
