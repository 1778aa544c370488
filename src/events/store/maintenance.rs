//! Background work of a store: watches disk and clock, takes snapshots, deletes what is old.

use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::sleep;

use super::{Inner, Reading, Store, topic::Topic, topics::millis};
use crate::events::{
    delivery::subscription::Removal,
    facade::Refusal,
    queue::{
        Offset,
        codec::Generation,
        log::{GONE, Log, State},
        topic::{Readers, Topic as Handle, registry::RegistryError, retention::Pin},
    },
    settings::Target,
};
use crate::telemetry::task;

/// Interval of the checks.
const LOOK: Duration = Duration::from_secs(1);
/// One of the store's own logs that is offline is reopened every this many checks.
const REOPEN: u64 = 30;
/// Sparse segments are searched for every this many checks.
const TIDY: u64 = 10;
/// Dead letters removed in one go.
const LETTERS: usize = 1_000;

// === impl Store ===

impl Store {
    /// Starts the maintenance task, which runs as long as the store exists.
    pub(super) fn look_after(&self) {
        let store = Arc::downgrade(&self.0);
        task::spawn("store", look_after(store));
    }

    async fn look(&self, number: u64) {
        let store = self.clone();
        if let Ok(Err(error)) = self.block(move || store.tend_disk()).await {
            tracing::warn!(%error, "cannot read the disk's free space, or cannot allocate the reserve");
        }
        if self.0.disk.is_gone() {
            return;
        }
        self.hold_clock().await;
        if number.is_multiple_of(REOPEN) {
            self.reopen("the journal of the delivery state", &self.0.journal).await;
            if self.0.ingress.may_reopen() {
                self.reopen("the log of requests", self.0.ingress.log()).await;
            }
        }
        self.open_where_there_is_room().await;
        // A log that is offline was reported once.
        if let Err(error) = self.tend_requests().await
            && number.is_multiple_of(REOPEN)
        {
            tracing::warn!(%error, "events owed by requests cannot be appended yet; it is tried again");
        }
        self.snapshot_if_due().await;
        // A topic that is offline was reported once, and deletes nothing.
        let is_open = |topic: &Arc<Topic>| topic.handle().is_some_and(|it| !it.log().is_offline());
        for topic in self.all_topics().into_iter().filter(is_open) {
            if let Err(error) = self.retain(&topic).await {
                tracing::warn!(topic = %topic.name(), %error, "retention cannot delete old segments; it is tried again");
            }
        }
        if let Err(error) = self.age_letters().await {
            tracing::warn!(%error, "dead letters past their age cannot be removed; it is tried again");
        }
        if number.is_multiple_of(TIDY) {
            for reading in self.all_subscriptions() {
                let tidied = self.tidy_letters(&reading).await;
                if let Err(error) = tidied.and(self.unpark(&reading).await) {
                    let subscription = &reading.settings.name;
                    tracing::warn!(%subscription, %error, "old dead letters or parked events cannot be copied forward; it is tried again");
                }
            }
        }
    }

    /// Remembers over a restart whether the clock is trusted. The next check retries a failure.
    pub(super) async fn hold_clock(&self) {
        self.0.guard.judge();
        let store = self.clone();
        if let Ok(Err(error)) = self.block(move || store.0.held_clock.follow(&store.0.guard)).await
        {
            tracing::warn!(%error, "cannot write CLOCK: a restart would forget that the clock is not trusted");
        }
    }

    /// Gives the reserve to a journal without room, or takes it back. Blocks.
    fn tend_disk(&self) -> io::Result<()> {
        if !self.0.disk.is_gone() && !self.0.registry.lock().is_there()? {
            self.0.disk.set_gone();
            tracing::error!(
                dir = %self.0.settings.read().dir.display(),
                "{GONE}: nothing is taken or delivered any more; start the gateway anew, with what was in it put back"
            );
        }
        if self.0.disk.is_gone() {
            return Ok(());
        }
        self.0.reserve.tend()?;
        // The state stays `Full` until the next write, which may be long after there is room.
        let is_full = self.0.journal.status().state == State::Full;
        if is_full && self.0.disk.is_low() {
            self.0.reserve.give_up()?;
        }
        Ok(())
    }

