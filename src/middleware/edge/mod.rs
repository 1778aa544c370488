//! HTTP edge hygiene: ambiguous messages are refused, fields that we must not believe are removed.
//!
//! [`framing`] and [`forwarded`] are the pure rules, [`layer`] applies them.

pub mod forwarded;
pub mod framing;
pub mod layer;

pub use self::layer::{Edge, EdgeLayer};

use http::HeaderName;

use crate::http::Cidrs;

/// What the configuration as a whole says about every request.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Named by any `claim_headers`, or told by a service of `auth.forward`: removed from every request
    /// of every peer.
    pub stripped: Vec<HeaderName>,
    /// `trusted_proxies`: who may say which client a request comes from.
    pub trusted_proxies: Cidrs,
}
