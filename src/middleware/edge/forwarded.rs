//! What the upstream is told about the client: `X-Forwarded-*`, `Forwarded` (RFC 7239), `Via`. Pure.
//!
//! A trusted peer's word is kept and ours comes after it; anybody else's is replaced by ours. Lists
//! are sent as one line: a reader that looks at the first line only, or the last, sees all of it.

use std::{
    fmt::{self, Write},
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Version,
    header::{FORWARDED, VIA},
};
use smallvec::SmallVec;

use crate::http::{
    names::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO},
    peer::{Address, Peer},
};

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");
const VIA_10: HeaderValue = HeaderValue::from_static("1.0 sluice");
const VIA_11: HeaderValue = HeaderValue::from_static("1.1 sluice");
const VIA_2: HeaderValue = HeaderValue::from_static("2 sluice");

/// A field value that is being written: on the stack up to a `Forwarded` with an IPv6 address and a
/// host of ordinary length.
#[derive(Default)]
struct Line(SmallVec<[u8; 128]>);

/// Sets the fields that speak of the client of `peer`; `host` is the request's own, and `version`
/// what the client spoke.
pub fn set(headers: &mut HeaderMap, peer: &Peer, host: Option<&HeaderValue>, version: Version) {
    let is_secure = peer.tls.is_some();
    let via = match version {
        Version::HTTP_10 => VIA_10,
        Version::HTTP_2 => VIA_2,
        _ => VIA_11,
    };
    if peer.trusted {
        append(headers, VIA, via);
        if let Some(address) = address(peer.remote) {
            append(headers, X_FORWARDED_FOR, address);
        }
        append(headers, FORWARDED, forwarded(peer.remote, host, is_secure));
        headers.entry(X_FORWARDED_PROTO).or_insert(if is_secure { HTTPS } else { HTTP });
        if let Some(host) = host {
            headers.entry(X_FORWARDED_HOST).or_insert_with(|| host.clone());
        }
        return;
    }
    remove_claims(headers);
    headers.insert(VIA, via);
    if let Some(address) = address(peer.remote) {
        headers.insert(X_FORWARDED_FOR, address);
    }
    headers.insert(FORWARDED, forwarded(peer.remote, host, is_secure));
    headers.insert(X_FORWARDED_PROTO, if is_secure { HTTPS } else { HTTP });
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
    }
}

/// What an untrusted peer says about itself goes, also in the names only some upstreams read.
fn remove_claims(headers: &mut HeaderMap) {
    let claims: SmallVec<[HeaderName; 4]> = headers
        .keys()
        .filter(|name| {
            let name = name.as_str();
            name == "x-real-ip" || name.starts_with("x-forwarded-")
        })
        .cloned()
        .collect();
    for name in &claims {
        headers.remove(name);
    }
}

/// One line: what was there, then `ours`.
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

/// The peer's address as `X-Forwarded-For` has it; a peer on a unix socket has none.
fn address(remote: Address) -> Option<HeaderValue> {
    let ip = ip(remote)?;
    let mut line = Line::default();
    put(&mut line, format_args!("{ip}"));
    Some(line.into_value())
}

fn ip(remote: Address) -> Option<IpAddr> {
    match remote {
        Address::Inet(address) => Some(SocketAddr::ip(&address).to_canonical()),
        Address::Unix => None,
    }
}

/// One element of `Forwarded`. IPv6 addresses and hosts with a port are not tokens: quoted.
fn forwarded(remote: Address, host: Option<&HeaderValue>, is_secure: bool) -> HeaderValue {
    let mut line = Line::default();
    match ip(remote) {
        Some(IpAddr::V4(ip)) => put(&mut line, format_args!("for={ip}")),
        Some(IpAddr::V6(ip)) => put(&mut line, format_args!("for=\"[{ip}]\"")),
        None => line.push(b"for=unknown"),
    }
    if let Some(host) = host {
        let is_token = !host.as_bytes().iter().any(|byte| matches!(byte, b':' | b'['));
        let quote: &[u8] = if is_token { b"" } else { b"\"" };
        for part in [b";host=", quote, host.as_bytes(), quote] {
            line.push(part);
        }
    }
    line.push(if is_secure { b";proto=https" } else { b";proto=http" });
    line.into_value()
}

fn put(line: &mut Line, text: fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    line.write_fmt(text).unwrap_or_default();
}

// === impl Line ===

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Made of addresses, valid hosts and field values: always a field value.
    fn into_value(self) -> HeaderValue {
        HeaderValue::from_maybe_shared(Bytes::copy_from_slice(&self.0))
            .unwrap_or(HeaderValue::from_static(""))
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}
