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
    /// Active health checks. Exactly one of `path`, `grpc` and `tcp` says what is probed.
    HealthCheck {
        /// Probes with a GET of this path, such as `/healthz`.
        path: Option<Written<Text>>,
        /// Probes this service by the gRPC health checking protocol; an empty name is the server as
        /// a whole. Needs HTTP/2: `protocol: h2`, or `auto` with `tls`.
        grpc: Option<Written<Text>>,
        /// `true`: probes by connecting, including the TLS handshake if the upstream has `tls`.
        tcp: Option<Written<bool>>,
        /// The time between two probes of an endpoint. It is 1s at most while the state is
        /// changing, and three intervals, but 15s at most, while the endpoint is down. Default: 5s.
        interval: Option<Written<Duration>>,
        /// How long a probe may take, connection and answer together. Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Failed probes in a row after which an endpoint is down; at least 1. Default: 3.
        fall: Option<Written<u32>>,
        /// Successful probes in a row after which an endpoint is up again; at least 1. Default: 2.
        rise: Option<Written<u32>>,
        /// Statuses that count as a success, single ones or ranges. Only with `path`. Default:
        /// `[200-299]`.
        expect: Option<Vec<Written<StatusRange>>>,
    }
    /// Ejection of endpoints that fail requests. It is on by default.
    Outlier {
        /// Failures in a row after which an endpoint is ejected; at least 1. 5xx answers are one
        /// count, failed connections and missing answers another. Default: 5.
        consecutive_failures: Option<Written<u32>>,
        /// Each time an endpoint stays in use for this long, its next ejection is half as long.
        /// Default: 10s.
        interval: Option<Written<Duration>>,
        /// The duration of the first ejection. Each further one is twice as long. Default: 10s.
        base_ejection: Option<Written<Duration>>,
        /// The longest ejection; at least `base_ejection`. Default: 300s.
        max_ejection: Option<Written<Duration>>,
        /// The largest share of the endpoints that may be ejected at a time. One always may be,
        /// unless it is the only one left. `0%` turns ejection off. Default: 30%.
        max_ejected: Option<Written<Percent>>,
    }
    /// A circuit breaker for each endpoint. An endpoint whose breaker is open gets no requests.
    Breaker {
        /// Failures in a row that open the breaker; at least 1. Default: 7.
        consecutive_failures: Option<Written<u32>>,
        /// The breaker opens if the share of successful requests in `window` is below this.
        /// Default: 80%.
        success_rate: Option<Written<Percent>>,
        /// The time over which `success_rate` is measured. Default: 10s.
        window: Option<Written<Duration>>,
        /// `success_rate` is ignored while `window` has fewer requests than this; at least 1.
        /// Default: 5.
        min_samples: Option<Written<u32>>,
        /// How long the breaker stays open before it lets one request through as a probe. Each
        /// failed probe doubles the wait. Default: 1s.
        probe_after: Option<Written<Duration>>,
        /// The longest wait before a probe; at least `probe_after`. Default: 60s.
        max_wait: Option<Written<Duration>>,
    }
}
