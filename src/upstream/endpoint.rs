//! One address of one upstream: what all workers share, and what one worker holds.
//!
//! [`Endpoint`] is shared by all workers and changed only through plain atomics. [`Local`] is one
//! worker's hold of it, with that worker's connections. Requests count references of a `Local`,
//! never of an `Endpoint`, so no two workers write to one reference count.

use std::{
    fmt,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::HeaderValue;

use crate::{
    http::Request,
    upstream::{Pools, Transport, load::Load, pool::Pool},
};

/// Where an endpoint listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP.
    Inet(SocketAddr),
    /// A unix socket.
    Unix(Arc<Path>),
}

/// One address of one upstream, shared by all workers. Upstream and address are its identity: a
/// reload that keeps both keeps its state.
#[derive(Debug)]
pub struct Endpoint {
    label: Arc<str>,
    address: Address,
    host: Box<str>,
    authority: HeaderValue,
    load: Arc<Load>,
}

/// One worker's hold of an endpoint: its connections, and a reference to the shared counts.
pub struct Local {
    endpoint: Arc<Endpoint>,
    transport: Arc<Transport>,
    group: Arc<AtomicUsize>,
    // Copies of the endpoint's values: cloning the shared ones would touch a shared reference
    // count.
    label: Arc<str>,
    authority: HeaderValue,
    pool: Pool,
}

/// A request in flight to an endpoint, counted until this is dropped.
#[derive(Debug)]
pub struct Flight {
    local: Arc<Local>,
    is_in_group: bool,
}

/// A request and the endpoint that was chosen for it: what the balancer hands to the transport.
#[derive(Debug)]
pub struct Call {
    /// The request; its target's path and query go upstream as they are.
    pub request: Request,
    /// The chosen endpoint, counting this request as in flight.
    pub flight: Flight,
}

// === impl Endpoint ===

impl Endpoint {
    /// The endpoint of `upstream` at `address`. `host` is the name it is known by: with `port` the
    /// default `Host` field, and the default TLS name.
    pub fn new(upstream: &str, address: Address, host: &str, port: Option<u16>) -> Self {
        Self {
            label: format!("{upstream}/{address}").into(),
            address,
            host: host.into(),
            authority: authority(host, port),
            load: Arc::default(),
        }
    }

    /// The same endpoint under another name; both share their measurements.
    #[must_use]
    pub fn renamed(&self, host: &str, port: Option<u16>) -> Self {
        Self {
            label: self.label.clone(),
            address: self.address.clone(),
            host: host.into(),
            authority: authority(host, port),
            load: self.load.clone(),
        }
    }

    /// `upstream/address`, for the operator.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The name it is known by, without the port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The `Host` field of requests to it.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// Its measurements.
    pub fn load(&self) -> &Load {
        &self.load
    }
}

fn authority(host: &str, port: Option<u16>) -> HeaderValue {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let text = match port {
        Some(port) => format!("{host}:{port}"),
        None => host,
    };
    // Names come from a checked configuration or from DNS; a name that is no field value cannot be
    // one.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
}

// === impl Address ===

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Local ===

impl Local {
    /// One worker's hold of `endpoint`. `group` counts the requests in flight to the whole
    /// upstream.
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        transport: Arc<Transport>,
        group: Arc<AtomicUsize>,
        pools: &Arc<Pools>,
    ) -> Arc<Self> {
        Arc::new(Self {
            label: Arc::from(&**endpoint.label()),
            authority: HeaderValue::from_bytes(endpoint.authority.as_bytes())
                .unwrap_or_else(|_| HeaderValue::from_static("localhost")),
            pool: Pool::new(&transport, pools),
            endpoint,
            transport,
            group,
        })
    }

    /// The part that all workers share.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its label, with a reference count of this worker only.
    pub fn label(&self) -> &Arc<str> {
        &self.label
    }

    /// The `Host` field of requests to it.
    pub(crate) fn authority(&self) -> &HeaderValue {
        &self.authority
    }

    /// How connections to it are made.
    pub(crate) fn transport(&self) -> &Arc<Transport> {
        &self.transport
    }

    /// Requests in flight to the whole upstream, over all workers.
    pub(crate) fn group(&self) -> &Arc<AtomicUsize> {
        &self.group
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Counts one more request at the endpoint and its upstream, unless `limit` are already in
    /// flight to the upstream.
    pub fn enter(self: &Arc<Self>, limit: usize) -> Option<Flight> {
        // Relaxed: the counts order nothing else, they only have to be exact. Each caller judges
        // the number it got, so only one of two racing for the last place gets it.
        let before = self.group.fetch_add(1, Ordering::Relaxed);
        self.endpoint.load.enter();
        let flight = Flight { local: self.clone(), is_in_group: true };
        (before < limit).then_some(flight)
    }
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("endpoint", &self.label).finish_non_exhaustive()
    }
}

// === impl Flight ===

impl Flight {
    /// The endpoint.
    pub fn local(&self) -> &Arc<Local> {
        &self.local
    }

    /// Stops counting for its upstream, but not for its endpoint.
    pub(crate) fn leave_group(&mut self) {
        if std::mem::take(&mut self.is_in_group) {
            self.local.group.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.local.endpoint.load.leave();
        self.leave_group();
    }
}
