//! Publishing, and what is said of topics and their events.

use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::{Reading, Store, finding, topic::Topic};
use crate::events::{
    delivery::subscription::Partition,
    event::Event,
    facade::{
        DedupStatus, Found, Published, Refusal, StoredEvent, Tail, TailPage, TopicStatus, Trace,
    },
    queue::{
        Offset,
        codec::{Draft, MAX_FRAME_BYTES, Record},
        log::{AppendError, Appended, Log, ReadError, Reason, Refused},
    },
    stored,
};

/// A search by ID ends after so long.
const SEARCH: Duration = Duration::from_secs(1);
/// What a frame takes beside its records, at most.
const FRAME_OVERHEAD: usize = 4096;
/// A full topic, and one whose reader is behind: come back after.
const RETRY_AFTER: Duration = Duration::from_secs(1);

// === impl Store ===

impl Store {
    pub(super) async fn do_publish(
        &self,
        topic: &str,
        events: Vec<Event>,
    ) -> Result<Vec<Published>, Refusal> {
        if self.0.is_draining.load(Relaxed) {
            return Err(Refusal::Draining);
        }
        let topic = self.find_topic(topic)?;
        let log = topic.log()?;
        if topic.is_held() {
            return Err(Refusal::Full { retry_after: RETRY_AFTER });
        }
        let drafts = self.drafts(&topic, &events)?;
        let bytes = drafts.iter().map(Draft::encoded_bytes).sum::<usize>() as u64;
        let permit = log.permit(bytes).map_err(|refused| refusal(&refused, bytes))?;
        let appended = log.append(permit, drafts).await;
        let appended = appended.map_err(|error| append_refusal(&error, bytes))?;
        let mut published = Vec::with_capacity(appended.len());
        for (event, appended) in events.into_iter().zip(appended) {
            published.push(self.published(&log, event, &appended).await?);
        }
        Ok(published)
    }

    fn drafts(&self, topic: &Topic, events: &[Event]) -> Result<Vec<Draft>, Refusal> {
        let about = topic.about();
        let limit = about.settings.max_event_bytes;
        let last = self.now().saturating_add(millis(about.settings.max_age));
        let mut drafts = Vec::with_capacity(events.len());
        let mut all = FRAME_OVERHEAD;
        for (index, event) in events.iter().enumerate() {
            let draft = stored::draft(event);
            all += draft.encoded_bytes();
            if event.bytes() as u64 > limit || draft.check().is_err() {
                return Err(Refusal::TooLarge { index, limit });
            }
            if all > MAX_FRAME_BYTES {
                return Err(Refusal::TooLarge { index, limit: MAX_FRAME_BYTES as u64 });
            }
            if event.not_before.is_some_and(|at| at > last) {
                return Err(Refusal::DelayTooLong { index });
            }
            if event.not_before.is_some_and(|at| at > self.now()) {
                let detail = "events that wait for their time are not stored yet".into();
                return Err(Refusal::Invalid { index, detail });
            }
            drafts.push(draft);
        }
        Ok(drafts)
    }

