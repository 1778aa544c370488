//! When snapshots of delivery state are taken and the journal is truncated.

use std::{io, path::Path, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use super::{Store, layout::STATE, topic::Topic};
use crate::events::{
    delivery::snapshot::Snapshot,
    facade::Refusal,
    queue::{LogId, Offset, storage},
};

/// A snapshot is taken after so many bytes of journal ...
const BYTES: u64 = 16 << 20;
/// ... or so much time, if anything was written.
const EVERY: Duration = Duration::from_mins(1);
/// The journal is synced within milliseconds; a disk that needs longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Without room for it another is tried after.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the last snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    last: Mutex<Last>,
    /// One at a time.
    taking: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Last {
    at: Instant,
    end: Offset,
    appended: u64,
}

// === impl Snapshots ===

impl Snapshots {
    pub(super) fn new(end: Offset) -> Self {
        let last = Mutex::new(Last { at: Instant::now(), end, appended: 0 });
        Self { last, taking: tokio::sync::Mutex::new(()) }
    }
}

// === impl Store ===

impl Store {
    /// A snapshot of what was recovered; if the disk is full, with the room that is kept for the journal.
    pub(super) async fn first_snapshot(&self) -> Result<(), Refusal> {
        let error = match self.snapshot().await {
            Err(error @ Refusal::Disk { .. }) => error,
            otherwise => return otherwise,
        };
        let store = self.clone();
        match self.block(move || store.0.reserve.give_up()).await? {
            Ok(true) => self.snapshot().await,
            _ => Err(error),
        }
    }

    /// What is on disk by now is there, or lost, from here on: states that are in a snapshot, logs that are open.
    /// Where that cannot be noted, the next start does.
    pub(super) async fn note_begun(&self) {
        let is_open = |topic: &Arc<Topic>| topic.is_lasting() && !topic.is_offline();
        let topics: Vec<_> =
            self.all_topics().iter().filter(|it| is_open(it)).map(|it| it.id()).collect();
        let readings = self.all_subscriptions();
        let subscriptions: Vec<_> =
            readings.iter().map(|it| LogId(it.subscription.surroundings().id)).collect();
        let store = self.clone();
        let noted = self.block(move || store.0.registry.lock().begun(&topics, &subscriptions));
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot record in META which topics and subscriptions have data");
            }
            Err(error) => {
                tracing::warn!(%error, "cannot record in META which topics and subscriptions have data");
            }
        }
    }

    /// Takes a snapshot if it is time.
    pub(super) async fn snapshot_if_due(&self) {
        let journal = &self.0.journal;
        let is_due = {
            let last = self.0.snapshots.last.lock();
            let written = journal.gauges().appended_bytes.get().saturating_sub(last.appended);
            let is_late = last.at.elapsed() >= EVERY && journal.durable() > last.end;
            written >= BYTES || is_late
        };
        if (is_due || self.has_hole().await)
            && let Err(error) = self.snapshot().await
        {
            tracing::warn!(%error, "no snapshot of the delivery state was taken");
        }
    }

    async fn has_hole(&self) -> bool {
        for reading in self.all_subscriptions() {
            if reading.subscription.has_hole().await.unwrap_or(false) {
                return true;
            }
        }
        false
    }

    /// Writes the delivery state anew, mends the journal, and lets go of what it has below the older of
    /// two snapshots.
    pub async fn snapshot(&self) -> Result<(), Refusal> {
        let _one_at_a_time = self.0.snapshots.taking.lock().await;
        if self.0.journal.is_offline() {
            return Err(Refusal::unavailable("the journal of the delivery state is offline"));
        }
        let appended = self.0.journal.gauges().appended_bytes.get();
        let mut snapshot = Snapshot::default();
        let mut holes = Vec::new();
        for reading in self.all_subscriptions() {
            let (section, has_hole) = reading.subscription.section().await?;
            if has_hole {
                holes.push(reading.subscription);
            }
            snapshot.sections.push(section);
        }
        if snapshot.sections.is_empty() {
            return Ok(());
        }
        let end = snapshot.floor();
        self.journal_durable(end).await?;
        let store = self.clone();
        let written = self.block(move || {
            let id = store.0.registry.lock().store();
            let older = snapshot.write(&*store.0.storage, Path::new(STATE), id)?;
            if let Err(error) = store.0.journal.retire(older) {
                tracing::warn!(%error, "old journal segments cannot be deleted");
            }
            Ok(())
        });
        written.await?.map_err(|error: io::Error| {
            if storage::is_full(&error) {
                Refusal::Disk { retry_after: AGAIN }
            } else {
                Refusal::unavailable(error.to_string())
            }
        })?;
        for subscription in holes {
            subscription.mend().await?;
        }
        *self.0.snapshots.last.lock() = Last { at: Instant::now(), end, appended };
        Ok(())
    }

    /// Waits until the journal is on disk up to `end`.
    async fn journal_durable(&self, end: Offset) -> Result<(), Refusal> {
        let mut durable = self.0.journal.subscribe_durable();
        let is_there = timeout(PATIENCE, durable.wait_for(|durable| *durable >= end)).await;
        match is_there {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::unavailable("the journal of the delivery state is not synced")),
        }
    }
}
