//! What is said of topics and of the events in them.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::Refusal;
use crate::events::event::Event;

/// Where an event was put, or where it had been put before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its ID; the first one's, if it is a duplicate.
    pub id: String,
    /// Where in the topic.
    pub partition: u32,
    /// Where in the log.
    pub offset: u64,
    /// It was there already.
    pub duplicate: bool,
    /// It was there already under this key, and said something else.
    pub mismatch: bool,
    /// It waits for its time, and will get its place in the topic then: partition and offset are where it
    /// waits.
    pub is_delayed: bool,
}

/// An event that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its topic.
    pub topic: Arc<str>,
    /// Where in the topic.
    pub partition: u32,
    /// Where in the log.
    pub offset: u64,
    /// When it was published.
    pub published: u64,
    /// What it is.
    pub event: Event,
}

/// Events that share an ID or a saga.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// In order of publication.
    pub events: Vec<Found>,
    /// The search was ended by its time: there may be more.
    pub partial: bool,
}

/// An event and how far it has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The event.
    pub stored: StoredEvent,
    /// Its state in each subscription of the topic, by name.
    pub states: Vec<(Arc<str>, EventState)>,
}

/// How far a subscription is with one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventState {
    /// Not yet its turn.
    Queued,
    /// Being delivered.
    InFlight {
        /// Which attempt.
        attempt: u32,
    },
    /// Between two attempts.
    Retrying {
        /// How many there were.
        attempts: u32,
        /// When the next one is due.
        next: u64,
    },
    /// An earlier event of its key has to be settled first.
    KeyBlocked,
    /// Over: delivered, dead, discarded or not meant for it.
    Settled,
}

/// A live tail.
pub struct Tail {
    /// Where it begins: the first offset that it will tell of.
    pub next: u64,
    /// What it tells, as it comes; an error is the last. Who takes them slowly holds up nobody.
    pub pages: BoxStream<'static, Result<TailPage, Refusal>>,
}

/// An event that tails tell of. Those of one topic share it, so that it is written down once for all.
#[derive(Debug)]
pub struct Told {
    stored: StoredEvent,
    wire: OnceLock<Bytes>,
}

/// A part of a live tail.
#[derive(Clone, Debug, Default)]
pub struct TailPage {
    /// In order, behind what is missing.
    pub events: Arc<[Told]>,
    /// Where to go on.
    pub next: u64,
    /// So many offsets on the way are lost or gone.
    pub gap: u64,
    /// So many are stored, and were passed over because whoever reads is too slow.
    pub skipped: u64,
}

/// How a topic stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it is called on disk.
    pub id: String,
    /// Whether it serves.
    pub state: TopicState,
    /// Of its last generation.
    pub partitions: u32,
    /// The first offset that is kept.
    pub start: u64,
    /// The first offset that is not durable yet.
    pub end: u64,
    /// Kept.
    pub events: u64,
    /// Kept, as they lie on disk.
    pub bytes: u64,
    /// When the oldest event was published.
    pub oldest: Option<u64>,
    /// Segments on disk.
    pub segments: usize,
    /// Events that wait for their time.
    pub delayed: u64,
    /// What is known of duplicates.
    pub dedup: DedupStatus,
    /// Given up by policies that allow it, since start.
    pub dropped: Dropped,
    /// Offsets lost to damage, since the log exists as far as is known.
    pub lost: u64,
    /// How long the last recovery took.
    pub recovery: Duration,
    /// When all of it was last read back without a fault.
    pub scrubbed: Option<u64>,
    /// What goes by the wall clock stands still until the clock is confirmed.
    pub is_clock_frozen: bool,
    /// No longer configured.
    pub is_orphaned: bool,
    /// Who reads it, by name.
    pub subscriptions: Vec<Arc<str>>,
}

/// Events that were given up before a subscription had settled them, by the policy that allowed it.
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
    /// It delivers, and takes nothing more.
    Full,
    /// It takes nothing; what is durable can be read.
    Offline {
        /// What happened.
        reason: String,
        /// What is damaged, if it is that.
        range: Option<OfflineRange>,
    },
}

/// Offsets, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfflineRange {
    /// The first.
    pub from: u64,
    /// The first after them.
    pub to: u64,
}

/// What is known of duplicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStatus {
    /// Keys remembered.
    pub entries: u64,
    /// Duplicates found, since start.
    pub hits: u64,
    /// For how long a key is remembered now: less than set, if there are too many.
    pub window: Duration,
}

// === impl Told ===

impl Told {
    /// It is not written down yet.
    pub fn new(stored: StoredEvent) -> Self {
        Self { stored, wire: OnceLock::new() }
    }

    /// The event.
    pub fn stored(&self) -> &StoredEvent {
        &self.stored
    }

    /// As it is sent; `write` is asked once, by whoever comes first.
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
