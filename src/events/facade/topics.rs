//! The status of topics, and the events in them.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::Refusal;
use crate::events::event::Event;

/// The position of a published event, or of its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its ID; that of the original if it is a duplicate.
    pub id: String,
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in the log.
    pub offset: u64,
    /// Whether it is a duplicate.
    pub duplicate: bool,
    /// Whether it is a duplicate by its key, but has another content.
    pub mismatch: bool,
    /// Whether it waits until it is due, and gets its place in the topic then: partition and offset are
    /// those where it waits.
    pub is_delayed: bool,
}

/// A stored event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its topic.
    pub topic: Arc<str>,
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in the log.
    pub offset: u64,
    /// When it was published.
    pub published: u64,
    /// The event.
    pub event: Event,
}

/// Events with the same ID or saga.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In order of publication.
    pub events: Vec<Found>,
    /// The search ran out of time: there may be more.
    pub partial: bool,
}

/// An event and its delivery state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The event.
    pub stored: StoredEvent,
    /// Its state in each subscription of the topic, by name.
    pub states: Vec<(Arc<str>, EventState)>,
}

/// The state of an event in a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Not its turn yet.
    Queued,
    /// Being delivered.
    InFlight {
        /// The number of the attempt.
        attempt: u32,
    },
    /// Between two attempts.
    Retrying {
        /// Number of attempts so far.
        attempts: u32,
        /// When the next one is due.
        next: u64,
    },
    /// An earlier event of its key has to be settled first.
    KeyBlocked,
    /// Delivered, dead, discarded or not meant for the subscription.
    Settled,
}

/// A live tail.
pub struct Tail {
    /// The first offset it will report.
    pub next: u64,
    /// Its pages, as they come; an error is the last. A slow reader holds up nobody.
    pub pages: BoxStream<'static, Result<TailPage, Refusal>>,
}

/// An event as tails report it. Tails of one topic share it, so that it is encoded once for all.
#[derive(Debug)]
pub struct Told {
    stored: StoredEvent,
    wire: OnceLock<Bytes>,
}

/// A page of a live tail.
#[derive(Clone, Debug, Default)]
pub struct TailPage {
    /// In order; they come after the gap.
    pub events: Arc<[Told]>,
    /// The offset to continue at.
    pub next: u64,
    /// Number of lost or deleted offsets in between.
    pub gap: u64,
    /// Number of stored events that were skipped because the reader is too slow.
    pub skipped: u64,
}

/// The status of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its ID on disk.
    pub id: String,
    /// Whether it serves.
    pub state: TopicState,
    /// Number of partitions in its newest generation.
    pub partitions: u32,
    /// The first offset stored.
    pub start: u64,
    /// The first offset that is not durable yet.
    pub end: u64,
    /// Number of events stored.
    pub events: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// When the oldest event was published.
    pub oldest: Option<u64>,
    /// Segments on disk.
    pub segments: usize,
    /// Events waiting until they are due.
    pub delayed: u64,
    /// Its deduplication.
    pub dedup: DedupStatus,
    /// Events deleted unsettled by policies that allow it, since start.
    pub dropped: Dropped,
    /// Offsets lost to damage since the log was created, as far as known.
    pub lost: u64,
    /// How long the last recovery took.
    pub recovery: Duration,
    /// When all of it was last read without finding damage.
    pub scrubbed: Option<u64>,
    /// Whether everything that depends on the wall clock stands still until the clock is confirmed.
    pub is_clock_frozen: bool,
    /// Whether it is no longer configured.
    pub is_orphaned: bool,
    /// Its subscriptions, by name.
    pub subscriptions: Vec<Arc<str>>,
}

/// Events deleted before a subscription had settled them, by the policy that allowed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// `on_full: drop_oldest`
    pub oldest: u64,
    /// `pin: false` of a subscription.
    pub unpinned: u64,
    /// `max_age` of the dead letters of a subscription.
    pub dead_letters: u64,
}

/// Whether a topic serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicState {
    /// It does.
    Serving,
    /// It delivers, but accepts nothing more.
    Full,
    /// It accepts nothing; durable events can be read.
    Offline {
        /// What happened.
        reason: String,
        /// The damage, if that is the reason.
        range: Option<OfflineRange>,
    },
}

/// A range of offsets, end excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfflineRange {
    /// The first.
    pub from: u64,
    /// The first offset after it.
    pub to: u64,
}

/// The state of deduplication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStatus {
    /// Keys remembered.
    pub entries: u64,
    /// Duplicates found, since start.
    pub hits: u64,
    /// How long keys are remembered now: less than configured if there are too many.
    pub window: Duration,
}

// === impl Told ===

impl Told {
    /// Not encoded yet.
    pub fn new(stored: StoredEvent) -> Self {
        Self { stored, wire: OnceLock::new() }
    }

    /// The event.
    pub fn stored(&self) -> &StoredEvent {
        &self.stored
    }

    /// The encoded event; `write` is called once, by whoever needs it first.
    pub fn wire(&self, write: impl FnOnce(&StoredEvent) -> Bytes) -> &Bytes {
        self.wire.get_or_init(|| write(&self.stored))
    }
}

// === impl Tail ===

impl fmt::Debug for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tail").field("next", &self.next).finish_non_exhaustive()
    }
}