    /// Opens topics that lacked disk space, once there is some.
    async fn open_where_there_is_room(&self) {
        if self.0.disk.is_low() {
            return;
        }
        for topic in self.all_topics().into_iter().filter(|topic| topic.lacks_room()) {
            if let Err(error) = self.do_reopen(&topic.name()).await {
                tracing::warn!(topic = %topic.name(), %error, "the topic stays offline");
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

    /// Deletes what a topic need not keep; refuses publishes to it while a reader is too far behind.
    pub(super) async fn retain(&self, topic: &Arc<Topic>) -> Result<(), Refusal> {
        let Some(handle) = topic.handle().cloned() else { return Ok(()) };
        let readers = self.readers(topic);
        let pins = self.pins(topic, &readers).await?;
        let oldest = match topic.about().settings.max_oldest_age {
            Some(_) => self.oldest_unsettled(&readers).await?,
            None => None,
        };
        let looking = handle.clone();
        let look = move || looking.look(&Readers { pins: &pins, oldest });
        let decision = self.block(look).await?;
        let decision = decision.map_err(|error| Refusal::unavailable(error.to_string()))?;
        if decision.lost > 0 {
            tracing::warn!(topic = %topic.name(), lost = decision.lost, "retention deleted events that some subscription had not settled");
        }
        if let Some(held) = decision.held {
            for reader in readers.iter().filter(|reader| reader.settings.is_pinning) {
                self.park(topic, reader, held).await?;
            }
        }
        if decision.retire.is_some() {
            let start = handle.log().start();
            for reader in readers {
                reader.subscription.dropped(start).await?;
            }
        }
        self.note_generation(topic).await
    }

    /// What each reader of a topic still needs; also notes how far its requests are settled.
    pub(super) async fn pins(
        &self,
        topic: &Topic,
        readers: &[Reading],
    ) -> Result<Vec<Pin>, Refusal> {
        let mut pins = Vec::with_capacity(readers.len());
        for reader in readers {
            let from = reader.subscription.pins().await?.topic;
            pins.push(Pin { from, pins: reader.settings.is_pinning });
        }
        let delivered = readers.iter().zip(&pins).filter(|(reader, _)| delivers(reader));
        topic.note_settled(delivered.map(|(_, pin)| pin.from).min().unwrap_or(Offset::ZERO));
        Ok(pins)
    }

    /// When the oldest event that any of these readers has not settled was published.
    async fn oldest_unsettled(&self, readers: &[Reading]) -> Result<Option<u64>, Refusal> {
        let mut oldest = None;
        for reader in readers {
            let age = self.show_subscription(reader.clone()).await?.oldest_age.map(millis);
            let published = age.map(|age| self.now().saturating_sub(age));
            oldest = [oldest, published].into_iter().flatten().min();
        }
        Ok(oldest)
    }

    /// Records in the registry where the newest generation of a topic begins, once it has begun.
    async fn note_generation(&self, topic: &Arc<Topic>) -> Result<(), Refusal> {
        let Some((number, opened)) = topic.handle().and_then(Handle::generation_opened) else {
            return Ok(());
        };
        let known = topic.about().meta.generations;
        let is_open = |it: &Generation| it.number == number && it.opened == Offset(u64::MAX);
        if !known.iter().any(is_open) {
            return Ok(());
        }
        let (store, topic) = (self.clone(), topic.clone());
        let noted = self.block(move || {
            let mut registry = store.0.registry.lock();
            registry.generation_opened(topic.id(), number, opened)?;
            topic.generation_opened(number, opened);
            Ok(())
        });
        noted.await?.map_err(|error: RegistryError| Refusal::unavailable(error.to_string()))
    }

    /// Removes dead letters that have reached their maximum age.
    pub(super) async fn age_letters(&self) -> Result<(), Refusal> {
        let judged = self.0.guard.judge();
        if judged.is_frozen {
            return Ok(());
        }
        for reading in self.all_subscriptions() {
            let Some(letters) = reading.settings.dead_letter else { continue };
            let until = judged.wall.saturating_sub(millis(letters.max_age));
            let gone = reading.subscription.aged_letters(judged.wall, until, LETTERS).await?;
            if !gone.is_empty() {
                tracing::warn!(
                    subscription = %reading.settings.name,
                    count = gone.len(),
                    "removed dead letters that were past their age"
                );
                let count = gone.len() as u64;
                reading.subscription.remove_letters(Removal::Aged, gone).await?;
                reading.topic.count_aged_letters(count);
            }
        }
        Ok(())
    }
}

/// Whether this subscription sends requests to an upstream.
pub(super) fn delivers(reader: &Reading) -> bool {
    let push = reader.settings.push.as_ref();
    push.is_some_and(|push| matches!(push.target, Target::Upstream(_)))
}

/// Ends with the store.
async fn look_after(store: Weak<Inner>) {
    let mut number = 0;
    loop {
        sleep(LOOK).await;
        number += 1;
        let Some(inner) = store.upgrade() else { return };
        Store(inner).look(number).await;
    }
}
