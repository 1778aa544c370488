//! A request that is stored instead of sent: what of it is kept, what it is called, and what became of it.
//!
//! What those who accept requests (`enqueue`) and those who deliver them (`delivery`) have in common, and
//! neither may know the other. A stored request is a record of kind `request` in a topic
//! ([`StoredRequest`]); its place there is its identity ([`Place`]), and what its client has for it is a
//! [`RequestId`], which says where to look and cannot be guessed: there is no index of requests. What
//! became of it is asked of [`Results`].
//!
//! Pure, but for the trait.

mod base32;
mod id;
mod results;
mod stored;

pub use self::{
    id::{NotAnId, Place, RequestId, RequestIds, RouteTag, SECRET_BYTES},
    results::{MAX_ANSWER_BYTES, Results, State, Status},
    stored::{CREDENTIALS, Fingerprint, NotARequest, StoredRequest, TYPE},
};
