//! How an upstream's endpoints are found well or unwell: `health_check`, `outlier`, `breaker`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{
    value::{Percent, StatusRange, Text},
    written::Written,
};

block! {
    /// Active probes: of a path, a gRPC service or a port. One of `path`, `grpc` and `tcp`.
    HealthCheck {
        /// The path asked for.
        path: Option<Written<Text>>,
        /// The gRPC service asked for, by the gRPC health protocol; empty is the server as a whole.
        grpc: Option<Written<Text>>,
        /// Only a connection is made, with TLS where the upstream has it.
        tcp: Option<Written<bool>>,
        /// Between probes; up to 1s while the state is changing, up to 15s while it is down.
        /// Default: 5s.
        interval: Option<Written<Duration>>,
        /// For connection and answer together. Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Failures in a row until it is down. Default: 3.
        fall: Option<Written<u32>>,
        /// Successes in a row until it is up again. Default: 2.
        rise: Option<Written<u32>>,
        /// Statuses and ranges that are a success. Default: `[200-299]`.
        expect: Option<Vec<Written<StatusRange>>>,
    }
    /// Ejection of endpoints that fail live requests.
    Outlier {
        /// Failures in a row that eject: 5xx, or no connection or answer. Default: 5.
        consecutive_failures: Option<Written<u32>>,
        /// Without an ejection for so long, the next one is half as long. Default: 10s.
        interval: Option<Written<Duration>>,
        /// The first ejection; each one after it is twice as long. Default: 10s.
        base_ejection: Option<Written<Duration>>,
        /// The longest ejection. Default: 300s.
        max_ejection: Option<Written<Duration>>,
        /// The share of the endpoints that may be out, but always one; 0% is off. Default: 30%.
        max_ejected: Option<Written<Percent>>,
    }
    /// A circuit breaker for each endpoint. An endpoint whose breaker is open is not chosen.
    Breaker {
        /// Failures in a row that open it. Default: 7.
        consecutive_failures: Option<Written<u32>>,
        /// A smaller share of successes over the window opens it. Default: 80%.
        success_rate: Option<Written<Percent>>,
        /// The time that share is taken over. Default: 10s.
        window: Option<Written<Duration>>,
        /// With fewer requests in the window the share says nothing. Default: 5.
        min_samples: Option<Written<u32>>,
        /// How long it is open before one request is let through; twice as long each time that fails.
        /// Default: 1s.
        probe_after: Option<Written<Duration>>,
        /// The longest such wait. Default: 60s.
        max_wait: Option<Written<Duration>>,
    }
}
