//! A user's configuration of the event flow: plain values, valid by construction.
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

/// The configuration of the store: `queue`, `topics`, `subscriptions`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The data directory. A change needs a restart.
    pub dir: PathBuf,
    /// The `source` of the gateway's own events; `None` for the store's ID.
    pub instance: Option<Arc<str>>,
    /// Whether readiness fails while a log is offline.
    pub is_required: bool,
    /// Maximum bytes waiting in front of each log.
    pub publish_buffer: u64,
    /// Maximum bytes of bodies held for keys, fingerprints and events, for all routes together.
    pub body_buffer: u64,
    /// How long to wait until another process releases the directory.
    pub lock_wait: Duration,
    /// Records of requests.
    pub ingress: Ingress,
    /// For the delivery state, and topics without their own setting. A change needs a restart.
    pub durability: Durability,
    /// The interval of syncs with [`Durability::Os`].
    pub os_interval: Duration,
    /// Disk space left to others.
    pub disk: Disk,
    /// How damage is handled.
    pub recovery: Recovery,
    /// By name.
    pub topics: Vec<Topic>,
    /// By name.
    pub subscriptions: Vec<Subscription>,
}

/// Records of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ingress {
    /// Maximum number of records remembered.
    pub max_entries: u64,
    /// Maximum bytes on disk.
    pub max_bytes: u64,
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced: survives a power cut.
    #[default]
    Durable,
    /// Once it is written; synced periodically: survives a killed process.
    Os,
    /// Once it is in memory: survives nothing.
    Memory,
}

/// How damage below the watermark is handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recovery {
    /// The log goes offline and says where.
    #[default]
    Strict,
    /// The damage is copied aside, counted, and skipped.
    Quarantine,
}

/// Disk space left to others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Disk {
    /// No publish below this free share of the disk, 0 to 1, or `min_free`, whichever is smaller.
    pub low_water: f64,
    /// No publish below this many free bytes.
    pub min_free: u64,
    /// Bytes reserved for the delivery state.
    pub reserve: u64,
}

// === impl Settings ===

impl Settings {
    /// The defaults, with this directory.
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
