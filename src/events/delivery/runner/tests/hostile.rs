//! Consumers that die, gateways that die, disks that forget: the guarantees of a subscription hold
//! over any number of restarts.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::events::queue::storage::model::{Crash, Model, campaign};

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// By a regular stop.
    Stop,
    /// The process is killed.
    Kill,
    /// The power fails.
    Power,
}

/// What is known from all runs.
#[derive(Debug, Default)]
struct Ledger {
    /// By key, in order.
    published: BTreeMap<String, Vec<String>>,
    /// Published with an unknown outcome.
    doubtful: BTreeSet<String>,
    acked: BTreeSet<String>,
    next: usize,
}

fn key(id: &str) -> String {
    id[..1].to_owned()
}

impl Ledger {
    async fn publish(&mut self, running: &Running, key: &str) {
        let id = format!("{key}{:04}", self.next);
        self.next += 1;
        if running.publish(&[&id]).await {
            self.published.entry(key.to_owned()).or_default().push(id);
        } else {
            self.doubtful.insert(id);
        }
    }

    /// Before an event, all earlier ones of its key were acked or are in the same batch.
    fn check(&self, batch: &[Leased]) {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        for leased in batch {
            let id = leased.event.id.as_str();
            for earlier in self.published.get(&key(id)).into_iter().flatten() {
                if earlier.as_str() < id {
                    let is_over = self.acked.contains(earlier) || seen.contains(earlier.as_str());
                    assert!(is_over, "{id} before {earlier}");
                }
            }
            seen.insert(id);
        }
    }
}

/// One run of this many random steps.
async fn live(home: &Home, ledger: &mut Ledger, luck: &mut fastrand::Rng, steps: usize) -> bool {
    let Some(running) = home.try_open() else { return false };
    for _ in 0..steps {
        match luck.u8(0..10) {
            0..=3 => ledger.publish(&running, ["a", "b", "c"][luck.usize(0..3)]).await,
            4..=7 => {
                let most = luck.usize(1..6);
                let Ok(batch) = running.try_receive(most).await else { continue };
                ledger.check(&batch);
                for leased in &batch {
                    let verb = match luck.u8(0..10) {
                        0..=4 => Verb::Ack,
                        5 => Verb::Nack,
                        6 => Verb::Release,
                        7 => Verb::Extend,
                        _ => break,
                    };
                    let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
                    let Ok(said) = running.subscription.settle(verb, vec![item]).await else {
                        break;
                    };
                    if verb == Verb::Ack && said[0].status == TokenStatus::Ok {
                        ledger.acked.insert(leased.event.id.clone());
                    }
                    if verb == Verb::Nack || verb == Verb::Release {
                        break;
                    }
                }
            }
            8 => home.clock.advance(luck.u64(1_000..20_000)),
            _ => tokio::time::sleep(Duration::from_micros(luck.u64(0..2_000))).await,
        }
    }
    running.close_or_not(luck.bool()).await;
    true
}

impl Running {
    async fn close_or_not(self, closes: bool) {
        if closes {
            self.close().await;
        } else {
            std::mem::forget(self);
        }
    }
}

