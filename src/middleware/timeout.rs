//! How long a request, or one attempt of it, may take to its response head.

use std::time::Duration;

/// `routes[].timeout` and `retry.per_attempt_timeout`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// From the end of the request body to the response head, all attempts and waits included.
    pub total: Duration,
    /// The same for one attempt; `None`: what is left of `total`.
    pub per_attempt: Option<Duration>,
}
