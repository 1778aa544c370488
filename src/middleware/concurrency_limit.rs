//! `max_in_flight`: refused before anything is paid for.

/// `routes[].max_in_flight` or `upstreams.*.max_in_flight`.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Requests under way, over all workers; 503 above.
    pub max_in_flight: usize,
}
