//! One subscription as a pure state machine: no clock, no disk, no network.
//!
//! State changes only by [`Entry`]; a decision looks at the state and makes entries, which are what the
//! journal keeps. So a snapshot and the entries after it are the whole state, by construction.

mod effect;
mod ending;
mod entry;
mod place;

pub use self::{
    effect::{Delivery, Effect, Letter, Publication, Scan, Token},
    ending::{Ending, Failure, FailureKind, Outcome, Reason, Target},
    entry::{
        Added, Attempt, Circuit, Entry, Failed, Hold, JobEnd, JobKind, LapsedEvent, Loss, Mode,
        Removal, Seek,
    },
    place::{LaneId, Partition, Place},
};
