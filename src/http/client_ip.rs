//! The client's address: the right-most one that no trusted proxy vouches for.
//!
//! Reads `X-Forwarded-For` if present, else `Forwarded` (RFC 7239), from the right, as long as each
//! hop is in `trusted_proxies`: what is left of the first untrusted address was written by
//! strangers. An entry that is not an address (`unknown`, `_hidden`, garbage) ends the walk at the
//! last trusted hop. A unix peer is in no network, so its fields are ignored. Pure; no allocation.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::IpNet;

use crate::http::{Peer, names::X_FORWARDED_FOR, peer::Address};

/// How many entries are looked at: far more proxies than any real chain has.
const MAX_HOPS: usize = 32;

/// The client a request is attributed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientIp {
    /// An address; an IPv4-mapped IPv6 address is converted to IPv4.
    Ip(IpAddr),
    /// A peer on a unix socket, without a trusted header about its client.
    Unix,
}

/// A set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cidrs(Box<[IpNet]>);

// === impl ClientIp ===

impl ClientIp {
    /// The client of a request with these fields that came from `peer`.
    ///
    /// The fields are read only if the peer is trusted, see [`Peer::trusted`].
    pub fn find(peer: &Peer, headers: &HeaderMap, trusted: &Cidrs) -> Self {
        let direct = Self::of(&peer.remote);
        let Self::Ip(remote) = direct else { return direct };
        if !peer.trusted {
            return direct;
        }
        if headers.contains_key(X_FORWARDED_FOR) {
            walk(remote, trusted, entries(headers, X_FORWARDED_FOR, false).map(address))
        } else {
            walk(remote, trusted, entries(headers, FORWARDED, true).map(forwarded_for))
        }
    }

    /// A client that speaks to us itself, from `remote`.
    pub fn of(remote: &Address) -> Self {
        match remote {
            Address::Inet(address) => Self::Ip(address.ip().to_canonical()),
            Address::Unix => Self::Unix,
        }
    }

    /// The address for rate limits: for IPv6 the /64, all of which one client can use.
    #[must_use]
    pub fn limiter_key(self) -> Self {
        match self {
            Self::Ip(IpAddr::V6(ip)) => {
                let network = u128::from(ip) & !u128::from(u64::MAX);
                Self::Ip(IpAddr::V6(Ipv6Addr::from(network)))
            }
            other => other,
        }
    }

    /// The IP address, if it has one.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(ip),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for ClientIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix => f.write_str("unix"),
        }
    }
}

/// Follows the hops, nearest first, up to the first untrusted one.
fn walk(peer: IpAddr, trusted: &Cidrs, hops: impl Iterator<Item = Option<IpAddr>>) -> ClientIp {
    let mut client = peer;
    for hop in hops.take(MAX_HOPS) {
        let Some(hop) = hop else { break };
        client = hop;
        if !trusted.contains(hop) {
            break;
        }
    }
    ClientIp::Ip(client)
}

/// The elements of all fields with this name, last first, without empty ones.
fn entries(headers: &HeaderMap, name: HeaderName, quoted: bool) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().rev().flat_map(move |value| {
        // A value that is not text counts as one unreadable entry.
        let text = std::str::from_utf8(value.as_bytes()).unwrap_or("?");
        Elements { rest: Some(text), quoted }
    })
}

/// The elements of a comma-separated list, from its end. What strangers wrote at the beginning,
/// such as an open quotation mark, cannot change how a trusted proxy's entry at the end is read.
struct Elements<'a> {
    rest: Option<&'a str>,
    quoted: bool,
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let rest = self.rest?;
            let element = if let Some(comma) = last_comma(rest, self.quoted) {
                self.rest = Some(&rest[..comma]);
                &rest[comma + 1..]
            } else {
                self.rest = None;
                rest
            };
            let element = element.trim_matches([' ', '\t']);
            if !element.is_empty() {
                return Some(element);
            }
        }
    }
}

fn last_comma(text: &str, quoted: bool) -> Option<usize> {
    let mut in_quotes = false;
    text.bytes().enumerate().rev().find_map(|(at, byte)| {
        in_quotes ^= quoted && byte == b'"';
        (byte == b',' && !in_quotes).then_some(at)
    })
}

/// The `for=` of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let node = element.split(';').find_map(|pair| {
        let (name, node) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then_some(node.trim())
    })?;
    match node.strip_prefix('"') {
        Some(open) => address(open.strip_suffix('"')?),
        None => address(node),
    }
}

/// An address with or without a port, IPv6 with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
        .map(|ip| ip.to_canonical())
}

// === impl Cidrs ===

