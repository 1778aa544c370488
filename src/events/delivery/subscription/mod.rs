//! One subscription as a pure state machine: no clock, no disk, no network.
//!
//! State changes only by [`Entry`]: a decision reads the state and produces entries, which are what
//! the journal stores. So a snapshot plus the entries after it is always the whole state.
//!
//! To use it, call [`Machine::restore`] or [`Machine::new`], then [`Machine::apply`] for the
//! entries of the journal, then [`Machine::recover`]. After that come decisions. Each takes a
//! [`Moment`] and an [`Output`], applies its entries at once, and leaves in the output the entries
//! for the journal and the effects to carry out once the journal is synced. If the entries cannot
//! be journalled, the decision never happened: discard the machine and restore it.

mod answer;
mod apply;
mod control;
mod counting;
mod effect;
mod ending;
mod entry;
mod finish;
mod keys;
mod lane;
mod letters;
mod machine;
mod numbers;
mod operate;
mod outage;
mod pace;
mod place;
mod push;
mod queue;
mod receive;
mod scan;
mod settings;
mod slab;
mod snapshot;
mod state;
mod timers;
mod verbs;

pub use self::{
    answer::Answer,
    control::Refused,
    effect::{Conclusion, Delivery, Effect, Letter, Publication, Scan, Token},
    ending::{Ending, Failure, FailureKind, Outcome, Reason, Target},
    entry::{
        Added, Attempt, Circuit, Entry, Failed, Hold, JobEnd, JobKind, LapsedEvent, Loss, Mode,
        Removal, Seek,
    },
    lane::{Found, Job, JobFailure},
    letters::{LetterState, Letters},
    machine::{Machine, Output},
    numbers::{EventView, Numbers, PartNumbers, Pins},
    outage::{Failing, Open, Outage},
    place::{LaneId, Partition, Place},
    receive::Ask,
    settings::{DeliveryMode, Moment, Order, SERVICE, STANDARD, Settings, Targets, Then},
    state::{EventState, EventStatus, LaneState, PartState, State},
    verbs::{TokenStatus, Unblock},
};

#[cfg(test)]
mod tests;
