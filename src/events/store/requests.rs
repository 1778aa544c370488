//! Requests and the store: the topics they publish to, and upkeep of their records.

use std::sync::Arc;

use super::{Store, TopicMap, topic::Topic};
use crate::events::{
    enqueue::{Requests, requests::Around},
    facade::Refusal,
    ingress::{Ingress, Target, Topics},
    queue::{
        LogId, Offset, StoreId,
        codec::HashKey,
        log::{Log, Permit, Purpose, Reason, Refused},
        pool::Pool,
        topic::{Topic as Handle, delayed::DelayedLog},
    },
    request::RequestIds,
};

/// A topic's log of delayed events, where events of requests wait until they are due.
#[derive(Debug)]
struct Waiting(Arc<Topic>);

/// Stores and finds requests, for a store with this ID and secret.
pub(super) fn requests(
    (store, hash_key): (StoreId, HashKey),
    pool: Pool,
    topics: Arc<TopicMap>,
    ingress: &Ingress,
) -> Requests {
    let (ids, results) = (RequestIds::new(store, &hash_key.0), Arc::new(ingress.clone()));
    Requests::new(Around { ids, hash_key, pool, topics, results })
}

// === impl Store ===

impl Store {
    /// The records of requests.
    pub fn ingress(&self) -> &Ingress {
        &self.0.ingress
    }

    /// The topics, for requests to publish to.
    pub fn targets(&self) -> Arc<dyn Topics> {
        self.0.topics.clone()
    }

    /// Stores and finds requests.
    pub fn requests(&self) -> &Requests {
        &self.0.requests
    }

    /// The gateway's name in `source`.
    pub fn name(&self) -> Arc<str> {
        self.instance()
    }

    /// Resolves orphans, and deletes what is settled.
    pub(super) async fn tend_requests(&self) -> Result<(), Refusal> {
        let (ingress, topics) = (self.0.ingress.clone(), self.0.topics.clone());
        let tended = self.block(move || {
            // A topic that refuses must not keep other records from being tidied.
            let resolved = ingress.resolve(&*topics).map_err(|error| error.to_string());
            let tidied = ingress.tidy().map_err(|error| error.to_string());
            resolved.and(tidied)
        });
        tended.await?.map_err(Refusal::unavailable)
    }
}

// === impl TopicMap ===

impl Topics for TopicMap {
    fn named(&self, name: &str) -> Option<Arc<dyn Target>> {
        self.0.read().get(name).cloned().map(|topic| topic as Arc<dyn Target>)
    }

    fn find(&self, is_it: &dyn Fn(LogId) -> bool) -> Option<Arc<dyn Target>> {
        let topics = self.0.read();
        let topic = topics.values().find(|topic| is_it(topic.id()));
        topic.cloned().map(|topic| topic as Arc<dyn Target>)
    }

    fn delayed(&self, id: LogId) -> Option<Arc<dyn Target>> {
        let topic = self.0.read().values().find(|topic| topic.id() == id).cloned()?;
        match topic.delays().make(&topic.delay_settings()) {
            Ok(log) => drop(log?),
            // It is retried, and used once it exists.
            Err(error) => {
                tracing::error!(topic = %topic.name(), %error, "cannot open the log of delayed events for events of requests; it is tried again");
            }
        }
        Some(Arc::new(Waiting(topic)))
    }
}

// === impl Topic ===

impl Target for Topic {
    fn id(&self) -> LogId {
        self.id()
    }

    fn max_event_bytes(&self) -> u64 {
        self.largest_event()
    }

    fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        self.handle().ok_or(Refused::new(Reason::Offline))?.permit(purpose, bytes)
    }

    fn open_log(&self) -> Result<&Log, Refused> {
        self.handle().map(Handle::log).ok_or(Refused::new(Reason::Offline))
    }

    fn settled(&self) -> Offset {
        self.settled()
    }

    fn knows(&self, dedup: &[u8]) -> bool {
        self.handle().is_some_and(|handle| handle.knows(dedup))
    }
}

// === impl Waiting ===

impl Waiting {
    fn delayed(&self) -> Result<&DelayedLog, Refused> {
        self.0.delays().log().ok_or(Refused::new(Reason::Offline))
    }
}

impl Target for Waiting {
    fn id(&self) -> LogId {
        self.0.id()
    }

    fn max_event_bytes(&self) -> u64 {
        self.0.largest_event()
    }

    fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        if self.0.handle().is_none_or(|handle| handle.log().is_offline()) {
            return Err(Refused::new(Reason::Offline));
        }
        let (max_delayed, max_bytes) = self.0.most_delayed();
        let more = if purpose == Purpose::Publish { 0 } else { max_bytes / 10 };
        let delayed = self.delayed()?;
        let log = delayed.log();
        let taken = log.gauges().bytes.get().saturating_add(log.permitted());
        let is_full = taken.saturating_add(bytes) > max_bytes.saturating_add(more);
        let is_many = purpose == Purpose::Publish && !delayed.has_room(max_delayed, 1);
        if is_full || is_many {
            return Err(Refused::new(Reason::Full));
        }
        log.permit_for(purpose, bytes)
    }

    fn open_log(&self) -> Result<&Log, Refused> {
        self.delayed().map(DelayedLog::log)
    }
}
