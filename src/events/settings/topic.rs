//! `topics`.

use std::{sync::Arc, time::Duration};

use super::{Durability, GIB, HOUR, MIB};

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Order domains, at least 1.
    pub partitions: u32,
    /// The largest event, at most 16 MiB.
    pub max_event_bytes: u64,
    /// Kept for so long, and longer if a subscription pins it.
    pub max_age: Duration,
    /// Kept up to so many bytes.
    pub max_bytes: u64,
    /// What happens at `max_bytes`.
    pub on_full: OnFull,
    /// When a publish is answered. A change needs a restart.
    pub durability: Durability,
    /// How duplicates are found.
    pub dedup: Dedup,
    /// Events that may wait for their time.
    pub max_delayed: u64,
    /// No publish while a subscription's oldest unsettled event is older.
    pub max_oldest_age: Option<Duration>,
    /// The name it had.
    pub renamed_from: Option<Arc<str>>,
}

/// What happens when a topic is full of what its subscriptions pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// No publish.
    #[default]
    Reject,
    /// The oldest segment goes, counted.
    DropOldest,
}

/// How duplicates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dedup {
    /// A key is remembered for so long.
    pub window: Duration,
    /// And not more of them.
    pub max_entries: u64,
}

// === impl Topic ===

impl Topic {
    /// The defaults, for a name.
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
