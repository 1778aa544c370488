//! The journal entries of a subscription: every change of its state, as plain data.
//!
//! An entry says what happened, not why: it contains the resulting deadlines, retry times and
//! counts, so that replaying it later, under other settings, gives the same state. Times are
//! milliseconds since 1970.
//!
//! Order matters. A journal that lost its last entries is an earlier valid state: what was
//! attempted since is attempted again.

use super::{
    ending::{Ending, Failure, Outcome, Reason},
    place::{LaneId, Partition, Place},
};
use crate::events::queue::{LogId, Offset};

/// A change of a subscription's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A range of the lane's log was scanned. Everything in it that is not in `added`, because it
    /// belongs to another partition or the types exclude it, counts as settled.
    Scanned {
        /// The lane.
        lane: LaneId,
        /// Partitions without a position of their own are scanned up to here.
        to: Offset,
        /// Partitions and their own positions; one at or above `to` has none any more.
        moved: Vec<(Partition, Offset)>,
        /// Events to deliver, by offset.
        added: Vec<Added>,
    },
    /// Deliveries begin; written before they do. Counts as an attempt, except for a probe.
    Attempted {
        /// When.
        at: u64,
        /// When the lease ends; `None` for a push, which ends with its answer or the process.
        deadline: Option<u64>,
        /// How they are delivered.
        mode: Mode,
        /// The events, in the order in which they are handed over.
        events: Vec<Attempt>,
    },
    /// The leases of some events were changed.
    Extended {
        /// The new end.
        deadline: u64,
        /// The events.
        events: Vec<Place>,
    },
    /// Attempts failed; the events are delivered again.
    Failed {
        /// When.
        at: u64,
        /// The events.
        events: Vec<Failed>,
    },
    /// Attempts ended without a result: a lease expired, or the gateway died during a push. They
    /// count, even probes.
    Lapsed {
        /// When.
        at: u64,
        /// The events.
        events: Vec<LapsedEvent>,
    },
    /// Attempts were given up before their end. They do not count.
    Released {
        /// Not delivered again before this.
        until: u64,
        /// The events.
        events: Vec<Place>,
    },
    /// Attempts are uncounted, one each time an event is listed.
    GivenBack {
        /// The events.
        events: Vec<Place>,
    },
    /// An event used up its attempts and holds its key until [`Entry::Unblocked`].
    Blocked {
        /// When.
        at: u64,
        /// The event.
        place: Place,
        /// Why, as in a dead letter.
        reason: Reason,
        /// How the last attempt ended.
        failure: Option<Failure>,
    },
    /// A blocked event is delivered again with its attempts reset, but for the knowledge that the
    /// last ones ended without a result.
    Unblocked {
        /// The event.
        place: Place,
    },
    /// An event's end is certain, but something must be appended elsewhere before it is settled.
    /// Synced before anything is appended.
    Outcome(Outcome),
    /// The dead letter of an event with an outcome is on disk.
    DeadLettered {
        /// The event.
        place: Place,
        /// The offset among the dead letters.
        letter: Offset,
        /// Its size on disk.
        bytes: u32,
    },
    /// Events are settled.
    Settled {
        /// When.
        at: u64,
        /// How they ended; the outcome's ending if there was one.
        ending: Ending,
        /// The events.
        events: Vec<Place>,
    },
    /// Dead letters were removed.
    LettersRemoved {
        /// Why.
        removal: Removal,
        /// The dead letters.
        letters: Vec<Offset>,
    },
    /// A dead letter was copied forward.
    LetterMoved {
        /// The old offset.
        from: Offset,
        /// The new offset.
        to: Offset,
    },
    /// An event is read from the parked log from now on, because its segment will be deleted.
    Parked {
        /// The event.
        place: Place,
        /// The offset in the parked log.
        at: Offset,
    },
    /// Delivery continues elsewhere. Unsettled events are forgotten, but not those with an outcome.
    Sought(Seek),
    /// Nothing is delivered until [`Entry::Resumed`].
    Held(Hold),
    /// Delivery resumes, also for damaged partitions.
    Resumed,
    /// A partition stops before damaged bytes.
    Damaged {
        /// The lane.
        lane: LaneId,
        /// The partition.
        partition: Partition,
        /// The first offset of the damage.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// A range of the lane's log is gone. Unsettled events in it without a copy in the parked log
    /// are lost and counted, including those with an outcome, which can no longer be completed.
    Lost {
        /// The lane.
        lane: LaneId,
        /// Why.
        loss: Loss,
        /// The first offset.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// These events can no longer be read, wherever they were. Counted as lost, including those
    /// with an outcome.
    LostEvents {
        /// The events.
        events: Vec<Place>,
    },
    /// The state of the circuit to the endpoint changed.
    Circuit(Circuit),
    /// The endpoint asked to wait.
    EndpointWaits {
        /// Nothing is sent before this.
        until: u64,
        /// How often in a row it asked without saying how long.
        throttled: u32,
    },
    /// A job begins. Its start is part of its tokens: if this entry is lost in a power failure and
    /// another job gets the lane, the old tokens are invalid there.
    JobStarted {
        /// Its lane, never used before.
        lane: LaneId,
        /// When.
        at: u64,
        /// The log it reads.
        log: LogId,
        /// What it does.
        kind: JobKind,
        /// Maximum events per thousand seconds.
        rate: Option<u64>,
        /// Whether its events publish followers.
        publishes: bool,
    },
    /// A job has ended, and its events with it.
    JobEnded {
        /// Its lane.
        lane: LaneId,
        /// When.
        at: u64,
        /// How.
        end: JobEnd,
    },
    /// The settings changed.
    Configured {
        /// When.
        at: u64,
        /// Identifies the settings.
        fingerprint: u64,
    },
    /// The wall clock was set: every stored time moves with it.
    ClockMoved {
        /// By this many milliseconds.
        by: i64,
    },
}

/// An event to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Its partition.
    pub partition: Partition,
    /// Its offset in the lane's log.
    pub offset: Offset,
    /// Hash of its key in the order that applied when it was scanned; `None` if it is unordered.
    pub key: Option<u64>,
    /// When it was published.
    pub published: u64,
    /// When it expires.
    pub expires: Option<u64>,
    /// Its size in bytes.
    pub bytes: u32,
}

