//! What a route does with a request: answer by itself, redirect, or choose the upstream.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::middleware::headers::Template;

/// Exactly one of these per route.
#[derive(Clone, Debug)]
pub enum Settings {
    /// `respond`: this answer.
    Respond {
        /// The status.
        status: StatusCode,
        /// Its fields.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
    },
    /// `redirect`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// The `Location`, with placeholders.
        location: Template,
    },
    /// `upstream` or `split`: the weight of each of the route's upstreams, in the order of
    /// the route's list. One entry without `split`.
    Forward {
        /// Weights, not all zero.
        weights: Vec<u32>,
    },
}
