//! Events that wait for their time, in a log of their own beside the topic's.

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
