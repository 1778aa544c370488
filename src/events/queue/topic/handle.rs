//! A topic: a log with partitions, duplicates, an age and a size.
//!
//! Every publish takes room first, and that is where a topic says no: too many bytes, too little disk, a
//! reader that is too far behind. What is appended on behalf of something accepted already may exceed the
//! size by a tenth, so that nothing stops a topic from being drained.

mod finding;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

pub use self::finding::Found;

use super::{
    clock_guard::GuardedClock,
    dedup::DedupSettings,
    retention::{self, Decision, Keep, OnFull, Pin, Segment},
    sequencer::{DedupStatus, Live, Shared, TopicSequencer},
};
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Draft, HashKey, Role, TopicMeta},
    log::{
        self, Commit, Log, OpenError, Opened, Permit, Place, Purpose, Reason, Refused, RetireError,
        Writer,
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
    /// Bytes that were refused for want of room since the last look, the most of them at once.
    wanted: AtomicU64,
    is_dropping: AtomicBool,
    is_backed_up: AtomicBool,
    dropped_oldest: AtomicU64,
    dropped_unpinned: AtomicU64,
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

/// Events that went before a subscription had settled them, since start, by why they might.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The topic was full and drops its oldest.
    pub oldest: u64,
    /// The subscription does not pin.
    pub unpinned: u64,
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
            wanted: AtomicU64::new(0),
            is_dropping: AtomicBool::new(false),
            is_backed_up: AtomicBool::new(false),
            dropped_oldest: AtomicU64::new(0),
            dropped_unpinned: AtomicU64::new(0),
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
        let is_full = inner.bytes().saturating_add(bytes) > limit;
        let is_backed_up = is_new && inner.is_backed_up.load(Relaxed);
        // A log that is offline says so itself: that does not pass with time.
        if (is_full || is_backed_up) && !inner.log.gauges().is_offline.get() {
            inner.log.gauges().rejected.full.add(1);
            if is_full && bytes <= max {
                inner.wanted.fetch_max(bytes, Relaxed);
            }
            return Err(Refused::new(if is_full { Reason::Full } else { Reason::Behind }));
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
        let wanted = inner.wanted.swap(0, Relaxed);
        let segments: Vec<_> = inner.log.segments().iter().map(segment).collect();
        let decision = retention::decide(&segments, &limits.keep, readers.pins, wall, wanted);
        if let Some(below) = decision.retire {
            inner.log.retire(below)?;
            if decision.lost > 0 {
                inner.dropped_oldest.fetch_add(decision.lost - decision.unpinned, Relaxed);
                inner.dropped_unpinned.fetch_add(decision.unpinned, Relaxed);
            }
        }
        Ok(decision)
    }

    /// Whether something is there, or on its way, under this dedup key: what is appended under it now is
    /// answered as a duplicate.
    pub fn knows(&self, dedup: &[u8]) -> bool {
        let hash = self.0.hash_key.hash(Role::Dedup, &[dedup]);
        self.0.shared.knows(hash, self.0.clock.judge().wall)
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

    /// What went before a subscription had settled it.
    pub fn dropped(&self) -> Dropped {
        Dropped {
            oldest: self.0.dropped_oldest.load(Relaxed),
            unpinned: self.0.dropped_unpinned.load(Relaxed),
        }
    }

    /// Whether publishes are refused because a reader is too far behind.
    pub fn is_backed_up(&self) -> bool {
        self.0.is_backed_up.load(Relaxed)
    }

    /// Whether it takes nothing new: it has what it may have, or a reader is too far behind.
    pub fn is_full(&self) -> bool {
        let max = self.0.max_bytes.load(Relaxed);
        let is_dropping = self.0.is_dropping.load(Relaxed);
        self.is_backed_up() || !is_dropping && self.0.bytes() >= max
    }
}

// === impl Inner ===

impl Inner {
    /// What it has, and what is on its way.
    fn bytes(&self) -> u64 {
        self.log.gauges().bytes.get().saturating_add(self.log.permitted())
    }
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
