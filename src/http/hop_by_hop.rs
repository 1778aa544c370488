//! Fields that belong to one connection and are never passed on (RFC 9110, 7.6.1).
//!
//! Removed before the gateway adds its own fields. `Connection` can name further fields, but none
//! that routing, framing or the gateway's own statements depend on: a client must not be able to
//! make the gateway drop what it says about that client. `Trailer` is not hop-by-hop for us.
//!
//! Cost: one pass over the names; without a hop-by-hop field nothing is changed.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, TE, UPGRADE},
};
use smallvec::SmallVec;

/// Never passed on, whatever `Connection` says. Proxy credentials are for us, not for servers
/// behind us.
const ALWAYS: [&str; 9] = [
    "connection",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// Fields that `Connection` cannot remove: framing, routing, and what the gateway itself sets.
const PROTECTED: [&str; 12] = [
    "host",
    "content-length",
    "content-type",
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-request-id",
    "traceparent",
    "tracestate",
    "trailer",
];

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
const UPGRADE_OPTION: HeaderValue = HeaderValue::from_static("upgrade");

/// Removes all hop-by-hop fields of a response, including `Upgrade`.
pub fn strip(headers: &mut HeaderMap) {
    if has_any(headers) {
        remove(headers);
    }
}

/// Like [`strip`], for a 426: its `Upgrade` tells what the client must speak (RFC 9110, 15.5.22),
/// and passes with `Connection: upgrade` and nothing else in `Connection`.
pub fn strip_keeping_upgrade(headers: &mut HeaderMap) {
    let upgrade = headers.get(UPGRADE).cloned();
    strip(headers);
    if let Some(upgrade) = upgrade {
        keep_upgrade(headers, upgrade);
    }
}

/// Removes all hop-by-hop fields of a request, except:
///
/// - `TE: trailers` passes, in exactly that form: gRPC needs it.
/// - An upgrade that may be tunnelled passes as `Connection: upgrade` and its `Upgrade`; so a
///   request that still has `Upgrade` afterwards asks for a tunnel. `h2c` never passes, nor an
///   upgrade that `Connection` does not name.
///
/// `can_upgrade` says whether the client's protocol has upgrades at all: HTTP/1.1 has.
pub fn strip_request(headers: &mut HeaderMap, can_upgrade: bool) {
    if !has_any(headers) {
        return;
    }
    let has_trailers = options(headers, &TE).any(|coding| coding.eq_ignore_ascii_case("trailers"));
    let upgrade = can_upgrade.then(|| forwarded_upgrade(headers)).flatten();
    remove(headers);
    if has_trailers {
        headers.insert(TE, TRAILERS);
    }
    if let Some(upgrade) = upgrade {
        keep_upgrade(headers, upgrade);
    }
}

fn has_any(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| is_always(name.as_str()))
}

/// Whether a field is never passed on as it is. The names are those of [`ALWAYS`], as patterns, of
/// which the compiler compares the length first: nearly every field is none of them.
pub fn is_always(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    )
}

fn remove(headers: &mut HeaderMap) {
    let named: SmallVec<[HeaderName; 4]> = options(headers, &CONNECTION)
        .filter_map(|option| HeaderName::from_bytes(option.as_bytes()).ok())
        .filter(|name| !is_protected(name.as_str()))
        .collect();
    for name in &named {
        headers.remove(name);
    }
    for name in ALWAYS {
        headers.remove(name);
    }
}

fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&name) || name.starts_with("x-sluice-")
}

/// The `Upgrade` of a request that may be tunnelled.
fn forwarded_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_asked =
        options(headers, &CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    let is_h2c = options(headers, &UPGRADE).any(|protocol| protocol.eq_ignore_ascii_case("h2c"));
    (is_asked && !is_h2c).then(|| headers.get(UPGRADE).cloned()).flatten()
}

fn keep_upgrade(headers: &mut HeaderMap, upgrade: HeaderValue) {
    headers.insert(CONNECTION, UPGRADE_OPTION);
    headers.insert(UPGRADE, upgrade);
}

