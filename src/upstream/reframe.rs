//! Rewrites a request for an upstream, and checks the response head. Pure.
//!
//! Nothing of the client's framing survives: hop-by-hop fields are removed, the length is what the
//! body knows, the host is the endpoint's or, if configured, the client's. An ambiguous response is
//! refused, never repaired: two readers that disagree on where a message ends are an attack.

use std::time::Duration;

use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri, Version, header, request, response,
    uri::{Authority, Scheme},
};
use http_body::Body as _;

use crate::{
    error::{Error, Kind, Result},
    http::{Body, fields, hop_by_hop, names},
};

/// The most fields a response may have.
const MAX_FIELDS: usize = 100;

/// Makes `parts` an HTTP/1.1 request for `authority`. Idempotent.
pub(crate) fn to_h1(
    parts: &mut request::Parts,
    body: &Body,
    authority: &HeaderValue,
    preserve_host: bool,
) {
    set_host(parts, authority, preserve_host);
    if parts.uri.scheme().is_some() || parts.uri.authority().is_some() {
        parts.uri = origin_form(&parts.uri);
    }
    hop_by_hop::strip(&mut parts.headers);
    set_length(parts, body);
    join_cookies(&mut parts.headers);
    parts.version = Version::HTTP_11;
}

/// Makes `parts` an HTTP/2 request for `authority`. Idempotent.
pub(crate) fn to_h2(
    parts: &mut request::Parts,
    body: &Body,
    authority: &HeaderValue,
    preserve_host: bool,
    is_tls: bool,
) -> Result<()> {
    set_host(parts, authority, preserve_host);
    let host = parts.headers.remove(header::HOST);
    let takes_trailers = takes_trailers(&parts.headers);
    hop_by_hop::strip(&mut parts.headers);
    if takes_trailers {
        parts.headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    match body.size_hint().exact() {
        Some(0) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {}
        Some(length) => {
            parts.headers.insert(header::CONTENT_LENGTH, length.into());
        }
        None => {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
    }
    let host = host.as_ref().unwrap_or(authority);
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(
        Authority::try_from(host.as_bytes())
            .map_err(|error| Error::new(Kind::BadTarget).with_source(error))?,
    );
    uri.path_and_query = parts
        .uri
        .path_and_query()
        .cloned()
        .or_else(|| Some(http::uri::PathAndQuery::from_static("/")));
    parts.uri =
        Uri::from_parts(uri).map_err(|error| Error::new(Kind::BadTarget).with_source(error))?;
    parts.version = Version::HTTP_2;
    Ok(())
}

fn set_host(parts: &mut request::Parts, authority: &HeaderValue, preserve_host: bool) {
    if preserve_host {
        if parts.headers.contains_key(header::HOST) {
            return;
        }
        // An h2 client's host is in its target.
        let host = parts.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        if let Some(host) = host {
            fields::set(&mut parts.headers, header::HOST, host);
            return;
        }
    }
    fields::set(&mut parts.headers, header::HOST, authority.clone());
}

fn origin_form(uri: &Uri) -> Uri {
    uri.path_and_query().cloned().map_or_else(|| Uri::from_static("/"), Uri::from)
}

/// Declares a known length, else uses chunked, whatever the method: the body of a GET passes too.
fn set_length(parts: &mut request::Parts, body: &Body) {
    let headers = &mut parts.headers;
    match body.size_hint().exact() {
        // Where content is expected, declare that there is none (RFC 9110, 8.6).
        Some(0) => {
            if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
                fields::set(headers, header::CONTENT_LENGTH, HeaderValue::from_static("0"));
            } else {
                fields::take(headers, &header::CONTENT_LENGTH);
            }
        }
        Some(length) => {
            fields::set(headers, header::CONTENT_LENGTH, length.into());
        }
        None => {
            fields::take(headers, &header::CONTENT_LENGTH);
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// HTTP/2 splits cookies into several fields, HTTP/1 has one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(header::COOKIE).iter();
    let (Some(first), Some(_)) = (cookies.next(), cookies.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for cookie in headers.get_all(header::COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookie.as_bytes());
    }
    // Valid values joined by `; ` are valid.
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(header::COOKIE, joined);
    }
}

fn takes_trailers(headers: &HeaderMap) -> bool {
    list(headers, header::TE).any(|coding| coding.eq_ignore_ascii_case("trailers"))
}

/// The members of a comma-separated field.
pub(crate) fn list(headers: &HeaderMap, name: header::HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// Refuses what an upstream may not answer, then removes what belongs to its connection.
pub(crate) fn check_response(parts: &mut response::Parts, may_upgrade: bool) -> Result<()> {
    let refuse = |detail: &str| Err(Error::new(Kind::UpstreamBadResponse).with_detail(detail));
    if parts.status == StatusCode::SWITCHING_PROTOCOLS && !may_upgrade {
        return refuse("101 without being asked");
    }
    if !settle_length(&mut parts.headers) {
        return refuse("a Content-Length other than one number");
    }
    let headers = &parts.headers;
    if headers.len() > MAX_FIELDS {
        return refuse("over 100 fields");
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        if headers.contains_key(header::CONTENT_LENGTH) {
            return refuse("Content-Length with Transfer-Encoding");
        }
        let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
        let is_chunked =
            codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !is_chunked || codings.next().is_some() {
            return refuse("a Transfer-Encoding other than one `chunked`");
        }
    }
    if parts.status == StatusCode::UPGRADE_REQUIRED {
        hop_by_hop::strip_keeping_upgrade(&mut parts.headers);
    } else {
        hop_by_hop::strip(&mut parts.headers);
    }
    if parts.status == StatusCode::NO_CONTENT {
        parts.headers.remove(header::CONTENT_LENGTH);
    }
    // The client sees our version, not the upstream's (RFC 9110, 6.2).
    parts.version = Version::HTTP_11;
    Ok(())
}

/// Whether a response declares at most one length; it has a single field afterwards. Its reader has
/// looked at this only if content follows, not for HEAD.
fn settle_length(headers: &mut HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return true };
    let is_number = first.as_bytes().iter().all(u8::is_ascii_digit)
        && first.to_str().is_ok_and(|digits| digits.parse::<u64>().is_ok());
    let Some(second) = lengths.next() else { return is_number };
    if !is_number || second != first || lengths.any(|length| length != first) {
        return false;
    }
    let first = first.clone();
    headers.insert(header::CONTENT_LENGTH, first);
    true
}

/// Whether a response to `method` has no content, whatever follows its head (RFC 9110, 6.4.1).
pub(crate) fn is_without_content(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD || has_no_content(status)
}

/// Whether a response with this status never has content.
pub(crate) fn has_no_content(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::SWITCHING_PROTOCOLS | StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    )
}

/// How long the upstream says it keeps an idle connection, less a second for the round trip.
pub(crate) fn keep_alive(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(names::KEEP_ALIVE)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_timeout = name.trim().eq_ignore_ascii_case("timeout");
        is_timeout.then(|| value.trim().parse::<u32>().ok()).flatten()
    })?;
    Some(Duration::from_secs(u64::from(seconds.saturating_sub(1))))
}

