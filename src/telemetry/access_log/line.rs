//! The content of an access log line: JSON for machines, one short line for people.
//!
//! Encoded by hand, straight into the buffer: no allocation, no map, no serialiser. Unknown fields
//! are omitted.

use std::{borrow::Cow, io::Write, net::IpAddr, time::Duration};

use http::{StatusCode, Version, uri::PathAndQuery};
use opentelemetry::trace::TraceId;
use uuid::Uuid;

use crate::{
    error::Side,
    http::{ClientIp, Context, Target, context::Attempt, query},
    telemetry::{clock, tracing::propagation::trace_digits},
};

/// A key with its punctuation, made by the compiler: `,"status":`.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":").as_bytes()
    };
}

/// One finished exchange.
#[derive(Debug)]
pub struct Line<'a> {
    /// When its head was complete, since 1970.
    pub time: Duration,
    /// What is known about it.
    pub cx: &'a Context,
    /// The client's target: for its query, and its path if there is no normalised one.
    pub target: Option<&'a PathAndQuery>,
    /// The trace it belongs to.
    pub trace_id: Option<TraceId>,
    /// The status of the answer; 499 if the client left before.
    pub status: StatusCode,
    /// The number of response body bytes.
    pub sent: u64,
    /// The time to the end of the response body.
    pub took: Duration,
    /// Why it failed.
    pub reason: Option<&'a str>,
}

// === impl Line ===

impl Line<'_> {
    /// Whether it failed, but not because of the client.
    pub fn is_ours(&self) -> bool {
        self.reason.and_then(Side::of).is_some_and(|side| side != Side::Downstream)
    }

    /// Appends one JSON object and a newline. With `query`, also writes the query, without the
    /// values of the parameters in that list.
    pub fn encode_json(&self, query: Option<&[Box<str>]>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"time\":\"");
        clock::push_rfc3339(self.time, out);
        out.push(b'"');
        self.encode_request(query, out);
        if let Some(route) = self.cx.route() {
            text(out, key!("route"), route.name.as_bytes());
        }
        if let Some(principal) = self.principal() {
            text(out, key!("principal"), principal.as_bytes());
        }
        number(out, key!("status"), self.status.as_u16().into());
        number(out, key!("bytes_in"), self.cx.received());
        number(out, key!("bytes_out"), self.sent);
        millis(out, key!("duration_ms"), self.took);
        encode_events(self.cx.event_ids(), out);
        self.cx.with_attempts(|attempts| encode_attempts(attempts, out));
        if let Some(reason) = self.reason {
            text(out, key!("reason"), reason.as_bytes());
        }
        out.extend_from_slice(b"}\n");
    }

    fn encode_request(&self, query: Option<&[Box<str>]>, out: &mut Vec<u8>) {
        if let Some(id) = self.cx.request_id() {
            text(out, key!("request_id"), id.as_bytes());
        }
        if let Some(trace_id) = self.trace_id {
            text(out, key!("trace_id"), &trace_digits(trace_id));
        }
        if let Some(ip) = self.cx.client_ip() {
            out.extend_from_slice(key!("client_ip"));
            out.push(b'"');
            push_ip(ip, out);
            out.push(b'"');
        }
        quoted(out, key!("method"), self.cx.method().as_str());
        if let Some(host) = self.cx.host() {
            text(out, key!("host"), host.as_bytes());
        }
        if let Some(path) = self.path() {
            text(out, key!("path"), path.as_bytes());
        }
        if let Some(query) = self.query(query) {
            text(out, key!("query"), query.as_bytes());
        }
        quoted(out, key!("protocol"), protocol(self.cx.version()));
    }

    /// Appends one line for a person at a terminal.
    pub fn encode_human(&self, query: Option<&[Box<str>]>, out: &mut Vec<u8>) {
        clock::push_rfc3339(self.time, out);
        put(out, format_args!(" {} {} ", self.status.as_u16(), self.cx.method()));
        plain(out, self.cx.host().unwrap_or("-").as_bytes());
        plain(out, self.path().unwrap_or("-").as_bytes());
        if let Some(query) = self.query(query) {
            out.push(b'?');
            plain(out, query.as_bytes());
        }
        let took = self.took.as_secs_f64() * 1e3;
        put(out, format_args!(" {took:.1}ms in={} out={}", self.cx.received(), self.sent));
        if let Some(ip) = self.cx.client_ip() {
            out.extend_from_slice(b" client=");
            push_ip(ip, out);
        }
        if let Some(route) = self.cx.route() {
            out.extend_from_slice(b" route=");
            plain(out, route.name.as_bytes());
        }
        if let Some(principal) = self.principal() {
            out.extend_from_slice(b" principal=");
            plain(out, principal.as_bytes());
        }
        self.cx.with_attempts(|attempts| {
            for attempt in attempts {
                out.extend_from_slice(b" upstream=");
                plain(out, attempt.endpoint.as_bytes());
                if let Some(reason) = attempt.reason {
                    put(out, format_args!("({reason})"));
                }
            }
        });
        if let Some(reason) = self.reason {
            put(out, format_args!(" reason={reason}"));
        }
        if let Some(id) = self.cx.request_id() {
            out.extend_from_slice(b" id=");
            plain(out, id.as_bytes());
        }
        out.push(b'\n');
    }

    fn path(&self) -> Option<&str> {
        let normalised = self.cx.target().map(Target::shown_path);
        normalised.or_else(|| self.target.map(PathAndQuery::path))
    }

    fn principal(&self) -> Option<&str> {
        self.cx.principal().map(|principal| &*principal.name).filter(|name| !name.is_empty())
    }

    fn query(&self, asked: Option<&[Box<str>]>) -> Option<Cow<'_, str>> {
        Some(query::redacted(self.target?.query()?, asked?))
    }
}

