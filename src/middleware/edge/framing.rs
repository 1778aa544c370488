//! Refuses heads that two readers could understand differently. Pure.
//!
//! hyper's parser already refuses malformed heads (RFC 9112) and control characters in values,
//! which a `HeaderValue` cannot hold either, and re-frames what it repairs. What remains is what
//! hyper lets through, and what a request smuggled through another proxy would look like.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::{HOST, TRANSFER_ENCODING},
    request::Parts,
};

use crate::error::{Kind, Method405};

/// The most field lines a request may have.
const MAX_FIELDS: usize = 100;

const ALLOW: HeaderValue =
    HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE");

/// A valid `host[:port]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As sent, including the brackets of an IPv6 address.
    pub host: &'a str,
    /// The digits of the port, if there is one.
    pub port: Option<&'a str>,
}

/// Whether the head of a request is unambiguous. Checked before anything is removed from it. A host
/// equal to `known` was validated before. Returns its `Host`, if it has one.
pub fn check<'a>(
    head: &'a Parts,
    known: Option<&HeaderValue>,
) -> Result<Option<&'a HeaderValue>, Kind> {
    if head.headers.len() > MAX_FIELDS {
        return Err(Kind::HeaderCount);
    }
    if head.method == Method::CONNECT {
        return Err(Kind::MethodNotAllowed(Method405 { allow: ALLOW }));
    }
    if !has_one_framing(&head.headers, head.version) {
        return Err(Kind::BadFraming);
    }
    one_host(head, known)
}

/// Transfer-Encoding may only be a single `chunked`, and only on HTTP/1.1: 1.0 does not have it,
/// HTTP/2 forbids it (RFC 9112, 6.1; RFC 9113, 8.2.2).
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

/// There must be exactly one valid Host, equal to the target's authority if it has one. HTTP/1.0
/// may omit it; HTTP/2 may send only the authority (RFC 9112, 3.2; RFC 9113, 8.3.1).
fn one_host<'a>(
    head: &'a Parts,
    known: Option<&HeaderValue>,
) -> Result<Option<&'a HeaderValue>, Kind> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let authority = head.uri.authority().map(http::uri::Authority::as_str);
    let is_one = match (host, authority) {
        _ if second.is_some() => false,
        (Some(host), None) if known == Some(host) => true,
        (None, None) => head.version < Version::HTTP_11,
        (None, Some(authority)) => {
            head.version != Version::HTTP_11 && parse(authority.as_bytes()).is_some()
        }
        (Some(host), authority) => parse(host.as_bytes()).is_some_and(|host| match authority {
            None => true,
            Some(authority) => parse(authority.as_bytes())
                .is_some_and(|authority| is_same(host, authority, &head.uri)),
        }),
    };
    if is_one { Ok(host) } else { Err(Kind::BadFraming) }
}

/// Whether two authorities name the same place; the scheme's default port may be left out.
fn is_same(one: Authority<'_>, other: Authority<'_>, target: &Uri) -> bool {
    let default = match target.scheme_str() {
        Some("https") => "443",
        _ => "80",
    };
    let port = |authority: Authority<'_>| authority.port.unwrap_or(default).parse::<u32>().ok();
    one.host.eq_ignore_ascii_case(other.host) && port(one) == port(other)
}

/// Parses `host[:port]`: letters, digits, `-`, `.`, `_`, or an IPv6 address in brackets; digits. No
/// userinfo, no percent-encoding, no empty part.
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
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        port => Some(port?),
    };
    let is_port = |port: &str| {
        (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
    };
    port.is_none_or(is_port).then_some(Authority { host, port })
}

// === impl Authority ===

