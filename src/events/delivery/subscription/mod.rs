//! One subscription as a pure state machine: no clock, no disk, no network.
//!
//! State changes only by [`Entry`]; a decision looks at the state and makes entries, which are what the
//! journal keeps. So a snapshot and the entries after it are the whole state, by construction.
//!
//! How it is used: [`Machine::restore`] or [`Machine::new`], [`Machine::apply`] for what the journal has,
//! [`Machine::recover`]; then decisions. Each takes a [`Moment`] and an [`Output`], applies its entries at
//! once, and leaves them in the output for the journal together with effects to carry out after the
//! journal's sync. What could not be journalled has not happened: such a machine is thrown away and
//! restored.

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
