//! `routes[].retry` and `upstreams.*.retry_budget`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{
    value::{Percent, RetryOn},
    written::Written,
};

block! {
    /// Further attempts after a failure.
    Retry {
        /// All attempts, the first one included; 1 to 10. Default: 2.
        attempts: Option<Written<u32>>,
        /// How long one attempt may take to its response head. Default: 10s.
        per_attempt_timeout: Option<Written<Duration>>,
        /// After what: `connect` (nothing was sent; always on), `reset` (it may have been seen; safe
        /// methods only), and statuses. Default: `[connect, reset, 502, 503, 504]`.
        on: Option<Vec<Written<RetryOn>>>,
    }
    /// How many retries requests may cause.
    RetryBudget {
        /// The share of requests. Default: 20%.
        ratio: Option<Written<Percent>>,
        /// How long a request counts; 1s to 60s. Default: 10s.
        window: Option<Written<Duration>>,
        /// Beside the share, over all workers; 3 at most with one endpoint. Default: 10.
        min_per_second: Option<Written<u32>>,
    }
}
