//! Delivers the events of a topic to its subscriptions, at least once.
//!
//! [`subscription`] is the pure state machine that decides what is delivered, retried,
//! dead-lettered and settled. [`runner`] drives it: one task per subscription reads the topic's
//! log, writes each decision to the [`journal`] and then carries it out. Consumers pull events
//! under a [`lease`]; [`push`] builds what is sent to webhooks and upstreams and judges their
//! answers.
//!
//! After a restart [`replay`] rebuilds the state from the newest [`snapshot`] and the journal after
//! it. [`dead_letter`] and [`side_log`] hold the logs that most subscriptions never need.
//!
//! Invariant: a decision is in the journal before its effect. To change what is delivered next,
//! change [`subscription`]; to change how, change [`runner`] or [`push`].

pub mod dead_letter;
mod encoding;
pub mod journal;
pub mod lease;
pub mod push;
pub mod replay;
pub mod runner;
pub mod side_log;
pub mod snapshot;
pub mod subscription;

pub use self::encoding::Malformed;
