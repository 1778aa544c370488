//! A topic: a log with partitions, duplicates, an age and a size.
//!
//! Every publish takes room first, and that is where a topic says no: too many bytes, too little disk, a
//! reader that is too far behind. What is appended on behalf of something accepted already may exceed the
//! size by a tenth, so that nothing stops a topic from being drained.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    clock_guard::GuardedClock,
    dedup::DedupSettings,
    retention::{self, Decision, Keep, OnFull, Pin, Segment},
    sequencer::{DedupStatus, Live, Shared, TopicSequencer},
};
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{
        Draft, FileError, HashKey, KeysHead, Lookup, LookupError, PAGE_BYTES, Role, TopicMeta,
    },
    log::{
        self, Commit, Log, OpenError, Opened, OwnedRecord, Permit, Place, Purpose, ReadError,
        Reason, Refused, RetireError, Writer,
    },
    storage::Storage,
};

/// What a user decides about a topic. All but `log` may change while it is open.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// What it keeps.
    pub keep: Keep,
    /// How duplicates are found.
    pub dedup: DedupSettings,
    /// No publish while a subscription's oldest unsettled event is older.
    pub max_oldest_age: Option<Duration>,
    /// How its log is written. The size of a segment and the bound of the log are the topic's own.
    pub log: log::Settings,
}

/// A topic that is open. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Topic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: LogId,
    store: StoreId,
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    log: Log,
    shared: Arc<Shared>,
    hash_key: HashKey,
    clock: GuardedClock,
    settings: Mutex<Limits>,
    /// What new events are refused from: a copy, so that no lock is taken for each. Relaxed as the rest:
    /// to be a moment late does no harm.
    max_bytes: AtomicU64,
    is_dropping: AtomicBool,
    is_backed_up: AtomicBool,
    dropped: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    keep: Keep,
    max_oldest_age: Option<Duration>,
}

/// What the readers of a topic need and how far they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readers<'a> {
    /// What each of them, and each job, still needs.
    pub pins: &'a [Pin],
    /// When the oldest event that any of them has not settled was published: milliseconds since 1970.
    pub oldest: Option<u64>,
}

/// What a lookup came to.
#[derive(Debug, Default)]
pub struct Found {
    /// The records, in order.
    pub records: Vec<OwnedRecord>,
    /// There may be more: time was up, or a file could not be asked.
    pub is_partial: bool,
}

// === impl Topic ===

impl Topic {
    /// Opens the topic's log at `place`, or makes it. Blocks. `floor`, as for [`Log::open`]: no reader
    /// has seen offsets from there on.
    pub fn open(
        writer: &Writer,
        place: Place,
        meta: &TopicMeta,
        settings: &TopicSettings,
        hash_key: HashKey,
        clock: GuardedClock,
        floor: Offset,
    ) -> Result<(Self, Opened), OpenError> {
        let shared = Shared::new(live(meta, settings.dedup));
        let sequencer = TopicSequencer::new(shared.clone(), hash_key, clock.clone());
        let log_settings = log::Settings {
            segment_bytes: retention::segment_bytes(settings.keep.max_bytes),
            // Kept here, where it can change.
            max_bytes: None,
            ..settings.log.clone()
        };
        let (store, storage, dir) = (place.store, place.storage.clone(), place.dir.clone());
        let (log, opened) = Log::open(writer, place, &log_settings, floor, Box::new(sequencer))?;
        let limits = Limits { keep: settings.keep, max_oldest_age: settings.max_oldest_age };
        let topic = Self(Arc::new(Inner {
            id: meta.id,
            store,
            storage,
            dir,
            log,
            shared,
            hash_key,
            clock,
            settings: Mutex::new(limits),
            max_bytes: AtomicU64::new(u64::MAX),
            is_dropping: AtomicBool::new(false),
            is_backed_up: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }));
        topic.follow(limits);
        Ok((topic, opened))
    }

    /// Follows changed settings, from the next event on; `meta` has the newest generation.
    pub fn set(&self, meta: &TopicMeta, settings: &TopicSettings) {
        self.0.shared.set(live(meta, settings.dedup));
        self.follow(Limits { keep: settings.keep, max_oldest_age: settings.max_oldest_age });
    }

    fn follow(&self, limits: Limits) {
        *self.0.settings.lock() = limits;
        self.0.max_bytes.store(limits.keep.max_bytes, Relaxed);
        self.0.is_dropping.store(limits.keep.on_full == OnFull::DropOldest, Relaxed);
    }

