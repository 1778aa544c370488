//! The shape of gateway.yaml: serde types only, every field documented, unknown keys refused.
//!
//! The doc comments become the descriptions in the JSON Schema that `sluice schema` prints. Nothing
//! is validated here: scalars stay text with their position until [`super::resolve`].

pub mod auth;
pub mod events;
pub mod health;
pub mod idempotency;
pub mod queue;
pub mod retry;
pub mod route;
pub mod traffic;
pub mod upstream;

use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

pub use self::{route::Route, upstream::Upstream};
use super::{
    value::{
        AdminAddress, ByteSize, LogName, Name, Percent, Reference, SecretReference, Text, Words,
        Workers, words,
    },
    written::{Entries, OneOrMany, Placed, Written},
};
use crate::{
    listener::{BindAddress, ProxyProtocol},
    telemetry::tracing::Collector,
};

/// A selector, or a list of them joined.
pub type Selector = OneOrMany<Written<Text>>;

/// A map of the configuration file: strict, and described.
macro_rules! block {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$field_doc:meta])* $field:ident: $type:ty),* $(,)?
    })*) => {$(
        $(#[$doc])*
        #[derive(Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type),* }
    )*};
}
use block;

/// The configuration of a Sluice gateway.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The number of worker threads, from 1 to 1024, or `auto`: one for each core that the process
    /// may use. A change needs a restart. Default: auto.
    pub workers: Option<Written<Workers>>,
    /// The addresses on which clients connect; at least one. Every listener serves every route.
    pub listeners: Placed<Vec<Placed<Listener>>>,
    /// The admin listener: health, metrics, running state, reload, and the event endpoints. It is
    /// always on.
    pub admin: Option<Admin>,
    /// Networks of the proxies in front of the gateway, such as `10.0.0.0/8`. Only from these does
    /// the gateway believe `X-Forwarded-*`, `Forwarded` and PROXY protocol headers. Default: none.
    #[serde(default)]
    pub trusted_proxies: Vec<Written<IpNet>>,
    /// How large and how slow requests and connections may be. A route may override some of these.
    pub limits: Option<Limits>,
    /// Issuers of JWTs by name. `routes[].auth.jwt.issuers` refers to these names.
    pub issuers: Option<Entries<Name, Placed<auth::Issuer>>>,
    /// Sets of API keys by name, each in a file. `routes[].auth.api_key.sets` refers to these
    /// names.
    pub api_keys: Option<Entries<Name, auth::ApiKeys>>,
    /// Rate limits by name. `routes[].rate_limit` refers to these names.
    pub rate_limits: Option<Entries<Name, Placed<traffic::RateLimit>>>,
    /// Upstreams by name: groups of endpoints to which routes send requests.
    pub upstreams: Option<Entries<Name, Placed<Upstream>>>,
    /// Which requests are handled in which way. Routes are compared in this order: `priority`,
    /// host, path, number of predicates, position in this list. A request without a route gets 404
    /// `route-none`.
    pub routes: Option<Vec<Placed<Route>>>,
    /// A second listener that offers only the endpoints for publishing and consuming events.
    /// Default: none; the admin listener always offers them.
    pub events_api: Option<Placed<events::EventsApi>>,
    /// The store of the event queue. It is opened only if there are `topics` or a route has
    /// `idempotency`.
    pub queue: Option<Placed<queue::Queue>>,
    /// Topics by name: durable logs of events. A name has up to 100 lower-case letters, digits,
    /// `.`, `_` and `-`.
    pub topics: Option<Entries<LogName, Placed<queue::Topic>>>,
    /// Subscriptions: each delivers the events of one topic.
    pub subscriptions: Option<Vec<Placed<events::Subscription>>>,
    /// Logs, metrics and traces.
    pub telemetry: Option<Telemetry>,
}

