//! `routes`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

use super::{auth, events, idempotency, retry, traffic, word_or};
use crate::{
    config::{
        value::{ByteSize, Name, Origin, Text, Value, words},
        written::{Entries, Nothing, OneOrMany, Placed, Shape, Written, expected},
    },
    routing::route::Host,
};

/// Which requests, what happens to them, and the policies on the way.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Its identity in logs, metrics and across reloads; unique.
    pub name: Written<Name>,
    /// Which requests; all of it must hold. Default: every request.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// Higher is tried first, before host and path. Default: 0.
    pub priority: Option<Written<i32>>,

    /// What happens: sent to this upstream.
    pub upstream: Option<Written<Name>>,
    /// What happens: sent to one of these, by weight.
    pub split: Option<Placed<Vec<Share>>>,
    /// What happens: answered with this.
    pub respond: Option<Placed<Respond>>,
    /// What happens: redirected.
    pub redirect: Option<Placed<Redirect>>,
    /// What happens: stored, answered with 202 at once, and delivered by a subscription.
    pub enqueue: Option<Placed<events::Enqueue>>,

    /// Who may come, by credential.
    pub auth: Option<Placed<auth::Auth>>,
    /// Claims passed on as headers; copies that clients send are removed.
    pub claim_headers: Option<Entries<HeaderName, Written<Text>>>,
    /// Names of `rate_limits`; all of them must pass.
    pub rate_limit: Option<OneOrMany<Written<Name>>>,
    /// Which other origins browsers may call it from.
    pub cors: Option<Placed<Cors>>,
    /// Only these networks. Default: everybody.
    #[serde(default)]
    pub allow_ips: Vec<Written<IpNet>>,
    /// Not these networks, whatever `allow_ips` says.
    #[serde(default)]
    pub deny_ips: Vec<Written<IpNet>>,
    /// Changes to the fields sent upstream.
    pub request_headers: Option<Placed<HeaderChanges>>,
    /// Changes to the fields passed back, and to those of `respond` and `redirect`.
    pub response_headers: Option<HeaderChanges>,
    /// The target sent upstream, instead of the client's.
    pub rewrite: Option<Rewrite>,
    /// `Host` goes upstream as the client sent it. Default: false.
    pub preserve_host: Option<Written<bool>>,
    /// Runs of `/` are sent upstream as one. Default: true.
    pub merge_slashes: Option<Written<bool>>,
    /// What is done about `%2F` and `%5C` in the path. Default: reject.
    pub encoded_separators: Option<Written<EncodedSeparators>>,
    /// From the end of the request body to the response head, all attempts. Default: 30s.
    pub timeout: Option<Written<Duration>>,
    /// Limits of its own, instead of those for all.
    pub limits: Option<RouteLimits>,
    /// Further attempts after a failure.
    pub retry: Option<Placed<retry::Retry>>,
    /// Requests with a key are done once.
    pub idempotency: Option<idempotency::Idempotency>,
    /// Requests under way, over all workers. Default: 1024.
    pub max_in_flight: Option<Written<usize>>,
    /// A share of requests is copied to another upstream.
    pub mirror: Option<Placed<traffic::Mirror>>,
    /// Failures made on purpose; needs `admin.allow_faults`.
    pub fault: Option<Placed<traffic::Fault>>,
    /// What could not be sent is stored, answered with 202, and delivered by a subscription.
    pub spill: Option<Placed<events::Spill>>,
    /// Events published for its requests.
    pub publish: Option<OneOrMany<events::Publish>>,
}

/// Which requests; all of it must hold.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Exact, or `*.example.com`; one or a list. Default: every host.
    pub host: Option<OneOrMany<Written<Host>>>,
    /// `/orders`, `/orders/{id}`, or `/orders/{*rest}` for all below `/orders/`.
    /// Default: every path.
    pub path: Option<Written<Text>>,
    /// An expression for the whole path, instead of `path`.
    pub path_regex: Option<Written<Regex>>,
    /// One or a list. Default: every method.
    pub methods: Option<OneOrMany<Written<Method>>>,
    /// Fields: an exact value, `{ regex: .. }` or `{ present: true }`.
    #[serde(default)]
    pub headers: Entries<HeaderName, HeaderMatch>,
    /// Query parameters and their exact values.
    #[serde(default)]
    pub query: Entries<Text, Written<Text>>,
    /// Claims and their exact values, after auth.
    pub claims: Option<Entries<Text, Written<Text>>>,
}

