//! A topic: a log with partitions, deduplication, retention and a size limit.
//!
//! The topic's handle admits publishes; [`sequencer`] gives each event its partition and [`dedup`]
//! detects duplicates; [`retention`] chooses which segments are deleted; [`delayed`] holds events
//! that are not yet due. [`clock_guard`] stops everything that depends on age while the wall clock
//! is not trusted. [`registry`] keeps the names and IDs of all topics and subscriptions.

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
