//! The machine dies at any point of an event's life.

use std::collections::BTreeSet;

use super::*;
use crate::events::queue::{
    mutation::{self, Mutation},
    storage::model::{Crash, Fault, Model, Op, campaign},
};

/// What consumers know.
#[derive(Debug, Default)]
struct Known {
    published: BTreeSet<String>,
    /// Acks that were answered `ok`; a power failure may forget them.
    acked: BTreeSet<String>,
}

/// Events are published, acked and rejected; one becomes a dead letter.
async fn live(home: &Home, known: &mut Known) {
    let Some(running) = home.try_open() else { return };
    for batch in [&["a1", "b1", "c1"][..], &["a2", "d1"]] {
        if running.publish(batch).await {
            known.published.extend(batch.iter().map(|id| (*id).to_owned()));
        }
        let Ok(leased) = running.try_receive_soon(10).await else { break };
        for leased in leased {
            let verb = match leased.event.id.as_str() {
                "a1" | "d1" => Verb::Reject,
                "b1" => Verb::Nack,
                _ => Verb::Ack,
            };
            let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
            let said = running.subscription.settle(verb, vec![item]).await;
            if verb == Verb::Ack && said.is_ok() {
                known.acked.insert(leased.event.id.clone());
            }
        }
        // Time for dead letters to be written.
        for _ in 0..20 {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }
    running.close().await;
}

/// Nothing is lost, and no event has two dead letters.
async fn check(home: &Home, known: &Known) {
    let running = home.open();
    home.clock.advance(3_600_000);
    let mut left = BTreeSet::new();
    // Until everything is settled: events that wait for a dead letter hold others back.
    for round in 0.. {
        assert!(round < 5_000, "it does not come to an end");
        let batch = running.receive_now(100).await;
        let is_empty = batch.is_empty();
        for leased in batch {
            left.insert(leased.event.id.clone());
            running.say(Verb::Ack, &leased).await;
        }
        let parts = running.subscription.status(false).await.unwrap().status.partitions;
        if is_empty && parts.iter().all(|part| part.unsettled == 0) {
            break;
        }
        home.pass(&running, 3_600).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let letters = running.letters_now().await;
    let dead: BTreeSet<String> = letters.iter().cloned().collect();
    assert_eq!(dead.len(), letters.len(), "buried twice: {letters:?}");
    for id in &known.published {
        let is_known = left.contains(id) || dead.contains(id) || known.acked.contains(id);
        assert!(is_known, "{id} is lost: left {left:?}, dead {dead:?}, {known:?}");
    }
    running.close().await;
}

impl Running {
    async fn try_receive_soon(&self, most: usize) -> Result<Vec<Leased>, Refusal> {
        let wait = Duration::from_millis(30);
        let receive = Receive { max_events: most, max_bytes: 1 << 20, wait, lease: None };
        self.subscription.receive(receive, Duration::from_secs(30)).await
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Runs until operation `stop`, then again on what the disk has.
fn crash_at(stop: u64, seed: u64) {
    let model = Model::new();
    model.stop_at(stop);
    let mut known = Known::default();
    runtime().block_on(live(&Home::on(Arc::new(model.clone())), &mut known));
    let disk = model.crash(Crash::any(seed));
    runtime().block_on(check(&Home::on(Arc::new(disk)), &known));
}

fn operations() -> u64 {
    let model = Model::new();
    runtime().block_on(live(&Home::on(Arc::new(model.clone())), &mut Known::default()));
    model.operations()
}

/// Crashes at each `step`th operation, starting at a different one for each seed.
fn crash_everywhere(seeds: u64, step: u64) {
    for seed in 0..seeds {
        for stop in (seed % step..operations()).step_by(usize::try_from(step).unwrap()) {
            crash_at(stop, stop * 1_000 + seed);
        }
    }
}

#[test]
fn nothing_is_lost_or_buried_twice_whichever_operation_is_the_last() {
    // In a campaign at every operation, `SLUICE_CAMPAIGN` times.
    let seeds = campaign(0);
    crash_everywhere(seeds.max(1), if seeds == 0 { 5 } else { 1 });
}

#[test]
fn an_event_is_not_settled_before_its_dead_letter_is_on_disk() {
    let caught = mutation::with(Mutation::SettleBeforeTheDeadLettersSync, || {
        std::panic::catch_unwind(|| crash_everywhere(campaign(12), 3)).is_err()
    });
    assert!(caught, "settling before the dead letter's sync goes unnoticed");
}

/// The journal's writes fail from some point on: only events with a recorded attempt are delivered.
async fn deliver_without_a_journal() -> usize {
    let model = Model::new();
    let home = Home::on(Arc::new(model.clone()));
    let running = home.open();
    running.publish(&["a1"]).await;
    running.settled_down().await;
    model.fail_nth(Op::Write, 0, Fault::Io);
    model.fail_nth(Op::Sync, 0, Fault::Io);
    model.fail_nth(Op::Create, 0, Fault::Io);
    let delivered = running.try_receive(10).await.map_or(0, |leased| leased.len());
    running.close().await;
    delivered
}

#[test]
fn without_its_attempt_record_nothing_is_delivered() {
    assert_eq!(runtime().block_on(deliver_without_a_journal()), 0);
    let caught = mutation::with(Mutation::AttemptAfterDelivery, || {
        runtime().block_on(deliver_without_a_journal())
    });
    assert_eq!(caught, 1, "an attempt after its delivery goes unnoticed");
}
