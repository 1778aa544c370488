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

/// A group of endpoints.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where its endpoints are; one or more. Names are resolved again and again.
    pub endpoints: Placed<Vec<Placed<Endpoint>>>,
    /// What is spoken: `h1`, `h2`, or `auto` (h2 where ALPN chooses it). Default: h1.
    pub protocol: Option<Written<Protocol>>,
    /// TLS. Default: plain text.
    pub tls: Option<UpstreamTls>,
    /// How an endpoint is chosen. Default: p2c_ewma.
    pub balance: Option<Balance>,
    /// For TCP and TLS together. Default: 3s.
    pub connect_timeout: Option<Written<Duration>>,
    /// Kept connections, per worker.
    pub pool: Option<Pool>,
    /// Probes that tell which endpoints are well. Default: off.
    pub health_check: Option<Placed<health::HealthCheck>>,
    /// Ejection of endpoints that fail live requests.
    pub outlier: Option<Placed<health::Outlier>>,
    /// How long a response body may stand still. Default: 60s.
    pub response_idle_timeout: Option<Written<Duration>>,
    /// A circuit breaker for each endpoint. Default: off.
    pub breaker: Option<health::Breaker>,
    /// With fewer healthy endpoints, health checks are ignored. Default: 50%.
    pub panic_threshold: Option<Written<Percent>>,
    /// How long a recovered or added endpoint takes to its full share. Default: 30s.
    pub slow_start: Option<Written<Duration>>,
    /// How many retries its requests may cause.
    pub retry_budget: Option<retry::RetryBudget>,
    /// Requests under way, over all workers. Default: 1024.
    pub max_in_flight: Option<Written<usize>>,
    /// A limit that follows latency. Default: off.
    pub adaptive_concurrency: Option<traffic::Adaptive>,
}

/// An endpoint: its address, or a map.
pub struct Endpoint {
    /// `host:port`, `srv:NAME`, `unix:/path`, or `env:NAME` for one of them.
    pub address: Written<Reference<SourceAddress>>,
    /// Its share within its priority.
    pub weight: Option<Written<u32>>,
    /// 0 goes first.
    pub priority: Option<Written<u32>>,
}

/// An endpoint with its weight and priority.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct EndpointMap {
    /// `host:port`, `srv:NAME`, `unix:/path`, or `env:NAME` for one of them.
    address: Written<Reference<SourceAddress>>,
    /// Its share within its priority. Default: 1.
    weight: Option<Written<u32>>,
    /// 0 goes first. Default: 0.
    priority: Option<Written<u32>>,
}

words! {
    /// The ways of choosing that need no parameter.
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
    /// By what the request carries.
    Hash(OneOrMany<Written<Text>>),
}

/// The same value goes to the same endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BalanceMap {
    /// A selector or a list of them, such as `header:x-user`.
    hash: OneOrMany<Written<Text>>,
}

/// TLS toward the endpoints.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// Sent as SNI and checked against the certificate. Default: the endpoint's own name.
    pub server_name: Option<Written<ServerName<'static>>>,
    /// Authorities, PEM. Default: the system's.
    pub ca: Option<Written<Text>>,
    /// Our own certificate, PEM; with `client_key`.
    pub client_cert: Option<Written<Text>>,
    /// Its private key, PEM; with `client_cert`.
    pub client_key: Option<Written<Text>>,
}

/// Kept connections, per worker.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Idle connections per endpoint. Default: 128.
    pub max_idle: Option<Written<usize>>,
    /// How long an idle one is kept. Default: 55s.
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
