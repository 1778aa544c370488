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

/// A snapshot is taken after this many bytes of journal, ...
const BYTES: u64 = 16 << 20;
/// ... or after this time if anything was written.
const EVERY: Duration = Duration::from_mins(1);
/// The journal is synced within milliseconds; a disk that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause after a snapshot for which there was no room.
const AGAIN: Duration = Duration::from_secs(1);

/// The last snapshot.
#[derive(Debug)]
pub(super) struct Snapshots {
    last: Mutex<Last>,
    /// Serialises snapshots.
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
    /// Takes a snapshot of the recovered state, using the journal's reserve if the disk is full.
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

    /// Notes that what is on disk by now exists, or was lost if it is missing later: states in a
    /// snapshot, open logs. If this fails, the next start does it.
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

    /// Takes a snapshot if one is due.
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

    /// Writes a snapshot of the delivery state, mends the journal, and deletes what the journal has
    /// below the older of two snapshots.
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
