//! Topics: what makes a log one that can be published to.

pub mod clock_guard;
pub mod dedup;
pub mod registry;
pub mod retention;
pub mod sequencer;

#[cfg(test)]
mod tests;