/// What a field must look like.
pub enum HeaderMatch {
    /// This value.
    Exact(Written<HeaderValue>),
    /// A match anywhere in the value.
    Regex(Written<Regex>),
    /// Present, or absent.
    Present(Written<bool>),
}

/// What a field must look like: one of these.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderMatchMap {
    /// A match anywhere in the value; anchor it in the expression.
    regex: Option<Written<Regex>>,
    /// Whether it is there at all.
    present: Option<Written<bool>>,
}

/// An upstream and its share.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// The upstream.
    pub upstream: Written<Name>,
    /// Its weight beside the others; 0 is none.
    pub weight: Written<u32>,
}

/// An answer.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// Default: 200.
    pub status: Option<Written<StatusCode>>,
    /// Its fields. Default: `content-type: text/plain` when there is a body.
    pub headers: Option<Entries<HeaderName, Written<HeaderValue>>>,
    /// Its body. Default: empty.
    pub body: Option<Written<Text>>,
}

/// A redirect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where to; with `{path}`, `{query}` and the names of the path template.
    pub location: Written<Text>,
    /// 301, 302, 303, 307 or 308. Default: 308.
    pub status: Option<Written<StatusCode>>,
}

/// Which other origins browsers may call it from.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Exact origins, or `*` alone for any.
    pub origins: OneOrMany<Written<Origin>>,
    /// Default: those of `match.methods`, else GET, HEAD and POST.
    pub methods: Option<OneOrMany<Written<Method>>>,
    /// Fields a browser may set. Default: none.
    pub headers: Option<OneOrMany<Written<HeaderName>>>,
    /// How long a browser may remember the answer. Default: 10m.
    pub max_age: Option<Written<Duration>>,
}

/// Removed first, then set, then added.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Fields that replace those of the same name.
    #[serde(default)]
    pub set: Entries<HeaderName, Written<HeaderValue>>,
    /// Fields that come beside those of the same name.
    #[serde(default)]
    pub add: Entries<HeaderName, Written<HeaderValue>>,
    /// Names of fields that go.
    #[serde(default)]
    pub remove: Vec<Written<HeaderName>>,
}

/// The target sent upstream.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// With `{path}`, `{query}` and the names of the path template.
    pub path: Written<Text>,
}

/// Limits of one route.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLimits {
    /// The request body; 413 above.
    pub body_bytes: Option<Written<ByteSize>>,
    /// The request body where all of it is needed first; 413 above.
    pub buffer_bytes: Option<Written<ByteSize>>,
    /// How long a client may send nothing of its body; 408.
    pub body_idle_timeout: Option<Written<Duration>>,
    /// Bytes per second of a body after the first 5 s; 0 is off; 408.
    pub body_min_rate: Option<Written<u64>>,
}

words! {
    /// What is done about `%2F` and `%5C` in the path.
    EncodedSeparators { "reject" = Reject, "pass" = Pass }
}

// === impl HeaderMatch ===

impl<'de> Deserialize<'de> for HeaderMatch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Nothing, HeaderMatchMap>>::deserialize(deserializer)?;
        match value {
            Shape::Scalar(text) => Ok(Self::Exact(Written::new(text, place))),
            Shape::Map(HeaderMatchMap { regex: Some(regex), present: None }) => {
                Ok(Self::Regex(regex))
            }
            Shape::Map(HeaderMatchMap { regex: None, present: Some(present) }) => {
                Ok(Self::Present(present))
            }
            Shape::Map(_) | Shape::List(_) => {
                Err(de::Error::custom(expected("a value, `{ regex: .. }` or `{ present: true }`")))
            }
        }
    }
}

impl JsonSchema for HeaderMatch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HeaderMatch".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        word_or::<HeaderMatchMap>(&HeaderValue::schema(), generator)
    }
}
