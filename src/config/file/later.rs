//! Keys whose behaviour comes with later versions. They have their shape already, so that the
//! schema is stable; [`crate::config::resolve`] refuses each where it is written.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::word_or;
use crate::{
    config::{
        value::{ByteSize, Name, Percent, Rate, Reference, SecretReference, Text, words},
        written::{FromScalar, Nothing, OneOrMany, Place, Placed, Shape, Written, expected},
    },
    listener::BindAddress,
};

/// A selector, or a list of them joined.
type Selector = OneOrMany<Written<Text>>;

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

words! {
    /// When an issuer's keys are fetched first.
    OnStart { "lazy" = Lazy, "require" = Require }
    /// Whether a limit denies, or only counts.
    LimitMode { "enforce" = Enforce, "shadow" = Shadow }
    /// What is done about a key whose outcome is unknown.
    OnUncertain { "hold" = Hold, "resend" = Resend }
    /// Whether the event is stored before or after the request is sent.
    PublishMode { "after" = After, "before" = Before }
    /// When a client is answered.
    Ack { "durable" = Durable, "async" = Async }
    /// What happens when the event cannot be stored.
    OnError { "fail" = Fail, "ignore" = Ignore }
    /// Which bodies become the event's data.
    EventData { "request" = Request, "response" = Response, "both" = Both, "none" = None }
    /// When an event counts as stored.
    Durability { "durable" = Durable, "os" = Os, "memory" = Memory }
    /// What is done about a damaged log.
    Recovery { "strict" = Strict, "quarantine" = Quarantine }
    /// What a full topic does.
    OnFull { "reject" = Reject, "drop_oldest" = DropOldest }
    /// What stores a topic.
    Backend { "local" = Local }
    /// The form of pushed events.
    PushFormat { "structured" = Structured, "binary" = Binary }
    /// In which order events are delivered.
    Order { "key" = Key, "none" = None, "partition" = Partition }
    /// What becomes of an event that nobody took.
    Then { "dead_letter" = DeadLetter, "discard" = Discard, "block_key" = BlockKey }
    /// Trace headers.
    Propagation { "w3c" = W3c }
    /// Which outcomes publish.
    Outcome { "success" = Success, "failure" = Failure, "always" = Always }
}

