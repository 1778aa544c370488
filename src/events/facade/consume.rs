//! Receiving, settling, and what is said of subscriptions.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::dead_letters::DeadLetterCount;
use crate::events::event::Event;

/// What a consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receive {
    /// At most so many events, 1 to 500.
    pub max_events: usize,
    /// At most so many bytes of data, the first event not judged.
    pub max_bytes: u64,
    /// For the first one, up to 20 s.
    pub wait: Duration,
    /// For how long they are the consumer's, 1 s to 12 h; `None` is what the subscription says.
    pub lease: Option<Duration>,
}

/// An event that is one consumer's for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leased {
    /// Stands for this attempt.
    pub token: String,
    /// Until then.
    pub expires: u64,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// Where in the topic.
    pub partition: u32,
    /// Where in the log.
    pub offset: u64,
    /// Delivered by a job, not for the first time.
    pub is_replay: bool,
    /// What it is.
    pub event: Event,
}

/// What is done to leased events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Settled.
    Ack,
    /// The attempt has failed; again by the schedule, or after `delay`.
    Nack,
    /// Given back; the attempt does not count.
    Release,
    /// Never again: to the dead letters.
    Reject,
    /// Kept for another `lease`.
    Extend,
}

/// One token, and what to know for the verb.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenItem {
    /// As it was received.
    pub token: String,
    /// `nack`, `release`: not before so long.
    pub delay: Option<Duration>,
    /// `nack`, `reject`: why, for the operator; cut to 1 KiB.
    pub reason: Option<String>,
    /// `extend`: for so long from now; `None` is what the subscription says.
    pub lease: Option<Duration>,
}

/// What became of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenResult {
    /// As it came.
    pub token: String,
    /// What was done.
    pub status: TokenStatus,
}

/// What was done about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenStatus {
    /// What was asked for.
    Ok,
    /// Nothing: the attempt is over, and the event is not settled.
    LeaseExpired,
    /// Nothing: nobody here gave this token out.
    Unknown,
    /// Nothing: the event is settled.
    Settled,
}

/// Where a subscription is to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The first event that is kept.
    Earliest,
    /// After the last one.
    Latest,
    /// The first event published then or later.
    Time(u64),
    /// In each of these partitions the first at or after this offset; the others stay.
    Offsets(Vec<(u32, u64)>),
}

/// Frees what an event holds up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unblock {
    /// Which.
    pub what: Blocked,
    /// What becomes of the event that blocks it.
    pub action: Action,
}

/// What an event holds up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// A key.
    Key(Bytes),
    /// Nothing but itself: every event without a key that waits for an operator.
    Keyless,
    /// A partition, under `order: partition`.
    Partition(u32),
}

/// What becomes of an event that blocked its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Delivered again, its attempts forgotten.
    Retry,
    /// To the dead letters.
    DeadLetter,
    /// Settled.
    Discard,
}

/// How a subscription stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it is called on disk.
    pub id: String,
    /// Its topic.
    pub topic: Arc<str>,
    /// Who starts a delivery.
    pub mode: SubscriptionMode,
    /// Whether it delivers.
    pub state: SubscriptionState,
    /// Why the last push failed, if it did.
    pub failing: Option<Arc<str>>,
    /// Events from the floor on that are not settled; an upper bound where `types` are given.
    pub lag_events: u64,
    /// Bytes on disk from the floor on, of all partitions.
    pub lag_bytes: u64,
    /// Of the oldest event that is not settled.
    pub oldest_age: Option<Duration>,
    /// Being delivered.
    pub in_flight: u64,
    /// Held in memory and not being delivered: retrying or behind another of their key.
    pub parked: u64,
    /// Keys that wait for `unblock`.
    pub blocked_keys: u64,
    /// Events that ended twice in a row without a word.
    pub suspects: u64,
    /// What nobody took.
    pub dead_letters: DeadLetterCount,
    /// When the next retry is due.
    pub next_retry: Option<u64>,
    /// Each partition.
    pub partitions: Vec<SubscriptionPartition>,
    /// No longer configured.
    pub is_orphaned: bool,
}

/// Who starts a delivery.
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
    /// It does not, until this is over.
    Paused(Hold),
}

/// What stops a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// An operator.
    Operator,
    /// The endpoint has answered 410.
    Gone,
    /// The dead letters are full.
    DeadLettersFull,
    /// No room on disk for what has to be written about a delivery.
    Disk,
    /// Bytes that are not what was written.
    Damage {
        /// Where.
        partition: u32,
        /// The first offset.
        from: u64,
        /// The first offset after them.
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
    /// Which.
    pub partition: u32,
    /// Everything before is settled.
    pub floor: u64,
    /// Everything before has been looked at.
    pub scan: u64,
    /// Between the two and not settled.
    pub unsettled: u64,
    /// It holds as many parked events as it may, and reads no further.
    pub is_full: bool,
}
