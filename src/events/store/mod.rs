//! The event flow of one gateway, open: the registry, the logs, the subscriptions.
//!
//! `serve` implements [`Events`](crate::events::facade::Events) over the files beside it, one per
//! concern: `publish`, `subscriptions`, `letters`, `jobs`, `tailing`. `opening`, `reloading` and
//! `closing` are the store's life; `maintenance` is its background work.
//!
//! Opening order: lock and registry, delivery state, topics, subscriptions, so that each log knows
//! what its readers have seen. Invariant: trouble in one log stays there. A topic that cannot be
//! opened is offline, and everything else runs.

mod closing;
mod delays;
mod error;
mod held_clock;
mod inheriting;
mod jobs;
pub mod layout;
mod letters;
mod maintenance;
mod mending;
mod opening;
mod publish;
mod rebuilding;
mod reloading;
mod requests;
mod serve;
mod snapshots;
mod state;
mod subscriptions;
mod tailing;
mod tidying;
mod topic;
mod topics;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

pub use self::{
    error::StoreError,
    held_clock::{NotedClock, examine_clock},
    mending::{Begun, KnownState, examine_state, floor_of_journal},
    state::Forgotten,
};
use self::{snapshots::Snapshots, topic::Topic};
use crate::events::{
    delivery::{
        runner::{self, KeyHash, Subscription},
        subscription::Partition,
    },
    enqueue::Requests,
    facade::Refusal,
    ingress::Ingress,
    queue::{
        codec::{HashKey, Role},
        log::{DiskWatch, GONE, Log, Permit, Purpose, Reason, Refused, Writer},
        pool::Pool,
        reserve::Reserve,
        storage::Storage,
        time::Clock,
        topic::{clock_guard::GuardedClock, registry::Registry},
    },
    settings::{Settings, Subscription as SubscriptionSettings},
};
use crate::http::sink::Sink;

/// An open store. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    storage: Arc<dyn Storage>,
    clock: Arc<dyn Clock>,
    pool: Pool,
    /// Threads that move due events: a sync for each batch, for which readers need not wait.
    movers: Pool,
    settings: RwLock<Settings>,
    registry: Mutex<Registry>,
    disk: Arc<DiskWatch>,
    /// Disk space reserved for the journal.
    reserve: Reserve,
    guard: GuardedClock,
    held_clock: held_clock::HeldClock,
    /// Writes delivery state and records of requests.
    state_writer: Writer,
    /// Writes dead letters and parked events.
    letters_writer: Writer,
    journal: Log,
    /// Sends pushes.
    sink: Arc<dyn Sink>,
    ingress: Ingress,
    requests: Requests,
    topics: Arc<TopicMap>,
    subscriptions: RwLock<BTreeMap<Arc<str>, Reading>>,
    snapshots: Snapshots,
    /// Serialises changes of the settings.
    reloading: tokio::sync::Mutex<()>,
    ending: Ending,
    /// A permit for each live tail.
    tails: Arc<tokio::sync::Semaphore>,
}

/// The progress of the shutdown.
#[derive(Debug, Default)]
struct Ending {
    /// Live tails end when this is true.
    is_winding_down: tokio::sync::watch::Sender<bool>,
    /// Whether new work is refused.
    is_draining: AtomicBool,
}

/// Topics by name.
#[derive(Debug, Default)]
struct TopicMap(RwLock<BTreeMap<Arc<str>, Arc<Topic>>>);

/// A subscription with its settings.
#[derive(Clone)]
struct Reading {
    subscription: Subscription,
    settings: Arc<SubscriptionSettings>,
    topic: Arc<Topic>,
    is_orphaned: bool,
}

/// Hashes keys with the store's secret key.
#[derive(Debug)]
struct Keyed(HashKey);

// === impl Store ===

impl Store {
    /// A topic by its name.
    fn find_topic(&self, name: &str) -> Result<Arc<Topic>, Refusal> {
        let topic = self.0.topics.0.read().get(name).cloned();
        topic.ok_or_else(|| Refusal::unknown("topic", name))
    }

    /// A subscription by its name.
    fn find_subscription(&self, name: &str) -> Result<Reading, Refusal> {
        let reading = self.0.subscriptions.read().get(name).cloned();
        reading.ok_or_else(|| Refusal::unknown("subscription", name))
    }

    /// All topics, by name.
    fn all_topics(&self) -> Vec<Arc<Topic>> {
        self.0.topics.0.read().values().cloned().collect()
    }

    /// All subscriptions, by name.
    fn all_subscriptions(&self) -> Vec<Reading> {
        self.0.subscriptions.read().values().cloned().collect()
    }

    /// Subscriptions of a topic, by name.
    fn readers(&self, topic: &Topic) -> Vec<Reading> {
        let is_reader = |reading: &Reading| reading.topic.id() == topic.id();
        self.all_subscriptions().into_iter().filter(is_reader).collect()
    }

    /// Refuses new work from here on. Relaxed: one request more or less does not matter.
    pub fn drain(&self) {
        self.0.ending.is_draining.store(true, Relaxed);
    }

    /// Describes each log that is offline in a sentence.
    pub fn offline(&self) -> Vec<String> {
        if self.0.disk.is_gone() {
            return vec![GONE.to_owned()];
        }
        let topics = self.all_topics();
        let topics = topics.iter().filter(|topic| topic.is_offline());
        let topics = topics.map(|topic| format!("topic `{}` is offline", topic.name()));
        let own = [
            ("the journal of delivery state is offline", &self.0.journal),
            ("the log of requests is offline", self.0.ingress.log()),
        ];
        let own = own.into_iter().filter(|(_, log)| log.is_offline());
        topics.chain(own.map(|(what, _)| what.to_owned())).collect()
    }

    fn now(&self) -> u64 {
        self.0.clock.now().wall
    }

    /// Runs blocking work.
    async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        self.0.pool.run(work).await.map_err(|undone| Refusal::internal(undone.to_string()))
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dir", &self.0.settings.read().dir).finish_non_exhaustive()
    }
}

// === impl TopicMap ===

impl runner::Topics for TopicMap {
    fn log(&self, topic: &str) -> Option<Log> {
        Some(self.0.read().get(topic)?.handle()?.log().clone())
    }

    fn permit(&self, topic: &str, bytes: u64) -> Result<Permit, Refused> {
        let topic = self.0.read().get(topic).cloned();
        let handle = topic.as_ref().and_then(|topic| topic.handle());
        handle.ok_or(Refused::new(Reason::Offline))?.permit(Purpose::Accepted, bytes)
    }

    fn partitions(&self, topic: &str) -> Vec<Partition> {
        self.0.read().get(topic).map(|topic| topic.partitions()).unwrap_or_default()
    }
}

// === impl Keyed ===

impl KeyHash for Keyed {
    #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
    fn hash(&self, key: &[u8]) -> u64 {
        self.0.hash(Role::Dedup, &[b"key", key]) as u64
    }
}

#[cfg(test)]
mod tests;
