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

/// The result of an operation, once it completes.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, Refusal>>;

/// The event flow of one gateway.
///
/// Every future may be dropped at any time: an operation that was handed over is still carried out,
/// only its answer is lost. Leases of a dropped receive are given back.
pub trait Events: fmt::Debug + Send + Sync {
    /// Appends all of `events` to one topic in one frame, or none. Completes when they are as
    /// durable as the topic's setting says; one answer for each, in order.
    fn publish<'a>(&'a self, topic: &'a str, events: Vec<Event>) -> Answer<'a, Vec<Published>>;

    /// Counters of each topic's log, by name.
    fn gauges(&self) -> Vec<(Arc<str>, Arc<Gauges>)> {
        Vec::new()
    }

    /// Counters of each subscription, by name.
    fn tallies(&self) -> Vec<(Arc<str>, Arc<Tally>)> {
        Vec::new()
    }

    /// Free bytes on the store's disk, if known.
    fn disk_free(&self) -> Option<u64> {
        None
    }

    /// All topics, including those no longer configured, by name.
    fn topics(&self) -> Answer<'_, Vec<TopicStatus>>;

    /// One topic.
    fn topic<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus>;

    /// The event at this position. `NameUnknown` if there is none (yet, or any more).
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

    /// Durable events from this offset on (`None`: from the current end), then new ones as they
    /// come. `Busy` if the maximum number of tails is open.
    fn tail<'a>(&'a self, topic: &'a str, from: Option<u64>) -> Answer<'a, Tail>;

    /// Recovers an offline topic. `Conflict` if it is not offline.
    fn reopen<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus>;

    /// Idempotency keys whose request has an unknown outcome, the first to expire first.
    fn uncertain_keys(&self) -> Answer<'_, Vec<UncertainKey>> {
        async { Ok(Vec::new()) }.boxed()
    }

    /// Decides the outcome for such a key. `NameUnknown` if it is not uncertain.
    fn resolve_key<'a>(&'a self, id: &'a str, _is_done: bool) -> Answer<'a, ()> {
        async move { Err(Refusal::unknown("uncertain key", id)) }.boxed()
    }

    /// Confirms that the wall clock is right after a jump, and thaws everything that depends on it.
    fn confirm_clock(&self) -> Answer<'_, ()>;

    /// Leases events; none if none came in time. `Conflict` if the subscription is pushed.
    fn receive<'a>(&'a self, subscription: &'a str, receive: Receive) -> Answer<'a, Vec<Leased>>;

    /// Applies one verb to the attempts of some tokens; one answer for each, in order.
    fn settle<'a>(
        &'a self,
        subscription: &'a str,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Answer<'a, Vec<TokenResult>>;

    /// All subscriptions, including those no longer configured, by name.
    fn subscriptions(&self) -> Answer<'_, Vec<SubscriptionStatus>>;

    /// One subscription.
    fn subscription<'a>(&'a self, subscription: &'a str) -> Answer<'a, SubscriptionStatus>;

    /// Moves a subscription; ends its open leases.
    fn seek<'a>(&'a self, subscription: &'a str, to: Seek) -> Answer<'a, ()>;

    /// Stops delivery. Leased events may still be settled.
    fn pause<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()>;

    /// Resumes after `pause`, and after any other hold whose cause is gone.
    fn resume<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()>;

    /// Unblocks a key or partition that an event of it blocks. `NameUnknown` if it is not blocked.
    fn unblock<'a>(&'a self, subscription: &'a str, unblock: Unblock) -> Answer<'a, ()>;

    /// Up to `limit` dead letters after `after`, by ID.
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

    /// Removes matching dead letters, and returns how many. `Conflict` unless they are `confirm` many.
    fn purge<'a>(
        &'a self,
        subscription: &'a str,
        filter: DeadLetterFilter,
        confirm: u64,
    ) -> Answer<'a, u64>;

    /// Delivers stored events to a subscription again, as a job.
    fn replay<'a>(&'a self, topic: &'a str, replay: Replay) -> Answer<'a, JobStatus>;

    /// All running jobs, and those that ended last.
    fn jobs(&self) -> Answer<'_, Vec<JobStatus>>;

    /// The status of a job.
    fn job<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus>;

    /// Cancels a job; events it has leased may still be settled.
    fn cancel<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus>;
}
