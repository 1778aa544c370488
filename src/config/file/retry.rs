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
    /// Retries after a failed attempt. A request that the upstream may have seen is sent again only
    /// if its method is safe or idempotent, or with `idempotency.on_uncertain: resend`.
    Retry {
        /// Attempts in all, including the first; from 1 to 10. Default: 2.
        attempts: Option<Written<u32>>,
        /// How long one attempt may take, from the end of the request body to the response head.
        /// Then it counts as `reset`. Default: 10s.
        per_attempt_timeout: Option<Written<Duration>>,
        /// Which failures are retried. `connect`: nothing was sent; always retried. `reset`: the
        /// connection broke or the attempt timed out after something was sent. A status: the
        /// upstream answered with it. Default: `[connect, reset, 502, 503, 504]`.
        on: Option<Vec<Written<RetryOn>>>,
    }
    /// Limits retries to a share of the requests, so that they do not overload the upstream.
    RetryBudget {
        /// Retries as a share of the requests on routes with `retry`. Default: 20%.
        ratio: Option<Written<Percent>>,
        /// How long a request counts for `ratio`, from 1s to 60s. Default: 10s.
        window: Option<Written<Duration>>,
        /// Retries per second that are allowed in addition, over all workers; at most 1000000. With
        /// a single endpoint only 3 of them are. Default: 10.
        min_per_second: Option<Written<u32>>,
    }
}
