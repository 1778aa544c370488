//! Receiving and settling.

use super::*;

#[tokio::test]
async fn what_is_published_is_received_and_settled_over_a_restart() {
    let home = Home::real();
    let running = home.open();
    assert!(running.publish(&["a1", "b1", "a2"]).await);
    let leased = running.receive_now(10).await;
    assert_eq!(ids(&leased), ["a1", "a2", "b1"]);
    assert_eq!(leased[0].event.data, "data of a1");
    assert_eq!((leased[0].attempt, leased[0].expires), (1, START.wall + 30_000));
    assert_eq!(running.say(Verb::Ack, &leased[0]).await, TokenStatus::Ok);
    assert_eq!(running.say(Verb::Ack, &leased[0]).await, TokenStatus::Settled);
    running.close().await;

    let running = home.open();
    assert!(running.receive_now(10).await.is_empty(), "leases outlive a restart");
    assert_eq!(running.say(Verb::Ack, &leased[1]).await, TokenStatus::Ok);
    assert_eq!(running.say(Verb::Nack, &leased[2]).await, TokenStatus::Ok);
    home.pass(&running, 7).await;
    assert!(running.receive_now(10).await.is_empty(), "not before its time");
    home.pass(&running, 6).await;
    let again = running.receive_now(10).await;
    assert_eq!((ids(&again), again[0].attempt), (vec!["b1"], 2));
    assert_eq!(running.say(Verb::Ack, &leased[2]).await, TokenStatus::LeaseExpired);
    assert_eq!(running.say(Verb::Ack, &again[0]).await, TokenStatus::Ok);
    running.close().await;

    let running = home.open();
    let status = running.subscription.status(false).await.unwrap().status;
    assert_eq!((status.lag_events, status.in_flight, status.parked), (0, 0, 0));
    running.close().await;
}

#[tokio::test]
async fn an_expired_lease_counts_and_the_event_comes_again() {
    let home = Home::real();
    let running = home.open();
    running.publish(&["a1"]).await;
    let first = running.receive(10).await;
    home.pass(&running, 31).await;
    assert!(running.receive_now(10).await.is_empty(), "it waits as after a failure");
    home.pass(&running, 13).await;
    let second = running.receive_now(10).await;
    assert_eq!((ids(&second), second[0].attempt), (vec!["a1"], 2));
    assert_eq!(running.say(Verb::Ack, &first[0]).await, TokenStatus::LeaseExpired);
    assert_eq!(running.say(Verb::Extend, &second[0]).await, TokenStatus::Ok);
    home.pass(&running, 29).await;
    assert_eq!(running.say(Verb::Ack, &second[0]).await, TokenStatus::Ok);
    running.close().await;
}

#[tokio::test]
async fn a_consumer_waits_for_what_is_published_meanwhile_and_one_that_left_gets_nothing() {
    let home = Home::real();
    let running = home.open();
    let subscription = running.subscription.clone();
    let receive =
        Receive { max_events: 5, max_bytes: 1, wait: Duration::from_secs(20), lease: None };
    let lease = Duration::from_secs(30);
    // It asks, and leaves before there is anything.
    let left =
        tokio::time::timeout(Duration::from_millis(20), subscription.receive(receive, lease));
    assert!(left.await.is_err());
    let waiting =
        task::spawn("consumer", async move { subscription.receive(receive, lease).await });
    running.publish(&["a1", "a2"]).await;
    let leased = waiting.await.unwrap().unwrap();
    assert_eq!(ids(&leased), ["a1"], "the first whatever its size, and no more than fits");
    assert_eq!(leased[0].attempt, 1, "nothing was leased to who had left");
    running.close().await;
}