impl Cidrs {
    /// The set of these networks.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the networks contains `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|network| network.contains(&ip))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn peer(remote: Address, trusted: bool) -> Peer {
        Peer { trusted, ..Peer::new(Arc::from("web"), remote, Address::Unix) }
    }

    fn trusted() -> Cidrs {
        Cidrs::new(["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
    }

    /// The client if a trusted proxy at 10.0.0.1 sends these fields, one per line.
    fn client(fields: &[(HeaderName, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().unwrap());
        }
        let remote = Address::Inet("10.0.0.1:999".parse().unwrap());
        ClientIp::find(&peer(remote, true), &headers, &trusted()).to_string()
    }

    fn forwarded_for(value: &str) -> String {
        client(&[(X_FORWARDED_FOR, value)])
    }

    fn forwarded(value: &str) -> String {
        client(&[(FORWARDED, value)])
    }

    #[test]
    fn takes_the_right_most_untrusted_address() {
        assert_eq!(client(&[]), "10.0.0.1");
        assert_eq!(forwarded_for("192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded_for("198.51.100.9, 192.0.2.1, 10.9.9.9"), "192.0.2.1");
        assert_eq!(forwarded_for("10.1.1.1, 10.2.2.2"), "10.1.1.1");
        assert_eq!(forwarded_for("192.0.2.1:4711,, ,"), "192.0.2.1");
        assert_eq!(forwarded_for("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(forwarded_for("2001:db8::1"), "2001:db8::1");
        assert_eq!(forwarded_for("::ffff:192.0.2.1, ::ffff:10.0.0.2"), "192.0.2.1");
        let lines = [(X_FORWARDED_FOR, "192.0.2.1"), (X_FORWARDED_FOR, "192.0.2.2, fd00::1")];
        assert_eq!(client(&lines), "192.0.2.2");
    }

    #[test]
    fn stops_at_what_is_no_address() {
        assert_eq!(forwarded_for("192.0.2.1, unknown"), "10.0.0.1");
        assert_eq!(forwarded_for("192.0.2.1, 10.7.7.7 10.8.8.8, 10.9.9.9"), "10.9.9.9");
        assert_eq!(forwarded("for=192.0.2.1, for=_hidden, for=10.9.9.9"), "10.9.9.9");
        assert_eq!(forwarded("for=192.0.2.1, proto=http"), "10.0.0.1");
        let many = ["192.0.2.1"].into_iter().chain(["10.0.0.2"; MAX_HOPS]).collect::<Vec<_>>();
        assert_eq!(forwarded_for(&many.join(",")), "10.0.0.2");
    }

    #[test]
    fn reads_forwarded() {
        assert_eq!(forwarded("For=\"[2001:db8:cafe::17]:4711\";proto=https"), "2001:db8:cafe::17");
        assert_eq!(
            forwarded("for=198.51.100.1, proto=http;for=192.0.2.1;by=10.0.0.3"),
            "192.0.2.1"
        );
        assert_eq!(forwarded("for=192.0.2.1;by=\"a, for=203.0.113.1\""), "192.0.2.1");
        // An open quotation mark from outside does not swallow the proxy's entry.
        assert_eq!(forwarded("for=\"198.51.100.1, for=192.0.2.1"), "192.0.2.1");
        let both = [(FORWARDED, "for=198.51.100.1"), (X_FORWARDED_FOR, "192.0.2.1")];
        assert_eq!(client(&both), "192.0.2.1");
    }

    #[test]
    fn believes_only_trusted_peers() {
        let headers = HeaderMap::from_iter([(X_FORWARDED_FOR, "192.0.2.1".parse().unwrap())]);
        let find = |remote, is_trusted| {
            ClientIp::find(&peer(remote, is_trusted), &headers, &trusted()).to_string()
        };
        let stranger = Address::Inet("[::ffff:203.0.113.5]:1".parse().unwrap());
        assert_eq!(find(stranger, false), "203.0.113.5");
        assert_eq!(find(stranger, true), "192.0.2.1");
        assert_eq!(find(Address::Unix, false), "unix");
        assert_eq!(find(Address::Unix, true), "unix");
    }

    #[test]
    fn ipv6_clients_share_the_key_of_their_64() {
        let key = |ip: &str| ClientIp::Ip(ip.parse().unwrap()).limiter_key().to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("192.0.2.1"), "192.0.2.1");
        assert_eq!(ClientIp::Unix.limiter_key(), ClientIp::Unix);
    }

    proptest! {
        #[test]
        fn strangers_cannot_move_what_the_proxy_added(left in "[ -~]{0,40}") {
            prop_assert_eq!(forwarded_for(&format!("{left},192.0.2.1")), "192.0.2.1");
            prop_assert_eq!(forwarded(&format!("{left},for=192.0.2.1")), "192.0.2.1");
        }
    }
}
