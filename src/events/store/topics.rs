//! Reports the status of topics and their events, and searches them.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{
    Reading, Store,
    opening::topic_settings,
    topic::{Ground, Topic},
};
use crate::events::{
    delivery::subscription::Partition,
    facade::{DedupStatus, Dropped, Found as Traced, Refusal, StoredEvent, TopicStatus, Trace},
    queue::{
        LogId, Offset,
        codec::{Lookup, Record, TopicMeta},
        log::{Log, OwnedRecord, Place, ReadError},
        topic::{Found, Topic as Handle, delayed::DelayedLog, registry::Registry},
    },
    stored,
};

/// Time limit of a search by ID.
const SEARCH: Duration = Duration::from_secs(1);
/// Maximum number of events found in one topic.
const TRACED: usize = 1_000;

/// The topics in the registry, not open yet.
pub(super) fn topics(
    registry: &Registry,
    ground: &Ground<'_>,
    place: impl Fn(PathBuf, LogId) -> Place,
) -> io::Result<BTreeMap<Arc<str>, Arc<Topic>>> {
    let topic = |meta: &TopicMeta| {
        let place = place(Registry::topic_dir(meta.id), meta.id);
        let topic = Topic::new(meta, topic_settings(meta, ground.settings), place, ground)?;
        Ok((topic.name(), Arc::new(topic)))
    };
    registry.topics().iter().map(topic).collect()
}

// === impl Store ===

impl Store {
    pub(super) async fn show_topic(&self, topic: Arc<Topic>) -> Result<TopicStatus, Refusal> {
        let readers = self.readers(&topic);
        let is_clock_frozen = self.0.guard.judge().is_frozen;
        self.block(move || status(&topic, &readers, is_clock_frozen)).await
    }

    pub(super) async fn do_reopen(&self, name: &str) -> Result<TopicStatus, Refusal> {
        let topic = self.find_topic(name)?;
        if !topic.is_offline() {
            return Err(Refusal::conflict(format!("topic `{name}` is not offline")));
        }
        let opening = topic.clone();
        let opened = self.block(move || opening.open(Offset::ZERO)).await?;
        opened.map_err(|error| Refusal::unavailable(error.to_string()))?;
        for reading in self.readers(&topic) {
            reading.subscription.reopened().await?;
        }
        self.inherit(&topic).await?;
        self.show_topic(topic).await
    }

    pub(super) async fn do_event_at(
        &self,
        name: &str,
        partition: u32,
        offset: u64,
    ) -> Result<StoredEvent, Refusal> {
        let topic = self.find_topic(name)?;
        let mut reader = topic.opened()?.log().reader();
        let unknown = || Refusal::unknown("event", format!("{partition}:{offset}"));
        let found = self.block(move || reader.get(Offset(offset))).await?;
        let found = match found {
            Ok(found) => found.ok_or_else(unknown)?,
            Err(ReadError::Retired { .. }) => return Err(unknown()),
            Err(error) => return Err(Refusal::unavailable(error.to_string())),
        };
        let record = found.record().ok_or_else(unknown)?;
        if u32::from(record.partition()) != partition {
            return Err(unknown());
        }
        Ok(shown(&topic.name(), found.offset(), &record, |part| found.slice(part)))
    }

    /// Every event with this ID.
    pub(super) async fn do_event(&self, id: &str) -> Result<Trace, Refusal> {
        let id = id.to_owned();
        self.trace(move |topic, until| topic.find(Lookup::Id, &id, TRACED, until)).await
    }

    /// Every event of a saga: the one with its ID, and those that follow from it.
    pub(super) async fn do_saga(&self, saga: &str) -> Result<Trace, Refusal> {
        let saga = saga.to_owned();
        let find = move |topic: &Handle, until| {
            let mut found = topic.find(Lookup::Correlation, &saga, TRACED, until);
            let first = topic.find(Lookup::Id, &saga, TRACED, until);
            let is_first =
                |it: &OwnedRecord| it.record().is_some_and(|it| it.correlation().is_none());
            found.records.extend(first.records.into_iter().filter(is_first));
            found.is_partial |= first.is_partial;
            found
        };
        self.trace(find).await
    }

