//! Who is at the other end of a downstream connection.

use std::{net::SocketAddr, sync::Arc};

/// An accepted connection, as far as requests need to know it. One per connection, shared by its
/// requests, never between workers.
#[derive(Debug)]
pub struct Peer {
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The client's side, after the PROXY protocol.
    pub remote: Address,
    /// Our side, after the PROXY protocol.
    pub local: Address,
    /// The socket's peer is in `trusted_proxies`: its `X-Forwarded-*` and `Forwarded` are believed.
    pub trusted: bool,
    /// What the TLS handshake settled; `None` on plain text.
    pub tls: Option<Tls>,
}

/// A transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket: its peers have no address.
    Unix,
}

/// The outcome of a TLS handshake.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// The name the client asked for.
    pub server_name: Option<Arc<str>>,
    /// `h2` was chosen by ALPN.
    pub is_h2: bool,
    /// The client's verified certificate, DER.
    pub client_certificate: Option<Arc<[u8]>>,
}
