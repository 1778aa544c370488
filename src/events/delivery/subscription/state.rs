//! The content of a snapshot: everything that entries change, as plain data.

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
    /// Identifies the current settings.
    pub fingerprint: u64,
    /// Unsettled events dropped because their bytes were gone.
    pub lost: u64,
}

/// A lane's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneState {
    /// The lane.
    pub lane: LaneId,
    /// How often the whole lane was moved.
    pub epoch: u32,
    /// How far partitions without a position of their own are scanned.
    pub scan: Offset,
    /// Its job, unless it is the live lane.
    pub job: Option<Job>,
    /// Partitions whose state differs from the lane's.
    pub parts: Vec<PartState>,
    /// Unsettled events, by partition and offset.
    pub events: Vec<EventState>,
}

/// A partition's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartState {
    /// The partition.
    pub partition: Partition,
    /// How often it was moved.
    pub epoch: u32,
    /// Its own position, if it differs from the lane's.
    pub resume: Option<Offset>,
    /// It stops before this damage, end excluded.
    pub damaged: Option<(Offset, Offset)>,
}

/// An unsettled event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventState {
    /// The event.
    pub event: Added,
    /// Number of deliveries ever begun.
    pub attempts: u32,
    /// Counted attempts.
    pub counted: u32,
    /// Failures, for the schedule.
    pub failures: u32,
    /// Consecutive attempts that ended without a result.
    pub unknown: u32,
    /// Whether the endpoint refused it once.
    pub is_refused: bool,
    /// When the first counted attempt began.
    pub first_attempt: Option<u64>,
    /// How the last attempt failed.
    pub failure: Option<Box<Failure>>,
    /// Offset of its copy in the parked log.
    pub parked: Option<Offset>,
    /// Its current state.
    pub status: EventStatus,
}

/// The state of an unsettled event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventStatus {
    /// Waiting for its time, its turn or a consumer.
    Waiting {
        /// Not delivered before this.
        until: u64,
    },
    /// In flight.
    InFlight {
        /// When the lease ends; `None` for a push.
        deadline: Option<u64>,
        /// How it is delivered.
        mode: Mode,
    },
    /// Waiting for an operator.
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
