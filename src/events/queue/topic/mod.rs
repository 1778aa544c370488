//! Topics: what makes a log one that can be published to.

pub mod clock_guard;
pub mod dedup;
pub mod delayed;
mod handle;
pub mod registry;
pub mod retention;
pub mod sequencer;

pub use self::handle::{Dropped, Found, Readers, Topic, TopicSettings};

#[cfg(test)]
mod tests;
