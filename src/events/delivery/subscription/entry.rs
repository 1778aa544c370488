//! What the journal keeps of a subscription: every change of its state, as plain data.
//!
//! An entry says what happened, not what was decided from: deadlines, retry times and counts are in it as
//! they came out, so that reading it later, under other settings, gives the same state. Times are
//! milliseconds since 1970.
//!
//! Order is part of the meaning. A journal that lost its last entries is a state that was once true:
//! what was attempted since is attempted again.

use super::{
    ending::{Ending, Failure, Outcome, Reason},
    place::{LaneId, Partition, Place},
};
use crate::events::queue::{LogId, Offset};

/// A change of a subscription's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A stretch of the lane's log was looked at. Whatever of it is not in `added`, because another
    /// partition has it or the types leave it out, counts as settled.
    Scanned {
        /// Whose.
        lane: LaneId,
        /// Partitions without a position of their own are scanned up to here.
        to: Offset,
        /// Partitions that stand elsewhere, and where; one at or above `to` has its own position no more.
        moved: Vec<(Partition, Offset)>,
        /// What is to be delivered, by offset.
        added: Vec<Added>,
    },
    /// Deliveries begin; written before they do. Counts, but for a probe.
    Attempted {
        /// When.
        at: u64,
        /// When the lease ends; `None`: a push, which ends by its answer or with the process.
        deadline: Option<u64>,
        /// In which company.
        mode: Mode,
        /// Which events, in the order they are handed over.
        events: Vec<Attempt>,
    },
    /// Leases end later, or sooner, than they did.
    Extended {
        /// The new end.
        deadline: u64,
        /// Which.
        events: Vec<Place>,
    },
    /// Attempts ended badly; the events are delivered again.
    Failed {
        /// When.
        at: u64,
        /// Which.
        events: Vec<Failed>,
    },
    /// Attempts ended without a word: a lease ran out, or the gateway died during a push. They count,
    /// probes too.
    Lapsed {
        /// When.
        at: u64,
        /// Which.
        events: Vec<LapsedEvent>,
    },
    /// Attempts were given up before their end. They do not count.
    Released {
        /// Not before.
        until: u64,
        /// Which.
        events: Vec<Place>,
    },
    /// Counts are taken back, one for each time an event is named.
    GivenBack {
        /// Which.
        events: Vec<Place>,
    },
    /// An event has had its attempts and holds its key until [`Entry::Unblocked`].
    Blocked {
        /// When.
        at: u64,
        /// Which.
        place: Place,
        /// Why, in the words of a dead letter.
        reason: Reason,
        /// How the last attempt ended.
        failure: Option<Failure>,
    },
    /// A blocked event is delivered again, its attempts forgotten; but not that nobody came back from the
    /// last ones.
    Unblocked {
        /// Which.
        place: Place,
    },
    /// How an event ends is certain, and something must be appended elsewhere before it is settled. Synced
    /// before anything is appended.
    Outcome(Outcome),
    /// The dead letter of an event with an outcome is on disk.
    DeadLettered {
        /// Which.
        place: Place,
        /// Where among the dead letters.
        letter: Offset,
        /// What it takes on disk.
        bytes: u32,
    },
    /// Events are over.
    Settled {
        /// When.
        at: u64,
        /// How; that of the outcome if there was one.
        ending: Ending,
        /// Which.
        events: Vec<Place>,
    },
    /// Dead letters are gone.
    LettersRemoved {
        /// Why.
        removal: Removal,
        /// Which.
        letters: Vec<Offset>,
    },
    /// A dead letter was copied forward.
    LetterMoved {
        /// From there.
        from: Offset,
        /// To there.
        to: Offset,
    },
    /// An event is read from the parked log from now on: its segment is about to go.
    Parked {
        /// Which.
        place: Place,
        /// Where in the parked log.
        at: Offset,
    },
    /// Delivery goes on elsewhere. Everything not settled is forgotten, but for events with an outcome.
    Sought(Seek),
    /// Nothing is delivered until [`Entry::Resumed`].
    Held(Hold),
    /// Delivery goes on; damaged partitions too.
    Resumed,
    /// A partition stops before bytes that are not what was written.
    Damaged {
        /// Whose.
        lane: LaneId,
        /// Which.
        partition: Partition,
        /// The first offset of the damage.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// A stretch of the lane's log is gone. What was not settled in it and is not in the parked log is lost,
    /// and counted; an event with an outcome too, because nothing can be made of it any more.
    Lost {
        /// Whose.
        lane: LaneId,
        /// Why.
        loss: Loss,
        /// The first offset.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// Nothing can be read of these events any more, wherever they lay. Counted as lost; those with an
    /// outcome too.
    LostEvents {
        /// Which.
        events: Vec<Place>,
    },
    /// The circuit to the endpoint has moved.
    Circuit(Circuit),
    /// The endpoint asked for time.
    EndpointWaits {
        /// Nothing is sent before.
        until: u64,
        /// How often in a row it did so without saying for how long.
        throttled: u32,
    },
    /// A job begins. When it did is a part of its tokens: if this is lost with the power and another job
    /// gets its lane, they stand for nothing there.
    JobStarted {
        /// Its lane, never used before.
        lane: LaneId,
        /// When.
        at: u64,
        /// The log it reads.
        log: LogId,
        /// What it does.
        kind: JobKind,
        /// At most so many events in a thousand seconds.
        rate: Option<u64>,
        /// Whether its events publish what follows.
        publishes: bool,
    },
    /// A job is over, and so are its events.
    JobEnded {
        /// Its lane.
        lane: LaneId,
        /// When.
        at: u64,
        /// How.
        end: JobEnd,
    },
    /// Other settings hold from here on.
    Configured {
        /// When.
        at: u64,
        /// Tells settings apart.
        fingerprint: u64,
    },
    /// The wall clock was set: every time that is kept moves with it.
    ClockMoved {
        /// By so many milliseconds.
        by: i64,
    },
}

/// An event that is to be delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Its partition.
    pub partition: Partition,
    /// Where in the lane's log.
    pub offset: Offset,
    /// What it is in order with, under the order that held when it was scanned; `None` is nothing.
    pub key: Option<u64>,
    /// When it was published.
    pub published: u64,
    /// When it is not worth delivering any more.
    pub expires: Option<u64>,
    /// How large it is.
    pub bytes: u32,
}

