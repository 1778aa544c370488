//! Requests with a key are done once (semantics 9, draft-ietf-httpapi-idempotency-key-header).
//!
//! [`fingerprint`] has the pure decisions: which key a request has, and what it is used for. [`layer`]
//! asks who remembers keys, and answers what was done already. What becomes of a key is written down by
//! whoever records the exchange, together with all else that follows from it.

pub mod fingerprint;
pub mod layer;

pub use self::layer::{Idempotency, IdempotencyLayer, Settings};
