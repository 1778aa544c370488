//! Performs a request with an idempotency key once (semantics 9,
//! draft-ietf-httpapi-idempotency-key-header).
//!
//! [`fingerprint`] makes the pure decisions: which key a request has, and what it is used for.
//! [`layer`] asks the store of keys and answers repeated requests. Whoever records the exchange
//! also records what became of its key, together with everything else that follows from the
//! request.

pub mod fingerprint;
pub mod layer;

pub use self::layer::{Idempotency, IdempotencyLayer, Settings};
