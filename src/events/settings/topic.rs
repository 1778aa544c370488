//! `topics`.

use std::{sync::Arc, time::Duration};

use super::{Durability, GIB, HOUR, MIB};

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Number of partitions, at least 1; order holds within each.
    pub partitions: u32,
    /// Maximum size of an event, at most 16 MiB.
    pub max_event_bytes: u64,
    /// How long events are kept; longer if a subscription pins them.
    pub max_age: Duration,
    /// Maximum size on disk.
    pub max_bytes: u64,
    /// What happens at `max_bytes`.
    pub on_full: OnFull,
    /// When a publish is acknowledged. A change needs a restart.
    pub durability: Durability,
    /// Deduplication.
    pub dedup: Dedup,
    /// Maximum number of events waiting until they are due.
    pub max_delayed: u64,
    /// Publishes are refused while a subscription's oldest unsettled event is older.
    pub max_oldest_age: Option<Duration>,
    /// Its former name.
    pub renamed_from: Option<Arc<str>>,
}

/// What happens when a topic is full of pinned segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// Publishes are refused.
    #[default]
    Reject,
    /// The oldest segment is deleted, and its unsettled events are counted.
    DropOldest,
}

/// Deduplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// How long a key is remembered.
    pub window: Duration,
    /// Maximum number of keys remembered.
    pub max_entries: u64,
}

// === impl Topic ===

impl Topic {
    /// The defaults, with this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            partitions: 16,
            max_event_bytes: MIB,
            max_age: 7 * 24 * HOUR,
            max_bytes: 10 * GIB,
            on_full: OnFull::Reject,
            durability: Durability::Durable,
            dedup: Dedup::default(),
            max_delayed: 1_000_000,
            max_oldest_age: None,
            renamed_from: None,
        }
    }
}

// === impl Dedup ===

impl Default for Dedup {
    fn default() -> Self {
        Self { window: HOUR, max_entries: 2_000_000 }
    }
}