block! {
    /// Who signs JWTs.
    Issuer {
        /// The exact `iss`.
        issuer: Written<Text>,
        /// Any of these in `aud`.
        audience: Vec<Written<Text>>,
        /// The allowed algorithms.
        algorithms: Vec<Written<Text>>,
        /// Where its keys are.
        jwks: Jwks,
        /// Default: 60s.
        clock_skew: Option<Written<Duration>>,
        /// Claims that must be there; `exp` always. Default: `[exp, sub]`.
        require: Option<Vec<Written<Text>>>,
        /// Whether readiness waits for the first key set. Default: lazy.
        on_start: Option<Written<OnStart>>,
    }
    /// Where keys are: one of these.
    Jwks {
        /// A key set, fetched.
        url: Option<Written<Text>>,
        /// A key set in a file.
        file: Option<Written<Text>>,
        /// By the issuer's OpenID configuration.
        discover: Option<Written<bool>>,
        /// One secret, for HS*.
        secret: Option<Written<SecretReference>>,
    }
    /// A file of API keys.
    ApiKeys {
        /// It lists `{ id, sha256, scopes, expires }`.
        file: Written<Text>,
        /// The field that carries the key.
        header: Option<Written<HeaderName>>,
    }
    /// A token bucket for each key.
    RateLimit {
        /// Who is limited: a selector or a list.
        key: Selector,
        /// `100/s`
        rate: Written<Rate>,
        /// How many at once.
        burst: Written<u32>,
        /// Default: enforce.
        mode: Option<Written<LimitMode>>,
        /// Keys that are remembered. Default: 1000000.
        max_keys: Option<Written<u64>>,
    }
    /// Active probes: of a path, a gRPC service or a port.
    HealthCheck {
        /// The path asked for.
        path: Option<Written<Text>>,
        /// The gRPC service asked for.
        grpc: Option<Written<Text>>,
        /// Only a connection is made.
        tcp: Option<Written<bool>>,
        /// Default: 5s.
        interval: Option<Written<Duration>>,
        /// Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Failures until it is down. Default: 3.
        fall: Option<Written<u32>>,
        /// Successes until it is up. Default: 2.
        rise: Option<Written<u32>>,
        /// Statuses and ranges that are a success. Default: `[200-299]`.
        expect: Option<Vec<Written<Text>>>,
    }
    /// Ejection of endpoints that fail live requests.
    Outlier {
        /// Default: 5.
        consecutive_failures: Option<Written<u32>>,
        /// Default: 10s.
        interval: Option<Written<Duration>>,
        /// Default: 10s.
        base_ejection: Option<Written<Duration>>,
        /// Default: 300s.
        max_ejection: Option<Written<Duration>>,
        /// Default: 30%.
        max_ejected: Option<Written<Percent>>,
    }
    /// A circuit breaker.
    Breaker {
        /// Default: 7.
        consecutive_failures: Option<Written<u32>>,
        /// Default: 80%.
        success_rate: Option<Written<Percent>>,
        /// Default: 10s.
        window: Option<Written<Duration>>,
        /// Default: 5.
        min_samples: Option<Written<u32>>,
        /// Default: 1s.
        probe_after: Option<Written<Duration>>,
        /// Default: 60s.
        max_wait: Option<Written<Duration>>,
    }
    /// How many retries requests may cause.
    RetryBudget {
        /// Default: 20%.
        ratio: Option<Written<Percent>>,
        /// Default: 10s.
        window: Option<Written<Duration>>,
        /// Default: 10.
        min_per_second: Option<Written<u32>>,
    }
    /// A limit that follows latency.
    AdaptiveMap {
        /// Default: 20.
        initial: Option<Written<u32>>,
        /// Default: 5.
        min: Option<Written<u32>>,
        /// Default: 1000.
        max: Option<Written<u32>>,
    }
    /// Who may come: one of these.
    Auth {
        /// A JWT.
        jwt: Option<JwtAuth>,
        /// An API key.
        api_key: Option<ApiKeyAuth>,
        /// A client certificate.
        mtls: Option<MtlsAuth>,
        /// Another service decides.
        forward: Option<ForwardAuth>,
        /// Any of these.
        any_of: Option<Vec<Auth>>,
    }
    /// By a JWT.
    JwtAuth {
        /// Names under `issuers`.
        issuers: Vec<Written<Name>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
        /// `header`, `cookie:NAME`, `query:NAME`. Default: `[header]`.
        from: Option<Vec<Written<Text>>>,
    }
    /// By an API key.
    ApiKeyAuth {
        /// Names under `api_keys`.
        sets: Vec<Written<Name>>,
        /// All of these.
        scopes: Option<Vec<Written<Text>>>,
    }
    /// By a client certificate.
    MtlsAuth {
        /// Patterns for its SPIFFE ID, SAN or subject.
        allow: Vec<Written<Text>>,
    }
    /// By another service.
    ForwardAuth {
        /// Who is asked.
        url: Written<Text>,
        /// Default: 2s.
        timeout: Option<Written<Duration>>,
        /// Fields it gets.
        request_headers: Option<Vec<Written<HeaderName>>>,
        /// Fields of its answer that go upstream.
        response_headers: Option<Vec<Written<HeaderName>>>,
    }
    /// Further attempts.
    Retry {
        /// All attempts. Default: 2.
        attempts: Option<Written<u32>>,
        /// Default: 10s.
        per_attempt_timeout: Option<Written<Duration>>,
        /// `connect`, `reset`, statuses. Default: `[connect, reset, 502, 503, 504]`.
        on: Option<Vec<Written<Text>>>,
    }
    /// Requests with a key are done once.
    Idempotency {
        /// Default: idempotency-key.
        header: Option<Written<HeaderName>>,
        /// Default: false.
        required: Option<Written<bool>>,
        /// Default: 24h.
        ttl: Option<Written<Duration>>,
        /// Default: hold.
        on_uncertain: Option<Written<OnUncertain>>,
    }
    /// Copies of requests.
    Mirror {
        /// Where they go.
        upstream: Written<Name>,
        /// The share of requests.
        percent: Written<Percent>,
    }
    /// Failures made on purpose.
    Fault {
        /// Slower.
        delay: Option<FaultDelay>,
        /// Failed.
        abort: Option<FaultAbort>,
    }
    /// Slower.
    FaultDelay {
        /// The share of requests.
        percent: Written<Percent>,
        /// By how much.
        duration: Written<Duration>,
    }
    /// Failed.
    FaultAbort {
        /// The share of requests.
        percent: Written<Percent>,
        /// With which status.
        status: Written<StatusCode>,
    }
    /// Stored as an event, answered at once.
    Enqueue {
        /// The topic.
        topic: Written<Name>,
        /// The order domain.
        key: Option<Selector>,
        /// Fields that are kept.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long its status can be asked for. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// Only with `Prefer: respond-async`. Default: false.
        on_prefer: Option<Written<bool>>,
        /// Whether it may be delivered again after an unknown outcome. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// What could not be sent is stored.
    Spill {
        /// The topic.
        topic: Written<Name>,
        /// The order domain.
        key: Option<Selector>,
        /// Fields that are kept.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long its status can be asked for. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// Whether it may be delivered again after an unknown outcome. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// An event for each request.
    Publish {
        /// The topic.
        topic: Written<Name>,
        /// The CloudEvents `type`.
        r#type: Written<Text>,
        /// Default: after.
        mode: Option<Written<PublishMode>>,
        /// Default: success.
        when: Option<When>,
        /// Default: durable.
        ack: Option<Written<Ack>>,
        /// Default: fail.
        on_error: Option<Written<OnError>>,
        /// The order domain. Default: none.
        key: Option<Selector>,
        /// Default: false.
        key_required: Option<Written<bool>>,
        /// Default: source and id.
        dedup_key: Option<Selector>,
        /// Default: true.
        intent: Option<Written<bool>>,
        /// Default: 0s.
        delay: Option<Written<Duration>>,
        /// Default: never.
        expires: Option<Written<Duration>>,
        /// Default: request.
        data: Option<Written<EventData>>,
        /// JSON pointers replaced before storage.
        redact: Option<Vec<Written<Text>>>,
    }
    /// The event endpoints' own listener.
    EventsApi {
        /// `host:port`
        address: Written<Reference<BindAddress>>,
        /// Who may come.
        auth: Option<Auth>,
    }
    /// The store of the event queue.
    Queue {
        /// Default: ./data.
        dir: Option<Written<Text>>,
        /// `auto`, the store's ID, or a name. Default: auto.
        instance: Option<Written<Text>>,
        /// Readiness fails when a log is offline. Default: false.
        required: Option<Written<bool>>,
        /// Default: 64MiB.
        publish_buffer: Option<Written<ByteSize>>,
        /// Default: 256MiB.
        body_buffer: Option<Written<ByteSize>>,
        /// Default: 0s.
        lock_wait: Option<Written<Duration>>,
        /// Records of requests.
        ingress: Option<Ingress>,
        /// Default: durable.
        durability: Option<Written<Durability>>,
        /// Default: 50ms.
        os_interval: Option<Written<Duration>>,
        /// Space that is kept free.
        disk: Option<Disk>,
        /// Default: strict.
        recovery: Option<Written<Recovery>>,
    }
    /// Records of requests.
    Ingress {
        /// Default: 2000000.
        max_entries: Option<Written<u64>>,
        /// Default: 5GiB.
        max_bytes: Option<Written<ByteSize>>,
    }
    /// Space that is kept free.
    Disk {
        /// Default: 5%.
        low_water: Option<Written<Percent>>,
        /// Default: 1GiB.
        min_free: Option<Written<ByteSize>>,
        /// Default: 32MiB.
        reserve: Option<Written<ByteSize>>,
    }
    /// A named log of events.
    Topic {
        /// Default: 16.
        partitions: Option<Written<u32>>,
        /// Default: 1MiB.
        max_event_bytes: Option<Written<ByteSize>>,
        /// What is kept.
        retention: Option<Retention>,
        /// Default: reject.
        on_full: Option<Written<OnFull>>,
        /// Default: that of `queue`.
        durability: Option<Written<Durability>>,
        /// Events known already are stored once.
        dedup: Option<Dedup>,
        /// Default: 1000000.
        max_delayed: Option<Written<u64>>,
        /// When publishing is slowed. Default: by bytes and disk only.
        backpressure: Option<Backpressure>,
        /// Reserved. Default: local.
        backend: Option<Written<Backend>>,
        /// Its name before.
        renamed_from: Option<Written<Name>>,
    }
    /// What is kept.
    Retention {
        /// Default: 7d.
        max_age: Option<Written<Duration>>,
        /// Default: 10GiB.
        max_bytes: Option<Written<ByteSize>>,
    }
    /// Events known already are stored once.
    Dedup {
        /// Default: 1h.
        window: Option<Written<Duration>>,
        /// Default: 2000000.
        max_entries: Option<Written<u64>>,
    }
    /// When publishing is slowed.
    Backpressure {
        /// The oldest event that was not delivered.
        oldest_age: Written<Duration>,
    }
    /// A reader of a topic.
    Subscription {
        /// Unique.
        name: Written<Name>,
        /// The topic.
        topic: Written<Name>,
        /// Types; a trailing `*` matches a prefix. Default: all.
        types: Option<Vec<Written<Text>>>,
        /// `earliest`, `latest` or a time. Default: latest.
        from: Option<Written<Text>>,
        /// Where events are sent. Default: they are fetched.
        push: Option<Push>,
        /// Default: 30s.
        lease: Option<Written<Duration>>,
        /// Default: true.
        pin: Option<Written<bool>>,
        /// Default: key.
        order: Option<Written<Order>>,
        /// Further deliveries.
        retry: Option<DeliveryRetry>,
        /// How much at once.
        limits: Option<DeliveryLimits>,
        /// Where events go that nobody took.
        dead_letter: Option<DeadLetters>,
        /// The next step of a saga.
        on_success: Option<Reaction>,
        /// The compensating event.
        on_exhausted: Option<Exhausted>,
    }
    /// Where events are sent.
    Push {
        /// A webhook.
        url: Option<Written<Text>>,
        /// An upstream; delivers enqueued requests.
        upstream: Option<Written<Name>>,
        /// Default: structured.
        format: Option<Written<PushFormat>>,
        /// Default: 15s.
        timeout: Option<Written<Duration>>,
        /// What deliveries are signed with.
        secrets: Option<Vec<Written<SecretReference>>>,
    }
    /// Further deliveries.
    DeliveryRetry {
        /// `service`, `standard` or a list of durations. Default: service.
        schedule: Option<OneOrMany<Written<Text>>>,
        /// Default: 60.
        max_attempts: Option<Written<u32>>,
        /// Default: 24h.
        max_age: Option<Written<Duration>>,
    }
    /// How much at once.
    DeliveryLimits {
        /// Default: 64.
        concurrency: Option<Written<u32>>,
        /// Default: none.
        rate: Option<Written<Rate>>,
        /// Default: 1000.
        in_flight: Option<Written<u32>>,
        /// Default: 10000.
        parked: Option<Written<u32>>,
    }
    /// Where events go that nobody took.
    DeadLetters {
        /// Default: true.
        enabled: Option<Written<bool>>,
        /// Default: 14d.
        max_age: Option<Written<Duration>>,
        /// Default: 1GiB.
        max_bytes: Option<Written<ByteSize>>,
        /// Needed with `enabled: false`.
        then: Option<Written<Then>>,
    }
    /// An event that follows.
    Reaction {
        /// What is published.
        publish: ReactionEvent,
    }
    /// What follows when nobody took an event.
    Exhausted {
        /// What is published.
        publish: Option<ReactionEvent>,
        /// Default: dead_letter.
        then: Option<Written<Then>>,
    }
    /// An event that follows.
    ReactionEvent {
        /// The topic.
        topic: Written<Name>,
        /// The CloudEvents `type`.
        r#type: Written<Text>,
        /// Default: request.
        data: Option<Written<EventData>>,
    }
    /// Traces by OTLP.
    Tracing {
        /// The collector.
        otlp: Written<Text>,
        /// Default: 1%.
        sample: Option<Written<Percent>>,
        /// Default: `[w3c]`.
        propagate: Option<Vec<Written<Propagation>>>,
    }
}

/// `off`, or how the limit moves.
pub enum Adaptive {
    /// `off`
    Off(Written<Text>),
    /// On.
    On(AdaptiveMap),
}

/// Which answers publish.
pub enum When {
    /// A word.
    Outcome(Written<Outcome>),
    /// These statuses.
    Statuses(Vec<Written<StatusCode>>),
}

// === impl Adaptive ===

impl<'de> Deserialize<'de> for Adaptive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Nothing, AdaptiveMap>>::deserialize(deserializer)?;
        match value {
            Shape::Scalar(text) if text == "off" => Ok(Self::Off(Written::new(text, place))),
            Shape::Map(map) => Ok(Self::On(map)),
            _ => Err(de::Error::custom(expected("`off` or a map"))),
        }
    }
}

impl JsonSchema for Adaptive {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Adaptive".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        word_or::<AdaptiveMap>(json_schema!({ "const": "off" }), generator)
    }
}

// === impl When ===

impl<'de> Deserialize<'de> for When {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Placed { value, place } =
            Placed::<Shape<Written<StatusCode>, Nothing>>::deserialize(deserializer)?;
        match value {
            Shape::Scalar(text) => Ok(Self::Outcome(Written::new(text, place))),
            Shape::List(list) => Ok(Self::Statuses(list)),
            Shape::Map(_) => Err(de::Error::custom(expected("a word or a list of statuses"))),
        }
    }
}

impl JsonSchema for When {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "When".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        use crate::config::value::Value as _;

        word_or::<Vec<Written<StatusCode>>>(Outcome::schema(), generator)
    }
}

// === impl Publish ===

impl FromScalar for Publish {
    const EXPECTED: &'static str = "a map with `topic` and `type`, or a list of them";

    fn from_scalar(_: String, _: Place) -> Option<Self> {
        None
    }
}