impl Authority<'_> {
    /// The host as routes match it: lower case, without the trailing dot of an absolute name.
    pub fn normal_host(&self) -> Arc<str> {
        let host = self.host.strip_suffix('.').unwrap_or(self.host);
        host.to_ascii_lowercase().into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(builder: http::request::Builder) -> Parts {
        builder.body(()).unwrap().into_parts().0
    }

    fn verdict(builder: http::request::Builder) -> Option<&'static str> {
        check(&head(builder), None).err().map(|kind| kind.reason())
    }

    fn get(uri: &str) -> http::request::Builder {
        http::Request::get(uri)
    }

    const BAD: Option<&str> = Some("bad-framing");

    #[test]
    fn transfer_encoding_is_exactly_one_chunked() {
        let with = |codings: &[&'static str]| {
            let host = get("/").header(HOST, "a");
            codings.iter().fold(host, |request, &coding| request.header(TRANSFER_ENCODING, coding))
        };
        assert_eq!(verdict(with(&[])), None);
        assert_eq!(verdict(with(&["chunked"])), None);
        assert_eq!(verdict(with(&["Chunked"])), None);
        for codings in [
            &["identity"][..],
            &["gzip, chunked"],
            &["chunked, chunked"],
            &["chunked", "chunked"],
            &["gzip", "chunked"],
            &["xchunked"],
            &["chunked;a=b"],
            &["\tchunked"],
            &[""],
        ] {
            assert_eq!(verdict(with(codings)), BAD, "{codings:?}");
        }
    }

    #[test]
    fn transfer_encoding_is_refused_on_http_10_and_on_http_2() {
        for version in [Version::HTTP_10, Version::HTTP_2] {
            let request = get("http://a/")
                .version(version)
                .header(HOST, "a")
                .header(TRANSFER_ENCODING, "chunked");
            assert_eq!(verdict(request), BAD, "{version:?}");
        }
    }

    #[test]
    fn host_is_required_on_http_11() {
        assert_eq!(verdict(get("/")), BAD);
        assert_eq!(verdict(get("http://a/")), BAD, "an absolute target does not replace it");
        assert_eq!(verdict(get("/").version(Version::HTTP_10)), None);
    }

    #[test]
    fn http_2_needs_authority_or_host() {
        let h2 = |uri| get(uri).version(Version::HTTP_2);
        assert_eq!(verdict(h2("/")), BAD);
        assert_eq!(verdict(h2("https://a/")), None);
        assert_eq!(verdict(h2("/").header(HOST, "a")), None);
        assert_eq!(verdict(h2("https://a/").header(HOST, "a")), None);
        assert_eq!(verdict(h2("https://a/").header(HOST, "b")), BAD);
        assert_eq!(verdict(h2("https://user@a/")), BAD);
    }

    #[test]
    fn repeated_host_is_refused_even_if_equal() {
        assert_eq!(verdict(get("/").header(HOST, "a").header(HOST, "a")), BAD);
    }

    #[test]
    fn host_is_a_name_or_an_address_and_a_port() {
        for valid in [
            "a",
            "shop.example",
            "Shop-1_x.example.",
            "shop.example:8080",
            "127.0.0.1:1",
            "[::1]",
            "[2001:db8::1]:443",
        ] {
            assert_eq!(verdict(get("/").header(HOST, valid)), None, "{valid}");
        }
        for invalid in [
            "",
            ":80",
            "a:",
            "a:b",
            "a:123456",
            "a:80:80",
            "user@a",
            "a/b",
            "a b",
            "a,b",
            "a%2eb",
            "a?b",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]:",
            "[fe80::1%25eth0]",
            "[localhost]",
        ] {
            assert_eq!(verdict(get("/").header(HOST, invalid)), BAD, "{invalid}");
        }
        let latin1 = HeaderValue::from_bytes(b"caf\xe9").unwrap();
        assert_eq!(verdict(get("/").header(HOST, latin1)), BAD);
    }

    #[test]
    fn absolute_form_agrees_with_host() {
        let with = |uri, host| verdict(get(uri).header(HOST, host));
        assert_eq!(with("http://Shop.example/", "shop.EXAMPLE"), None);
        assert_eq!(with("http://shop.example:80/", "shop.example"), None);
        assert_eq!(with("https://shop.example", "shop.example:443"), None);
        assert_eq!(with("http://shop.example/", "admin.example"), BAD);
        assert_eq!(with("http://shop.example:81/", "shop.example"), BAD);
        assert_eq!(with("http://user@shop.example/", "shop.example"), BAD);
    }

    /// A value with control characters never reaches this check: the type refuses it.
    #[test]
    fn control_characters_in_values_are_refused() {
        for byte in (0..0x20).chain([0x7f]).filter(|&byte| byte != b'\t') {
            assert!(HeaderValue::from_bytes(&[b'a', byte, b'b']).is_err(), "{byte:#x}");
        }
    }

    #[test]
    fn connect_is_refused_with_the_methods_there_are() {
        let kind = check(&head(http::Request::connect("/")), None).unwrap_err();
        let Kind::MethodNotAllowed(method) = kind else { panic!("{kind:?}") };
        assert!(method.allow.to_str().unwrap().contains("GET"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_what_passes_means_one_place(value: Vec<u8>) {
            if let Some(authority) = parse(&value) {
                let mut again = authority.host.to_owned();
                if let Some(port) = authority.port {
                    again = format!("{again}:{port}");
                }
                prop_assert_eq!(again.as_bytes(), &value);
                prop_assert!(!authority.host.contains(['@', '/', ' ', ',', '%']));
            }
        }
    }
}
