//! Publishing: what is refused, what is appended, and what is answered.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use super::{Store, topic::Topic, topics::millis};
use crate::events::{
    event::Event,
    facade::{Bound, Published, Refusal},
    queue::{
        Offset,
        codec::{Draft, MAX_FRAME_BYTES},
        log::{AppendError, Appended, Log, Purpose, Reader, Reason, Refused},
        topic::delayed::{self, NotAdmitted},
    },
    stored,
};

/// Maximum size of a frame without its records.
const FRAME_OVERHEAD: usize = 4096;
/// When to retry if a topic is full or its reader is behind.
const RETRY_AFTER: Duration = Duration::from_secs(1);

// === impl Store ===

impl Store {
    pub(super) async fn do_publish(
        &self,
        topic: &str,
        events: Vec<Event>,
    ) -> Result<Vec<Published>, Refusal> {
        if self.0.ending.is_draining.load(Relaxed) {
            return Err(Refusal::Draining);
        }
        let topic = self.find_topic(topic)?;
        let handle = topic.opened()?;
        let drafts = self.drafts(&topic, &events)?;
        let due = events.iter().filter_map(|event| event.not_before).max();
        // The earlier of the two: while the clock is frozen nothing is released before its time.
        let is_early = |due: &u64| *due > self.now().min(self.0.guard.judge().wall);
        if let Some(due) = due.filter(is_early) {
            return self.delay(&topic, events, drafts, due).await;
        }
        let bytes = bytes_of(&drafts);
        let commit = handle.publish(Purpose::Publish, drafts);
        let appended = commit.map_err(|refused| refusal(&refused, bytes))?.await;
        let appended = appended.map_err(|error| append_refusal(&error, bytes))?;
        let originals = self.originals(handle.log(), &events, &appended).await?;
        let published = events.into_iter().zip(&appended);
        Ok(published.map(|published| appended_at(published, &originals)).collect())
    }

    /// Stores events in the log of delayed events; the last is due at `due`.
    async fn delay(
        &self,
        topic: &Arc<Topic>,
        events: Vec<Event>,
        drafts: Vec<Draft>,
        due: u64,
    ) -> Result<Vec<Published>, Refusal> {
        let bytes = bytes_of(&drafts);
        if topic.opened()?.log().is_offline() {
            return Err(refusal(&Refused::new(Reason::Offline), bytes));
        }
        let delayed = self.delayed_log(topic).await?;
        let settings = topic.about().settings;
        let (max_delayed, max_age) = (settings.max_delayed, settings.max_age);
        let allowed = delayed::Settings { max_delayed, max_age };
        let (count, judged) = (events.len() as u64, self.0.guard.judge());
        let admitted = delayed.admit(&allowed, due, count, &judged, self.now());
        admitted.map_err(|not| match not {
            // Each was checked before, so the settings have changed since.
            NotAdmitted::TooLong => Refusal::DelayTooLong { index: 0 },
            NotAdmitted::Full => full(Bound::Delayed, RETRY_AFTER),
        })?;
        let log = delayed.log();
        let taken = log.gauges().bytes.get().saturating_add(log.permitted());
        if taken.saturating_add(bytes) > settings.max_bytes {
            return Err(full(Bound::Delayed, RETRY_AFTER));
        }
        let commit = delayed.append(drafts).map_err(|refused| refusal(&refused, bytes))?;
        let appended = commit.await.map_err(|error| append_refusal(&error, bytes))?;
        Ok(events.into_iter().zip(&appended).map(delayed_at).collect())
    }

