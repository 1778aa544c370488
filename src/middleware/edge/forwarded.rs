//! What the upstream learns about the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), `Via`. Pure.
//!
//! A trusted peer's values are kept and ours appended; anybody else's are replaced by ours. Each
//! list is sent as one line, so that a reader of only the first or last line sees all of it.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{Entry, FORWARDED, VIA},
};
use smallvec::SmallVec;

use crate::http::{
    Scheme, fields, identity,
    names::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO},
    peer::Peer,
};

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 sluice");
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 sluice");
const VIA_2: HeaderValue = HeaderValue::from_static("2 sluice");

/// A field value being written: on the stack up to the length of a `Forwarded` with an IPv6 address
/// and an ordinary host.
#[derive(Default)]
struct Line(SmallVec<[u8; 128]>);

/// Sets the fields that describe the client of `peer`. `host` is the request's own, `element` our
/// element for both ([`element`]), and `version` the client's protocol version. If the peer is
/// trusted, existing values are kept and appended to.
///
/// Returns the scheme of the request, the same that upstreams are told.
pub fn set(
    headers: &mut HeaderMap,
    peer: &Peer,
    host: Option<&HeaderValue>,
    element: HeaderValue,
    version: Version,
) -> Scheme {
    let scheme = Scheme::of(peer);
    let words = peer.words();
    let via = match version {
        Version::HTTP_10 => VIA_10,
        Version::HTTP_2 => VIA_2,
        _ => VIA_11,
    };
    if peer.trusted {
        append(headers, VIA, via);
        if let Some(address) = words.address() {
            append(headers, X_FORWARDED_FOR, address.clone());
        }
        append(headers, FORWARDED, element);
        if let Some(host) = host {
            headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        }
        return match headers.entry(X_FORWARDED_PROTO) {
            Entry::Occupied(lines) => {
                lines.iter().next_back().and_then(Scheme::told).unwrap_or(scheme)
            }
            Entry::Vacant(free) => {
                free.insert(proto(scheme));
                scheme
            }
        };
    }
    remove_claims(headers);
    fields::set(headers, VIA, via);
    if let Some(address) = words.address() {
        fields::set(headers, X_FORWARDED_FOR, address.clone());
    }
    fields::set(headers, FORWARDED, element);
    fields::set(headers, X_FORWARDED_PROTO, proto(scheme));
    if let Some(host) = host {
        fields::set(headers, X_FORWARDED_HOST, host.clone());
    }
    scheme
}

fn proto(scheme: Scheme) -> HeaderValue {
    match scheme {
        Scheme::Http => HTTP,
        Scheme::Https => HTTPS,
    }
}

/// Removes an untrusted peer's claims about itself, also under names that only some upstreams read.
fn remove_claims(headers: &mut HeaderMap) {
    let claims: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| identity::speaks_of_client(name)).cloned().collect();
    for name in &claims {
        headers.remove(name);
    }
}

/// Joins existing values and `ours` into one line.
fn append(headers: &mut HeaderMap, name: HeaderName, ours: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, ours);
        return;
    }
    let mut line = Line::default();
    for value in headers.get_all(&name).iter().filter(|value| !value.is_empty()) {
        line.push(value.as_bytes());
        line.push(b", ");
    }
    line.push(ours.as_bytes());
    headers.insert(name, line.into_value());
}

/// Our element of `Forwarded` for a request from `peer` to `host`. A host with a port is not a
/// token, so it is quoted.
pub fn element(peer: &Peer, host: Option<&HeaderValue>) -> HeaderValue {
    let mut line = Line::default();
    line.push(peer.words().forwarded_for());
    if let Some(host) = host {
        let is_token = !host.as_bytes().iter().any(|byte| matches!(byte, b':' | b'['));
        let quote: &[u8] = if is_token { b"" } else { b"\"" };
        for part in [b";host=", quote, host.as_bytes(), quote] {
            line.push(part);
        }
    }
    line.push(b";proto=");
    line.push(Scheme::of(peer).as_str().as_bytes());
    line.into_value()
}

