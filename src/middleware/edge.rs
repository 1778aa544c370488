//! HTTP edge hygiene: what is ambiguous is refused, what is not for us to believe is removed.

use http::HeaderName;

/// What the configuration as a whole says about every request.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Named by any `claim_headers`: removed from every request of every peer.
    pub stripped: Vec<HeaderName>,
}
