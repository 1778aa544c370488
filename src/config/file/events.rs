//! `subscriptions`, `events_api`, and what routes do with topics.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

use super::{Selector, auth::Auth, block, word_or};
use crate::{
    config::{
        value::{
            ByteSize, LogName, Name, Rate, Reference, SecretReference, Text, Value as _,
            WebhookUrl, words,
        },
        written::{FromScalar, Nothing, OneOrMany, Place, Placed, Shape, Written, expected},
    },
    listener::BindAddress,
};

words! {
    /// Whether the event is stored before the request is sent, or after it was answered.
    PublishMode { "after" = After, "before" = Before }
    /// When a client gets its answer.
    Ack { "durable" = Durable, "async" = Async }
    /// What happens if the event cannot be stored.
    OnError { "fail" = Fail, "ignore" = Ignore }
    /// What the event has as its data.
    EventData { "request" = Request, "response" = Response, "both" = Both, "none" = None }
    /// The form of pushed events.
    PushFormat { "structured" = Structured, "binary" = Binary, "raw" = Raw }
    /// The order in which events are delivered.
    Order { "key" = Key, "none" = None, "partition" = Partition }
    /// What happens to an event that has used up its attempts.
    Then { "dead_letter" = DeadLetter, "discard" = Discard, "block_key" = BlockKey }
    /// Which answers are followed by an event.
    Outcome { "success" = Success, "failure" = Failure, "always" = Always }
}

