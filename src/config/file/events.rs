//! `queue`, `topics`, `subscriptions`, `events_api`, and what routes do with topics.

use std::time::Duration;

use http::{HeaderName, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, de};

use super::{Selector, auth::Auth, block, word_or};
use crate::{
    config::{
        value::{
            ByteSize, HttpUrl, LogName, Name, Percent, Rate, Reference, SecretReference, Text,
            Value as _, words,
        },
        written::{FromScalar, Nothing, OneOrMany, Place, Placed, Shape, Written, expected},
    },
    listener::BindAddress,
};

words! {
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
    PushFormat { "structured" = Structured, "binary" = Binary, "raw" = Raw }
    /// In which order events are delivered.
    Order { "key" = Key, "none" = None, "partition" = Partition }
    /// What becomes of an event that nobody took.
    Then { "dead_letter" = DeadLetter, "discard" = Discard, "block_key" = BlockKey }
    /// Which outcomes publish.
    Outcome { "success" = Success, "failure" = Failure, "always" = Always }
}

block! {
    /// Stored in a topic, answered at once; a subscription with `push.upstream` delivers.
    Enqueue {
        /// The topic.
        topic: Written<LogName>,
        /// The order domain. Default: none.
        key: Option<Selector>,
        /// Credentials that are stored too. Default: none.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long its status can be asked for. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// A client that says `Prefer: wait=N` is answered with the result, if it comes in time. Default:
        /// false.
        on_prefer: Option<Written<bool>>,
        /// What the upstream may have seen is sent again: it honours `Idempotency-Key`. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// What could not be sent is stored.
    Spill {
        /// The topic.
        topic: Written<LogName>,
        /// The order domain: while one waits, later ones of its key do. Default: none.
        key: Option<Selector>,
        /// Credentials that are stored too. Default: none.
        keep_headers: Option<Vec<Written<HeaderName>>>,
        /// How long its status can be asked for. Default: 24h.
        status_ttl: Option<Written<Duration>>,
        /// What the upstream may have seen is sent again: it honours `Idempotency-Key`. Default: false.
        redeliver: Option<Written<bool>>,
    }
    /// An event for each request.
    Publish {
        /// The topic.
        topic: Written<LogName>,
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
        auth: Option<Placed<Auth>>,
    }
    /// The store of the event queue.
    #[derive(Default)]
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
        renamed_from: Option<Written<LogName>>,
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
        name: Written<LogName>,
        /// The topic.
        topic: Written<LogName>,
        /// Types; a trailing `*` matches a prefix. Default: all.
        types: Option<Placed<Vec<Written<Text>>>>,
        /// `earliest`, `latest` or a time. Default: latest.
        from: Option<Written<Text>>,
        /// Where events are sent. Default: they are fetched.
        push: Option<Placed<Push>>,
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
        dead_letter: Option<Placed<DeadLetters>>,
        /// The next step of a saga.
        on_success: Option<Reaction>,
        /// The compensating event.
        on_exhausted: Option<Exhausted>,
    }
    /// Where events are sent.
    Push {
        /// A webhook.
        url: Option<Written<HttpUrl>>,
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
        schedule: Option<Placed<OneOrMany<Written<Text>>>>,
        /// Default: that of the schedule: 60, 10, or one for each of a list.
        max_attempts: Option<Written<u32>>,
        /// Default: that of the schedule: 24h, 76h, or what a list takes and at least 24h.
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
        topic: Written<LogName>,
        /// The CloudEvents `type`.
        r#type: Written<Text>,
        /// Default: request.
        data: Option<Written<EventData>>,
    }
}

/// Which answers publish.
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
