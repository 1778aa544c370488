//! A request that is stored instead of sent: what is kept of it, how it is identified, and its
//! result.
//!
//! `enqueue`, which accepts requests, and `delivery`, which sends them, may not import each other;
//! these are their shared types. A stored request is a record of kind `request` in a topic
//! ([`StoredRequest`]), identified by its position there ([`Place`]). Its client gets a
//! [`RequestId`], which encodes that position and cannot be guessed, so no index of requests is
//! needed. [`Results`] tells what became of it.
//!
//! Pure, except for the trait.

mod base32;
mod id;
mod results;
mod stored;

pub use self::{
    id::{NotAnId, Place, RequestId, RequestIds, RouteTag, SECRET_BYTES},
    results::{MAX_ANSWER_BYTES, Results, State, Status},
    stored::{CREDENTIALS, Fingerprint, NotARequest, StoredRequest, TYPE},
};
