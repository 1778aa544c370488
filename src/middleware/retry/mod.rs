//! Retries (semantics 4), and never sends again what an upstream may have acted on.
//!
//! [`layer`] sends the attempts. [`resend`] holds the invariant and the types that enforce it;
//! [`classify`] and [`backoff`] are the pure decisions, [`budget`] bounds them, `tries` combines
//! them, and `pause` is the wait between two attempts. `http::replay` keeps request bodies.

pub mod backoff;
pub mod budget;
pub mod classify;
pub mod layer;
mod pause;
pub mod resend;
mod tries;

pub use self::{
    budget::Budgets,
    classify::On,
    layer::{Retry, RetryLayer, Upstream},
    resend::MAX_ATTEMPTS,
};

/// `routes[].retry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of attempts: 2 is one retry, 1 is none. At most [`MAX_ATTEMPTS`].
    pub attempts: u32,
    /// The failures that are retried.
    pub on: On,
}

// === impl Settings ===

impl Settings {
    /// The settings of a route without `retry`.
    pub const NOT_SENT: Self = Self { attempts: 2, on: On::NOT_SENT };
}

impl Default for Settings {
    /// What `retry: {}` is.
    fn default() -> Self {
        Self { attempts: 2, on: On::default() }
    }
}
