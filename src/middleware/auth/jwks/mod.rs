//! An issuer's keys from the network: when they are asked for ([`machine`]), what of an answer is
//! believed ([`source`]), and how workers share them ([`cache`]).

pub mod cache;
pub mod machine;
pub mod source;

pub use self::{cache::KeyCache, machine::Timing, source::Source};

use std::sync::Arc;

use super::algorithm::Algorithms;

/// How the keys of one issuer are had.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The key under `issuers`.
    pub issuer: Arc<str>,
    /// Where they are.
    pub source: Source,
    /// What they may be used for.
    pub algorithms: Algorithms,
    /// When they are fetched.
    pub timing: Timing,
    /// Whether readiness waits for them.
    pub is_required: bool,
}

#[cfg(test)]
mod tests;
