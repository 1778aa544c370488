//! Delayed events: they wait in a log of their own beside the topic's until they are due.
//!
//! `waiting` knows what is due and when, `mover` appends it to the topic exactly once across
//! crashes, and `mark` encodes the control records that make this possible. The format is specified
//! in [`queue`](crate::events::queue).

mod log;
mod lookup;
mod mark;
mod mover;
mod target;
mod waiting;

#[cfg(test)]
mod tests;

pub use self::{
    log::{DelayedLog, NotAdmitted, OpenDelayedError, Settings, lies_at},
    mover::{Moved, Mover, Trouble},
    target::Target,
};
