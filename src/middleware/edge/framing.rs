//! Which heads are refused because two readers could understand them differently. Pure.
//!
//! hyper's parser has refused the plainly malformed before (RFC 9112) and re-frames what it repairs;
//! control characters in values it refuses too, and a `HeaderValue` cannot hold them. What is left
//! is what it lets through, and what a request smuggled through another proxy would look like.

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
    request::Parts,
};

use crate::error::{Kind, Method405};

/// Field lines of a request, at most.
const MAX_FIELDS: usize = 100;

const ALLOW: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");

/// A valid `host[:port]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As sent, brackets of an IPv6 address included.
    pub host: &'a str,
    /// Its digits, if there are any.
    pub port: Option<&'a str>,
}

/// Whether the head of a request has one meaning. Checked before anything is removed from it.
pub fn check(head: &Parts) -> Result<(), Kind> {
    if head.headers.len() > MAX_FIELDS {
        return Err(Kind::HeaderCount);
    }
    if head.method == Method::CONNECT {
        return Err(Kind::MethodNotAllowed(Method405 { allow: ALLOW }));
    }
    if !has_one_framing(&head.headers, head.version) || !has_one_host(head) {
        return Err(Kind::BadFraming);
    }
    Ok(())
}

/// A Transfer-Encoding is exactly one `chunked`, and on HTTP/1.1 only: 1.0 does not know it, HTTP/2
/// forbids it (RFC 9112, 6.1; RFC 9113, 8.2.2).
fn has_one_framing(headers: &HeaderMap, version: Version) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => {
            version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked")
        }
        (Some(_), Some(_)) => false,
    }
}

/// Host is there, once and valid, and an authority in the target says the same. HTTP/1.0 may go
/// without; HTTP/2 may have only the authority (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn has_one_host(head: &Parts) -> bool {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    match (host, authority) {
        _ if second.is_some() => false,
        (None, None) => head.version < Version::HTTP_11,
        (None, Some(authority)) => {
            head.version != Version::HTTP_11 && parse(authority.as_bytes()).is_some()
        }
        (Some(host), authority) => parse(host.as_bytes()).is_some_and(|host| match authority {
            None => true,
            Some(authority) => parse(authority.as_bytes())
                .is_some_and(|authority| is_same(host, authority, &head.uri)),
        }),
    }
}

/// Two authorities that name the same place; the scheme's own port may be left out.
fn is_same(one: Authority<'_>, other: Authority<'_>, target: &Uri) -> bool {
    let default = match target.scheme_str() {
        Some("https") => "443",
        _ => "80",
    };
    let port = |authority: Authority<'_>| authority.port.unwrap_or(default).parse::<u32>().ok();
    one.host.eq_ignore_ascii_case(other.host) && port(one) == port(other)
}

/// Reads `host[:port]`: letters, digits, `-`, `.`, `_`, or an IPv6 address in brackets; digits. No
/// userinfo, no percent-encoding, nothing empty but the port.
pub fn parse(value: &[u8]) -> Option<Authority<'_>> {
    let value = str::from_utf8(value).ok()?;
    let (host, rest) = match value.strip_prefix('[') {
        Some(bracketed) => {
            let end = bracketed.find(']')?;
            bracketed[..end].parse::<std::net::Ipv6Addr>().ok()?;
            value.split_at(end + 2)
        }
        None => value.split_at(value.find(':').unwrap_or(value.len())),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if host.is_empty() || (!host.starts_with('[') && !host.bytes().all(is_name)) {
        return None;
    }
    let port = match rest {
        "" => None,
        _ => Some(rest.strip_prefix(':')?).filter(|port| !port.is_empty()),
    };
    let is_port = |port: &str| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    port.is_none_or(is_port).then_some(Authority { host, port })
}

// === impl Authority ===

impl Authority<'_> {
    /// The host as routes know it: lower case, without the dot that ends a complete name.
    pub fn normal_host(&self) -> Box<str> {
        let host = self.host.strip_suffix('.').unwrap_or(self.host);
        host.to_ascii_lowercase().into()
    }
}
