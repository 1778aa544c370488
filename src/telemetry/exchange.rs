//! The end of an exchange: its access log line and its metrics, whatever way it ended.

use http::StatusCode;

use crate::http::{Context, body::End};

/// What is written down when the response body is over. Owned by that body as a guard.
#[derive(Debug)]
pub struct Exchange {
    /// What became known about the request.
    pub cx: Context,
    /// The status the client was answered with.
    pub status: StatusCode,
}

// === impl Exchange ===

impl Exchange {
    /// The body is over: `sent` bytes of it were handed on.
    pub fn finish(self: Box<Self>, sent: u64, end: End) {
        let _unused = (sent, end);
    }
}
