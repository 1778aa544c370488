//! What a subscription asks its runner to do: read, deliver, append.

use bytes::Bytes;

use super::{
    ending::{Ending, Failure, Reason, Target},
    entry::Mode,
    place::{LaneId, Partition, Place},
};
use crate::events::queue::Offset;

/// Identifies one attempt at one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The event.
    pub place: Place,
    /// How often the lane was moved, or when its job began: tokens of earlier epochs are invalid.
    pub epoch: u32,
    /// The number of the attempt, from 1.
    pub attempt: u32,
}

/// A range of a log to read; the events found are reported back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The lane.
    pub lane: LaneId,
    /// Where to begin.
    pub from: Offset,
    /// Where to end at the latest; `None` for the durable end.
    pub to: Option<Offset>,
    /// Only these partitions are wanted; `None` for all.
    pub only: Option<Vec<Partition>>,
    /// The most events that will be taken.
    pub events: usize,
}

/// An event to deliver. Its attempt is journalled first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The attempt.
    pub token: Token,
    /// Its offset in the parked log; `None` if it is read from where it was published.
    pub parked: Option<Offset>,
    /// When the lease ends; `None` for a push.
    pub deadline: Option<u64>,
    /// How it is delivered.
    pub mode: Mode,
    /// The previous event of this receive is the previous one of its key: if that one is not handed
    /// over, this one must not be.
    pub is_behind: bool,
    /// Counted attempts, including this one unless it is a probe.
    pub counted: u32,
    /// Its size in bytes.
    pub bytes: u32,
    /// Earlier attempts ended without a result; the first of them began then, or at 0 if unknown.
    pub left: Option<u64>,
}

/// Something to append elsewhere, once the journal is synced up to and including the accompanying
/// entries. The result is reported to the machine, which makes the entries that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Copy the event to the dead letters and sync; then call `dead_lettered`.
    DeadLetter(Letter),
    /// Report to whoever asks for the event that it was given up, and sync; then call `concluded`.
    Conclude(Conclusion),
    /// Append the following event to its topic and sync; then call `published`.
    Publish(Publication),
}

/// A dead letter to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The event.
    pub place: Place,
    /// Its offset in the parked log; `None` if it is read from where it was published.
    pub parked: Option<Offset>,
    /// Why nobody took it.
    pub reason: Reason,
    /// Counted attempts.
    pub attempts: u32,
    /// When the first of them began.
    pub first_attempt: Option<u64>,
    /// When it ended.
    pub at: u64,
    /// How the last one ended.
    pub failure: Option<Failure>,
    /// As [`Delivery::left`].
    pub left: Option<u64>,
    /// Where to append it.
    pub target: Target,
    /// Whether a compensating event follows.
    pub is_compensated: bool,
    /// It may exist already, at or after the target's end: search first.
    pub is_recovered: bool,
}

/// An event that was given up without a dead letter, and is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The event.
    pub place: Place,
    /// Its offset in the parked log; `None` if it is in the log of its lane.
    pub parked: Option<Offset>,
    /// Why nobody took it.
    pub reason: Reason,
    /// As [`Delivery::left`].
    pub left: Option<u64>,
    /// It may have been reported already, and the event that follows may exist.
    pub is_recovered: bool,
}

/// An event to append that follows from another. Its ID is a function of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The event that it follows from.
    pub place: Place,
    /// That event's offset in the parked log; `None` if it is read from where it was published.
    pub parked: Option<Offset>,
    /// That event's dead letter, which has its bytes as well.
    pub letter: Option<Offset>,
    /// How that event ended: success and failure have different followers.
    pub ending: Ending,
    /// What the endpoint answered, if it is kept.
    pub answer: Option<Bytes>,
    /// Where to append it.
    pub target: Target,
    /// It may exist already, at or after the target's end: search first.
    pub is_recovered: bool,
}