    /// A duplicate has the ID of the event that was there.
    async fn published(
        &self,
        log: &Log,
        event: Event,
        appended: &Appended,
    ) -> Result<Published, Refusal> {
        let (offset, mut id) = (appended.offset, event.id);
        if appended.duplicate.is_some() {
            let mut reader = log.reader();
            let first = self.block(move || reader.get(offset)).await?;
            let first = first.ok().flatten();
            let first = first.and_then(|first| Some(first.record()?.id()?.to_owned()));
            id = first.unwrap_or(id);
        }
        Ok(Published {
            id,
            partition: appended.partition.into(),
            offset: offset.0,
            duplicate: appended.duplicate.is_some(),
            mismatch: appended.duplicate.is_some_and(|duplicate| duplicate.mismatch),
        })
    }

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
        self.show_topic(topic).await
    }

    pub(super) async fn do_event_at(
        &self,
        name: &str,
        partition: u32,
        offset: u64,
    ) -> Result<StoredEvent, Refusal> {
        let topic = self.find_topic(name)?;
        let mut reader = topic.log()?.reader();
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

    pub(super) async fn do_trace(
        &self,
        is_meant: impl Fn(&Record<'_>) -> bool + Send + Sync + 'static,
    ) -> Result<Trace, Refusal> {
        let is_meant = Arc::new(is_meant);
        let deadline = Instant::now() + SEARCH;
        let mut trace = Trace::default();
        for topic in self.all_topics() {
            let Ok(log) = topic.log() else {
                trace.partial = true;
                continue;
            };
            let (name, is_meant) = (topic.name(), is_meant.clone());
            let look = move || {
                let keep = |offset, record: &Record<'_>| {
                    let place =
                        Partition { generation: record.generation(), number: record.partition() };
                    let copy = |part: &[u8]| Bytes::copy_from_slice(part);
                    is_meant(record).then(|| (place, shown(&name, offset, record, copy)))
                };
                finding::each(&log, keep, || Instant::now() >= deadline)
            };
            let (found, is_whole) = self.block(look).await?;
            trace.partial |= !is_whole;
            let readers = self.readers(&topic);
            for (partition, stored) in found {
                let mut states = Vec::with_capacity(readers.len());
                for reader in &readers {
                    let state = reader.subscription.event(partition, Offset(stored.offset)).await?;
                    states.push((reader.settings.name.clone(), state));
                }
                trace.events.push(Found { stored, states });
            }
        }
        trace.events.sort_by_key(|found| found.stored.published);
        Ok(trace)
    }

    pub(super) async fn do_tail(&self, name: &str, tail: Tail) -> Result<TailPage, Refusal> {
        let topic = self.find_topic(name)?;
        let log = topic.log()?;
        let from = tail.from.map_or_else(|| log.durable(), Offset);
        let start = log.start().max(from);
        let mut durable = log.subscribe_durable();
        let until = Instant::now() + tail.wait;
        // In vain: the page is empty then.
        timeout_at(until, durable.wait_for(|durable| *durable > start)).await.ok();
        let most = tail.max_events.max(1);
        let page = self.block(move || page(&log, &topic.name(), start, most)).await?;
        let mut page = page.map_err(|error| Refusal::unavailable(error.to_string()))?;
        page.gap += start.since(from);
        Ok(page)
    }
}

fn page(log: &Log, topic: &Arc<str>, from: Offset, most: usize) -> Result<TailPage, ReadError> {
    let block = log.reader().read(from, 256 << 10)?;
    let mut page = TailPage { next: block.next().0, ..TailPage::default() };
    for (offset, record) in block.records() {
        if page.events.len() >= most {
            page.next = offset.0;
            break;
        }
        page.events.push(shown(topic, offset, &record, |part| block.slice(part)));
    }
    let gaps = block.gaps().iter().filter(|gap| gap.start.0 < page.next);
    page.gap = gaps.map(|gap| gap.end.since(gap.start)).sum();
    Ok(page)
}

fn shown(
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
    let log = topic.shelf().log();
    let of_log = log.as_ref().map(Log::status);
    let dedup = topic.shared().dedup();
    let gauges = log.as_ref().map(|log| log.gauges().clone());
    TopicStatus {
        name: about.settings.name.clone(),
        id: topic.id().to_string(),
        state: topic.state(),
        partitions: about.meta.generation().partitions.into(),
        start: of_log.as_ref().map_or(0, |status| status.start.0),
        end: of_log.as_ref().map_or(0, |status| status.durable.0),
        events: of_log.as_ref().map_or(0, |status| status.events),
        bytes: of_log.as_ref().map_or(0, |status| status.bytes),
        oldest: log.as_ref().and_then(oldest),
        segments: log.as_ref().map_or(0, |log| log.segments().len()),
        delayed: 0,
        dedup: DedupStatus { entries: dedup.entries, hits: dedup.hits, window: dedup.window },
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

fn refusal(refused: &Refused, bytes: u64) -> Refusal {
    let retry_after = refused.retry_after.unwrap_or(RETRY_AFTER);
    match refused.reason {
        Reason::Full => Refusal::Full { retry_after },
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
