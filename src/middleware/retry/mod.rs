//! Trying again what provably never reached an upstream.
//!
//! [`classify`] is the pure decision, [`layer`] sends again.

pub mod classify;
pub mod layer;

pub use self::layer::{Retry, RetryLayer};

/// How often a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Every try counts: 2 is one retry, 1 is none.
    pub attempts: u32,
}

// === impl Settings ===

impl Default for Settings {
    /// What holds for a route without `retry`.
    fn default() -> Self {
        Self { attempts: 2 }
    }
}
