//! What a subscription asks of the world: to read, to deliver, to append.

use bytes::Bytes;

use super::{
    ending::{Ending, Failure, Reason, Target},
    entry::Mode,
    place::{LaneId, Partition, Place},
};
use crate::events::queue::Offset;

/// Stands for one attempt at one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Which event.
    pub place: Place,
    /// How often the lane was sent elsewhere before, or when its job began: tokens of before stand for
    /// nothing.
    pub epoch: u32,
    /// Which attempt, from 1.
    pub attempt: u32,
}

/// A stretch of a log to read: what is in it is given back as it is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// For which lane.
    pub lane: LaneId,
    /// Where to begin.
    pub from: Offset,
    /// Where to end at the latest; `None` is the durable end.
    pub to: Option<Offset>,
    /// Only these partitions matter; `None`: any may.
    pub only: Option<Vec<Partition>>,
    /// More events than that will not be taken.
    pub events: usize,
}

/// An event to deliver. Its attempt is journalled before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The attempt.
    pub token: Token,
    /// Where it lies in the parked log; `None`: where it was published.
    pub parked: Option<Offset>,
    /// When the lease ends; `None` for a push.
    pub deadline: Option<u64>,
    /// In which company.
    pub mode: Mode,
    /// The one before it in this receive is the one before it in its key: without that, this is not to be
    /// handed over either.
    pub is_behind: bool,
    /// The attempts that count, this one included unless it is a probe.
    pub counted: u32,
    /// How large it is.
    pub bytes: u32,
    /// Attempts before ended without a word; the first of them began then, 0: nobody knows when.
    pub left: Option<u64>,
}

/// Something to append elsewhere, once the journal is synced up to and with the entries it came with.
/// What was done is told to the machine, which makes the entries that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A copy of the event goes to the dead letters, synced; then `dead_lettered`.
    DeadLetter(Letter),
    /// Who asks for the event is told that it was given up, synced; then `concluded`.
    Conclude(Conclusion),
    /// The event that follows goes to its topic, synced; then `published`.
    Publish(Publication),
}

/// A dead letter to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Which event.
    pub place: Place,
    /// Where it lies in the parked log; `None`: where it was published.
    pub parked: Option<Offset>,
    /// Why nobody took it.
    pub reason: Reason,
    /// The attempts that counted.
    pub attempts: u32,
    /// When the first of them began.
    pub first_attempt: Option<u64>,
    /// When it ended.
    pub at: u64,
    /// How the last one ended.
    pub failure: Option<Failure>,
    /// As [`Delivery::left`].
    pub left: Option<u64>,
    /// Where to.
    pub target: Target,
    /// Whether a compensating event follows.
    pub is_compensated: bool,
    /// It may be there already, at or after the target's end: look first.
    pub is_recovered: bool,
}

/// An event that was given up without a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// Which event.
    pub place: Place,
    /// Where it lies in the parked log; `None`: where its lane's log has it.
    pub parked: Option<Offset>,
    /// Why nobody took it.
    pub reason: Reason,
    /// As [`Delivery::left`].
    pub left: Option<u64>,
    /// It may have been told already, and what follows from it be there.
    pub is_recovered: bool,
}

/// An event to append that follows from another. Its ID is a function of the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Which event it follows from.
    pub place: Place,
    /// Where that lies in the parked log; `None`: where it was published.
    pub parked: Option<Offset>,
    /// Its dead letter, which has its bytes as well.
    pub letter: Option<Offset>,
    /// How that ended: what follows a success is not what follows another end.
    pub ending: Ending,
    /// What the endpoint answered, if it is kept.
    pub answer: Option<Bytes>,
    /// Where to.
    pub target: Target,
    /// It may be there already, at or after the target's end: look first.
    pub is_recovered: bool,
}
