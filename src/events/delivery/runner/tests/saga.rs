//! Followers of an event are published exactly once for each outcome, wherever the machine dies.

use std::collections::BTreeMap;

use super::*;
use crate::events::{
    queue::storage::model::{Crash, Model, campaign},
    settings::{Reaction, ReactionData, TypePattern},
};

/// A subscription whose followers go to its own topic, but which does not receive them.
fn home(storage: Arc<dyn Storage>) -> Home {
    let mut home = Home::on(storage);
    let reaction = |kind: &str| Reaction {
        topic: "orders".into(),
        kind: kind.into(),
        data: ReactionData::Request,
    };
    home.settings.types = vec![TypePattern::parse("made")];
    home.settings.on_success = Some(reaction("done"));
    home.settings.on_exhausted = Some(reaction("failed"));
    home
}

/// Everything in the topic, in order.
fn stored(topic: &Log) -> Vec<Event> {
    let mut reader = topic.reader();
    let (mut all, mut at) = (Vec::new(), topic.start());
    loop {
        let block = reader.read(at, 1 << 20).unwrap();
        if block.is_empty() {
            return all;
        }
        for (_, record) in block.records() {
            all.push(stored::event(&record, bytes::Bytes::copy_from_slice));
        }
        at = block.next();
    }
}

/// Types of the followers, by cause.
fn followers(topic: &Log) -> BTreeMap<String, Vec<String>> {
    let mut followers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in stored(topic) {
        match event.causation {
            Some(cause) => followers.entry(cause).or_default().push(event.kind),
            None => drop(followers.entry(event.id).or_default()),
        }
    }
    followers
}

