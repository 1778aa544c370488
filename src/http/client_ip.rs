//! Who the client is: the right-most address that no trusted proxy vouches for.

use std::net::IpAddr;

use ipnet::IpNet;

/// The client a request is attributed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientIp {
    /// An address; IPv4-mapped IPv6 is given as IPv4.
    Ip(IpAddr),
    /// A peer on a unix socket that no trusted header says more about.
    Unix,
}

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs(Box<[IpNet]>);

// === impl Cidrs ===

impl Cidrs {
    /// The set of these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// Whether no network is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the networks holds `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}
