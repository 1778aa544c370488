//! What a snapshot keeps: everything that entries change, as plain data.

use super::{
    ending::{Failure, Outcome, Reason},
    entry::{Added, Hold, Mode},
    lane::Job,
    letters::LetterState,
    outage::Outage,
    place::{LaneId, Partition},
};
use crate::events::queue::Offset;

/// A subscription's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The live lane and running jobs, by number.
    pub lanes: Vec<LaneState>,
    /// The next job's lane.
    pub next_lane: u32,
    /// Jobs that are over, by lane; the last few.
    pub ended: Vec<(LaneId, Job)>,
    /// Why nothing is delivered.
    pub hold: Option<Hold>,
    /// What is known of the endpoint.
    pub outage: Outage,
    /// Dead letters by place.
    pub letters: Vec<(Offset, LetterState)>,
    /// Of the settings that hold.
    pub fingerprint: u64,
    /// Events that were dropped unsettled because their bytes are gone.
    pub lost: u64,
}

/// A lane's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// Which.
    pub lane: LaneId,
    /// How often all of it was sent elsewhere.
    pub epoch: u32,
    /// Up to where partitions without a position of their own are scanned.
    pub scan: Offset,
    /// What it is for, if it is not the live one.
    pub job: Option<Job>,
    /// Partitions about which there is more to say.
    pub parts: Vec<PartState>,
    /// What is not settled, by partition and offset.
    pub events: Vec<EventState>,
}

/// A partition's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartState {
    /// Which.
    pub partition: Partition,
    /// How often it was sent elsewhere.
    pub epoch: u32,
    /// Its own position.
    pub resume: Option<Offset>,
    /// It stops before these bytes, the end not included.
    pub damaged: Option<(Offset, Offset)>,
}

/// An unsettled event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventState {
    /// What it is.
    pub event: Added,
    /// Deliveries ever begun.
    pub attempts: u32,
    /// Those that count.
    pub counted: u32,
    /// Bad endings the schedule goes by.
    pub failures: u32,
    /// Endings in a row that nobody heard of.
    pub unknown: u32,
    /// The endpoint refused it once.
    pub is_refused: bool,
    /// When the first attempt that counts began.
    pub first_attempt: Option<u64>,
    /// How the last attempt failed.
    pub failure: Option<Box<Failure>>,
    /// Where its copy lies in the parked log.
    pub parked: Option<Offset>,
    /// Where it stands.
    pub status: EventStatus,
}

/// Where an unsettled event stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// For its time, its turn, or somebody to take it.
    Waiting {
        /// Not before.
        until: u64,
    },
    /// On its way.
    InFlight {
        /// When the lease ends; `None` for a push.
        deadline: Option<u64>,
        /// In which company.
        mode: Mode,
    },
    /// For an operator.
    Blocked {
        /// Why.
        reason: Reason,
    },
    /// Its outcome is written.
    Ending {
        /// The outcome.
        outcome: Box<Outcome>,
        /// Its dead letter, once that is on disk.
        letter: Option<Offset>,
    },
}
