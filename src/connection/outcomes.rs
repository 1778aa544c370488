//! How connections end, when it is not the client that ends them; counted by listener and worker.

use crate::telemetry::metrics::{CONNECTIONS, Cells, Counter, REFUSALS};

/// One worker's cells for one listener. Clones count into the same cells.
#[derive(Clone, Debug)]
pub struct Outcomes {
    /// No first byte within `keepalive_timeout`.
    pub keepalive_timeout: Counter,
    /// A head that was not complete within `header_timeout`: 408.
    pub header_timeout: Counter,
    /// A write was pending for `send_idle_timeout`; with h2 also a response body left unread.
    pub send_idle: Counter,
    /// A head that hyper refused: 400 or 414.
    pub bad_framing: Counter,
    /// A head over `header_bytes`: 431.
    pub header_too_large: Counter,
    /// Too many h2 streams were reset.
    pub resets: Counter,
    /// `client-timeout`, `bad-framing` and `header-too-large` among the refusals.
    pub(super) refused_timeout: Counter,
    pub(super) refused_framing: Counter,
    pub(super) refused_size: Counter,
}

// === impl Outcomes ===

impl Outcomes {
    /// The cells of this listener in `cells`, which belong to one worker.
    pub fn new(cells: &Cells, listener: &str) -> Self {
        let outcome = |outcome| cells.counter(&CONNECTIONS, &[listener, outcome]);
        let refusal = |reason| cells.counter(&REFUSALS, &[reason]);
        Self {
            keepalive_timeout: outcome("keepalive_timeout"),
            header_timeout: outcome("header_timeout"),
            send_idle: outcome("send_idle"),
            bad_framing: outcome("bad_framing"),
            header_too_large: outcome("header_too_large"),
            resets: outcome("resets"),
            refused_timeout: refusal("client-timeout"),
            refused_framing: refusal("bad-framing"),
            refused_size: refusal("header-too-large"),
        }
    }
}