    /// Room for `bytes` ([`Draft::encoded_bytes`] of each), at once or not at all.
    pub fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        let inner = &*self.0;
        let max = inner.max_bytes.load(Relaxed);
        let is_new = purpose == Purpose::Publish;
        // With `drop_oldest` a tenth is for what comes until the oldest has gone.
        let may_exceed = !is_new || inner.is_dropping.load(Relaxed);
        let limit = if may_exceed { max.saturating_add(max / 10) } else { max };
        let is_full = inner.log.gauges().bytes.get().saturating_add(bytes) > limit;
        let is_refused = is_full || is_new && inner.is_backed_up.load(Relaxed);
        // A log that is offline says so itself: that does not pass with time.
        if is_refused && !inner.log.gauges().is_offline.get() {
            inner.log.gauges().rejected.full.add(1);
            return Err(Refused::new(Reason::Full));
        }
        inner.log.permit_for(purpose, bytes)
    }

    /// Appends all of `drafts` in one frame, or none; see [`Log::append`].
    pub fn append(&self, permit: Permit, drafts: Vec<Draft>) -> Commit {
        self.0.log.append(permit, drafts)
    }

    /// Takes room and appends. A duplicate is answered with the place of the original, when that is
    /// durable; what its ID is tells [`Topic::id_at`].
    pub fn publish(&self, purpose: Purpose, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let permit = self.permit(purpose, bytes)?;
        Ok(self.append(permit, drafts))
    }

    /// Looks at what has become too old or too much, removes it, and sees whether a reader is so far
    /// behind that publishes are to stop. To be called about once a second. Blocks.
    pub fn look(&self, readers: &Readers<'_>) -> Result<Decision, RetireError> {
        let inner = &*self.0;
        let limits = *inner.settings.lock();
        let judged = inner.clock.judge();
        let wall = (!judged.is_frozen).then_some(judged.wall);
        let backed_up = retention::is_backed_up(limits.max_oldest_age, readers.oldest, wall);
        inner.is_backed_up.store(backed_up, Relaxed);
        let segments: Vec<_> = inner.log.segments().iter().map(segment).collect();
        let decision = retention::decide(&segments, &limits.keep, readers.pins, wall);
        if let Some(below) = decision.retire {
            inner.log.retire(below)?;
            if decision.lost > 0 {
                inner.dropped.fetch_add(decision.lost, Relaxed);
                tracing::warn!(topic = %inner.id, lost = decision.lost, "unsettled events are gone");
            }
        }
        Ok(decision)
    }

    /// The ID of the event at `offset`, if it has one and is there. Blocks.
    pub fn id_at(&self, offset: Offset) -> Result<Option<String>, ReadError> {
        let found = self.0.log.reader().get(offset)?;
        Ok(found.and_then(|found| found.record().and_then(|it| it.id().map(str::to_owned))))
    }

    /// Events with this ID or correlation ID, the newest `most` of them that are found before `until`.
    /// Blocks.
    pub fn find(&self, lookup: Lookup, text: &str, most: usize, until: Instant) -> Found {
        let inner = &*self.0;
        let role = match lookup {
            Lookup::Id => Role::Id,
            Lookup::Correlation => Role::Correlation,
        };
        let hash = inner.hash_key.hash(role, &[text.as_bytes()]);
        let mut found = Found::default();
        let mut offsets = inner.shared.find(lookup, hash, most);
        for segment in inner.log.segments().iter().rev().filter(|segment| segment.is_sealed) {
            if offsets.len() >= most {
                break;
            }
            if Instant::now() >= until {
                found.is_partial = true;
                break;
            }
            match inner.find_sealed(segment, lookup, hash, most - offsets.len()) {
                Ok(sealed) => offsets.extend(sealed),
                Err(error) => {
                    tracing::debug!(topic = %inner.id, %error, base = %segment.base, "no keys");
                    found.is_partial = true;
                }
            }
        }
        offsets.sort_unstable();
        offsets.dedup();
        let mut reader = inner.log.reader();
        for offset in offsets {
            match reader.get(offset) {
                Ok(Some(record)) if has(&record, lookup, text) => found.records.push(record),
                // Another of the same half of a hash, or not durable yet, or just retired.
                Ok(_) | Err(ReadError::Retired { .. }) => {}
                Err(_) => found.is_partial = true,
            }
        }
        found
    }

    /// Its log: to read, and to ask how it stands.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// Its ID.
    pub fn id(&self) -> LogId {
        self.0.id
    }

    /// The store it is in.
    pub fn store(&self) -> StoreId {
        self.0.store
    }

    /// How it stands with duplicates.
    pub fn dedup(&self) -> DedupStatus {
        self.0.shared.dedup()
    }

    /// Its newest generation that has events, and an offset that all events of older ones lie below: for
    /// [`super::registry::Registry::generation_opened`].
    pub fn generation_opened(&self) -> Option<(u16, Offset)> {
        self.0.shared.opened()
    }

    /// Events that went before a subscription had settled them, since start.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Relaxed)
    }

    /// Whether publishes are refused because a reader is too far behind.
    pub fn is_backed_up(&self) -> bool {
        self.0.is_backed_up.load(Relaxed)
    }
}

// === impl Inner ===

impl Inner {
    fn find_sealed(
        &self,
        segment: &log::SegmentInfo,
        lookup: Lookup,
        hash: u128,
        most: usize,
    ) -> Result<Vec<Offset>, LookupError> {
        let path = self.dir.join(format!("{:020}.keys", segment.base.0));
        let file = self.storage.open_read(&path)?;
        let mut page = [0; PAGE_BYTES];
        file.read_at(&mut page, 0)?;
        let head = KeysHead::decode(&page)?;
        if head.end != segment.end {
            return Err(FileError::Contradiction.into());
        }
        let read = |buffer: &mut [u8], at: u64| -> io::Result<usize> { file.read_at(buffer, at) };
        head.find(lookup, hash, most, read)
    }
}

fn has(record: &OwnedRecord, lookup: Lookup, text: &str) -> bool {
    let Some(record) = record.record() else { return false };
    let own = match lookup {
        Lookup::Id => record.id(),
        Lookup::Correlation => record.correlation(),
    };
    own == Some(text)
}

fn live(meta: &TopicMeta, dedup: DedupSettings) -> Live {
    let newest = meta.generation();
    Live { generation: newest.number, partitions: newest.partitions, dedup }
}

fn segment(info: &log::SegmentInfo) -> Segment {
    // 0 is not known: nothing goes by an age that nobody knows.
    let newest = if info.newest_wall == 0 { u64::MAX } else { info.newest_wall };
    Segment { end: info.end, bytes: info.bytes, newest, is_sealed: info.is_sealed }
}

#[cfg(test)]
mod tests;