/// In which company an event is delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// With others.
    #[default]
    Shared,
    /// Alone, because nobody came back from it twice; at most one such delivery is on its way.
    Alone,
    /// To see whether the endpoint is back. Does not count.
    Probe,
}

/// The beginning of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Of which event.
    pub place: Place,
    /// Its number, from 1, never given twice to one event unless a seek lies between.
    pub number: u32,
}

/// A bad ending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Of which event.
    pub place: Place,
    /// Not again before.
    pub until: u64,
    /// `false`: the attempt is given back.
    pub counts: bool,
    /// What happened.
    pub failure: Failure,
}

/// An ending nobody heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LapsedEvent {
    /// Of which event.
    pub place: Place,
    /// Not again before.
    pub until: u64,
}

/// Why a dead letter is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// A redrive delivered it.
    Delivered,
    /// An operator removed it.
    Purged,
    /// It was kept for as long as the settings say.
    Aged,
}

/// Where delivery goes on.
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

/// Why a stretch of a log is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// Its bytes were damaged.
    Damage,
    /// The settings of the topic or of the subscription let it go.
    Dropped,
}

/// A move of the circuit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Too many failures in a row.
    Opened {
        /// When.
        at: u64,
        /// The first probe is not before.
        until: u64,
        /// What the next wait is a multiple of.
        wait: u64,
        /// Counts taken back, one for each time an event is named.
        given_back: Vec<Place>,
    },
    /// A probe failed.
    Waits {
        /// The next probe is not before.
        until: u64,
        /// What the next wait is a multiple of.
        wait: u64,
    },
    /// A probe succeeded.
    Closed,
}

/// What a job does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobKind {
    /// Delivers a stretch of the topic again.
    Replay {
        /// The first offset.
        from: Offset,
        /// The first offset after it.
        to: Offset,
    },
    /// Delivers dead letters again.
    Redrive {
        /// Which: stretches of the dead-letter log, ascending, the end not included.
        letters: Vec<(Offset, Offset)>,
    },
    /// As [`JobKind::Redrive`], and an operator takes it upon himself that what may have been seen is sent
    /// twice.
    ForcedRedrive {
        /// Which, as there.
        letters: Vec<(Offset, Offset)>,
    },
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JobEnd {
    /// All of it is settled.
    Done,
    /// An operator ended it.
    Cancelled,
}
