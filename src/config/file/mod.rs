//! The shape of gateway.yaml: serde types only, every field documented, unknown keys refused.
//!
//! The doc comments become the descriptions in the JSON Schema that `sluice schema` prints. Nothing
//! is validated here: scalars stay text with their position until [`super::resolve`].

pub mod auth;
pub mod events;
pub mod health;
pub mod idempotency;
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
    /// Worker threads: `auto`, one per core the process may use, or a number. Default: auto.
    pub workers: Option<Written<Workers>>,
    /// Where clients connect; one or more.
    pub listeners: Placed<Vec<Placed<Listener>>>,
    /// The operator's own listener.
    pub admin: Option<Admin>,
    /// Networks whose X-Forwarded-*, Forwarded and PROXY headers are believed. Default: none.
    #[serde(default)]
    pub trusted_proxies: Vec<Written<IpNet>>,
    /// How large and how slow requests and connections may be.
    pub limits: Option<Limits>,
    /// Who signs JWTs.
    pub issuers: Option<Entries<Name, Placed<auth::Issuer>>>,
    /// Files of API keys.
    pub api_keys: Option<Entries<Name, auth::ApiKeys>>,
    /// Named token buckets.
    pub rate_limits: Option<Entries<Name, Placed<traffic::RateLimit>>>,
    /// Named groups of endpoints that requests are sent to.
    pub upstreams: Option<Entries<Name, Placed<Upstream>>>,
    /// Which requests go where. The order of match is priority, host, path, number of predicates,
    /// then the order here.
    pub routes: Option<Vec<Placed<Route>>>,
    /// A listener of its own for the event endpoints. Default: they are on the admin listener.
    pub events_api: Option<Placed<events::EventsApi>>,
    /// The store of the event queue.
    pub queue: Option<Placed<events::Queue>>,
    /// Named logs of events.
    pub topics: Option<Entries<LogName, Placed<events::Topic>>>,
    /// Who reads topics.
    pub subscriptions: Option<Vec<Placed<events::Subscription>>>,
    /// Logs, metrics and traces.
    pub telemetry: Option<Telemetry>,
}

/// One place where clients connect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Its identity in logs, metrics and across reloads; unique.
    pub name: Written<Name>,
    /// `host:port` (port 0 picks a free one) or `unix:/path`.
    pub address: Written<Reference<BindAddress>>,
    /// What is spoken. Default: `[h1, h2c]` in plain text, `[h1, h2]` with TLS.
    pub protocols: Option<Vec<Written<ListenerProtocol>>>,
    /// Whether a PROXY protocol header (v1 or v2) is read; only from `trusted_proxies`.
    /// Default: off.
    pub proxy_protocol: Option<Written<ProxyProtocol>>,
    /// TLS. Default: plain text.
    pub tls: Option<Placed<ListenerTls>>,
    /// Open connections over all workers. Default: 20000.
    pub max_connections: Option<Written<usize>>,
    /// Open connections of one address (IPv6: its /64); 0 is no limit. Default: 0.
    pub max_connections_per_ip: Option<Written<usize>>,
    /// HTTP/2 streams of one connection. Default: 100.
    pub max_streams: Option<Written<u32>>,
}

words! {
    /// What a listener speaks.
    ListenerProtocol { "h1" = H1, "h2" = H2, "h2c" = H2c }
    /// Whether clients show certificates.
    ClientAuthMode { "off" = Off, "request" = Request, "require" = Require }
    /// The oldest TLS version spoken.
    TlsVersion { "1.2" = Tls12, "1.3" = Tls13 }
    /// How access log lines look.
    AccessLogFormat { "json" = Json }
    /// Which fields tell of traces.
    Propagation { "w3c" = W3c }
    /// The least severe lines that are logged.
    LogLevel { "error" = Error, "warn" = Warn, "info" = Info, "debug" = Debug, "trace" = Trace }
}

impl Words for ProxyProtocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("off", Self::Off), ("accept", Self::Accept), ("require", Self::Require)];
}

/// TLS of a listener. The files are watched and read again when they change.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Certificates with their keys; SNI picks by the names inside, the first serves the rest.
    pub certificates: Placed<Vec<Certificate>>,
    /// Whether clients show certificates. Default: off.
    pub client_auth: Option<Placed<ClientAuth>>,
    /// The oldest version spoken. Default: "1.2".
    pub min_version: Option<Written<TlsVersion>>,
}

/// A certificate chain and its key, PEM.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: Written<Text>,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: Written<Text>,
}

