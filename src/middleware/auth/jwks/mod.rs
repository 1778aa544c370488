//! An issuer's keys from the network: when to fetch them ([`machine`]), what to accept of an answer
//! ([`source`]), and how workers share them ([`cache`]).

pub mod cache;
pub mod machine;
pub mod source;

pub use self::{cache::KeyCache, machine::Timing, source::Source};

use std::sync::Arc;

use super::algorithm::Algorithms;

/// How one issuer's keys are fetched.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The key under `issuers`.
    pub issuer: Arc<str>,
    /// Where they are.
    pub source: Source,
    /// The algorithms they may be used for.
    pub algorithms: Algorithms,
    /// When they are fetched.
    pub timing: Timing,
    /// Whether readiness waits for them.
    pub is_required: bool,
}

// === impl Settings ===

impl Settings {
    /// Whether `other` asks for the same keys: then they stay when the rest of an issuer changes.
    pub fn is_same_set(&self, other: &Self) -> bool {
        let Self { issuer, source, algorithms, timing, is_required: _ } = self;
        (issuer, source, algorithms, timing)
            == (&other.issuer, &other.source, &other.algorithms, &other.timing)
    }
}

#[cfg(test)]
mod tests;
