//! How large and how slow a request body may be.

use std::time::Duration;

/// `limits` as it holds for one route.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes; 413 above.
    pub bytes: u64,
    /// How long the client may send nothing while we wait for it; 408.
    pub idle_timeout: Duration,
    /// Bytes per second while we wait for it, after [`Settings::min_rate_grace`]; 0 is off; 408.
    pub min_rate: u64,
    /// Waiting that is not judged by the rate.
    pub min_rate_grace: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bytes: 10 * 1024 * 1024,
            idle_timeout: Duration::from_secs(30),
            min_rate: 240,
            min_rate_grace: Duration::from_secs(5),
        }
    }
}
