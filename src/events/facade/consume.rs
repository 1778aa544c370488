//! Receiving and settling events, and the status of subscriptions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::dead_letters::DeadLetterCount;
use crate::events::event::Event;

/// A consumer's request for events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// Maximum number of events, 1 to 500.
    pub max_events: usize,
    /// Maximum bytes of data, not counting the first event.
    pub max_bytes: u64,
    /// How long to wait for the first event, up to 20 s.
    pub wait: Duration,
    /// The length of the leases, 1 s to 12 h; `None` for the subscription's.
    pub lease: Option<Duration>,
}

/// An event leased to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Identifies this attempt.
    pub token: String,
    /// When the lease ends.
    pub expires: u64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The partition of the topic.
    pub partition: u32,
    /// The offset in the log.
    pub offset: u64,
    /// Whether a job delivers it, again.
    pub is_replay: bool,
    /// The event.
    pub event: Event,
}

/// What to do with leased events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Settle them.
    Ack,
    /// The attempts failed; retry by the schedule, or after `delay`.
    Nack,
    /// Give them back; the attempts do not count.
    Release,
    /// Never deliver them again: they become dead letters.
    Reject,
    /// Extend the leases to another `lease`.
    Extend,
}

/// A token, with the parameters of the verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenItem {
    /// The token as it was received.
    pub token: String,
    /// For `nack` and `release`: not delivered again for this long.
    pub delay: Option<Duration>,
    /// For `nack` and `reject`: the reason, for the operator; cut to 1 KiB.
    pub reason: Option<String>,
    /// For `extend`: the lease from now on; `None` for the subscription's.
    pub lease: Option<Duration>,
}

/// The result for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResult {
    /// The token as it was sent.
    pub token: String,
    /// What was done.
    pub status: TokenStatus,
}

/// The result for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenStatus {
    /// It was done.
    Ok,
    /// Nothing was done: the attempt is over, and the event is not settled.
    LeaseExpired,
    /// Nothing was done: the token was not issued here.
    Unknown,
    /// Nothing was done: the event is settled.
    Settled,
}

/// Where a subscription continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The first event that is stored.
    Earliest,
    /// After the last event.
    Latest,
    /// The first event published at this time or later.
    Time(u64),
    /// The first event at or after this offset, in each of these partitions; others stay.
    Offsets(Vec<(u32, u64)>),
}

/// Unblocks what an event blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unblock {
    /// What to unblock.
    pub what: Blocked,
    /// What to do with the event that blocks it.
    pub action: Action,
}

/// What an event blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A key.
    Key(Bytes),
    /// Only itself: all events without a key that wait for an operator.
    Keyless,
    /// A partition, under `order: partition`.
    Partition(u32),
}

/// What to do with an event that blocked its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Deliver it again, with its attempts reset.
    Retry,
    /// Make it a dead letter.
    DeadLetter,
    /// Settle it.
    Discard,
}

/// The status of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: Arc<str>,
    /// Its ID on disk.
    pub id: String,
    /// Its topic.
    pub topic: Arc<str>,
    /// Who starts deliveries.
    pub mode: SubscriptionMode,
    /// Whether it delivers.
    pub state: SubscriptionState,
    /// Why the last push failed, if it did.
    pub failing: Option<Arc<str>>,
    /// Unsettled events from the floor on; an upper bound if `types` are given.
    pub lag_events: u64,
    /// Bytes on disk from the floor on, in all partitions.
    pub lag_bytes: u64,
    /// Age of the oldest unsettled event.
    pub oldest_age: Option<Duration>,
    /// Events being delivered.
    pub in_flight: u64,
    /// Events held in memory and not being delivered: retrying, or behind another of their key.
    pub parked: u64,
    /// Keys that wait for `unblock`.
    pub blocked_keys: u64,
    /// Events that ended twice in a row without a result.
    pub suspects: u64,
    /// Its dead letters.
    pub dead_letters: DeadLetterCount,
    /// When the next retry is due.
    pub next_retry: Option<u64>,
    /// Its partitions.
    pub partitions: Vec<SubscriptionPartition>,
    /// Whether it is no longer configured.
    pub is_orphaned: bool,
}

/// Who starts deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriptionMode {
    /// The consumer.
    Pull,
    /// The gateway.
    Push,
}

/// Whether a subscription delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubscriptionState {
    /// It does.
    Active,
    /// It does not, until this has ended.
    Paused(Hold),
}

/// What stops a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// An operator.
    Operator,
    /// The endpoint answered 410.
    Gone,
    /// The dead letters are full.
    DeadLettersFull,
    /// No room on disk for the records of a delivery.
    Disk,
    /// Damaged bytes.
    Damage {
        /// The partition.
        partition: u32,
        /// The first offset.
        from: u64,
        /// The first offset after the damage.
        to: u64,
    },
    /// A log it needs is offline.
    Offline {
        /// Which, and why.
        detail: String,
    },
    /// No longer configured.
    Orphaned,
}

/// One partition of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionPartition {
    /// The partition.
    pub partition: u32,
    /// Everything before is settled.
    pub floor: u64,
    /// Everything before has been scanned.
    pub scan: u64,
    /// Unsettled events between the two.
    pub unsettled: u64,
    /// It holds the maximum of parked events, and reads no further.
    pub is_full: bool,
}
