//! A topic: a log with partitions, deduplication, retention and a size limit.
//!
//! Every publish takes room first, and that is where a topic refuses: too many bytes, too little
//! disk, a reader too far behind. Appends on behalf of something already accepted may exceed the
//! size by a tenth, so that a full topic can always be drained.

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

/// The user's settings of a topic. All but `log` may change while it is open.
#[derive(Clone, Debug)]
pub struct TopicSettings {
    /// Retention.
    pub keep: Keep,
    /// Deduplication.
    pub dedup: DedupSettings,
    /// Publishes are refused while a subscription's oldest unsettled event is older than this.
    pub max_oldest_age: Option<Duration>,
    /// Settings of its log, but for segment size and size limit, which the topic decides.
    pub log: log::Settings,
}

/// An open topic. Cheap to clone; clones share their state.
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
    /// A copy of the limit for new events, so that publishes take no lock. Relaxed like the rest: a
    /// late value does no harm.
    max_bytes: AtomicU64,
    /// Size of the largest publish refused for lack of room since the last look.
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
    /// What each reader and each job still needs.
    pub pins: &'a [Pin],
    /// When the oldest event that any of them has unsettled was published: milliseconds since 1970.
    pub oldest: Option<u64>,
}

/// Events deleted before a subscription had settled them, since start, by why that was allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The topic was full and drops its oldest.
    pub oldest: u64,
    /// The subscription does not pin.
    pub unpinned: u64,
}

// === impl Topic ===

impl Topic {
    /// Opens or creates the topic's log at `place`. Blocks. `floor` as for [`Log::open`]: no reader
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
            // The topic enforces the limit itself, because it can change.
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

    /// Applies changed settings from the next event on; `meta` has the newest generation.
    pub fn set(&self, meta: &TopicMeta, settings: &TopicSettings) {
        self.0.shared.set(live(meta, settings.dedup));
        self.follow(Limits { keep: settings.keep, max_oldest_age: settings.max_oldest_age });
    }

    fn follow(&self, limits: Limits) {
        *self.0.settings.lock() = limits;
        self.0.max_bytes.store(limits.keep.max_bytes, Relaxed);
        self.0.is_dropping.store(limits.keep.on_full == OnFull::DropOldest, Relaxed);
    }

    /// Room for `bytes` ([`Draft::encoded_bytes`] of each). Never waits.
    pub fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        let inner = &*self.0;
        let max = inner.max_bytes.load(Relaxed);
        let is_new = purpose == Purpose::Publish;
        // With `drop_oldest` a tenth more covers events that arrive before the oldest are deleted.
        let may_exceed = !is_new || inner.is_dropping.load(Relaxed);
        let limit = if may_exceed { max.saturating_add(max / 10) } else { max };
        let is_full = inner.bytes().saturating_add(bytes) > limit;
        let is_backed_up = is_new && inner.is_backed_up.load(Relaxed);
        // An offline log gives its own reason: that one does not pass with time.
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

    /// Takes room and appends. A duplicate is answered with the original's place once that is
    /// durable; [`Topic::id_at`] gives its ID.
    pub fn publish(&self, purpose: Purpose, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let permit = self.permit(purpose, bytes)?;
        Ok(self.append(permit, drafts))
    }

    /// Deletes what is too old or too much, and checks whether a reader is so far behind that
    /// publishes are refused. Call it about once a second. Blocks.
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

    /// Whether an event with this dedup key is there or in flight: another one would be answered as
    /// a duplicate.
    pub fn knows(&self, dedup: &[u8]) -> bool {
        let hash = self.0.hash_key.hash(Role::Dedup, &[dedup]);
        self.0.shared.knows(hash, self.0.clock.judge().wall)
    }

    /// Its log, to read and to ask for its status.
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

    /// State of deduplication.
    pub fn dedup(&self) -> DedupStatus {
        self.0.shared.dedup()
    }

    /// Its newest generation with events, and an offset above all events of older ones: for
    /// [`super::registry::Registry::generation_opened`].
    pub fn generation_opened(&self) -> Option<(u16, Offset)> {
        self.0.shared.opened()
    }

    /// Events deleted before a subscription had settled them.
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

    /// Whether it refuses new events: it is at its size limit, or a reader is too far behind.
    pub fn is_full(&self) -> bool {
        let max = self.0.max_bytes.load(Relaxed);
        let is_dropping = self.0.is_dropping.load(Relaxed);
        self.is_backed_up() || !is_dropping && self.0.bytes() >= max
    }
}

// === impl Inner ===

impl Inner {
    /// Bytes stored and in flight.
    fn bytes(&self) -> u64 {
        self.log.gauges().bytes.get().saturating_add(self.log.permitted())
    }
}

fn live(meta: &TopicMeta, dedup: DedupSettings) -> Live {
    let newest = meta.generation();
    Live { generation: newest.number, partitions: newest.partitions, dedup }
}

fn segment(info: &log::SegmentInfo) -> Segment {
    // 0 means unknown: nothing is deleted before what is behind it is old.
    let newest = if info.newest_wall == 0 { u64::MAX } else { info.newest_wall };
    Segment { end: info.end, bytes: info.bytes, newest, is_sealed: info.is_sealed }
}

#[cfg(test)]
mod tests;
