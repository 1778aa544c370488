//! Counts the outcomes of credential checks, in a closed set of words.

use std::sync::{Arc, OnceLock};

use crate::{
    error::AuthFault,
    telemetry::metrics::{AUTH, Cells, Counter},
};

/// A kind of credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `jwt`
    Jwt,
    /// `api_key`
    ApiKey,
    /// `mtls`
    Mtls,
    /// `forward`
    Forward,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Valid.
    Verified,
    /// Valid, and found among the verified tokens.
    Cached,
    /// Another service refused it.
    Denied,
    /// Invalid.
    Refused(AuthFault),
}

/// One worker's counters. Clones share them.
#[derive(Clone, Debug)]
pub struct Outcomes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cells: Cells,
    /// By scheme and outcome, created at the first use.
    counters: [[OnceLock<Counter>; OUTCOMES]; SCHEMES],
}

const SCHEMES: usize = 4;
const OUTCOMES: usize = 3 + AuthFault::ALL.len();

// === impl Scheme ===

impl Scheme {
    /// Its key in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Mtls => "mtls",
            Self::Forward => "forward",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Cached => "cached",
            Self::Denied => "denied",
            Self::Refused(fault) => fault.reason(),
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Verified => 0,
            Self::Cached => 1,
            Self::Denied => 2,
            Self::Refused(fault) => 3 + fault as usize,
        }
    }
}

// === impl Outcomes ===

impl Outcomes {
    /// Counts in `cells`, the worker's own.
    pub fn new(cells: &Cells) -> Self {
        Self(Arc::new(Inner { cells: cells.clone(), counters: Default::default() }))
    }

    /// Counts one more.
    pub fn count(&self, scheme: Scheme, outcome: Outcome) {
        let cell = &self.0.counters[scheme as usize][outcome.index()];
        let labels = [scheme.name(), outcome.name()];
        cell.get_or_init(|| self.0.cells.counter(&AUTH, &labels)).add_alone(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn each_outcome_has_a_series_of_its_own() {
        let metrics = Metrics::new();
        let outcomes = Outcomes::new(&metrics.thread());
        for scheme in [Scheme::Jwt, Scheme::ApiKey, Scheme::Mtls, Scheme::Forward] {
            let all = AuthFault::ALL.map(Outcome::Refused);
            for outcome in
                all.into_iter().chain([Outcome::Verified, Outcome::Cached, Outcome::Denied])
            {
                outcomes.count(scheme, outcome);
                let series = format!(
                    "sluice_auth_total{{scheme=\"{}\",outcome=\"{}\"}} 1\n",
                    scheme.name(),
                    outcome.name()
                );
                assert!(metrics.render().contains(&series), "{series}");
            }
        }
    }
}