#[tokio::test]
async fn the_events_of_a_poisoned_batch_stay_innocent() {
    let mut home = Home::real();
    home.settings.retry.max_attempts = 4;
    home.settings.retry.schedule = vec![Duration::ZERO];
    home.settings.order = crate::events::settings::Order::None;
    let running = home.open();
    let names: Vec<String> = (0..50).map(|n| format!("e{n}")).collect();
    running.publish(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut done = 0;
    // A consumer that dies on e7 with everything it holds.
    for _ in 0..200 {
        let leased = running.receive_now(50).await;
        if leased.iter().any(|leased| leased.event.id == "e7") {
            home.pass(&running, 31).await;
            continue;
        }
        for leased in &leased {
            assert_eq!(running.say(Verb::Ack, leased).await, TokenStatus::Ok);
            done += 1;
        }
        if done == 49 && !running.letters_now().await.is_empty() {
            break;
        }
        home.pass(&running, 1).await;
    }
    assert_eq!((running.letters(1).await, done), (vec!["e7".to_owned()], 49));
    running.close().await;
}

#[tokio::test]
async fn a_dead_letter_is_redriven_and_goes_when_it_is_delivered() {
    let home = Home::real();
    let running = home.open();
    running.publish(&["a1", "b1"]).await;
    for leased in running.receive_now(10).await {
        let verb = if leased.event.id == "a1" { Verb::Reject } else { Verb::Ack };
        running.say(verb, &leased).await;
    }
    assert_eq!(running.letters(1).await, ["a1"]);
    running.close().await;

    let running = home.open();
    assert_eq!(running.letters_now().await, ["a1"], "it outlives a restart");
    let lane = running.subscription.redrive(vec![Offset::ZERO], None, false).await.unwrap();
    let leased = running.receive(10).await;
    assert_eq!((ids(&leased), leased[0].is_replay), (vec!["a1"], true));
    assert_eq!(leased[0].event.data, "data of a1");
    assert_eq!(running.say(Verb::Ack, &leased[0]).await, TokenStatus::Ok);
    assert!(running.letters_now().await.is_empty());
    let jobs = running.subscription.jobs().await.unwrap();
    assert_eq!((jobs[0].id.lane, jobs[0].state), (lane.0, facade::JobState::Done));
    assert_eq!((jobs[0].total, jobs[0].delivered), (1, 1));
    running.close().await;
}

#[tokio::test]
async fn a_replay_delivers_a_stretch_again_beside_what_is_live() {
    let home = Home::real();
    let running = home.open();
    running.publish(&["a1", "b1", "c1"]).await;
    for leased in running.receive_now(10).await {
        running.say(Verb::Ack, &leased).await;
    }
    let lane = running.subscription.replay((Offset(1), Offset(3)), None, false).await.unwrap();
    let first = running.receive(1).await;
    assert_eq!((ids(&first), first[0].is_replay), (vec!["b1"], true));
    running.publish(&["d1"]).await;
    running.close().await;

    // It continues where it was.
    let running = home.open();
    running.settled_down().await;
    assert_eq!(running.say(Verb::Ack, &first[0]).await, TokenStatus::Ok);
    let mut seen = Vec::new();
    while seen.len() < 2 {
        for leased in running.receive(10).await {
            running.say(Verb::Ack, &leased).await;
            seen.push((leased.event.id.clone(), leased.is_replay));
        }
    }
    seen.sort();
    assert_eq!(seen, [("c1".to_owned(), true), ("d1".to_owned(), false)]);
    let jobs = running.subscription.jobs().await.unwrap();
    assert_eq!((jobs[0].id.lane, jobs[0].state), (lane.0, facade::JobState::Done));
    running.close().await;
}

#[tokio::test]
async fn a_seek_and_a_pause_outlive_a_restart() {
    let home = Home::real();
    let running = home.open();
    running.publish(&["a1", "b1", "c1"]).await;
    running.settled_down().await;
    running.subscription.seek(Seek::All(Offset(2))).await.unwrap();
    running.subscription.pause().await.unwrap();
    running.close().await;

    let running = home.open();
    assert!(running.try_receive(10).await.unwrap().is_empty());
    let status = running.subscription.status(false).await.unwrap().status;
    assert_eq!(status.state, facade::SubscriptionState::Paused(facade::Hold::Operator));
    running.subscription.resume().await.unwrap();
    assert_eq!(ids(&running.receive(10).await), ["c1"]);
    let view = running.subscription.event(Partition { generation: 0, number: 1 }, Offset(0)).await;
    assert_eq!(view.unwrap(), facade::EventState::Settled, "passed over");
    assert!(running.subscription.surroundings().topic.log().is_some());
    assert_eq!(LaneId::LIVE, LaneId(0));
    running.close().await;
}

#[tokio::test]
async fn only_the_types_that_are_wanted_are_delivered() {
    let mut home = Home::real();
    home.settings.types = vec![crate::events::settings::TypePattern::parse("other.*")];
    let running = home.open();
    running.publish(&["a1", "b1"]).await;
    assert!(running.receive_now(10).await.is_empty());
    let status = running.subscription.status(false).await.unwrap().status;
    assert_eq!((status.lag_events, status.parked), (0, 0), "what is not wanted is settled");
    running.close().await;
}
