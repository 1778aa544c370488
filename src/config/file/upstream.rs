//! `upstreams`.

use std::time::Duration;

use rustls_pki_types::ServerName;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

use super::{health, retry, traffic, word_or};
use crate::{
    balancer::SourceAddress,
    config::{
        value::{Percent, Reference, Text, Value, Words, words},
        written::{Nothing, OneOrMany, Place, Placed, Shape, Written, expected},
    },
    upstream::Protocol,
};

/// A group of endpoints that offer the same service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Addresses of the endpoints; at least one. Host names and SRV records are resolved again as
    /// their records expire.
    pub endpoints: Placed<Vec<Placed<Endpoint>>>,
    /// The protocol spoken to the endpoints: `h1`, `h2`, or `auto` (HTTP/2 if the endpoint chooses
    /// it by ALPN, which needs `tls`). Default: h1.
    pub protocol: Option<Written<Protocol>>,
    /// TLS to the endpoints; `{}` is TLS with the system's certificate authorities. Default: none,
    /// plain text.
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is chosen for each attempt: `p2c_ewma` (of two endpoints the one with the
    /// lower latency and load), `least_request`, `round_robin`, or `{ hash: SELECTOR }`. Default:
    /// p2c_ewma.
    pub balance: Option<Balance>,
    /// How long a new connection may take, TCP and TLS together. Default: 3s.
    pub connect_timeout: Option<Written<Duration>>,
    /// Idle connections that are kept for reuse, for each worker.
    pub pool: Option<Pool>,
    /// Active health checks of the endpoints. Default: off.
    pub health_check: Option<Placed<health::HealthCheck>>,
    /// Ejects endpoints that fail requests. On by default; `max_ejected: 0%` turns it off.
    pub outlier: Option<Placed<health::Outlier>>,
    /// How long a response body may make no progress. Default: 60s.
    pub response_idle_timeout: Option<Written<Duration>>,
    /// A circuit breaker for each endpoint. Default: off; `{}` turns it on.
    pub breaker: Option<health::Breaker>,
    /// With three or more endpoints: if the share of healthy ones is below this, the gateway
    /// ignores health checks and uses all endpoints. Default: 50%.
    pub panic_threshold: Option<Written<Percent>>,
    /// How long the share of a recovered or added endpoint rises from 10 % to its full share. Has
    /// no effect with `balance: { hash: .. }`. Default: 30s.
    pub slow_start: Option<Written<Duration>>,
    /// Limits the retries to this upstream.
    pub retry_budget: Option<retry::RetryBudget>,
    /// Requests in flight to this upstream over all workers; at least 1. Further ones get 503.
    /// Default: 1024.
    pub max_in_flight: Option<Written<usize>>,
    /// A concurrency limit that follows the upstream's latency: `off`, or a map (`{}` uses the
    /// defaults). Default: off.
    pub adaptive_concurrency: Option<traffic::Adaptive>,
}

/// An endpoint: its address, or a map.
pub struct Endpoint {
    /// `host:port`, `srv:NAME`, `unix:/path`, or `env:NAME` or `file:PATH` where one of these is
    /// written.
    pub address: Written<Reference<SourceAddress>>,
    /// Its share among the endpoints of its priority.
    pub weight: Option<Written<u32>>,
    /// Its priority; 0 is the first.
    pub priority: Option<Written<u32>>,
}

/// An endpoint with its weight and priority.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    /// `host:port`, `srv:NAME`, `unix:/path`, or `env:NAME` or `file:PATH` where one of these is
    /// written.
    address: Written<Reference<SourceAddress>>,
    /// Its share among the endpoints of the same priority, from 1 to 1000000. Default: 1.
    weight: Option<Written<u32>>,
    /// Endpoints with a lower number are preferred. The next priority gets requests only when less
    /// than about 70 % of the one before is healthy. Default: 0.
    priority: Option<Written<u32>>,
}

words! {
    /// The policies that need no parameter.
    BalanceWord { "p2c_ewma" = P2cEwma, "least_request" = LeastRequest, "round_robin" = RoundRobin }
}

impl Words for Protocol {
    const WORDS: &'static [(&'static str, Self)] =
        &[("h1", Self::H1), ("h2", Self::H2), ("auto", Self::Auto)];
}

/// How an endpoint is chosen.
pub enum Balance {
    /// One of the words.
    Word(Written<BalanceWord>),
    /// By a hash of these selectors.
    Hash(OneOrMany<Written<Text>>),
}

/// Requests with the same value go to the same endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BalanceMap {
    /// A selector such as `header:x-user`, or a list of them, whose values are joined. A request
    /// without a value is sent as with `least_request`.
    hash: OneOrMany<Written<Text>>,
}

/// TLS to the endpoints.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// The name that is sent as SNI and checked against the certificate. Default: the endpoint's
    /// own host name.
    pub server_name: Option<Written<ServerName<'static>>>,
    /// PEM file of the certificate authorities that are trusted. Default: the system's.
    pub ca: Option<Written<Text>>,
    /// PEM file of the gateway's own certificate, for upstreams that ask for one. Needs
    /// `client_key`. Default: none.
    pub client_cert: Option<Written<Text>>,
    /// PEM file of the private key of `client_cert`.
    pub client_key: Option<Written<Text>>,
}

/// Idle connections that are kept for reuse, for each worker.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Idle connections kept for each endpoint. Default: 128.
    pub max_idle: Option<Written<usize>>,
    /// How long an idle connection is kept. Default: 55s.
    pub idle_timeout: Option<Written<Duration>>,
}

// === impl Endpoint ===

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Nothing, EndpointMap>>::deserialize(deserializer)?;
        match value {
            Shape::Map(EndpointMap { address, weight, priority }) => {
                Ok(Self { address, weight, priority })
            }
            Shape::Scalar(text) => Ok(Self::at(text, place)),
            Shape::List(_) => Err(de::Error::custom(expected("an address or a map"))),
        }
    }
}

impl Endpoint {
    fn at(text: String, place: Place) -> Self {
        Self { address: Written::new(text, place), weight: None, priority: None }
    }
}

impl JsonSchema for Endpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        word_or::<EndpointMap>(&SourceAddress::schema(), generator)
    }
}

// === impl Balance ===

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Nothing, BalanceMap>>::deserialize(deserializer)?;
        match value {
            Shape::Map(BalanceMap { hash }) => Ok(Self::Hash(hash)),
            Shape::Scalar(text) => Ok(Self::Word(Written::new(text, place))),
            Shape::List(_) => Err(de::Error::custom(expected("a word or `{ hash: SELECTOR }`"))),
        }
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Balance".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        word_or::<BalanceMap>(&BalanceWord::schema(), generator)
    }
}
