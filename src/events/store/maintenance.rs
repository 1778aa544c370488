//! What a store does by itself: looks at disk and clock, takes snapshots, lets go of what is old.

use std::{sync::Arc, sync::Weak, time::Duration};

use tokio::time::sleep;

use super::{Inner, Store, topic::Topic, topics::millis};
use crate::events::{
    delivery::subscription::Removal,
    facade::{DeadLetterFilter, Refusal},
    queue::{
        log::Log,
        topic::retention::{self, Keep, Pin, Segment},
    },
    settings::OnFull,
};
use crate::telemetry::task;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A log of the store's own that is offline is opened again so often, in looks.
const REOPEN: u64 = 30;
/// Segments of which little is left are looked for so often, in looks.
const TIDY: u64 = 10;
/// Dead letters removed in one go.
const LETTERS: usize = 1_000;

// === impl Store ===

impl Store {
    /// Looks after the store for as long as there is one.
    pub(super) fn look_after(&self) {
        let store = Arc::downgrade(&self.0);
        task::spawn("store", look_after(store));
    }

    async fn look(&self, number: u64) {
        let disk = self.0.disk.clone();
        if let Ok(Err(error)) = self.block(move || disk.refresh()).await {
            tracing::warn!(%error, "the disk does not say how much room it has");
        }
        if number.is_multiple_of(REOPEN) {
            self.reopen("the journal of the delivery state", &self.0.journal).await;
            self.reopen("the log of requests", self.0.ingress.log()).await;
        }
        // One that is offline has said so once.
        if let Err(error) = self.tend_requests().await
            && number.is_multiple_of(REOPEN)
        {
            tracing::warn!(%error, "what requests have led to waits");
        }
        self.snapshot_if_due().await;
        // One that is offline has said so once, and lets go of nothing.
        for topic in self.all_topics().into_iter().filter(|topic| !topic.is_offline()) {
            if let Err(error) = self.retain(&topic).await {
                tracing::warn!(topic = %topic.name(), %error, "nothing is let go of");
            }
        }
        if let Err(error) = self.age_letters().await {
            tracing::warn!(%error, "dead letters do not age");
        }
        if number.is_multiple_of(TIDY) {
            for reading in self.all_subscriptions() {
                let tidied = self.tidy_letters(&reading).await;
                if let Err(error) = tidied.and(self.unpark(&reading).await) {
                    let subscription = &reading.settings.name;
                    tracing::warn!(%subscription, %error, "nothing is copied forward");
                }
            }
        }
    }

    async fn reopen(&self, what: &'static str, log: &Log) {
        let log = log.clone();
        if log.is_offline()
            && let Ok(Err(error)) = self.block(move || log.reopen()).await
        {
            tracing::error!(%error, "{what} stays offline");
        }
    }

    /// Lets go of what a topic need not keep, and refuses publishes to it where it is full of what it must.
    pub(super) async fn retain(&self, topic: &Arc<Topic>) -> Result<(), Refusal> {
        let Ok(log) = topic.log() else { return Ok(()) };
        let about = topic.about();
        let judged = self.0.guard.judge();
        let wall = (!judged.is_frozen).then_some(judged.wall);
        let readers = self.readers(topic);
        let (mut pins, mut oldest) = (Vec::new(), None);
        for reader in &readers {
            let from = reader.subscription.pins().await?.topic;
            pins.push(Pin { from, pins: reader.settings.is_pinning });
            let numbers = reader.subscription.status(false).await?.status;
            let age = numbers.oldest_age.map(millis);
            let published = age.map(|age| self.now().saturating_sub(age));
            oldest = [oldest, published].into_iter().flatten().min();
        }
        let keep = Keep {
            max_age: about.settings.max_age,
            max_bytes: about.settings.max_bytes,
            on_full: match about.settings.on_full {
                OnFull::Reject => retention::OnFull::Reject,
                OnFull::DropOldest => retention::OnFull::DropOldest,
            },
        };
        let is_behind = retention::is_backed_up(about.settings.max_oldest_age, oldest, wall);
        let (deciding, name) = (log.clone(), topic.name());
        let decision = self.block(move || decide(&deciding, &keep, &pins, wall)).await?;
        topic.hold(decision.is_full || is_behind);
        if let Some(held) = decision.held {
            for reader in readers.iter().filter(|reader| reader.settings.is_pinning) {
                self.park(topic, reader, held).await?;
            }
        }
        let Some(below) = decision.retire else { return Ok(()) };
        if decision.lost > 0 {
            tracing::warn!(topic = %name, lost = decision.lost, "unsettled events are let go of");
        }
        let start = self.block(move || log.retire(below)).await?;
        let start = start.map_err(|error| Refusal::unavailable(error.to_string()))?;
        for reader in readers {
            reader.subscription.dropped(start).await?;
        }
        Ok(())
    }

    /// Dead letters are kept for so long.
    pub(super) async fn age_letters(&self) -> Result<(), Refusal> {
        let judged = self.0.guard.judge();
        if judged.is_frozen {
            return Ok(());
        }
        for reading in self.all_subscriptions() {
            let Some(letters) = reading.settings.dead_letter else { continue };
            let until = judged.wall.saturating_sub(millis(letters.max_age));
            let old = DeadLetterFilter { until: Some(until), ..DeadLetterFilter::default() };
            let gone = reading.subscription.letters(None, old, LETTERS).await?;
            if !gone.is_empty() {
                tracing::warn!(
                    subscription = %reading.settings.name,
                    count = gone.len(),
                    "dead letters are removed by age"
                );
                let gone = gone.into_iter().map(|letter| letter.id).collect();
                reading.subscription.remove_letters(Removal::Aged, gone).await?;
            }
        }
        Ok(())
    }
}

/// Blocks.
fn decide(log: &Log, keep: &Keep, pins: &[Pin], wall: Option<u64>) -> retention::Decision {
    let segments: Vec<Segment> = log
        .segments()
        .into_iter()
        .map(|segment| Segment {
            end: segment.end,
            bytes: segment.bytes,
            newest: segment.newest_wall,
            is_sealed: segment.is_sealed,
        })
        .collect();
    retention::decide(&segments, keep, pins, wall)
}

/// Ends when the store does.
async fn look_after(store: Weak<Inner>) {
    let mut number = 0;
    loop {
        sleep(LOOK).await;
        number += 1;
        let Some(inner) = store.upgrade() else { return };
        Store(inner).look(number).await;
    }
}
