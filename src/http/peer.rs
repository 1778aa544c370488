//! The other end of a downstream connection.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::HeaderValue;

use crate::http::Principal;

/// What requests need to know of an accepted connection. One per connection, shared by its
/// requests, never between workers.
#[derive(Debug)]
pub struct Peer {
    /// The listener that accepted it.
    pub listener: Arc<str>,
    /// The client's side, after the PROXY protocol.
    pub remote: Address,
    /// Our side, after the PROXY protocol.
    pub local: Address,
    /// Whether its `X-Forwarded-*`, `Forwarded` and `X-Request-Id` are trusted: the socket's peer
    /// is in `trusted_proxies`, and with the PROXY protocol `remote` is too, because such a proxy
    /// passes bytes on without looking at the fields. Determined once, when the connection is
    /// accepted.
    pub trusted: bool,
    /// The result of the TLS handshake; `None` for plain text.
    pub tls: Option<Tls>,
    /// Made for the first forwarded request.
    pub words: OnceLock<Words>,
    /// The host of the first request; most connections never use another.
    pub host: OnceLock<KnownHost>,
    /// See [`Peer::cut`].
    pub is_cut: AtomicBool,
}

/// A host as a client wrote it, and what is derived from it.
#[derive(Debug)]
pub struct KnownHost {
    /// The field's value: valid, so an equal one need not be checked again.
    pub value: HeaderValue,
    /// The form of [`Context::host`](crate::http::Context::host).
    pub normal: Arc<str>,
    /// Our element of `Forwarded` for requests to it.
    pub forwarded: HeaderValue,
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
    /// The server name that the client asked for.
    pub server_name: Option<Arc<str>>,
    /// Whether ALPN chose `h2`.
    pub is_h2: bool,
    /// The client's verified certificate, in DER.
    pub client_certificate: Option<Arc<[u8]>>,
    /// Its identity, determined for the first request that needs it. `None`: it names nobody.
    pub certified: OnceLock<Option<Certified>>,
}

/// The identity in a client's certificate.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The first of its names.
    pub principal: Arc<Principal>,
    /// All its names.
    pub names: Vec<Box<str>>,
}

/// A peer's address in the form of the fields that tell upstreams about it.
#[derive(Debug)]
pub struct Words {
    address: Option<HeaderValue>,
    forwarded_for: Box<[u8]>,
}

// === impl Peer ===

impl Peer {
    /// An untrusted peer on plain text.
    pub fn new(listener: Arc<str>, remote: Address, local: Address) -> Self {
        Self {
            listener,
            remote,
            local,
            trusted: false,
            tls: None,
            words: OnceLock::new(),
            host: OnceLock::new(),
            is_cut: AtomicBool::new(false),
        }
    }

    /// Marks that we are ending the connection, whatever it is doing: requests that end with it are
    /// not aborted by the client.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Whether we are ending it. Relaxed: set before anything ends, on the way to waking its tasks.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Its address in the form for upstreams; written once per connection.
    pub fn words(&self) -> &Words {
        self.words.get_or_init(|| Words::of(self.remote))
    }
}

// === impl Address ===

impl Address {
    /// The IP address, if it has one; IPv4-mapped IPv6 is converted to IPv4.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Inet(address) => Some(address.ip().to_canonical()),
            Self::Unix => None,
        }
    }
}

// === impl Words ===

impl Words {
    fn of(remote: Address) -> Self {
        let ip = remote.ip();
        let forwarded_for = match ip {
            Some(IpAddr::V4(ip)) => format!("for={ip}"),
            // Not a token, so it is quoted (RFC 7239, 6).
            Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
            None => "for=unknown".to_owned(),
        };
        let address = ip.and_then(|ip| {
            // With an owner, its clones, one per request, share it from the start.
            HeaderValue::from_maybe_shared(Bytes::from_owner(ip.to_string())).ok()
        });
        Self { address, forwarded_for: forwarded_for.into_bytes().into() }
    }

    /// The value of `X-Forwarded-For`; a peer on a unix socket has none.
    pub fn address(&self) -> Option<&HeaderValue> {
        self.address.as_ref()
    }

    /// The beginning of an element of `Forwarded` (RFC 7239): `for=` and the address.
    pub fn forwarded_for(&self) -> &[u8] {
        &self.forwarded_for
    }
}
