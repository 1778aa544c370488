//! Turns listening sockets into accepted streams.
//!
//! [`bind`] opens one `SO_REUSEPORT` socket per worker. An accepted socket passes `accept`, the
//! connection limits (`limit`), and then `handshake`: PROXY header ([`proxy_protocol`]), limit per
//! client address, TLS (`tls`, certificates chosen by `sni`). The result is a stream and its peer,
//! handed to [`connection`](crate::connection). Sockets that do not get that far are counted in
//! `outcomes`.
//!
//! Invariant: a PROXY header is believed only from `trusted_proxies`.

mod accept;
mod bind;
mod handshake;
mod identity;
mod limit;
mod outcomes;
pub mod proxy_protocol;
mod sni;
mod socket;
mod stream;
mod tls;
mod validity;

pub use self::{
    accept::{Accepted, Acceptor},
    bind::{BindError, Bound, Socket},
    handshake::{Refused, handshake},
    identity::{Unfit, identity},
    limit::{Limits, Permit},
    outcomes::Outcomes,
    stream::Stream,
    tls::{Refreshed, Tls, TlsError},
    validity::Validity,
};

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use crate::http::Cidrs;

/// One entry of `listeners`, with what of `limits` and `trusted_proxies` concerns its connections.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `name`: its identity across reloads.
    pub name: Arc<str>,
    /// Where to listen.
    pub address: BindAddress,
    /// HTTP/1.1 is spoken.
    pub h1: bool,
    /// HTTP/2 is spoken: by ALPN with TLS, by prior knowledge without.
    pub h2: bool,
    /// What is done about a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// TLS; `None` is plain text.
    pub tls: Option<TlsSettings>,
    /// Open connections, over all workers.
    pub max_connections: usize,
    /// Open connections of one address (IPv6: its /64); 0 is no limit.
    pub max_connections_per_ip: usize,
    /// Who may send a PROXY header, and whose forwarding fields are believed.
    pub trusted_proxies: Cidrs,
    /// For the PROXY header and the TLS handshake together.
    pub handshake_timeout: Duration,
}

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BindAddress {
    /// `host:port`; port 0 picks a free one.
    Inet(SocketAddr),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// What is done about a PROXY protocol header (v1 and v2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Not looked for.
    Off,
    /// Read when there is one.
    Accept,
    /// A connection without one is closed.
    Require,
}

/// `listeners[].tls`. Files are read when the listener is built and again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM chain and key, in the order of the file; the first also serves clients without SNI and
    /// unknown names.
    pub certificates: Vec<CertificateFiles>,
    /// What is asked of clients.
    pub client_auth: ClientAuth,
    /// TLS 1.3 only, instead of 1.2 and 1.3.
    pub only_tls13: bool,
}

/// A certificate chain and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// What is asked of TLS clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Nothing.
    Off,
    /// A certificate that these authorities signed, or none.
    Request(PathBuf),
    /// A certificate that these authorities signed.
    Require(PathBuf),
}
