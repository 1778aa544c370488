//! The public interface of the event flow: one trait, plain types, one list of refusals.
//!
//! The HTTP endpoints are built on [`Events`] and know nothing of logs, threads or files, so tests
//! can implement it themselves. Times are milliseconds since 1970, spans are `Duration`, sizes are
//! bytes.

mod consume;
mod dead_letters;
mod jobs;
mod refusal;
mod tally;
mod topics;

pub use self::{
    consume::{
        Action, Blocked, Hold, Leased, Receive, Seek, SubscriptionMode, SubscriptionPartition,
        SubscriptionState, SubscriptionStatus, TokenItem, TokenResult, TokenStatus, Unblock, Verb,
    },
    dead_letters::{
        DeadLetter, DeadLetterCount, DeadLetterFilter, DeadLetterPage, Origin, Reason, Redrive,
        Redriven, Which,
    },
    jobs::{JobFailure, JobId, JobKind, JobState, JobStatus, Replay, Start},
    refusal::{Bound, Refusal},
    tally::{DeliveryEnd, Tally},
    topics::{
        DedupStatus, Dropped, EventState, Found, OfflineRange, Published, StoredEvent, Tail,
        TailPage, Told, TopicState, TopicStatus, Trace,
    },
};

use std::{fmt, sync::Arc};

use futures_util::{FutureExt as _, future::BoxFuture};

pub use crate::events::ingress::UncertainKey;
use crate::events::{event::Event, queue::gauges::Gauges};

/// What an operation ends in.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

/// The event flow of one gateway.
///
/// Every future may be dropped at any time: what was handed over is done nevertheless, and only its
/// answer is lost. A lease of a receive that was dropped is given back.
pub trait Events: fmt::Debug + Send + Sync {
    /// Appends to one topic, all of `events` in one frame or none. Answered when they are as durable as
    /// the topic is; one answer for each, in order.
    fn publish<'a>(&'a self, topic: &'a str, events: Vec<Event>) -> Answer<'a, Vec<Published>>;

    /// What the log of each topic counts of itself, by name.
    fn gauges(&self) -> Vec<(Arc<str>, Arc<Gauges>)> {
        Vec::new()
    }

    /// What each subscription counts of itself, by name.
    fn tallies(&self) -> Vec<(Arc<str>, Arc<Tally>)> {
        Vec::new()
    }

    /// Room on the disk of the store, in bytes, where that is known.
    fn disk_free(&self) -> Option<u64> {
        None
    }

    /// All topics, those no longer configured too, by name.
    fn topics(&self) -> Answer<'_, Vec<TopicStatus>>;

    /// One topic.
    fn topic<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus>;

    /// The event at a place. `NameUnknown` if there is none (yet, or any more).
    fn event_at<'a>(
        &'a self,
        topic: &'a str,
        partition: u32,
        offset: u64,
    ) -> Answer<'a, StoredEvent>;

    /// Every event with this ID, and its state in each subscription.
    fn event<'a>(&'a self, id: &'a str) -> Answer<'a, Trace>;

    /// Every event of a saga, in order of publication.
    fn saga<'a>(&'a self, correlation: &'a str) -> Answer<'a, Trace>;

    /// Durable events from a place on (`None`: from the end as it is now), and then as they come. `Busy` if
    /// there are as many tails as there may be.
    fn tail<'a>(&'a self, topic: &'a str, from: Option<u64>) -> Answer<'a, Tail>;

    /// Recovers an offline topic. `Conflict` if it is not offline.
    fn reopen<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus>;

    /// Idempotency keys of which nobody knows what became of their request; those first that are forgotten
    /// first.
    fn uncertain_keys(&self) -> Answer<'_, Vec<UncertainKey>> {
        async { Ok(Vec::new()) }.boxed()
    }

    /// Says what became of the request of such a key. `NameUnknown` if it is not uncertain.
    fn resolve_key<'a>(&'a self, id: &'a str, _is_done: bool) -> Answer<'a, ()> {
        async move { Err(Refusal::unknown("uncertain key", id)) }.boxed()
    }

    /// Takes the wall clock as right, after a jump that froze what goes by it.
    fn confirm_clock(&self) -> Answer<'_, ()>;

    /// Leases events; none if none came in time. `Conflict` where events are pushed.
    fn receive<'a>(&'a self, subscription: &'a str, receive: Receive) -> Answer<'a, Vec<Leased>>;

    /// Does one thing to what tokens stand for; one answer for each, in order.
    fn settle<'a>(
        &'a self,
        subscription: &'a str,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Answer<'a, Vec<TokenResult>>;

    /// All subscriptions, those no longer configured too, by name.
    fn subscriptions(&self) -> Answer<'_, Vec<SubscriptionStatus>>;

    /// One subscription.
    fn subscription<'a>(&'a self, subscription: &'a str) -> Answer<'a, SubscriptionStatus>;

    /// Moves a subscription; its open leases are over.
    fn seek<'a>(&'a self, subscription: &'a str, to: Seek) -> Answer<'a, ()>;

    /// Stops giving out events. What is leased may still be settled.
    fn pause<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()>;

    /// Goes on after `pause`, and after whatever else stopped it, if that is over.
    fn resume<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()>;

    /// Frees a key or partition that an event of it has blocked. `NameUnknown` if it is not blocked.
    fn unblock<'a>(&'a self, subscription: &'a str, unblock: Unblock) -> Answer<'a, ()>;

    /// Dead letters by ID, after `after`, at most `limit`.
    fn dead_letters<'a>(
        &'a self,
        subscription: &'a str,
        after: Option<u64>,
        limit: usize,
        filter: DeadLetterFilter,
    ) -> Answer<'a, DeadLetterPage>;

    /// One dead letter with its event.
    fn dead_letter<'a>(&'a self, subscription: &'a str, id: u64)
    -> Answer<'a, (DeadLetter, Event)>;

    /// Delivers dead letters again, as a job.
    fn redrive<'a>(&'a self, subscription: &'a str, redrive: Redrive) -> Answer<'a, Redriven>;

    /// Removes the dead letters that match. `Conflict` unless exactly `confirm` do. Returns how many.
    fn purge<'a>(
        &'a self,
        subscription: &'a str,
        filter: DeadLetterFilter,
        confirm: u64,
    ) -> Answer<'a, u64>;

    /// Delivers what is stored to a subscription again, as a job.
    fn replay<'a>(&'a self, topic: &'a str, replay: Replay) -> Answer<'a, JobStatus>;

    /// All jobs that run, and the last ones that ended.
    fn jobs(&self) -> Answer<'_, Vec<JobStatus>>;

    /// How a job stands.
    fn job<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus>;

    /// Ends a job; what it has leased may still be settled.
    fn cancel<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus>;
}
