//! The spans of a sampled request: one for the server, one for each attempt.
//!
//! Names are those of the OpenTelemetry semantic conventions for HTTP spans, in the release of
//! [`SCHEMA_URL`]; names not defined there begin with `sluice.`. Queries are never included,
//! because they carry secrets. The span of an attempt ends with the response head, that of the
//! server with the last byte of the body.

use std::{borrow::Cow, net::SocketAddr, sync::LazyLock, time::SystemTime};

use http::{HeaderValue, Method, StatusCode, Uri, Version, request::Parts, uri::PathAndQuery};
use opentelemetry::{
    InstrumentationScope, KeyValue, Value,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use opentelemetry_semantic_conventions::{
    SCHEMA_URL,
    attribute::{
        CLIENT_ADDRESS, ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_REQUEST_METHOD_ORIGINAL,
        HTTP_REQUEST_RESEND_COUNT, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE, NETWORK_PEER_ADDRESS,
        NETWORK_PEER_PORT, NETWORK_PROTOCOL_VERSION, SERVER_ADDRESS, SERVER_PORT, URL_FULL,
        URL_PATH, URL_SCHEME, USER_AGENT_ORIGINAL,
    },
};

use super::{queue::Encoded, tracer::Finished};
use crate::{
    http::{ClientIp, Context, Target, context::Attempt, peer::Address},
    telemetry::clock,
};

/// `routes[].name`.
const ROUTE: &str = "sluice.route";
/// The key under `upstreams`.
const UPSTREAM: &str = "sluice.upstream";
/// The reason word of a request that failed or was refused.
const REASON: &str = "sluice.reason";
/// The `X-Request-Id`, as in the access log.
const REQUEST_ID: &str = "sluice.request_id";
/// Why the previous attempt was retried: its reason word, or its status.
const RETRY_REASON: &str = "sluice.retry.reason";

/// The maximum size of a text in bytes, so that a batch of spans is bounded too.
const MAX_TEXT: usize = 1024;

/// The instrumentation scope of our spans.
pub(super) static SCOPE: LazyLock<InstrumentationScope> = LazyLock::new(|| {
    InstrumentationScope::builder("sluice")
        .with_version(env!("CARGO_PKG_VERSION"))
        .with_schema_url(SCHEMA_URL)
        .build()
});

/// What an attempt sends.
#[derive(Clone, Debug)]
pub struct Outgoing {
    uri: Uri,
    method: Method,
    is_tls: bool,
}

/// Attributes being collected.
pub(super) struct Attributes(pub(super) Vec<KeyValue>);

// === impl Outgoing ===

impl Outgoing {
    /// Describes a request that is sent with this head.
    pub fn of(head: &Parts, is_tls: bool) -> Self {
        Self { uri: head.uri.clone(), method: head.method.clone(), is_tls }
    }
}

// === impl Finished ===

impl Finished {
    /// Its spans.
    pub(super) fn encode(&self) -> Encoded {
        let mut out = Encoded::default();
        out.push(self.server());
        self.cx.with_attempts(|attempts| {
            for (index, attempt) in attempts.iter().enumerate() {
                let before = index.checked_sub(1).map(|before| &attempts[before]);
                out.push(self.attempt(index, attempt, before));
            }
        });
        self.cx.with_publishings(|all| all.iter().for_each(|it| out.push(self.publishing(it))));
        out
    }

    fn server(&self) -> SpanData {
        let cx = &self.cx;
        let mut attributes = Attributes(Vec::with_capacity(20));
        let method = attributes.push_method(cx.method());
        attributes.push_peer(cx);
        attributes.push(NETWORK_PROTOCOL_VERSION, version(cx.version()));
        let scheme = if cx.peer().tls.is_some() { "https" } else { "http" };
        attributes.push(URL_SCHEME, scheme);
        let path = cx.target().map(Target::shown_path);
        let path = path.or_else(|| self.target.as_ref().map(PathAndQuery::path));
        attributes.push_text(URL_PATH, path.unwrap_or_default());
        let agent = self.noted.user_agent.as_ref().map(HeaderValue::as_bytes);
        attributes.push_bytes(USER_AGENT_ORIGINAL, agent);
        attributes.push_bytes(REQUEST_ID, cx.request_id().map(HeaderValue::as_bytes));
        let mut name = Cow::Borrowed(method);
        if let Some(route) = cx.route() {
            attributes.push_text(HTTP_ROUTE, &route.path);
            attributes.push_text(ROUTE, &route.name);
            name = format!("{method} {}", cut(&route.path)).into();
        }
        if let Some(status) = self.status {
            attributes.push(HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
        }
        if let Some(reason) = self.reason {
            attributes.push(REASON, reason);
        }
        // A refusal and a client that left are not failures of the server.
        let is_error = self.is_broken_off || self.status.is_some_and(|it| it.is_server_error());
        if is_error {
            attributes.push_error(self.reason, self.status);
        }
        let started = cx.started();
        let times = (clock::at(started), clock::at(started + self.took));
        let parent = self.trace.parent();
        SpanData {
            parent_span_is_remote: parent.is_some(),
            parent_span_id: parent.unwrap_or(SpanId::INVALID),
            ..data(
                self.context(self.trace.span()),
                SpanKind::Server,
                name,
                times,
                attributes,
                is_error,
            )
        }
    }

    fn attempt(&self, index: usize, attempt: &Attempt, before: Option<&Attempt>) -> SpanData {
        let mut attributes = Attributes(Vec::with_capacity(12));
        let outgoing = attempt.outgoing.as_deref();
        let method = outgoing.map_or(self.cx.method(), |outgoing| &outgoing.method);
        let method = attributes.push_method(method);
        let (upstream, address) = attempt.endpoint.split_once('/').unwrap_or_default();
        attributes.push_text(UPSTREAM, upstream);
        attributes.push_endpoint(address);
        if let Some(Outgoing { uri, is_tls, .. }) = outgoing {
            let scheme = if *is_tls { "https" } else { "http" };
            let address = address.strip_prefix("unix:").map_or(address, |_| "localhost");
            attributes.push_text(URL_FULL, &format!("{scheme}://{address}{}", uri.path()));
        }
        if let Some(status) = attempt.status {
            attributes.push(HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
        }
        if let Some(before) = before {
            let count = i64::try_from(index).unwrap_or(i64::MAX);
            attributes.push(HTTP_REQUEST_RESEND_COUNT, count);
            if let Some(reason) = why(before.reason, before.status) {
                attributes.push(RETRY_REASON, reason);
            }
        }
        let is_bad = |it: StatusCode| it.is_client_error() || it.is_server_error();
        let is_error = attempt.reason.is_some() || attempt.status.is_some_and(is_bad);
        if is_error {
            attributes.push_error(attempt.reason, attempt.status);
        }
        let ended = attempt.took.map_or(self.cx.started() + self.took, |it| attempt.started + it);
        let times = (clock::at(attempt.started), clock::at(ended));
        let context = self.context(self.trace.attempt(index + 1));
        SpanData {
            parent_span_id: self.trace.span(),
            ..data(context, SpanKind::Client, method.into(), times, attributes, is_error)
        }
    }

    /// A span of its trace.
    pub(super) fn context(&self, span: SpanId) -> SpanContext {
        let state = self.noted.state.as_ref().and_then(|state| state.to_str().ok());
        let state = state.and_then(|state| state.parse().ok()).unwrap_or(TraceState::NONE);
        SpanContext::new(self.trace.id(), span, TraceFlags::SAMPLED, false, state)
    }
}

/// A span without its parent.
pub(super) fn data(
    span_context: SpanContext,
    kind: SpanKind,
    name: Cow<'static, str>,
    (start_time, end_time): (SystemTime, SystemTime),
    attributes: Attributes,
    is_error: bool,
) -> SpanData {
    SpanData {
        span_context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: kind,
        name,
        start_time,
        end_time,
        attributes: attributes.0,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        // The reason is in the attributes.
        status: if is_error { Status::error("") } else { Status::Unset },
        instrumentation_scope: SCOPE.clone(),
    }
}

// === impl Attributes ===

impl Attributes {
    pub(super) fn push(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(name, value));
    }

    pub(super) fn push_text(&mut self, name: &'static str, text: &str) {
        self.push(name, cut(text).to_owned());
    }

    fn push_bytes(&mut self, name: &'static str, bytes: Option<&[u8]>) {
        if let Some(bytes) = bytes {
            self.push_text(name, &String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_TEXT)]));
        }
    }

    /// An unknown method becomes `_OTHER`, so that clients cannot invent names.
    fn push_method(&mut self, method: &Method) -> &'static str {
        const KNOWN: [&str; 9] =
            ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT"];
        if let Some(known) = KNOWN.into_iter().find(|known| *known == method.as_str()) {
            self.push(HTTP_REQUEST_METHOD, known);
            return known;
        }
        self.push(HTTP_REQUEST_METHOD, "_OTHER");
        self.push_text(HTTP_REQUEST_METHOD_ORIGINAL, method.as_str());
        "HTTP"
    }

    fn push_peer(&mut self, cx: &Context) {
        if let Some(host) = cx.host().filter(|host| !host.is_empty()) {
            self.push_text(SERVER_ADDRESS, host);
        }
        if let Address::Inet(local) = cx.peer().local {
            self.push(SERVER_PORT, i64::from(local.port()));
        }
        if let Some(ClientIp::Ip(ip)) = cx.client_ip() {
            self.push(CLIENT_ADDRESS, ip.to_string());
        }
        if let Address::Inet(remote) = cx.peer().remote {
            self.push(NETWORK_PEER_ADDRESS, remote.ip().to_canonical().to_string());
            self.push(NETWORK_PEER_PORT, i64::from(remote.port()));
        }
    }

    pub(super) fn push_endpoint(&mut self, address: &str) {
        if let Ok(address) = address.parse::<SocketAddr>() {
            self.push(SERVER_ADDRESS, address.ip().to_string());
            self.push(SERVER_PORT, i64::from(address.port()));
        } else {
            self.push_text(SERVER_ADDRESS, address.strip_prefix("unix:").unwrap_or(address));
        }
    }

    pub(super) fn push_error(&mut self, reason: Option<&'static str>, status: Option<StatusCode>) {
        if let Some(why) = why(reason, status) {
            self.push(ERROR_TYPE, why);
        }
    }
}

/// Our reason word, or the status of the other side.
fn why(reason: Option<&'static str>, status: Option<StatusCode>) -> Option<Value> {
    match (reason, status) {
        (Some(reason), _) => Some(reason.into()),
        (None, Some(status)) => Some(status.as_str().to_owned().into()),
        (None, None) => None,
    }
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        Version::HTTP_3 => "3",
        _ => "1.1",
    }
}

/// The first [`MAX_TEXT`] bytes, whole characters only.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_TEXT)]
}
