//! The records of requests: what may happen, what has happened, and what is owed because of it.
//!
//! For whoever acts on behalf of a request (`publish`, `enqueue`, push delivery). Three rules, each kept
//! here once:
//!
//! - **Never twice**: [`crate::http::Outcome`] says what an upstream knows of a request; what may have
//!   been seen is recorded as uncertain and never sent again.
//! - **Room first**: [`Ingress::reserve`] takes the room for all that may be written of an exchange, and a
//!   [`Target::permit`] that of each event in its topic. Who has both is refused nothing later; who gets
//!   either refused has sent nothing.
//! - **Run to the end**: an [`Exchange`] is held by a spawned, drained task and ends by
//!   [`Exchange::settle`] or [`Exchange::close`]. One that is dropped before, with its task or its process,
//!   is an orphan: [`Ingress::resolve`] finds out what it owes.
//!
//! In order: `reserve` -> [`Room::begin`] (intents; on disk when it returns) -> the request is sent ->
//! [`Exchange::answer`] (the answer and the events that follow from it, one frame; on disk when it
//! returns) -> the client is answered -> [`Exchange::settle`] (appends them to their topics). An intent
//! ends as exactly one of: its event, no event, or `<type>.uncertain`.
//!
//! Recovery looks up what is owed by ID in its topic, from where the topic ended when the exchange began,
//! and appends what is not there. How far nothing is owed any more is noted about once a second, and what
//! lies below is unlinked.
//!
//! An idempotency key ([`Key`]) goes with its exchange: its claim is in the first frame, what becomes of it
//! in the second. It is free again when nothing was sent, remembered with its answer, or uncertain.
//!
//! A stored request has records of its own: its attempts, each on disk before it is sent ([`Attempt`]), and
//! its result, on disk before it is settled. Whoever is asked for it has them as [`crate::events::request::Results`].
//!
//! The log is always durable. Memory: one entry for each key that is remembered, one for each exchange
//! that is not settled, and one for each stored request, at most `max_entries` together; when there are
//! more, requests are refused before they are sent or stored.

mod attempt;
mod exchange;
mod handle;
mod key;
mod key_record;
mod keys;
mod places;
mod record;
mod refusal;
mod replay;
mod resolve;
mod result_record;
mod results;
mod state;
mod target;
mod waiters;

pub use self::{
    attempt::{Attempt, Begun, Due, GivenUp},
    exchange::{Answer, Exchange, Room},
    handle::{Around, Ingress, IngressError, Status},
    key::{Key, MAX_STORED_BYTES, NotUncertain, UncertainKey},
    key_record::{Claimed, KeyEnd},
    record::{About, Owed, uncertain, uncertain_kind, uncertain_kind_bytes},
    refusal::{failed, refused},
    replay::examine,
    target::{Target, Topics},
};

#[cfg(test)]
mod tests;
