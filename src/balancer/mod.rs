//! Chooses one endpoint of an upstream for each attempt.
//!
//! The control thread owns each [`Group`]: it resolves names ([`dns`]), probes endpoints
//! ([`health`]) and publishes which of them may be chosen (`roster`). Each worker reads that
//! through a [`GroupHandle`]. In the stack, [`layer`] picks an endpoint by the configured
//! [`Policy`], calls the transport, and reports the outcome to outlier detection ([`outlier`]) and
//! to the endpoint's circuit breaker ([`breaker`]).
//!
//! Invariants: workers share no reference count that a request changes, and the request path only
//! reads lists that are ready. The algorithms (`pick`, `maglev`, `roster`, [`health`], [`outlier`],
//! [`breaker`]) are pure: change a policy there, not in the layer.

pub mod breaker;
mod check;
pub mod dns;
pub mod group;
pub mod handle;
pub mod health;
pub mod layer;
mod maglev;
pub mod outlier;
mod pick;
pub mod preview;
pub mod resolver;
mod roster;
mod set;
pub mod snapshot;
mod standing;
mod tend;

pub use self::{
    group::Group,
    handle::GroupHandle,
    layer::Balance,
    preview::Preview,
    resolver::{Hickory, Resolve},
    snapshot::{EndpointSnapshot, GroupSnapshot},
};

use std::{fmt, sync::Arc, time::Duration};

use crate::{http::selector::Selector, upstream};

/// One entry of `upstreams`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The key under `upstreams`, which identifies it across reloads.
    pub name: Arc<str>,
    /// Where its endpoints come from, one or more.
    pub sources: Vec<Source>,
    /// How an endpoint is chosen.
    pub policy: Policy,
    /// The maximum number of requests in flight in the whole group, over all workers.
    pub max_in_flight: usize,
    /// Active health checks; `None` is off.
    pub health_check: Option<Arc<health::Settings>>,
    /// Ejection of endpoints that fail live requests.
    pub outlier: outlier::Settings,
    /// A circuit breaker for each endpoint; `None` is off.
    pub breaker: Option<breaker::Settings>,
    /// If the share of healthy endpoints is lower, 0 to 1, health checks are ignored.
    pub panic_threshold: f64,
    /// How long a recovered or added endpoint takes to reach its full share.
    pub slow_start: Duration,
    /// How connections to endpoints are made and used.
    pub transport: upstream::Settings,
}

/// One entry of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// What is looked up.
    pub address: SourceAddress,
    /// Its share within its priority; SRV records bring their own as well.
    pub weight: u32,
    /// 0 is used first.
    pub priority: u32,
}

/// The origin of an endpoint's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceAddress {
    /// `host:port`; a host that is not an IP address is resolved again and again.
    Host {
        /// A name or an address, IPv6 without brackets.
        host: Box<str>,
        /// The port.
        port: u16,
    },
    /// `srv:_service._proto.name`.
    Srv(Box<str>),
    /// `unix:/path`.
    Unix(Box<str>),
}

/// How an endpoint is chosen (semantics 5).
#[derive(Clone, Debug)]
pub enum Policy {
    /// Of two random ones, the one with the lower expected latency.
    P2cEwma,
    /// Of two random ones, the one with fewer requests in flight.
    LeastRequest,
    /// Smooth weighted round robin.
    RoundRobin,
    /// The same endpoint for the same value: maglev with bounded load.
    Hash(Selector),
}

// === impl SourceAddress ===

/// As written in a configuration.
impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Srv(name) => write!(f, "srv:{name}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests;