// === impl Line ===

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Made of addresses, valid hosts and field values, so it is a field value itself.
    fn into_value(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&self.0))
            .unwrap_or(HeaderValue::from_static(""))
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, sync::Arc};

    use super::*;
    use crate::http::peer::{Address, Tls};

    fn peer(remote: &str, trusted: bool) -> Peer {
        let remote = match remote {
            "unix" => Address::Unix,
            address => Address::Inet(SocketAddr::new(address.parse().unwrap(), 4711)),
        };
        Peer { trusted, ..Peer::new(Arc::from("web"), remote, Address::Unix) }
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    const HOST: HeaderValue = HeaderValue::from_static("shop.example");

    fn tell(
        headers: &mut HeaderMap,
        peer: &Peer,
        host: Option<&HeaderValue>,
        version: Version,
    ) -> Scheme {
        set(headers, peer, host, element(peer, host), version)
    }

    const CLAIMS: [(&str, &str); 9] = [
        ("x-forwarded-for", "10.9.9.9"),
        ("x-forwarded-for", "10.9.9.8"),
        ("forwarded", "for=10.9.9.9;proto=https"),
        ("via", "1.1 liar"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "admin.internal"),
        ("x-forwarded-port", "443"),
        ("x-forwarded-prefix", "/admin"),
        ("x-real-ip", "10.9.9.9"),
    ];

    #[test]
    fn forwarding_fields_of_an_untrusted_peer_are_replaced() {
        let mut headers = map(&CLAIMS);
        tell(&mut headers, &peer("192.0.2.7", false), Some(&HOST), Version::HTTP_11);
        let ours = map(&[
            ("via", "1.1 sluice"),
            ("x-forwarded-for", "192.0.2.7"),
            ("forwarded", "for=192.0.2.7;host=shop.example;proto=http"),
            ("x-forwarded-proto", "http"),
            ("x-forwarded-host", "shop.example"),
        ]);
        assert_eq!(headers, ours);
    }

    #[test]
    fn forwarding_fields_of_a_trusted_peer_are_appended_to_or_kept() {
        let mut headers = map(&CLAIMS);
        tell(&mut headers, &peer("192.0.2.7", true), Some(&HOST), Version::HTTP_2);
        let both = map(&[
            ("x-forwarded-for", "10.9.9.9, 10.9.9.8, 192.0.2.7"),
            ("forwarded", "for=10.9.9.9;proto=https, for=192.0.2.7;host=shop.example;proto=http"),
            ("via", "1.1 liar, 2 sluice"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "admin.internal"),
            ("x-forwarded-port", "443"),
            ("x-forwarded-prefix", "/admin"),
            ("x-real-ip", "10.9.9.9"),
        ]);
        assert_eq!(headers, both);
    }

    #[test]
    fn a_trusted_peer_that_says_nothing_is_spoken_for() {
        let mut headers = HeaderMap::new();
        let mut peer = peer("::ffff:192.0.2.7", true);
        peer.tls = Some(Tls::default());
        tell(&mut headers, &peer, Some(&HOST), Version::HTTP_10);
        assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.7", "IPv4-mapped is given as IPv4");
        assert_eq!(headers[X_FORWARDED_PROTO], "https");
        assert_eq!(headers[VIA], "1.0 sluice");
    }

    #[test]
    fn the_scheme_is_the_connections_unless_a_trusted_peer_says_another() {
        let found = |fields: &[(&'static str, &'static str)], is_tls: bool, trusted: bool| {
            let tls = is_tls.then(Tls::default);
            let peer = Peer { tls, ..peer("192.0.2.7", trusted) };
            tell(&mut map(fields), &peer, Some(&HOST), Version::HTTP_11)
        };
        let (http, https) = (Scheme::Http, Scheme::Https);
        let said = |value| [("x-forwarded-proto", value)];
        assert_eq!([found(&[], false, false), found(&[], true, false)], [http, https]);
        assert_eq!([found(&[], false, true), found(&[], true, true)], [http, https]);
        assert_eq!(found(&said("https"), false, false), http, "a stranger's word");
        assert_eq!(found(&said("http"), true, false), https, "a stranger's word");
        assert_eq!(found(&said("https"), false, true), https);
        assert_eq!(found(&said("http"), true, true), http);
        assert_eq!(found(&said("rubbish"), true, true), https);
        let lines = [("x-forwarded-proto", "http"), ("x-forwarded-proto", "https")];
        assert_eq!(found(&lines, false, true), https, "the last line");
        assert_eq!(found(&[("forwarded", "proto=https")], false, true), http, "not read");
    }

    #[test]
    fn addresses_and_hosts_that_are_no_tokens_are_quoted() {
        let mut headers = HeaderMap::new();
        let host = HeaderValue::from_static("shop.example:8080");
        tell(&mut headers, &peer("2001:db8::1", false), Some(&host), Version::HTTP_11);
        assert_eq!(headers[X_FORWARDED_FOR], "2001:db8::1");
        assert_eq!(
            headers[FORWARDED],
            "for=\"[2001:db8::1]\";host=\"shop.example:8080\";proto=http"
        );
    }

    #[test]
    fn a_unix_peer_has_no_address_to_tell() {
        let mut headers = map(&[("x-forwarded-for", "10.9.9.9")]);
        tell(&mut headers, &peer("unix", false), None, Version::HTTP_11);
        assert!(!headers.contains_key(X_FORWARDED_FOR));
        assert_eq!(headers[FORWARDED], "for=unknown;proto=http");
    }

    #[test]
    fn the_address_is_written_once_per_connection() {
        let peer = peer("192.0.2.7", false);
        let [one, other] = [(); 2].map(|()| {
            let mut headers = HeaderMap::new();
            tell(&mut headers, &peer, Some(&HOST), Version::HTTP_11);
            headers.remove(X_FORWARDED_FOR).unwrap()
        });
        assert_eq!(one.as_bytes().as_ptr(), other.as_bytes().as_ptr(), "one value, shared");
    }
}
