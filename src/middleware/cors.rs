//! `cors`: preflights are answered here, and every answer to an allowed origin says so.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// `routes[].cors`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Exact origins, or `*` alone for any.
    pub origins: Vec<HeaderValue>,
    /// What a preflight is told it may send.
    pub methods: Vec<Method>,
    /// What a preflight is told it may set.
    pub headers: Vec<HeaderName>,
    /// How long a browser may remember the preflight.
    pub max_age: Duration,
}