block! {
    /// Each request is stored in a topic and answered with 202 at once. A subscription with
    /// `push.upstream` sends it later.
    Enqueue {
        /// The topic, a name under `topics`.
        topic: Written<LogName>,
        /// The ordering key: a selector, or a list whose values are joined. Requests with the same
        /// key are sent one after the other. Default: none.
        key: Option<Selector>,
        /// Credentials that are stored with the request, such as `authorization`. All others are
        /// removed before it is stored. Default: none.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long the status of a request is available, from 1s to 30d. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// Whether a client that sends `Prefer: wait=N` gets the result itself if it arrives within
        /// N seconds. Default: false.
        on_prefer: Option<Written<bool>>,
        /// Whether a request that the upstream may have seen is sent again. The upstream must then
        /// honour `Idempotency-Key`. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// An unsafe request that could not be sent is stored and answered with 202. A subscription
    /// with `push.upstream` sends it later.
    Spill {
        /// The topic, a name under `topics`.
        topic: Written<LogName>,
        /// The ordering key: a selector, or a list whose values are joined. While a stored request
        /// of a key waits, later ones of that key are stored too. Default: none.
        key: Option<Selector>,
        /// Credentials that are stored with the request, such as `authorization`. All others are
        /// removed before it is stored. Default: none.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long the status of a request is available, from 1s to 30d. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// Whether a request that the upstream may have seen is sent again. The upstream must then
        /// honour `Idempotency-Key`. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// An event for each request of the route.
    Publish {
        /// The topic, a name under `topics`.
        topic: Written<LogName>,
        /// The CloudEvents `type`, such as `order.created`: up to 200 bytes without white space and
        /// `*`.
        r#type: Written<Text>,
        /// `after`: the request is sent, then the event is stored if `when` accepts the answer.
        /// `before`: the event is stored, then the request is sent. Default: after.
        mode: Option<Written<PublishMode>>,
        /// Which answers are followed by an event: `success` (2xx), `failure` (everything else),
        /// `always`, or a list of statuses. Only with `mode: after`. Default: success.
        when: Option<When>,
        /// `durable`: the client gets its answer once the event is on disk. `async`: the client
        /// does not wait, and a crash can lose the event. Default: durable.
        ack: Option<Written<Ack>>,
        /// What the client gets if the event cannot be stored. `fail`: 503, although with `mode:
        /// after` the upstream has acted. `ignore`: the upstream's answer. Default: fail.
        on_error: Option<Written<OnError>>,
        /// The ordering key: a selector, or a list whose values are joined. Events with the same
        /// key are delivered one after the other. Default: none.
        key: Option<Selector>,
        /// Whether requests without a value for `key` are refused with 400. Default: false.
        key_required: Option<Written<bool>>,
        /// The deduplication key: a selector, or a list whose values are joined. Default: source
        /// and ID of the event.
        dedup_key: Option<Selector>,
        /// Whether an intent is stored before the request is sent, so that a crash in between
        /// leaves a `<type>.uncertain` event. Not with `mode: before` or `ack: async`. Default:
        /// true where it is possible.
        intent: Option<Written<bool>>,
        /// How long the event waits before it is delivered, from the arrival of the request; at
        /// most `retention.max_age` of the topic. Default: 0s.
        delay: Option<Written<Duration>>,
        /// How long after the request the event may still be delivered, from 1s to 365d. Default:
        /// no limit.
        expires: Option<Written<Duration>>,
        /// The data of the event: the body of the `request`, of the `response`, `both`, or `none`.
        /// With `mode: before` only `request` or `none`. Default: request.
        data: Option<Written<EventData>>,
        /// JSON pointers, at most 100, such as `/card/number`. Their values are replaced before the
        /// event is stored. Data that is not JSON is left out. Default: none.
        redact: Option<Vec<Written<Text>>>,
    }
    /// A second listener that offers only the endpoints for publishing and consuming events, in
    /// plain text.
    EventsApi {
        /// `host:port`, `unix:/path`, or `env:NAME` or `file:PATH` where one of these is written.
        /// Without `auth` it must be a loopback address or a Unix socket.
        address: Written<Reference<BindAddress>>,
        /// Credentials that publishers and consumers need, as for a route but without `mtls`. A JWT
        /// or API key needs the scope `topic:<name>:publish` or `subscription:<name>:consume`.
        /// Default: none, every client is let in.
        auth: Option<Placed<Auth>>,
    }
    /// Delivers the events of one topic. Each event is delivered until it is settled.
    Subscription {
        /// The name, unique: up to 100 lower-case letters, digits, `.`, `_` and `-`.
        name: Written<LogName>,
        /// The topic, a name under `topics`. It cannot be changed later.
        topic: Written<LogName>,
        /// CloudEvents types that are delivered, at most 100; `order.*` is every type that begins
        /// with `order.`. Others are skipped. Default: all types.
        types: Option<Placed<Vec<Written<Text>>>>,
        /// Where a new subscription starts: `earliest`, `latest`, or a time such as
        /// `2027-01-31T12:00:00Z`. Default: latest.
        from: Option<Written<Text>>,
        /// Where the gateway sends the events. Default: nowhere; consumers receive them over the
        /// API.
        push: Option<Placed<Push>>,
        /// How long a consumer that receives an event has to settle it, from 1s to 12h. Then it is
        /// delivered again. Not for `push`. Default: 30s.
        lease: Option<Written<Duration>>,
        /// Whether the topic keeps events until this subscription has settled them. `false`: the
        /// retention of the topic may delete them before. Default: true.
        pin: Option<Written<bool>>,
        /// `key`: events with the same key are delivered one after the other, all others at the
        /// same time. `partition`: those of a partition one after the other. `none`: all at the
        /// same time. Default: key.
        order: Option<Written<Order>>,
        /// When failed deliveries are repeated.
        retry: Option<DeliveryRetry>,
        /// How much is delivered at the same time.
        limits: Option<DeliveryLimits>,
        /// Keeps events that have used up their attempts. Default: on.
        dead_letter: Option<Placed<DeadLetters>>,
        /// Publishes an event for each one that was settled successfully: the next step of a saga.
        /// Default: none.
        on_success: Option<Reaction>,
        /// What happens when an event has used up its attempts, for example a compensating event.
        on_exhausted: Option<Exhausted>,
    }
    /// Where the gateway sends the events: exactly one of `url` and `upstream`.
    Push {
        /// The URL of a webhook. Each event is a POST to it.
        url: Option<Written<WebhookUrl>>,
        /// A name under `upstreams`, which gets the requests that `enqueue` and `spill` have
        /// stored. One subscription for each topic has it.
        upstream: Option<Written<Name>>,
        /// `structured`: the event as one JSON object. `binary`: its attributes in `ce-` headers
        /// and its data as the body. `raw`: the data alone. Only for `url`. Default: structured.
        format: Option<Written<PushFormat>>,
        /// How long the receiver has for its answer, from 1ms to 15m. Default: 15s.
        timeout: Option<Written<Duration>>,
        /// Secrets that sign deliveries to `url`, at most 8, each as `env:NAME` or `file:PATH`:
        /// `whsec_` and base64. During a rotation list the old and the new one. Default: none,
        /// deliveries are not signed.
        secrets: Option<Vec<Written<SecretReference>>>,
    }
    /// When failed deliveries are repeated.
    DeliveryRetry {
        /// The waits before each attempt. `service`: 0, 1, 2, 4, 8, 15, 30 and 60 s, 5, 15, then
        /// every 30 minutes. `standard`: 0 and 5 s, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 h. Or
        /// a list of at most 100 durations, the last of which repeats. Default: service.
        schedule: Option<Placed<OneOrMany<Written<Text>>>>,
        /// Attempts that count, from 1 to 10000. Default: 60 for `service`, 10 for `standard`, one
        /// for each duration of a list.
        max_attempts: Option<Written<u32>>,
        /// How long after the first attempt that counted an event is still tried, from 1s to 365d.
        /// Default: 24h for `service`, 76h for `standard`, twice the sum of a list but at least
        /// 24h.
        max_age: Option<Written<Duration>>,
    }
    /// How much is delivered at the same time.
    DeliveryLimits {
        /// Deliveries at the same time, from 1 to 10000. Only for `push`. Default: 64.
        concurrency: Option<Written<u32>>,
        /// Deliveries per second, minute, hour or day, such as `500/s`. Only for `push`. Default:
        /// no limit.
        rate: Option<Written<Rate>>,
        /// Events that are leased or being sent at the same time, from 1 to 100000. Default: 1000.
        in_flight: Option<Written<u32>>,
        /// Events of one partition that wait for a retry or behind an event of the same key, from 1
        /// to 1000000. With more the partition pauses. Default: 10000.
        parked: Option<Written<u32>>,
    }
    /// Keeps events that have used up their attempts or were rejected.
    DeadLetters {
        /// Whether dead letters are kept. If not, `then` says what happens instead. Default: true.
        enabled: Option<Written<bool>>,
        /// How long they are kept; at least 1s. Default: 14d.
        max_age: Option<Written<Duration>>,
        /// The size of all that are kept, at least 1MiB. When it is reached, the subscription
        /// pauses. Default: 1GiB.
        max_bytes: Option<Written<ByteSize>>,
        /// With `enabled: false`, what happens to an event that has used up its attempts:
        /// `discard`, or `block_key`, which holds back the events of its key until an operator
        /// frees it. Required then, here or in `on_exhausted`.
        then: Option<Written<Then>>,
    }
    /// Publishes an event after another one.
    Reaction {
        /// The event that is published.
        publish: ReactionEvent,
    }
    /// What happens when an event has used up its attempts.
    Exhausted {
        /// An event that is published. Default: none.
        publish: Option<ReactionEvent>,
        /// What happens to the event itself: `dead_letter`, `discard`, or `block_key`, which holds
        /// back the events of its key until an operator frees it. Default: dead_letter.
        then: Option<Written<Then>>,
    }
    /// An event that is published after another one.
    ReactionEvent {
        /// The topic, a name under `topics`.
        topic: Written<LogName>,
        /// The CloudEvents `type`: up to 200 bytes without white space and `*`.
        r#type: Written<Text>,
        /// The data of the event: that of the event it follows from (`request`), what the receiver
        /// answered (`response`, only with `push`), `both`, or `none`. Default: request.
        data: Option<Written<EventData>>,
    }
}

/// Which answers are followed by an event.
pub enum When {
    /// A word.
    Outcome(Written<Outcome>),
    /// These statuses.
    Statuses(Vec<Written<StatusCode>>),
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
        word_or::<Vec<Written<StatusCode>>>(&Outcome::schema(), generator)
    }
}

// === impl Publish ===

impl FromScalar for Publish {
    const EXPECTED: &'static str = "a map with `topic` and `type`, or a list of them";

    fn from_scalar(_: String, _: Place) -> Option<Self> {
        None
    }
}