/// The IDs of the events that a request led to.
fn encode_events(ids: &[Uuid], out: &mut Vec<u8>) {
    if ids.is_empty() {
        return;
    }
    out.extend_from_slice(key!("event_ids"));
    for (index, id) in ids.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[\"" } else { b",\"" });
        out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.push(b'"');
    }
    out.push(b']');
}

/// The endpoint that answered last, and the whole list if that is not the whole story.
fn encode_attempts(attempts: &[Attempt], out: &mut Vec<u8>) {
    let Some(last) = attempts.last() else { return };
    text(out, key!("upstream"), last.endpoint.as_bytes());
    if let Some(took) = last.took {
        millis(out, key!("upstream_ms"), took);
    }
    if attempts.len() == 1 && last.reason.is_none() {
        return;
    }
    out.extend_from_slice(key!("attempts"));
    for (index, attempt) in attempts.iter().enumerate() {
        out.extend_from_slice(if index == 0 { b"[{" } else { b",{" });
        out.extend_from_slice(b"\"upstream\":");
        string(out, attempt.endpoint.as_bytes());
        if let Some(took) = attempt.took {
            millis(out, key!("ms"), took);
        }
        if let Some(status) = attempt.status {
            number(out, key!("status"), status.as_u16().into());
        }
        if let Some(reason) = attempt.reason {
            text(out, key!("reason"), reason.as_bytes());
        }
        out.push(b'}');
    }
    out.push(b']');
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

fn push_ip(ip: ClientIp, out: &mut Vec<u8>) {
    match ip {
        ClientIp::Ip(IpAddr::V4(ip)) => {
            let [first, rest @ ..] = ip.octets();
            out.extend_from_slice(itoa::Buffer::new().format(first).as_bytes());
            for octet in rest {
                out.push(b'.');
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        ClientIp::Ip(IpAddr::V6(ip)) => put(out, format_args!("{ip}")),
        ClientIp::Unix => out.extend_from_slice(b"unix"),
    }
}

fn text(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    out.extend_from_slice(key);
    string(out, value);
}

/// A value in which nothing has to be escaped: a token (RFC 9110, 5.6.2) or a constant.
fn quoted(out: &mut Vec<u8>, key: &[u8], value: &str) {
    out.extend_from_slice(key);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn number(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn millis(out: &mut Vec<u8>, key: &[u8], value: Duration) {
    out.extend_from_slice(key);
    let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(itoa::Buffer::new().format(micros / 1000).as_bytes());
    let rest = micros % 1000;
    let digits = [b'.', digit(rest / 100), digit(rest / 10), digit(rest)];
    out.extend_from_slice(&digits);
}

fn digit(value: u64) -> u8 {
    b"0123456789"[usize::try_from(value % 10).unwrap_or(0)]
}

/// A JSON string (RFC 8259, 7). What is not UTF-8 becomes U+FFFD, so that the line always parses.
fn string(out: &mut Vec<u8>, value: &[u8]) {
    out.push(b'"');
    if is_plain(value) {
        out.extend_from_slice(value);
    } else {
        for chunk in value.utf8_chunks() {
            escape(out, chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// ASCII without anything to escape, as most values are. In blocks of a fixed length and without an
/// early exit from one, so that each is a few vector instructions; values are short.
fn is_plain(value: &[u8]) -> bool {
    let odd = |byte| u8::from(matches!(byte, 0..0x20 | 0x80.. | b'"' | b'\\'));
    let has_odd = |block: &[u8; 16]| block.iter().fold(0, |any, &byte| any | odd(byte)) != 0;
    let (blocks, rest) = value.as_chunks();
    let mut last = [b' '; 16];
    last[..rest.len()].copy_from_slice(rest);
    !blocks.iter().any(has_odd) && !has_odd(&last)
}

fn escape(out: &mut Vec<u8>, valid: &[u8]) {
    let mut done = 0;
    for (at, &byte) in valid.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&valid[done..at]);
        done = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            _ => put(out, format_args!("\\u{byte:04x}")),
        }
    }
    out.extend_from_slice(&valid[done..]);
}

/// Text for a terminal: a character that could move its cursor or begin a line becomes `?`.
fn plain(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().map(|&byte| if byte.is_ascii_graphic() { byte } else { b'?' }));
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    out.write_fmt(text).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use http::{HeaderValue, Method};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::{Peer, Principal, peer::Address};

    fn context(method: &str) -> Context {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Context::new(Arc::new(peer), method, Version::HTTP_11)
    }

    fn line<'a>(cx: &'a Context, target: Option<&'a PathAndQuery>) -> Line<'a> {
        Line {
            time: Duration::from_millis(1_767_225_599_500),
            cx,
            target,
            trace_id: None,
            status: StatusCode::NOT_FOUND,
            sent: 42,
            took: Duration::from_micros(1_234_056),
            reason: Some("route-none"),
        }
    }

    fn json_of(line: &Line<'_>, query: Option<&[Box<str>]>) -> Value {
        let mut out = Vec::new();
        line.encode_json(query, &mut out);
        assert_eq!(out.last(), Some(&b'\n'));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_line_says_all_that_is_known() {
        let cx = context("POST");
        let target = PathAndQuery::from_static("/a/../b?token=secret");
        cx.set_request_id(HeaderValue::from_static("id-1"));
        cx.set_client_ip(ClientIp::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7))));
        cx.set_host("shop.example".into());
        cx.set_target(Target::parse(target.clone()).unwrap());
        cx.set_principal(Arc::new(Principal::named("shop:al\"ice")));
        cx.add_received(7);
        assert_eq!(
            json_of(&line(&cx, Some(&target)), None),
            json!({
                "time": "2025-12-31T23:59:59.500Z", "request_id": "id-1",
                "client_ip": "192.0.2.7", "method": "POST", "host": "shop.example", "path": "/b",
                "protocol": "HTTP/1.1", "principal": "shop:al\"ice", "status": 404, "bytes_in": 7, "bytes_out": 42,
                "duration_ms": 1234.056, "reason": "route-none",
            })
        );
    }

    #[test]
    fn the_query_is_written_only_if_asked() {
        let cx = context("GET");
        let target = PathAndQuery::from_static("/a?token=secret");
        let written = |hidden| json_of(&line(&cx, Some(&target)), Some(hidden))["query"].clone();
        assert_eq!(written(&[]), "token=secret");
        assert_eq!(written(&["token".into()]), "token=[redacted]");
        assert_eq!(json_of(&line(&cx, Some(&target)), None).get("query"), None);
    }

    #[test]
    fn the_id_of_a_stored_request_is_not_written() {
        let cx = context("GET");
        cx.set_target(Target::parse_str("/.sluice//requests/secret?wait=1s").unwrap());
        assert_eq!(json_of(&line(&cx, None), None)["path"], "/.sluice/requests/*");
    }

    #[test]
    fn a_request_refused_early_has_the_path_it_was_sent_with() {
        let cx = context("GET");
        let target = PathAndQuery::from_static("/%00");
        assert_eq!(json_of(&line(&cx, Some(&target)), None)["path"], "/%00");
    }

    #[test]
    fn attempts_are_listed_when_one_failed() {
        let cx = context("GET");
        let now = cx.started();
        cx.begin_attempt("orders/a:1".into(), now).answered(StatusCode::OK, now);
        let value = json_of(&line(&cx, None), None);
        assert_eq!(value["upstream"], "orders/a:1");
        assert!(value["upstream_ms"].is_number());
        assert_eq!(value.get("attempts"), None, "one that worked is no list");

        let cx = context("GET");
        let now = cx.started();
        cx.begin_attempt("orders/a:1".into(), now).failed("upstream-connect", now);
        cx.begin_attempt("orders/b:1".into(), now).answered(StatusCode::OK, now);
        let value = json_of(&line(&cx, None), None);
        assert_eq!(value["upstream"], "orders/b:1");
        assert_eq!(value["attempts"][0]["reason"], "upstream-connect");
        assert_eq!(value["attempts"][1]["status"], 200);
        assert_eq!(value["attempts"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn what_is_not_utf_8_is_replaced() {
        let mut out = Vec::new();
        string(&mut out, b"caf\xe9\x00\"\\\n");
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), "caf\u{fffd}\0\"\\\n");
    }

    #[test]
    fn a_person_gets_one_short_line_that_cannot_steer_the_terminal() {
        let cx = context("GET");
        cx.set_host("shop.example".into());
        cx.set_request_id(HeaderValue::from_bytes(b"caf\xe9").unwrap());
        let target = PathAndQuery::from_static("/a?b");
        let mut out = Vec::new();
        line(&cx, Some(&target)).encode_human(Some(&[]), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "2025-12-31T23:59:59.500Z 404 GET shop.example/a?b 1234.1ms in=0 out=42 \
             reason=route-none id=caf?\n"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_become_the_json_string_that_says_them(value: Vec<u8>) {
            let mut out = Vec::new();
            string(&mut out, &value);
            let read: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, String::from_utf8_lossy(&value));
        }
    }
}