    fn drafts(&self, topic: &Topic, events: &[Event]) -> Result<Vec<Draft>, Refusal> {
        let limit = topic.largest_event();
        // The later of the two: while the clock is frozen either may be right.
        let last = LazyCell::new(|| {
            let now = self.now().max(self.0.guard.judge().wall);
            now.saturating_add(millis(topic.about().settings.max_age))
        });
        let mut drafts = Vec::with_capacity(events.len());
        let mut all = FRAME_OVERHEAD;
        for (index, event) in events.iter().enumerate() {
            let event = event.borrowed();
            let (bytes, not_before) = (event.bytes() as u64, event.not_before);
            let draft = stored::draft(event);
            all += draft.encoded_bytes();
            if bytes > limit || draft.check().is_err() {
                return Err(Refusal::TooLarge { index, limit });
            }
            if all > MAX_FRAME_BYTES {
                return Err(Refusal::TooLarge { index, limit: MAX_FRAME_BYTES as u64 });
            }
            if not_before.is_some_and(|at| at > *last) {
                return Err(Refusal::DelayTooLong { index });
            }
            drafts.push(draft);
        }
        Ok(drafts)
    }

    /// The IDs of the originals of duplicates, where they may differ: without a dedup key, events are
    /// duplicates because their IDs are equal.
    async fn originals(
        &self,
        log: &Log,
        events: &[Event],
        appended: &[Appended],
    ) -> Result<Originals, Refusal> {
        let keyed = events
            .iter()
            .zip(appended)
            .filter(|(event, appended)| event.dedup_key.is_some() && appended.duplicate.is_some());
        let wanted: BTreeSet<_> = keyed.map(|(_, appended)| appended.offset).collect();
        if wanted.is_empty() {
            return Ok(Originals::new());
        }
        let reader = log.reader();
        self.block(move || read_ids(reader, &wanted)).await
    }
}

/// IDs of stored events, by offset.
type Originals = BTreeMap<Offset, String>;

/// Reads each part of the log once, however many of the events are in it. Blocks.
fn read_ids(mut reader: Reader, wanted: &BTreeSet<Offset>) -> Originals {
    let mut ids = Originals::new();
    let mut from = Offset::ZERO;
    while let Some(&first) = wanted.range(from..).next() {
        from = first.plus(1);
        let Ok(block) = reader.read(first, 0) else { continue };
        let records = block.records().filter(|(offset, _)| wanted.contains(offset));
        ids.extend(records.filter_map(|(offset, it)| Some((offset, it.id()?.to_owned()))));
        from = from.max(block.next());
    }
    ids
}

fn appended_at((event, appended): (Event, &Appended), originals: &Originals) -> Published {
    let original = appended.duplicate.and_then(|_| originals.get(&appended.offset).cloned());
    Published {
        id: original.unwrap_or(event.id),
        partition: appended.partition.into(),
        offset: appended.offset.0,
        duplicate: appended.duplicate.is_some(),
        mismatch: appended.duplicate.is_some_and(|duplicate| duplicate.mismatch),
        is_delayed: false,
    }
}

/// A delayed event has a place in the delayed log; duplicates are detected when it is due.
fn delayed_at((event, appended): (Event, &Appended)) -> Published {
    Published {
        id: event.id,
        partition: appended.partition.into(),
        offset: appended.offset.0,
        duplicate: false,
        mismatch: false,
        is_delayed: true,
    }
}

fn bytes_of(drafts: &[Draft]) -> u64 {
    drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum()
}

fn full(bound: Bound, retry_after: Duration) -> Refusal {
    Refusal::Full { bound, retry_after }
}

fn refusal(refused: &Refused, bytes: u64) -> Refusal {
    let retry_after = refused.retry_after.unwrap_or(RETRY_AFTER);
    match refused.reason {
        Reason::Full => full(Bound::Bytes, retry_after),
        Reason::Behind => full(Bound::OldestAge, retry_after),
        Reason::DiskLow => Refusal::Disk { retry_after },
        Reason::Offline => Refusal::unavailable("the topic is offline"),
        Reason::TooLarge => Refusal::TooLarge { index: 0, limit: bytes },
    }
}

fn append_refusal(error: &AppendError, bytes: u64) -> Refusal {
    match error {
        AppendError::Refused(refused) => refusal(refused, bytes),
        AppendError::Unknown => Refusal::Unavailable { detail: error.to_string(), may_exist: true },
        AppendError::Stopped => Refusal::Draining,
    }
}