/// The members of a comma-separated field, over all its lines.
fn options<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|option| !option.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn those_that_never_pass_are_known_and_no_other() {
        for name in ALWAYS {
            assert!(is_always(name), "{name}");
            assert!(!is_always(&format!("x{}", &name[1..])), "{name}");
        }
    }

    #[test]
    fn every_hop_by_hop_field_is_removed_and_nothing_else() {
        let mut headers = map(&[
            ("connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "websocket"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("trailer", "x-checksum"),
            ("x-kept", "1"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("trailer", "x-checksum"), ("x-kept", "1")]));
    }

    #[test]
    fn what_connection_lists_is_removed_over_all_its_lines_and_values() {
        let mut headers = map(&[
            ("connection", "X-One , close"),
            ("connection", "x-two"),
            ("x-one", "1"),
            ("x-one", "2"),
            ("x-two", "1"),
            ("x-three", "1"),
        ]);
        strip(&mut headers);
        assert_eq!(headers, map(&[("x-three", "1")]));
    }

    #[test]
    fn connection_cannot_name_host_or_a_field_the_gateway_sets() {
        for name in PROTECTED.into_iter().chain(["x-sluice-attempt"]) {
            let mut headers = map(&[("connection", name), (name, "v")]);
            strip_request(&mut headers, true);
            assert_eq!(headers, map(&[(name, "v")]), "{name}");
        }
    }

    #[test]
    fn without_hop_by_hop_fields_nothing_is_touched() {
        let mut headers = map(&[("host", "a"), ("accept", "*/*"), ("x-a", "1"), ("x-a", "2")]);
        let before = headers.clone();
        strip(&mut headers);
        strip_request(&mut headers, true);
        assert_eq!(headers, before);
    }

    #[test]
    fn te_passes_as_exactly_trailers_and_only_if_asked() {
        let mut headers = map(&[("te", "gzip;q=0.5, Trailers"), ("connection", "te")]);
        strip_request(&mut headers, true);
        assert_eq!(headers, map(&[("te", "trailers")]));

        let mut headers = map(&[("te", "deflate")]);
        strip_request(&mut headers, true);
        assert!(headers.is_empty());

        let mut headers = map(&[("te", "trailers")]);
        strip(&mut headers);
        assert!(headers.is_empty(), "a response has no TE");
    }

    #[test]
    fn an_upgrade_that_connection_names_passes() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        strip_request(&mut headers, true);
        assert_eq!(headers, map(&[("connection", "upgrade"), ("upgrade", "websocket")]));
    }

    #[test]
    fn an_upgrade_to_h2c_or_unnamed_or_where_there_are_none_is_dropped() {
        let h2c = [("connection", "upgrade, http2-settings"), ("upgrade", "h2c")];
        let hidden = [("connection", "upgrade"), ("upgrade", "websocket, H2C")];
        let unnamed = [("connection", "close"), ("upgrade", "websocket")];
        for fields in [h2c, hidden, unnamed] {
            let mut headers = map(&fields);
            headers.insert("http2-settings", HeaderValue::from_static("AAMAAABk"));
            strip_request(&mut headers, true);
            assert!(headers.is_empty(), "{fields:?}");
        }
        let mut headers = map(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        strip_request(&mut headers, false);
        assert!(headers.is_empty(), "HTTP/1.0 has no upgrades");
    }

    #[test]
    fn the_426_keeps_its_upgrade() {
        let mut headers = map(&[
            ("connection", "Upgrade, x-hop"),
            ("upgrade", "websocket"),
            ("x-hop", "1"),
            ("sec-websocket-version", "13"),
        ]);
        strip_keeping_upgrade(&mut headers);
        assert_eq!(
            headers,
            map(&[
                ("connection", "upgrade"),
                ("upgrade", "websocket"),
                ("sec-websocket-version", "13"),
            ])
        );
    }
}
