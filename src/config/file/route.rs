//! `routes`.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use ipnet::IpNet;
use regex::Regex;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};
use serde_json::json;

use super::{auth, events, idempotency, retry, traffic, word_or};
use crate::{
    config::{
        value::{ByteSize, Name, Origin, Text, Value, words},
        written::{Entries, Nothing, OneOrMany, Placed, Shape, Written, expected},
    },
    http::Scheme,
    routing::route::Host,
};

/// A route: which requests it takes, what happens to them, and the policies that apply.
#[derive(Deserialize, JsonSchema)]
#[schemars(transform = one_action)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The route's name in logs, metrics and across reloads; unique.
    pub name: Written<Name>,
    /// Which requests the route takes: those that meet every condition. If several routes match,
    /// these decide, one after the other: a higher `priority`, the more specific host, the more
    /// specific path, more conditions of other kinds (`claims` do not count), the earlier place in
    /// the file. Default: every request.
    #[serde(rename = "match")]
    pub matches: Option<Match>,
    /// Routes with a higher priority are tried first, before host and path are compared. May be
    /// negative. Default: 0.
    pub priority: Option<Written<i32>>,

    /// Action: sends requests to this upstream. A route has exactly one action: `upstream`,
    /// `split`, `respond`, `redirect` or `enqueue`.
    pub upstream: Option<Written<Name>>,
    /// Action: sends each request to one of these upstreams, chosen by weight.
    pub split: Option<Placed<Vec<Share>>>,
    /// Action: the gateway answers by itself with this response.
    pub respond: Option<Placed<Respond>>,
    /// Action: the gateway answers with a redirect.
    pub redirect: Option<Placed<Redirect>>,
    /// Action: stores each request in a topic and answers 202 at once. A subscription with
    /// `push.upstream` sends it later.
    pub enqueue: Option<Placed<events::Enqueue>>,

    /// Credentials that a request needs. A request without a valid one gets 401 or 403. Default:
    /// none, every client is let in.
    pub auth: Option<Placed<auth::Auth>>,
    /// Headers that pass claims to the upstream, as `header: claim`. The gateway removes these
    /// headers from every request of every client, on all routes. Needs `auth`. Default: none.
    pub claim_headers: Option<Entries<HeaderName, Written<Text>>>,
    /// Names under `rate_limits`, one or a list of at most 8. A request must pass all of them;
    /// otherwise it gets 429. Default: none.
    pub rate_limit: Option<OneOrMany<Written<Name>>>,
    /// Which other origins browsers may call this route from. Default: no CORS headers.
    pub cors: Option<Placed<Cors>>,
    /// Networks whose clients are let in. Clients from other networks get 403. Default: every
    /// network.
    #[serde(default)]
    pub allow_ips: Vec<Written<IpNet>>,
    /// Networks whose clients get 403, even if `allow_ips` lists them. Default: none.
    #[serde(default)]
    pub deny_ips: Vec<Written<IpNet>>,
    /// Changes to the headers sent upstream. Default: none.
    pub request_headers: Option<Placed<HeaderChanges>>,
    /// Changes to the headers of the response, also of `respond` and `redirect`. Default: none.
    pub response_headers: Option<HeaderChanges>,
    /// Replaces the target that is sent upstream. Default: the client's own target, normalised.
    pub rewrite: Option<Rewrite>,
    /// Whether the upstream gets the `Host` that the client sent. If not, it gets the endpoint's
    /// own address. Default: false.
    pub preserve_host: Option<Written<bool>>,
    /// Whether a run of `/` in the path is sent upstream as a single `/`. Routes are always matched
    /// against the merged path. Default: true.
    pub merge_slashes: Option<Written<bool>>,
    /// What happens to requests with `%2F` or `%5C` in the path: `reject` answers 400, `pass` lets
    /// them through as they are. Default: reject.
    pub encoded_separators: Option<Written<EncodedSeparators>>,
    /// How long all attempts together may take, from the end of the request body to the response
    /// head. Then the request gets 504. Default: 30s.
    pub timeout: Option<Written<Duration>>,
    /// Limits of this route, which override those under `limits`.
    pub limits: Option<RouteLimits>,
    /// Retries after a failed attempt. Default: one retry, and only if nothing of the request was
    /// sent.
    pub retry: Option<Placed<retry::Retry>>,
    /// Unsafe requests with an idempotency key are done at most once. Default: off.
    pub idempotency: Option<idempotency::Idempotency>,
    /// Requests in flight on this route over all workers; at least 1. Further ones get 503.
    /// Upgraded connections do not count. Default: 1024.
    pub max_in_flight: Option<Written<usize>>,
    /// Sends copies of a share of the requests to another upstream and discards the answers.
    /// Default: off.
    pub mirror: Option<Placed<traffic::Mirror>>,
    /// Delays or fails a share of the requests on purpose. Needs `admin.allow_faults`. Default:
    /// off.
    pub fault: Option<Placed<traffic::Fault>>,
    /// Stores an unsafe request that could not be sent, and answers 202 instead of an error. A
    /// subscription with `push.upstream` sends it later. Default: off.
    pub spill: Option<Placed<events::Spill>>,
    /// Publishes an event for each request; one map or a list of at most 16. Default: none.
    pub publish: Option<OneOrMany<events::Publish>>,
}

