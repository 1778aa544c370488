//! The records of requests: what may happen, what has happened, and what is owed because of it.
//!
//! Used by everything that acts on behalf of a request (`publish`, `enqueue`, push delivery). Three
//! rules are kept here, once:
//!
//! - **Never twice**: [`crate::http::Outcome`] says what an upstream may know of a request. A
//!   request that may have been seen is recorded as uncertain and never sent again.
//! - **Room first**: [`Ingress::reserve`] reserves room for every record an exchange may write, and
//!   [`Target::permit`] room for each event in its topic. With both, nothing is refused later; if
//!   either is refused, nothing has been sent.
//! - **Run to the end**: a spawned, drained task owns the [`Exchange`] and ends it by
//!   [`Exchange::settle`] or [`Exchange::close`]. If the task or the process ends first, the
//!   exchange is an orphan, and [`Ingress::resolve`] finds out what it owes.
//!
//! The sequence: `reserve` -> [`Room::begin`] (intents; on disk when it returns) -> the request is
//! sent -> [`Exchange::answer`] (the answer and the events that follow from it, in one frame; on
//! disk when it returns) -> the client is answered -> [`Exchange::settle`] (appends the events to
//! their topics). An intent ends as exactly one of: its event, no event, or `<type>.uncertain`.
//!
//! Recovery looks for each owed event by ID in its topic, starting where the topic ended when the
//! exchange began, and appends those that are missing. About once a second the log notes the offset
//! below which nothing is owed; segments below it are unlinked.
//!
//! An idempotency key ([`Key`]) is recorded with its exchange: the claim in the first frame, the
//! result in the second. Afterwards the key is free again (nothing was sent), remembered with its
//! answer, or uncertain.
//!
//! A stored request has records of its own: each attempt ([`Attempt`]) is on disk before it is
//! sent, and the result is on disk before the request is settled. Read them as
//! [`crate::events::request::Results`].
//!
//! The log is always durable. Memory: one entry for each remembered key, each unsettled exchange
//! and each stored request, at most `max_entries` together. Beyond that, requests are refused
//! before they are sent or stored.

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

pub use crate::events::stored::Preset;

#[cfg(test)]
mod tests;
