//! The operator's own listener: probes, metrics, what is running, reload, drain, explain.
//!
//! [`api`] says who may ask for what and answers it, over the [`Handles`] that the gateway passes
//! in; [`mod@serve`] is sockets and limits; [`problem`] how a refusal is told. Everything but `/livez`
//! and `/readyz` asks for the token, where there is one. None of it is on the way of a request.

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
    /// The bearer token asked for; required when the address is not loopback.
    pub token: Option<Secret>,
    /// Whether `fault` may be configured.
    pub allow_faults: bool,
}
