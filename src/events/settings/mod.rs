//! What a user configures about the event flow: plain values, valid by construction.
//!
//! `config` makes them; the defaults here are those of `gateway.yaml`. Names match
//! `[a-z0-9][a-z0-9._-]{0,99}` and are unique. Every topic that a subscription or a reaction names
//! is configured.

mod subscription;
mod topic;

pub use self::{
    subscription::{
        DeadLetters, Format, Limits, Order, Push, Reaction, ReactionData, Retry, StartAt,
        Subscription, Target, Then, TypePattern,
    },
    topic::{Dedup, OnFull, Topic},
};

use std::{path::PathBuf, sync::Arc, time::Duration};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const HOUR: Duration = Duration::from_hours(1);

/// Everything about the store: `queue`, `topics`, `subscriptions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The data directory. A change needs a restart.
    pub dir: PathBuf,
    /// What `source` of the gateway's own events says; `None` is the store's ID.
    pub instance: Option<Arc<str>>,
    /// Readiness fails while a log is offline.
    pub is_required: bool,
    /// Bytes that may wait in front of each log.
    pub publish_buffer: u64,
    /// Bytes of bodies that may be held for keys, fingerprints and events, all routes together.
    pub body_buffer: u64,
    /// How long to wait for another process to let go of the directory.
    pub lock_wait: Duration,
    /// Records of requests.
    pub ingress: Ingress,
    /// Of every topic that says nothing else, and of the delivery state. A change needs a restart.
    pub durability: Durability,
    /// The sync of [`Durability::Os`].
    pub os_interval: Duration,
    /// Room that is left to others.
    pub disk: Disk,
    /// What is done about damage.
    pub recovery: Recovery,
    /// By name.
    pub topics: Vec<Topic>,
    /// By name.
    pub subscriptions: Vec<Subscription>,
}

/// Records of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Records remembered.
    pub max_entries: u64,
    /// Bytes on disk.
    pub max_bytes: u64,
}

/// When an append is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced: survives a power cut.
    #[default]
    Durable,
    /// Once it is written, and synced every so often: survives a killed process.
    Os,
    /// Once it is in memory: survives nothing.
    Memory,
}

/// What is done about damage below the watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// The log goes offline and says where.
    #[default]
    Strict,
    /// The damage is copied aside, counted, and skipped.
    Quarantine,
}

/// Room that is left to others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    /// No publish below this share of the disk, 0 to 1; the smaller of this and `min_free` holds.
    pub low_water: f64,
    /// No publish below so many bytes.
    pub min_free: u64,
    /// Bytes kept for the delivery state.
    pub reserve: u64,
}

// === impl Settings ===

impl Settings {
    /// The defaults, for a directory.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            instance: None,
            is_required: false,
            publish_buffer: 64 * MIB,
            body_buffer: 256 * MIB,
            lock_wait: Duration::ZERO,
            ingress: Ingress::default(),
            durability: Durability::Durable,
            os_interval: Duration::from_millis(50),
            disk: Disk::default(),
            recovery: Recovery::Strict,
            topics: Vec::new(),
            subscriptions: Vec::new(),
        }
    }
}

// === impl Ingress ===

impl Default for Ingress {
    fn default() -> Self {
        Self { max_entries: 2_000_000, max_bytes: 5 * GIB }
    }
}

// === impl Disk ===

impl Default for Disk {
    fn default() -> Self {
        Self { low_water: 0.05, min_free: GIB, reserve: 32 * MIB }
    }
}
