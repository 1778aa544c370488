//! The operator's own listener: probes, metrics, status, reload, drain, explain.
//!
//! [`mod@serve`] owns the sockets and limits. [`api`] authorises and answers each call, using the
//! [`Handles`] that the gateway passes in; [`problem`] formats refusals. If a token is configured,
//! every path except `/livez` and `/readyz` requires it. Client traffic never passes through this
//! folder.

pub mod api;
pub mod problem;
pub mod serve;

pub use self::{
    api::{Answer, Handles},
    problem::Problem,
    serve::serve,
};

use std::net::SocketAddr;

use crate::http::Secret;

/// `admin`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 picks a free one.
    pub address: SocketAddr,
    /// The required bearer token; needed if the address is not loopback.
    pub token: Option<Secret>,
    /// Whether `fault` may be configured.
    pub allow_faults: bool,
}
