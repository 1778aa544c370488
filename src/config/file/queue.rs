//! `queue` and `topics`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::block;
use crate::config::{
    value::{ByteSize, LogName, Percent, Text, words},
    written::Written,
};

words! {
    /// When an event counts as stored.
    Durability { "durable" = Durable, "os" = Os, "memory" = Memory }
    /// What happens to a damaged log.
    Recovery { "strict" = Strict, "quarantine" = Quarantine }
    /// What happens to publishes when a topic is full.
    OnFull { "reject" = Reject, "drop_oldest" = DropOldest }
    /// What stores a topic.
    Backend { "local" = Local }
}

block! {
    /// The store of the event queue.
    #[derive(Default)]
    Queue {
        /// The data directory; it should be on a local disk, and one process at a time uses it. A
        /// change needs a restart. Default: ./data.
        dir: Option<Written<Text>>,
        /// The name of this gateway in the `source` of its own events,
        /// `/sluice/<instance>/<route>`. `auto` is the ID of the store. Default: auto.
        instance: Option<Written<Text>>,
        /// Whether `/readyz` fails while a log is offline or the store is not open. Default: false.
        required: Option<Written<bool>>,
        /// Memory for events that wait to be written, for each log; from 1MiB to 16GiB, and at
        /// least twice the largest `max_event_bytes`. When it is full, publishes get 503. Default:
        /// 64MiB.
        publish_buffer: Option<Written<ByteSize>>,
        /// Memory for request bodies that are held for events and keys, over all routes; from 1MiB
        /// to 64GiB. When it is full, such requests get 503. Default: 256MiB.
        body_buffer: Option<Written<ByteSize>>,
        /// How long to wait, at most 24h, while another process uses the data directory. The
        /// gateway serves its other routes meanwhile, and exits when the time is over. Default: 0s,
        /// it does not start.
        lock_wait: Option<Written<Duration>>,
        /// Limits of the log of requests, which holds idempotency keys, intents, and the answers to
        /// stored requests.
        ingress: Option<Ingress>,
        /// When a publish is acknowledged, for topics without a `durability` of their own.
        /// `durable`: once the event is synced to disk. `os`: once it is handed to the operating
        /// system; a power cut loses up to `os_interval`. `memory`: at once; events are lost when
        /// the process ends. A change needs a restart. Default: durable.
        durability: Option<Written<Durability>>,
        /// The time between two syncs with `durability: os`, from 1ms to 10s. Default: 50ms.
        os_interval: Option<Written<Duration>>,
        /// Disk space that is kept free.
        disk: Option<Disk>,
        /// What happens to a damaged log. `strict`: it goes offline, and the rest of the gateway
        /// works. `quarantine`: at start the damaged bytes are copied aside, reported, counted and
        /// skipped. Default: strict.
        recovery: Option<Written<Recovery>>,
    }
    /// Limits of the log of requests. When one is reached, requests that need the log get 503, and
    /// nothing is sent.
    Ingress {
        /// Keys and requests that are remembered, from 1000 to 100000000. Default: 2000000.
        max_entries: Option<Written<u64>>,
        /// The size of the log on disk, from 128MiB to 1TiB. Default: 5GiB.
        max_bytes: Option<Written<ByteSize>>,
    }
    /// Disk space that is kept free. Below the smaller of `low_water` and `min_free`, publishes get
    /// 503 and deliveries continue.
    Disk {
        /// As a share of the disk, at most 90%. Default: 5%.
        low_water: Option<Written<Percent>>,
        /// In bytes. Default: 1GiB.
        min_free: Option<Written<ByteSize>>,
        /// Space that is set aside for the state of deliveries, so that they can continue on a full
        /// disk; from 4MiB to 1GiB. Default: 32MiB.
        reserve: Option<Written<ByteSize>>,
    }
    /// A durable log of events.
    Topic {
        /// The number of partitions, from 1 to 1024. Events with the same ordering key are in the
        /// same partition. The number can grow but not shrink. Default: 16.
        partitions: Option<Written<u32>>,
        /// The size of an event, from 1KiB to 16MiB. Larger ones get 413. Default: 1MiB.
        max_event_bytes: Option<Written<ByteSize>>,
        /// How long and how much the topic keeps.
        retention: Option<Retention>,
        /// What happens when the topic has reached `retention.max_bytes` and subscriptions still
        /// need its oldest events. `reject`: publishes get 503. `drop_oldest`: the oldest events
        /// are deleted and counted. Default: reject.
        on_full: Option<Written<OnFull>>,
        /// When a publish is acknowledged: `durable`, `os` or `memory`, as for `queue.durability`.
        /// A change needs a restart. Default: that of `queue`.
        durability: Option<Written<Durability>>,
        /// Deduplication: a second event with the same key is not stored.
        dedup: Option<Dedup>,
        /// Events that may wait for their time, at most 10000000. Further ones get 503. Default:
        /// 1000000.
        max_delayed: Option<Written<u64>>,
        /// Refuses publishes while a subscription lags behind. Default: off.
        backpressure: Option<Backpressure>,
        /// Reserved for other kinds of storage; changes nothing. Default: local.
        backend: Option<Written<Backend>>,
        /// The former name of this topic: its events and the state of its subscriptions are taken
        /// over. Default: none.
        renamed_from: Option<Written<LogName>>,
    }
    /// How long and how much a topic keeps. Events that a subscription with `pin: true` has not
    /// settled are kept longer, up to `max_bytes`.
    Retention {
        /// How long events are kept; at least 1s. Default: 7d.
        max_age: Option<Written<Duration>>,
        /// The size of the topic on disk, from 1MiB to 1024TiB and at least `max_event_bytes`.
        /// Default: 10GiB.
        max_bytes: Option<Written<ByteSize>>,
    }
    /// Deduplication: a second event with the same key is not stored, and answered as a duplicate.
    Dedup {
        /// How long a key is remembered, at most 7d; `0s` turns deduplication off. Default: 1h.
        window: Option<Written<Duration>>,
        /// Keys that are remembered, at most 100000000; with more the window becomes shorter. 0
        /// turns deduplication off. Default: 2000000.
        max_entries: Option<Written<u64>>,
    }
    /// Refuses publishes while a subscription lags behind.
    Backpressure {
        /// The age of the oldest unsettled event of a subscription, at least 1s, above which
        /// publishes get 503.
        oldest_age: Written<Duration>,
    }
}