    async fn trace(
        &self,
        find: impl Fn(&Handle, Instant) -> Found + Send + Sync + 'static,
    ) -> Result<Trace, Refusal> {
        let find = Arc::new(find);
        let until = Instant::now() + SEARCH;
        let mut trace = Trace::default();
        for topic in self.all_topics() {
            let Some(handle) = topic.handle().cloned() else {
                trace.partial = true;
                continue;
            };
            let find = find.clone();
            let found = self.block(move || find(&handle, until)).await?;
            trace.partial |= found.is_partial;
            let readers = self.readers(&topic);
            for record in &found.records {
                trace.events.extend(traced(&topic.name(), record, &readers).await?);
            }
        }
        // Events of one moment are ordered by depth, causes first.
        trace.events.sort_by_key(|found| (found.stored.published, found.stored.event.depth));
        Ok(trace)
    }
}

/// An event, with its state in each subscription.
async fn traced(
    topic: &Arc<str>,
    record: &OwnedRecord,
    readers: &[Reading],
) -> Result<Option<Traced>, Refusal> {
    let offset = record.offset();
    let Some(read) = record.record() else { return Ok(None) };
    let partition = Partition { generation: read.generation(), number: read.partition() };
    let stored = shown(topic, offset, &read, |part| record.slice(part));
    let mut states = Vec::with_capacity(readers.len());
    for reader in readers {
        let state = reader.subscription.event(partition, offset).await?;
        states.push((reader.settings.name.clone(), state));
    }
    Ok(Some(Traced { stored, states }))
}

pub(super) fn shown(
    topic: &Arc<str>,
    offset: Offset,
    record: &Record<'_>,
    own: impl Fn(&[u8]) -> Bytes,
) -> StoredEvent {
    StoredEvent {
        topic: topic.clone(),
        partition: record.partition().into(),
        offset: offset.0,
        published: record.published(),
        event: stored::event(record, own),
    }
}

/// Blocks.
fn status(topic: &Topic, readers: &[Reading], is_clock_frozen: bool) -> TopicStatus {
    let about = topic.about();
    let handle = topic.handle();
    let log = handle.map(Handle::log);
    let of_log = log.map(Log::status);
    let dedup = handle.map(Handle::dedup).unwrap_or_default();
    let gauges = log.map(|log| log.gauges().clone());
    TopicStatus {
        name: about.settings.name.clone(),
        id: topic.id().to_string(),
        state: topic.state(),
        partitions: about.meta.generation().partitions.into(),
        start: of_log.as_ref().map_or(0, |status| status.start.0),
        end: of_log.as_ref().map_or(0, |status| status.durable.0),
        events: of_log.as_ref().map_or(0, |status| status.events),
        bytes: of_log.as_ref().map_or(0, |status| status.bytes),
        oldest: log.and_then(oldest),
        segments: log.map_or(0, |log| log.segments().len()),
        delayed: topic.delays().log().map_or(0, DelayedLog::waiting),
        dedup: DedupStatus { entries: dedup.entries, hits: dedup.hits, window: dedup.window },
        dropped: dropped(topic),
        lost: gauges.as_ref().map_or(0, |gauges| gauges.lost.get()),
        recovery: Duration::from_millis(
            gauges.as_ref().map_or(0, |gauges| gauges.recovery_millis.get()),
        ),
        scrubbed: gauges.map(|gauges| gauges.scrubbed_at.get()).filter(|at| *at > 0),
        is_clock_frozen,
        is_orphaned: about.meta.is_orphaned,
        subscriptions: readers.iter().map(|reader| reader.settings.name.clone()).collect(),
    }
}

fn dropped(topic: &Topic) -> Dropped {
    let of_log = topic.handle().map(Handle::dropped).unwrap_or_default();
    let dead_letters = topic.aged_letters();
    Dropped { oldest: of_log.oldest, unpinned: of_log.unpinned, dead_letters }
}

/// When the first event of a log was published. Blocks.
pub(super) fn oldest(log: &Log) -> Option<u64> {
    published_at(log, log.start())
}

/// When the first event from `from` on was published. Blocks.
pub(super) fn published_at(log: &Log, from: Offset) -> Option<u64> {
    let block = log.reader().read(from, 64 << 10).ok()?;
    block.records().next().map(|(_, record)| record.published())
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