impl Running {
    /// Settles everything with `verb` until nothing is left and all followers are published.
    async fn finish(&self, home: &Home, verb: Verb) {
        for round in 0.. {
            assert!(round < 5_000, "it does not come to an end");
            let batch = self.receive_now(100).await;
            let is_empty = batch.is_empty();
            for leased in batch {
                self.say(verb, &leased).await;
            }
            let parts = self.subscription.status(false).await.unwrap().status.partitions;
            if is_empty && parts.iter().all(|part| part.unsettled == 0) {
                return;
            }
            home.pass(self, 3_600).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Events are acked and rejected, one is left alone; followers are in flight.
async fn live(home: &Home) {
    let Some(running) = home.try_open() else { return };
    for batch in [&["a1", "b1", "c1"][..], &["a2", "d1"]] {
        running.publish(batch).await;
        let wait = Duration::from_millis(30);
        let receive = Receive { max_events: 10, max_bytes: 1 << 20, wait, lease: None };
        let leased = running.subscription.receive(receive, Duration::from_secs(30)).await;
        let Ok(leased) = leased else { break };
        for leased in leased {
            let verb = match leased.event.id.as_str() {
                "c1" => continue,
                "b1" | "d1" => Verb::Reject,
                _ => Verb::Ack,
            };
            let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
            // Without an answer if the disk failed.
            running.subscription.settle(verb, vec![item]).await.ok();
        }
        for _ in 0..20 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    running.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn crash_at(stop: u64, seed: u64) {
    let model = Model::new();
    model.stop_at(stop);
    runtime().block_on(live(&home(Arc::new(model.clone()))));
    let home = home(Arc::new(model.crash(Crash::any(seed))));
    runtime().block_on(async {
        let running = home.open();
        running.finish(&home, Verb::Ack).await;
        for (cause, kinds) in followers(&running.topic) {
            assert_eq!(kinds.len(), 1, "{cause} of {stop}:{seed} is followed by {kinds:?}");
        }
        running.close().await;
    });
}

#[test]
fn exactly_one_event_follows_from_each_whichever_operation_is_the_last() {
    let model = Model::new();
    runtime().block_on(live(&home(Arc::new(model.clone()))));
    let operations = model.operations();
    let seeds = campaign(0);
    let step = if seeds == 0 { 3 } else { 1 };
    for seed in 0..seeds.max(1) {
        for stop in (seed % step..operations).step_by(usize::try_from(step).unwrap()) {
            crash_at(stop, stop * 1_000 + seed);
        }
    }
}

#[tokio::test]
async fn a_success_and_a_failure_are_followed_by_their_own_and_jobs_by_nothing() {
    let home = home(Arc::new(Model::new()));
    let running = home.open();
    running.publish(&["a1", "b1"]).await;
    for leased in running.receive_now(10).await {
        let verb = if leased.event.id == "a1" { Verb::Ack } else { Verb::Reject };
        running.say(verb, &leased).await;
    }
    running.finish(&home, Verb::Ack).await;
    let one = |kind: &str| vec![kind.to_owned()];
    let expected = BTreeMap::from([("a1".into(), one("done")), ("b1".into(), one("failed"))]);
    assert_eq!(followers(&running.topic), expected);
    let done = stored(&running.topic).into_iter().find(|event| event.kind == "done").unwrap();
    assert_eq!((done.correlation.as_deref(), done.depth), (Some("a1"), 1));
    assert_eq!(done.data, "data of a1");

    // A redrive and a replay deliver again without publishing.
    let letters =
        running.subscription.letters(None, facade::DeadLetterFilter::default(), 10).await.unwrap();
    assert!(letters[0].is_compensated, "a redrive of it needs `force`");
    running.subscription.redrive(vec![letters[0].id], None, true).await.unwrap();
    running.finish_jobs(&home).await;
    running.subscription.replay((Offset(0), Offset(2)), None, false).await.unwrap();
    running.finish_jobs(&home).await;
    assert_eq!(followers(&running.topic), expected);
    // If it should publish, a job uses the same ID: a topic that deduplicates keeps one.
    running.subscription.replay((Offset(0), Offset(1)), None, true).await.unwrap();
    running.finish_jobs(&home).await;
    let again: Vec<_> =
        stored(&running.topic).into_iter().filter(|event| event.kind == "done").collect();
    assert_eq!((again.len(), &again[0].id), (2, &again[1].id));
    running.close().await;
}

impl Running {
    /// Takes what jobs deliver until they have ended.
    async fn finish_jobs(&self, home: &Home) {
        for _ in 0..2_000 {
            for leased in self.receive_now(10).await {
                assert!(leased.is_replay);
                self.say(Verb::Ack, &leased).await;
            }
            let jobs = self.subscription.jobs().await.unwrap();
            if jobs.iter().all(|job| job.state == facade::JobState::Done) {
                return;
            }
            home.pass(self, 1).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("a job does not end");
    }
}

impl Running {
    /// Deletes the oldest events and tells the subscription, as retention does.
    async fn let_go(&self) {
        for _ in 0..4 {
            let event = Event {
                id: "filler".into(),
                source: "/test".into(),
                kind: "filler".into(),
                data: vec![0; 100 << 10].into(),
                ..Event::default()
            };
            let draft = stored::draft(event.borrowed());
            let permit = self.topic.permit(draft.encoded_bytes() as u64).unwrap();
            self.topic.append(permit, vec![draft]).await.unwrap();
        }
        let start = self.topic.retire(self.topic.durable()).unwrap();
        assert!(start > Offset::ZERO, "nothing went");
        self.subscription.dropped(start).await.unwrap();
    }
}

#[tokio::test]
async fn a_compensation_follows_where_only_the_dead_letter_is_left_of_its_cause() {
    for is_told in [true, false] {
        let home = home(Arc::new(Model::new()));
        home.is_shut.store(true, Ordering::SeqCst);
        let running = home.open();
        running.publish(&["a1"]).await;
        let leased = running.receive_now(1).await.pop().unwrap();
        running.say(Verb::Reject, &leased).await;
        assert_eq!(running.letters(1).await, ["a1"]);
        let running = if is_told {
            running.let_go().await;
            running
        } else {
            // The gateway dies before that is recorded.
            running.close().await;
            let running = home.open();
            running.let_go().await;
            running
        };
        home.is_shut.store(false, Ordering::SeqCst);
        running.finish(&home, Verb::Ack).await;
        let failed: Vec<Event> =
            stored(&running.topic).into_iter().filter(|it| it.kind == "failed").collect();
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].causation.as_deref(), Some("a1"));
        assert_eq!(failed[0].data, "data of a1");
        let filter = facade::DeadLetterFilter::default();
        let letters = running.subscription.letters(None, filter, 10).await.unwrap();
        assert!(letters[0].is_compensated);
        assert_eq!(running.subscription.tally().lost.get(), 0);
        running.close().await;
    }
}

#[tokio::test]
async fn a_saga_that_is_too_deep_ends() {
    let mut home = home(Arc::new(Model::new()));
    // It receives its own followers.
    home.settings.types.clear();
    let running = home.open();
    running.publish(&["a1"]).await;
    running.finish(&home, Verb::Ack).await;
    let depths: Vec<u8> = stored(&running.topic).iter().map(|event| event.depth).collect();
    assert_eq!(depths, (0..=8).collect::<Vec<u8>>());
    assert_eq!(running.subscription.tally().stopped_sagas.get(), 1);
    running.close().await;
}
