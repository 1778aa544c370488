//! Sends one attempt to one endpoint and returns its response.
//!
//! [`forward`] is the innermost step of the stack. It takes a connection from the worker's pool
//! (`pool`, `checkout`) or dials one ([`connect`], `handshake`), rewrites the head for that
//! connection (`reframe`), sends the request, and returns the connection when the response body has
//! been read. [`upgrade`] runs WebSocket and other tunnels.
//!
//! Invariant: [`io`] measures whether a byte of the request left, and a failure carries the request
//! back only if none did (`failure`, `spare`). Retry decisions rely on that.

pub(crate) mod check;
mod checkout;
pub mod connect;
pub mod endpoint;
mod failure;
pub mod forward;
mod h1;
mod handshake;
pub mod io;
mod last_words;
pub mod load;
mod meter;
mod pool;
pub mod pools;
mod reframe;
mod socket;
mod spare;
mod stall;
mod timer;
pub mod upgrade;
mod upload;
mod websocket;

pub use self::{
    connect::{TlsError, Transport},
    endpoint::{Address, Call, Endpoint, Flight, Local},
    forward::Forward,
    pools::Pools,
    upgrade::{FAREWELL, TunnelDeadline},
};

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls_pki_types::ServerName;

/// How connections to the endpoints of one upstream are made and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The key under `upstreams`.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// TLS; `None` is plain text.
    pub tls: Option<TlsSettings>,
    /// DNS is not in it; TCP and TLS are.
    pub connect_timeout: Duration,
    /// Idle connections kept per endpoint and worker.
    pub max_idle: usize,
    /// How long an idle one is kept.
    pub idle_timeout: Duration,
    /// How long a response body may stand still; off for upgrades and `text/event-stream`.
    pub response_idle_timeout: Duration,
    /// How long an upstream may take nothing of what we have for it.
    pub send_idle_timeout: Duration,
    /// How long a tunnel goes on after one side has said its last.
    pub half_close_timeout: Duration,
    /// A pooled connection idle for longer is probed before an unsafe method is sent on it.
    pub probe_idle_after: Duration,
    /// h2: connections per endpoint and worker.
    pub max_h2_connections: usize,
}

/// What is spoken with an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2, by prior knowledge on plain text.
    H2,
    /// What ALPN chooses; HTTP/1.1 on plain text.
    Auto,
}

/// `upstreams.*.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Sent as SNI and checked against the certificate; `None`: the endpoint's own name.
    pub server_name: Option<ServerName<'static>>,
    /// PEM authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and key for mTLS, PEM.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[cfg(test)]
mod tests;