/// An address on which clients connect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// The listener's name in logs, metrics and across reloads; unique.
    pub name: Written<Name>,
    /// `host:port` (port 0 picks a free port), `unix:/path`, or `env:NAME` or `file:PATH` where one
    /// of these is written.
    pub address: Written<Reference<BindAddress>>,
    /// The protocols that clients may use: `h1`, `h2` (HTTP/2 over TLS) or `h2c` (HTTP/2 in plain
    /// text). Default: `[h1, h2c]` without `tls`, `[h1, h2]` with it.
    pub protocols: Option<Vec<Written<ListenerProtocol>>>,
    /// Whether connections begin with a PROXY protocol header (v1 or v2): `off`, `accept` (the
    /// header is optional) or `require`. Only headers from `trusted_proxies` are accepted. Default:
    /// off.
    pub proxy_protocol: Option<Written<ProxyProtocol>>,
    /// TLS for this listener. Default: none, plain text.
    pub tls: Option<Placed<ListenerTls>>,
    /// Open connections of this listener over all workers; at least 1. At the limit a new
    /// connection replaces an idle one; if none is idle, the new one is closed. Default: 20000.
    pub max_connections: Option<Written<usize>>,
    /// Open connections from one client address (for IPv6: from its /64 network). Further ones are
    /// closed. 0 is no limit. Default: 0.
    pub max_connections_per_ip: Option<Written<usize>>,
    /// Concurrent HTTP/2 streams on one connection, from 1 to 100000. Default: 100.
    pub max_streams: Option<Written<u32>>,
}

words! {
    /// A protocol that a listener speaks.
    ListenerProtocol { "h1" = H1, "h2" = H2, "h2c" = H2c }
    /// Whether clients present a certificate.
    ClientAuthMode { "off" = Off, "request" = Request, "require" = Require }
    /// The lowest TLS version that is accepted.
    TlsVersion { "1.2" = Tls12, "1.3" = Tls13 }
    /// The format of access log lines.
    AccessLogFormat { "json" = Json }
    /// Which headers carry the trace context.
    Propagation { "w3c" = W3c }
    /// The lowest severity that is logged.
    LogLevel { "error" = Error, "warn" = Warn, "info" = Info, "debug" = Debug, "trace" = Trace }
}

impl Words for ProxyProtocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("accept", Self::Accept), ("require", Self::Require)];
}

/// TLS of a listener. The gateway watches the files and reads them again when they change.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates with their keys; at least one. SNI selects the certificate by the names in it;
    /// the first one serves all other names.
    pub certificates: Placed<Vec<Certificate>>,
    /// Whether clients present a certificate, which routes can then check by `auth.mtls`. Default:
    /// off.
    pub client_auth: Option<Placed<ClientAuth>>,
    /// The lowest TLS version that is accepted: `"1.2"` or `"1.3"`. Default: "1.2".
    pub min_version: Option<Written<TlsVersion>>,
}

/// A certificate chain and its private key, as PEM files. Relative paths start at the folder of
/// this file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// File of the certificate chain, leaf first.
    pub cert: Written<Text>,
    /// File of the private key: PKCS#8, PKCS#1 or SEC1.
    pub key: Written<Text>,
}

/// Whether clients present a certificate.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// `off`: clients are not asked. `request`: a certificate is optional, but checked if the
    /// client presents one. `require`: connections without a valid certificate are refused.
    pub mode: Written<ClientAuthMode>,
    /// PEM file of the certificate authorities that sign client certificates. Required unless
    /// `mode` is `off`.
    pub ca: Option<Written<Text>>,
}

/// The admin listener: health, metrics, running state, reload, and the event endpoints.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `host:port` of the admin listener, or `env:NAME` or `file:PATH`. A change needs a restart.
    /// Default: 127.0.0.1:9901.
    pub address: Option<Written<Reference<AdminAddress>>>,
    /// The bearer token that clients must send, as `env:NAME` or `file:PATH`. Required unless the
    /// address is a loopback address. Default: none, every client is let in.
    pub token: Option<Written<SecretReference>>,
    /// Whether routes may have `fault`. Default: false.
    pub allow_faults: Option<Written<bool>>,
}