/// Whether a response may be idle for any length of time.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    const EVENT_STREAM: &[u8] = b"text/event-stream";
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        value
            .as_bytes()
            .get(..EVENT_STREAM.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(EVENT_STREAM))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use bytes::Bytes;
    use http::Request;

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> request::Parts {
        let mut builder = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn answer(status: u16, fields: &[(&str, &str)]) -> response::Parts {
        let mut parts = http::Response::new(()).into_parts().0;
        parts.status = StatusCode::from_u16(status).unwrap();
        for (name, value) in fields {
            parts.headers.append(
                header::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.parse().unwrap(),
            );
        }
        parts
    }

    const AUTHORITY: HeaderValue = HeaderValue::from_static("orders.internal:9001");

    #[test]
    fn the_length_is_what_the_body_knows() {
        let unknown =
            || Body::boxed(http_body_util::StreamBody::new(futures_util::stream::empty()));
        let cases = [
            ("GET", Body::empty(), None, None),
            ("POST", Body::empty(), Some("0"), None),
            ("POST", Body::full(Bytes::from_static(b"abc")), Some("3"), None),
            ("GET", unknown(), None, Some("chunked")),
            ("POST", unknown(), None, Some("chunked")),
        ];
        for (method, body, length, encoding) in cases {
            let mut parts = parts(method, "/", &[("content-length", "99")]);
            to_h1(&mut parts, &body, &AUTHORITY, false);
            let get = |name| parts.headers.get(name).map(|v: &HeaderValue| v.to_str().unwrap());
            assert_eq!(get(header::CONTENT_LENGTH), length, "{method} {body:?}");
            assert_eq!(get(header::TRANSFER_ENCODING), encoding, "{method} {body:?}");
        }
    }

    #[test]
    fn the_host_is_the_endpoints_unless_kept() {
        let mut replaced = parts("GET", "/a?b=c", &[("host", "shop.example")]);
        to_h1(&mut replaced, &Body::empty(), &AUTHORITY, false);
        assert_eq!(replaced.headers[header::HOST], "orders.internal:9001");
        assert_eq!(replaced.uri, "/a?b=c");

        let mut kept = parts("GET", "https://shop.example/a", &[]);
        to_h1(&mut kept, &Body::empty(), &AUTHORITY, true);
        assert_eq!(kept.headers[header::HOST], "shop.example");
        assert_eq!(kept.uri, "/a");
    }

    #[test]
    fn toward_h2_the_host_is_the_authority() {
        let fields = [("host", "shop.example"), ("te", "trailers"), ("connection", "x-gone, te")];
        let mut parts = parts("POST", "/a?b=c", &fields);
        parts.headers.insert("x-gone", HeaderValue::from_static("1"));
        for _ in 0..2 {
            to_h2(&mut parts, &Body::empty(), &AUTHORITY, false, true).unwrap();
            assert_eq!(parts.uri, "https://orders.internal:9001/a?b=c");
            assert!(!parts.headers.contains_key(header::HOST));
            assert!(!parts.headers.contains_key("x-gone"));
            assert_eq!(parts.headers[header::TE], "trailers");
        }
    }

    #[test]
    fn cookies_are_joined() {
        let mut parts =
            parts("GET", "/", &[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        to_h1(&mut parts, &Body::empty(), &AUTHORITY, false);
        let cookies: Vec<_> = parts.headers.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[test]
    fn ambiguous_answers_are_refused() {
        let refused: [(u16, &[(&str, &str)]); 10] = [
            (101, &[("upgrade", "websocket")]),
            (200, &[("content-length", "1"), ("transfer-encoding", "chunked")]),
            (200, &[("transfer-encoding", "gzip, chunked")]),
            (200, &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            (200, &[("transfer-encoding", "identity")]),
            (200, &[("content-length", "1, 1")]),
            (200, &[("content-length", "-1")]),
            (200, &[("content-length", "+1")]),
            (200, &[("content-length", "")]),
            (200, &[("content-length", "1"), ("content-length", "2")]),
        ];
        for (status, fields) in refused {
            let checked = check_response(&mut answer(status, fields), false);
            assert!(
                matches!(checked.unwrap_err().kind(), Kind::UpstreamBadResponse),
                "{status} {fields:?}"
            );
        }
        let mut good = answer(
            200,
            &[("transfer-encoding", "Chunked"), ("connection", "x-own"), ("x-own", "1")],
        );
        check_response(&mut good, false).unwrap();
        assert!(good.headers.is_empty());
    }

    #[test]
    fn a_length_is_said_once_and_never_of_no_content() {
        let twice = [("content-length", "2"), ("content-length", "2")];
        let mut repeated = answer(200, &twice);
        check_response(&mut repeated, false).unwrap();
        let lengths: Vec<_> = repeated.headers.get_all(header::CONTENT_LENGTH).iter().collect();
        assert_eq!(lengths, ["2"]);
        let mut nothing = answer(204, &twice);
        check_response(&mut nothing, false).unwrap();
        assert!(nothing.headers.is_empty());
    }

    #[test]
    fn keep_alive_is_taken_less_a_second() {
        let of = |value| keep_alive(&answer(200, &[("keep-alive", value)]).headers);
        assert_eq!(of("timeout=5, max=100"), Some(Duration::from_secs(4)));
        assert_eq!(of("max=100, Timeout = 1"), Some(Duration::ZERO));
        assert_eq!(of("timeout=0"), Some(Duration::ZERO));
        assert_eq!(of("max=3"), None);
        assert_eq!(of("timeout=soon"), None);
    }
}