async fn lives(seed: u64) {
    let mut luck = fastrand::Rng::with_seed(seed);
    let mut model = Model::new();
    let mut ledger = Ledger::default();
    let clock = ManualClock::at(START);
    for _ in 0..6 {
        let mut home = Home::on(Arc::new(model.clone()));
        home.clock = clock.clone();
        home.settings.retry.max_attempts = 1_000;
        let end = [End::Stop, End::Kill, End::Power][luck.usize(0..3)];
        if !matches!(end, End::Stop) && luck.bool() {
            model.stop_at(model.operations() + luck.u64(0..60));
        }
        let steps = luck.usize(10..40);
        live(&home, &mut ledger, &mut luck, steps).await;
        model = match end {
            End::Stop | End::Kill => model.restart(),
            End::Power => model.crash(Crash::any(luck.u64(..))),
        };
        clock.advance(luck.u64(0..40_000));
    }
    let mut home = Home::on(Arc::new(model));
    home.clock = clock;
    home.settings.retry.max_attempts = 1_000;
    let running = home.open();
    let mut quiet = 0;
    while quiet < 3 {
        let batch = running.receive_now(100).await;
        ledger.check(&batch);
        quiet = if batch.is_empty() { quiet + 1 } else { 0 };
        for leased in &batch {
            assert_eq!(running.say(Verb::Ack, leased).await, TokenStatus::Ok);
            ledger.acked.insert(leased.event.id.clone());
        }
        home.pass(&running, 3_600).await;
    }
    for id in ledger.published.values().flatten() {
        assert!(ledger.acked.contains(id), "{id} is lost");
    }
    assert!(running.letters_now().await.is_empty());
    running.close().await;
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn keys_stay_in_order_at_a_flaky_consumer_over_any_number_of_lives() {
    for seed in 0..campaign(4) {
        let caught = std::panic::catch_unwind(|| runtime().block_on(lives(seed)));
        assert!(caught.is_ok(), "seed {seed}");
    }
}

/// Flips a bit of the topic.
pub(super) fn damage(model: &Model, said: &str) {
    let is_there = |path: &PathBuf| {
        let bytes = model.bytes(path);
        let at = bytes.windows(said.len()).position(|bytes| bytes == said.as_bytes());
        at.map(|at| (path.clone(), at as u64))
    };
    let mut files = model.files().into_iter().filter(|path| path.starts_with("topic"));
    let (path, at) = files.find_map(|path| is_there(&path)).expect("it is on disk");
    model.flip(&path, at, 1);
}

/// Takes everything until `count` events are counted as lost and nothing is left.
async fn lost(running: &Running, count: std::ops::RangeInclusive<u64>) {
    for _ in 0..2_000 {
        for leased in running.try_receive(500).await.unwrap() {
            running.say(Verb::Ack, &leased).await;
        }
        let status = running.subscription.status(false).await.unwrap().status;
        if status.lag_events == 0 && count.contains(&running.subscription.tally().lost.get()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tally = running.subscription.tally().lost.get();
    panic!("{tally} lost, not {count:?}: {:?}", running.subscription.status(false).await);
}

#[tokio::test]
async fn an_event_whose_bytes_are_gone_before_its_dead_letter_is_written_is_lost_and_counted() {
    let home = Home::real();
    let running = home.open();
    assert!(running.publish(&["a1", "a2"]).await);
    let leased = running.receive_now(10).await;
    // Its segment is filled, sealed and deleted while a consumer holds it.
    while running.topic.segments().len() < 2 {
        let names: Vec<String> = (0..500).map(|n| format!("b{n}")).collect();
        assert!(running.publish(&names.iter().map(String::as_str).collect::<Vec<_>>()).await);
    }
    let topic = running.topic.clone();
    let end = topic.durable();
    let start = tokio::task::spawn_blocking(move || topic.retire(end)).await.unwrap().unwrap();
    assert!(start > Offset(1));
    // Both are lost as soon as somebody reads them, possibly before either is rejected.
    for event in &leased {
        let said = running.say(Verb::Reject, event).await;
        assert!(matches!(said, TokenStatus::Ok | TokenStatus::Settled), "{said:?}");
    }
    // Those that are ready are lost too. The topic counts what was not scanned yet.
    lost(&running, 3..=start.0).await;
    assert!(running.letters_now().await.is_empty());
    running.close().await;

    let running = home.open();
    let status = running.subscription.status(false).await.unwrap().status;
    assert_eq!(status.lag_events, 0, "nothing is tried again in another life");
    running.close().await;
}

#[tokio::test]
async fn what_is_quarantined_is_lost_and_counted_and_what_is_behind_it_goes_on() {
    let model = Model::new();
    let mut home = Home::on(Arc::new(model.clone()));
    home.recovery = Recovery::Quarantine;
    let running = home.open();
    assert!(running.publish(&["a1", "a2", "b1"]).await);
    running.settled_down().await;
    damage(&model, "data of a1");
    let mut taken = BTreeSet::new();
    for _ in 0..200 {
        for leased in running.try_receive(10).await.unwrap() {
            running.say(Verb::Ack, &leased).await;
            taken.insert(leased.event.id);
        }
        home.pass(&running, 5).await;
        if taken.len() == 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(taken.into_iter().collect::<Vec<_>>(), ["a2", "b1"]);
    lost(&running, 1..=1).await;
    running.close().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_not_overtaken_by_what_is_behind_it() {
    let model = Model::new();
    let home = Home::on(Arc::new(model.clone()));
    let running = home.open();
    assert!(running.publish(&["a1", "a2", "b1"]).await);
    running.settled_down().await;
    damage(&model, "data of a1");
    for _ in 0..3 {
        let leased = running.try_receive(10).await.unwrap();
        assert!(leased.iter().all(|leased| key(&leased.event.id) != "a"), "{:?}", ids(&leased));
        for leased in &leased {
            running.say(Verb::Ack, leased).await;
        }
        home.pass(&running, 5).await;
    }
    assert!(running.letters_now().await.is_empty());
    running.close().await;
}

#[tokio::test]
async fn a_consumer_that_dies_on_one_of_500_loses_that_one_over_restarts() {
    let mut home = Home::real();
    home.settings.retry.max_attempts = 4;
    let mut running = home.open();
    let ids: Vec<String> =
        (0..500).map(|event| format!("{}{event:03}", ["a", "b", "c", "d"][event % 4])).collect();
    let names: Vec<&str> = ids.iter().map(String::as_str).collect();
    for names in names.chunks(100) {
        assert!(running.publish(names).await);
    }
    let poison = ids[250].as_str();
    let mut taken = BTreeSet::new();
    let mut round = 0;
    while taken.len() < 499 {
        round += 1;
        assert!(round < 2_000, "stuck with {} taken", taken.len());
        let batch = running.receive_now(500).await;
        if batch.is_empty() {
            // Waits for a turn, a due time, or a dead letter.
            tokio::time::sleep(Duration::from_millis(2)).await;
            home.pass(&running, 60).await;
            continue;
        }
        if batch.iter().any(|leased| leased.event.id == poison) {
            // The consumer dies, and sometimes the gateway too.
            if round % 3 == 0 {
                running.close().await;
                running = home.open();
            }
            home.pass(&running, 31).await;
            continue;
        }
        let items = batch
            .iter()
            .map(|leased| TokenItem { token: leased.token.clone(), ..TokenItem::default() })
            .collect();
        for result in running.subscription.settle(Verb::Ack, items).await.unwrap() {
            assert_eq!(result.status, TokenStatus::Ok);
        }
        taken.extend(batch.into_iter().map(|leased| leased.event.id));
    }
    assert_eq!(running.letters(1).await, [poison]);
    assert!(!taken.contains(poison));
    running.close().await;
}