/// How an event is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Together with others.
    #[default]
    Shared,
    /// Alone, because it ended twice without a result; at most one such delivery is in flight.
    Alone,
    /// To test whether the endpoint is back. Does not count as an attempt.
    Probe,
}

/// The start of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The event.
    pub place: Place,
    /// Its number, from 1; never reused for an event unless there was a seek in between.
    pub number: u32,
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The event.
    pub place: Place,
    /// Not delivered again before this.
    pub until: u64,
    /// Whether the attempt counts.
    pub counts: bool,
    /// What happened.
    pub failure: Failure,
}

/// An attempt that ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LapsedEvent {
    /// The event.
    pub place: Place,
    /// Not delivered again before this.
    pub until: u64,
}

/// Why a dead letter was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// A redrive delivered it.
    Delivered,
    /// An operator removed it.
    Purged,
    /// It reached the configured age.
    Aged,
}

/// Where delivery continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seek {
    /// All partitions, at this offset.
    All(Offset),
    /// These partitions, each at its offset.
    Partitions(Vec<(Partition, Offset)>),
}

/// Why nothing is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hold {
    /// An operator paused it.
    Operator,
    /// The endpoint answered 410.
    Gone,
}

/// Why a range of a log is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Its bytes were damaged.
    Damage,
    /// The settings of the topic or the subscription allowed its deletion.
    Dropped,
}

/// A change of the circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Too many failures in a row.
    Opened {
        /// When.
        at: u64,
        /// The first probe is not before this.
        until: u64,
        /// The wait without jitter, from which the next one is computed.
        wait: u64,
        /// Attempts that are uncounted, one each time an event is listed.
        given_back: Vec<Place>,
    },
    /// A probe failed.
    Waits {
        /// The next probe is not before this.
        until: u64,
        /// The wait without jitter, from which the next one is computed.
        wait: u64,
    },
    /// A probe succeeded.
    Closed,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Delivers a range of the topic again.
    Replay {
        /// The first offset.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// Delivers dead letters again.
    Redrive {
        /// The dead letters: ascending ranges of their log, end excluded.
        letters: Vec<(Offset, Offset)>,
    },
    /// As [`JobKind::Redrive`], but an operator accepts that what may have been seen is sent twice.
    ForcedRedrive {
        /// The dead letters, as there.
        letters: Vec<(Offset, Offset)>,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// Everything is settled.
    Done,
    /// An operator cancelled it.
    Cancelled,
}