/// How large and how slow requests and connections may be.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The size of a request head, from 8KiB to 1MiB. Larger ones get 431. Default: 32KiB.
    pub header_bytes: Option<Written<ByteSize>>,
    /// The size of a request body. Larger ones get 413. Default: 10MiB.
    pub body_bytes: Option<Written<ByteSize>>,
    /// The size of a request body on routes that need the whole body before they send it (for an
    /// event, an idempotency key, `enqueue`, `spill` or a `json:` selector); at most 1GiB. Larger
    /// ones get 413. Default: 1MiB.
    pub buffer_bytes: Option<Written<ByteSize>>,
    /// How long a new connection may take for its PROXY header and TLS handshake. Default: 10s.
    pub handshake_timeout: Option<Written<Duration>>,
    /// How long a request head may take, from its first byte to its last. A slower one gets 408.
    /// Default: 10s.
    pub header_timeout: Option<Written<Duration>>,
    /// How long a write to a client or an upstream may make no progress before the connection or
    /// stream is closed. Default: 60s.
    pub send_idle_timeout: Option<Written<Duration>>,
    /// How long a client may send nothing of its request body while the gateway waits for it. Then
    /// the request gets 408. Not judged while the answer is under way. Default: 30s.
    pub body_idle_timeout: Option<Written<Duration>>,
    /// The lowest rate of a request body in bytes per second, once the gateway has waited 5 s for
    /// it. A slower one gets 408. Not judged while the answer is under way. 0 is no limit. Default:
    /// 240.
    pub body_min_rate: Option<Written<u64>>,
    /// How long a client connection may stay idle before the first byte of its next request.
    /// Default: 75s.
    pub keepalive_timeout: Option<Written<Duration>>,
    /// The number of requests after which a client connection is closed gracefully, varied by 10 %;
    /// at least 1. Default: 10000.
    pub requests_per_connection: Option<Written<u64>>,
    /// The age at which a client connection is closed gracefully, varied by 10 %. Default: 1h.
    pub connection_max_age: Option<Written<Duration>>,
}

/// Logs, metrics and traces.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The access log: one line for each request. Default: JSON on standard output.
    pub access_log: Option<AccessLog>,
    /// The lowest severity in the gateway's own log: `error`, `warn`, `info`, `debug` or `trace`.
    /// Default: info.
    pub log_level: Option<Written<LogLevel>>,
    /// Metrics, which the admin listener serves at `/metrics`.
    pub metrics: Option<Metrics>,
    /// Export of traces by OTLP. Default: off.
    pub tracing: Option<Tracing>,
}

/// The access log: one line for each request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `off`, or a file. Default: stdout.
    pub path: Option<Written<Text>>,
    /// The format of the lines: `json`. Default: json.
    pub format: Option<Written<AccessLogFormat>>,
    /// The share of requests that is logged. Requests that the gateway or a service failed are
    /// logged as well, up to 100 per second and worker. Default: 100%.
    pub sample: Option<Written<Percent>>,
    /// Whether lines contain the query of the request. Default: false.
    pub query: Option<Written<bool>>,
}

/// Metrics, which the admin listener serves at `/metrics`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Whether each route has a label value of its own. If not, the `route` label is `all`.
    /// Default: true.
    pub route_labels: Option<Written<bool>>,
}

/// Export of traces by OTLP. With it the gateway passes W3C `traceparent` on with every request; a
/// request without a valid one starts a new trace. Without this block, the trace headers of clients
/// pass through unchanged.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The URL of the collector, or `env:NAME` or `file:PATH`. With a path: OTLP over HTTP to
    /// exactly that path (`http://127.0.0.1:4318/v1/traces`). Without a path: gRPC
    /// (`http://127.0.0.1:4317`), except on port 4318, where it is HTTP to `/v1/traces`. `https`
    /// uses TLS, by default on port 443; `http` needs a port. The environment variable
    /// `OTEL_EXPORTER_OTLP_HEADERS` adds headers to each export, for example credentials.
    pub otlp: Written<Reference<Collector>>,
    /// The share of the traces started here that is sampled. Requests that bring a trace are
    /// sampled as its flag says. The trace ID decides, so all who use the same share sample the
    /// same traces. Default: 1%.
    pub sample: Option<Written<Percent>>,
    /// Which headers carry the trace context: `w3c` is `traceparent` and `tracestate`. Default:
    /// `[w3c]`.
    pub propagate: Option<Placed<Vec<Written<Propagation>>>>,
}

/// The schema of `word`, or what `T` is.
fn word_or<T: JsonSchema>(word: &Schema, generator: &mut SchemaGenerator) -> Schema {
    let other = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [word, other] })
}
