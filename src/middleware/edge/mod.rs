//! HTTP edge hygiene: ambiguous messages are refused, fields that we must not believe are removed.
//!
//! [`framing`] and [`forwarded`] are the pure rules, [`layer`] applies them.

pub mod forwarded;
pub mod framing;
pub mod layer;

pub use self::layer::{Edge, EdgeLayer};

use http::HeaderName;

use crate::http::Cidrs;

/// The settings that apply to every request.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Fields named in any `claim_headers`, or set by a service of `auth.forward`: removed from
    /// every request of every peer.
    pub stripped: Vec<HeaderName>,
    /// `trusted_proxies`: the peers whose word about a request's client is accepted.
    pub trusted_proxies: Cidrs,
}
