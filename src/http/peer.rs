//! Who is at the other end of a downstream connection.

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
    /// What it says of its client is believed: `X-Forwarded-*`, `Forwarded`, `X-Request-Id`. The
    /// socket's peer is in `trusted_proxies`, and after the PROXY protocol `remote` is as well: a
    /// proxy that speaks it passes bytes on and has not looked at the fields. Judged once, when the
    /// connection is accepted.
    pub trusted: bool,
    /// What the TLS handshake settled; `None` on plain text.
    pub tls: Option<Tls>,
    /// Made for the first request that is forwarded.
    pub words: OnceLock<Words>,
    /// The host that its first request named; most connections never name another.
    pub host: OnceLock<KnownHost>,
    /// See [`Peer::cut`].
    pub is_cut: AtomicBool,
}

/// A host as a client wrote it, and what is made of it.
#[derive(Debug)]
pub struct KnownHost {
    /// The field's value: valid, so whoever writes the same need not be judged again.
    pub value: HeaderValue,
    /// As [`Context::host`](crate::http::Context::host) has it.
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
    /// The name the client asked for.
    pub server_name: Option<Arc<str>>,
    /// `h2` was chosen by ALPN.
    pub is_h2: bool,
    /// The client's verified certificate, DER.
    pub client_certificate: Option<Arc<[u8]>>,
    /// Whom it names; found out for the first request that wants to know. `None`: nobody.
    pub certified: OnceLock<Option<Certified>>,
}

/// Whom a client's certificate names.
#[derive(Clone, Debug)]
pub struct Certified {
    /// The first of its names.
    pub principal: Arc<Principal>,
    /// All its names.
    pub names: Vec<Box<str>>,
}

/// A peer's address in the words of the fields that tell upstreams of it.
#[derive(Debug)]
pub struct Words {
    address: Option<HeaderValue>,
    forwarded_for: Box<[u8]>,
}

// === impl Peer ===

impl Peer {
    /// A peer on plain text whose word counts for nothing.
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

    /// We end the connection, whatever it is doing: requests that break off with it are not the client's
    /// doing.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Whether we do. Relaxed: it is said before anything breaks off, on the way that wakes who drops it.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Relaxed)
    }

    /// Its address as upstreams are told it; written once per connection.
    pub fn words(&self) -> &Words {
        self.words.get_or_init(|| Words::of(self.remote))
    }
}

// === impl Address ===

impl Address {
    /// The IP address, if it has one; IPv4-mapped IPv6 is given as IPv4.
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
            // No token: quoted (RFC 7239, 6).
            Some(IpAddr::V6(ip)) => format!("for=\"[{ip}]\""),
            None => "for=unknown".to_owned(),
        };
        let address = ip.and_then(|ip| {
            // With an owner its clones, one per request, share it from the start.
            HeaderValue::from_maybe_shared(Bytes::from_owner(ip.to_string())).ok()
        });
        Self { address, forwarded_for: forwarded_for.into_bytes().into() }
    }

    /// The value of `X-Forwarded-For`; a peer on a unix socket has none.
    pub fn address(&self) -> Option<&HeaderValue> {
        self.address.as_ref()
    }

    /// How an element of `Forwarded` (RFC 7239) begins: `for=` and the address.
    pub fn forwarded_for(&self) -> &[u8] {
        &self.forwarded_for
    }
}
