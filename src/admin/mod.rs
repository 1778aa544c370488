//! The operator's own listener.

use std::net::SocketAddr;

use crate::http::Secret;

/// `admin`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 picks a free one.
    pub address: SocketAddr,
    /// The bearer token asked for; required when the address is not loopback.
    pub token: Option<Secret>,
    /// Whether `fault` may be configured.
    pub allow_faults: bool,
}