/// Whether clients show certificates.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// `off`, `request` (checked when shown) or `require`.
    pub mode: Written<ClientAuthMode>,
    /// The authorities that sign them, PEM; required unless the mode is off.
    pub ca: Option<Written<Text>>,
}

/// The operator's listener: health, metrics, configuration, reload.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// `host:port`. Default: 127.0.0.1:9901.
    pub address: Option<Written<Reference<AdminAddress>>>,
    /// The bearer token asked for; required when the address is not loopback.
    pub token: Option<Written<SecretReference>>,
    /// Whether routes may have `fault`. Default: false.
    pub allow_faults: Option<Written<bool>>,
}

/// How large and how slow requests and connections may be.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The request head; 431 above. Default: 32KiB.
    pub header_bytes: Option<Written<ByteSize>>,
    /// The request body; 413 above. Default: 10MiB.
    pub body_bytes: Option<Written<ByteSize>>,
    /// The request body on routes that need all of it first; 413 above. Default: 1MiB.
    pub buffer_bytes: Option<Written<ByteSize>>,
    /// For the PROXY header and the TLS handshake. Default: 10s.
    pub handshake_timeout: Option<Written<Duration>>,
    /// From the first byte of a head to its end; 408. Default: 10s.
    pub header_timeout: Option<Written<Duration>>,
    /// How long a write to a client or an upstream may stay pending. Default: 60s.
    pub send_idle_timeout: Option<Written<Duration>>,
    /// How long a client may send nothing of its body; 408. Default: 30s.
    pub body_idle_timeout: Option<Written<Duration>>,
    /// Bytes per second of a body after the first 5 s; 0 is off; 408. Default: 240.
    pub body_min_rate: Option<Written<u64>>,
    /// Until the first byte of the next request. Default: 75s.
    pub keepalive_timeout: Option<Written<Duration>>,
    /// After so many requests a connection is closed in an orderly way. Default: 10000.
    pub requests_per_connection: Option<Written<u64>>,
    /// After so long a connection is closed in an orderly way. Default: 1h.
    pub connection_max_age: Option<Written<Duration>>,
}

/// Logs, metrics and traces.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// One line for each request.
    pub access_log: Option<AccessLog>,
    /// The least severe lines of the process's own log. Default: info.
    pub log_level: Option<Written<LogLevel>>,
    /// Metrics.
    pub metrics: Option<Metrics>,
    /// Traces by OTLP. Default: off.
    pub tracing: Option<Tracing>,
}

/// One line for each request.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout`, `off`, or a file. Default: stdout.
    pub path: Option<Written<Text>>,
    /// How lines look. Default: json.
    pub format: Option<Written<AccessLogFormat>>,
    /// The share of requests that is written; those that fail by the gateway's or a service's doing are
    /// beside it, up to 100 a second for each worker. Default: 100%.
    pub sample: Option<Written<Percent>>,
    /// Whether the query is written too. Default: false.
    pub query: Option<Written<bool>>,
}

/// Metrics.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Whether routes get labels of their own. Default: true.
    pub route_labels: Option<Written<bool>>,
}

/// Traces by OTLP. With it every request carries W3C `traceparent`; a request that has none or an
/// invalid one begins a trace. Without it what clients send of them passes through untouched.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tracing {
    /// The URL of the collector. With a path it is OTLP over HTTP, to exactly that path
    /// (`http://127.0.0.1:4318/v1/traces`). Without one it is gRPC (`http://127.0.0.1:4317`), but on
    /// port 4318, where collectors listen for HTTP, it is HTTP to `/v1/traces`. `https` is TLS, port
    /// 443 unless it says another. Fields to send with each export, credentials for example, are
    /// taken from the environment: `OTEL_EXPORTER_OTLP_HEADERS`.
    pub otlp: Written<Reference<Collector>>,
    /// The share of the traces that begin here of which spans are made; requests that bring a trace
    /// are sampled as its flag says. Decided by the trace ID, so all who use the same share choose
    /// the same traces. Default: 1%.
    pub sample: Option<Written<Percent>>,
    /// Which fields tell of traces. Default: `[w3c]`.
    pub propagate: Option<Placed<Vec<Written<Propagation>>>>,
}

/// The schema of `word`, or what `T` is.
fn word_or<T: JsonSchema>(word: &Schema, generator: &mut SchemaGenerator) -> Schema {
    let other = generator.subschema_for::<T>();
    json_schema!({ "anyOf": [word, other] })
}