/// Which requests a route takes: those that meet every condition.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// Hosts, one or a list: exact, or `*.example.com` for all names below `example.com`. Without a
    /// port. An exact host goes first, then the longest with `*`. Default: every host.
    pub host: Option<OneOrMany<Written<Host>>>,
    /// The path: exact (`/orders`), with placeholders for one segment (`/orders/{id}`), or with
    /// `{*rest}` at the end for everything below (`/orders/{*rest}`, which does not match
    /// `/orders`). If several match, an exact path goes first, then one with placeholders (more
    /// literal segments first), then one with `{*rest}` (more segments before it first, then more
    /// literal ones), then `path_regex`, then a route without a path. Default: every path.
    pub path: Option<Written<Text>>,
    /// A regular expression for the whole path, instead of `path`. Every `path` that matches goes
    /// before it, also `/{*rest}`, unless this route has a higher `priority` or a more specific
    /// host. Default: none.
    pub path_regex: Option<Written<Regex>>,
    /// The scheme: `https` if the request came to a listener with `tls`, else `http`. For requests
    /// from `trusted_proxies`, `X-Forwarded-Proto` decides. Default: both.
    pub scheme: Option<Written<Scheme>>,
    /// Methods, one or a list. If only the method of a request does not match, it gets 405.
    /// Default: every method.
    pub methods: Option<OneOrMany<Written<Method>>>,
    /// Headers by name: an exact value, `{ regex: .. }` or `{ present: true }`. Default: none.
    #[serde(default)]
    pub headers: Entries<HeaderName, HeaderMatch>,
    /// Query parameters by name, and their exact values. Default: none.
    #[serde(default)]
    pub query: Entries<Text, Written<Text>>,
    /// Claims by name, and their exact values; a list matches if it contains the value. They are
    /// checked after `auth`, which the route needs. Default: none.
    pub claims: Option<Entries<Text, Written<Text>>>,
}

/// What the value of a header must be.
pub enum HeaderMatch {
    /// Exactly this value.
    Exact(Written<HeaderValue>),
    /// A value in which this expression matches somewhere.
    Regex(Written<Regex>),
    /// Any value, or no such header.
    Present(Written<bool>),
}

/// What a header must be: one of these.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct HeaderMatchMap {
    /// A regular expression that must match somewhere in the value. Use `^` and `$` to match all of
    /// it.
    regex: Option<Written<Regex>>,
    /// `true`: the request must have the header. `false`: it must not.
    present: Option<Written<bool>>,
}

/// One upstream of a `split`, and its weight.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// A name under `upstreams`.
    pub upstream: Written<Name>,
    /// Its share relative to the other weights, from 0 to 1000000. 0 gets no requests; at least one
    /// weight must be more.
    pub weight: Written<u32>,
}

/// A response of the gateway's own.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// The status, from 200 to 599. Default: 200.
    pub status: Option<Written<StatusCode>>,
    /// Headers of the response. Default: `content-type: text/plain` if there is a body.
    pub headers: Option<Entries<HeaderName, Written<HeaderValue>>>,
    /// The body, as text. Default: empty.
    pub body: Option<Written<Text>>,
}

/// A redirect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// Where the client is sent. `{host}` (without its port), `{path}`, `{query}` and the placeholders
    /// of `match.path` are replaced.
    pub location: Written<Text>,
    /// The status: 301, 302, 303, 307 or 308. Default: 308.
    pub status: Option<Written<StatusCode>>,
}

/// Which other origins browsers may call a route from.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// Origins such as `https://shop.example.com`, one or a list, or `*` alone for every origin.
    pub origins: OneOrMany<Written<Origin>>,
    /// Methods that a browser may use, one or a list. Default: those of `match.methods`, else GET,
    /// HEAD and POST.
    pub methods: Option<OneOrMany<Written<Method>>>,
    /// Request headers that a browser may set, one or a list. Default: none.
    pub headers: Option<OneOrMany<Written<HeaderName>>>,
    /// How long a browser may cache the answer to a preflight request. Default: 10m.
    pub max_age: Option<Written<Duration>>,
}

/// Changes to headers: first `remove`, then `set`, then `add`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderChanges {
    /// Headers that replace all others of the same name.
    #[serde(default)]
    pub set: Entries<HeaderName, Written<HeaderValue>>,
    /// Headers that are added to those of the same name.
    #[serde(default)]
    pub add: Entries<HeaderName, Written<HeaderValue>>,
    /// Names of headers to remove.
    #[serde(default)]
    pub remove: Vec<Written<HeaderName>>,
}

/// The target that is sent upstream.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rewrite {
    /// The new target; it starts with `/` or `{path}`. `{path}`, `{query}` and the placeholders of
    /// `match.path` are replaced.
    pub path: Written<Text>,
}

/// Limits of one route. What is absent is as under `limits`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLimits {
    /// The size of a request body. Larger ones get 413.
    pub body_bytes: Option<Written<ByteSize>>,
    /// The size of a request body if the route needs the whole body before it sends it; at most
    /// 1GiB. Larger ones get 413.
    pub buffer_bytes: Option<Written<ByteSize>>,
    /// How long a client may send nothing of its request body while the gateway waits for it. Then
    /// the request gets 408. Not judged while the answer is under way.
    pub body_idle_timeout: Option<Written<Duration>>,
    /// The lowest rate of a request body in bytes per second, once the gateway has waited 5 s for
    /// it. A slower one gets 408. Not judged while the answer is under way. 0 is no limit.
    pub body_min_rate: Option<Written<u64>>,
}

words! {
    /// What happens to requests with `%2F` or `%5C` in the path.
    EncodedSeparators { "reject" = Reject, "pass" = Pass }
}

/// Editors, too, say that a route has exactly one action.
fn one_action(schema: &mut Schema) {
    let actions = ["upstream", "split", "respond", "redirect", "enqueue"];
    let required = actions.map(|action| json!({ "required": [action] }));
    schema.insert("oneOf".to_owned(), json!(required));
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
