//! The store as [`Events`]: each operation in one line.

use std::sync::Arc;

use futures_util::{FutureExt as _, future};

use super::Store;
use crate::events::{
    event::Event,
    facade::{
        Answer, DeadLetter, DeadLetterFilter, DeadLetterPage, Events, JobId, JobStatus, Leased,
        Published, Receive, Redrive, Redriven, Refusal, Replay, Seek, StoredEvent,
        SubscriptionStatus, Tail, Tally, TokenItem, TokenResult, TopicStatus, Trace, Unblock, Verb,
    },
    ingress::{NotUncertain, UncertainKey},
    queue::gauges::Gauges,
};

impl Events for Store {
    fn publish<'a>(&'a self, topic: &'a str, events: Vec<Event>) -> Answer<'a, Vec<Published>> {
        self.do_publish(topic, events).boxed()
    }

    fn gauges(&self) -> Vec<(Arc<str>, Arc<Gauges>)> {
        let topics = self.all_topics().into_iter();
        topics.filter_map(|it| Some((it.name(), it.handle()?.log().gauges().clone()))).collect()
    }

    fn tallies(&self) -> Vec<(Arc<str>, Arc<Tally>)> {
        let readings = self.all_subscriptions().into_iter();
        readings.map(|it| (it.settings.name.clone(), it.subscription.tally().clone())).collect()
    }

    fn disk_free(&self) -> Option<u64> {
        Some(self.0.disk.free())
    }

    fn topics(&self) -> Answer<'_, Vec<TopicStatus>> {
        async {
            let mut shown = Vec::new();
            for topic in self.all_topics() {
                shown.push(self.show_topic(topic).await?);
            }
            Ok(shown)
        }
        .boxed()
    }

    fn topic<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus> {
        async move { self.show_topic(self.find_topic(topic)?).await }.boxed()
    }

    fn event_at<'a>(
        &'a self,
        topic: &'a str,
        partition: u32,
        offset: u64,
    ) -> Answer<'a, StoredEvent> {
        self.do_event_at(topic, partition, offset).boxed()
    }

    fn event<'a>(&'a self, id: &'a str) -> Answer<'a, Trace> {
        self.do_event(id).boxed()
    }

    fn saga<'a>(&'a self, correlation: &'a str) -> Answer<'a, Trace> {
        self.do_saga(correlation).boxed()
    }

    fn tail<'a>(&'a self, topic: &'a str, from: Option<u64>) -> Answer<'a, Tail> {
        future::ready(self.do_tail(topic, from)).boxed()
    }

    fn reopen<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus> {
        self.do_reopen(topic).boxed()
    }

    fn uncertain_keys(&self) -> Answer<'_, Vec<UncertainKey>> {
        let ingress = self.0.ingress.clone();
        self.block(move || ingress.uncertain_keys()).boxed()
    }

    fn resolve_key<'a>(&'a self, id: &'a str, is_done: bool) -> Answer<'a, ()> {
        async move {
            let resolved = self.0.ingress.resolve_key(id, is_done).await;
            let resolved = resolved.map_err(|error| Refusal::unavailable(error.to_string()))?;
            resolved.map_err(|NotUncertain| Refusal::unknown("uncertain key", id))
        }
        .boxed()
    }

    fn confirm_clock(&self) -> Answer<'_, ()> {
        async {
            self.0.guard.confirm();
            self.hold_clock().await;
            Ok(())
        }
        .boxed()
    }

    fn receive<'a>(&'a self, subscription: &'a str, receive: Receive) -> Answer<'a, Vec<Leased>> {
        self.do_receive(subscription, receive).boxed()
    }

    fn settle<'a>(
        &'a self,
        subscription: &'a str,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Answer<'a, Vec<TokenResult>> {
        self.do_settle(subscription, verb, items).boxed()
    }

    fn subscriptions(&self) -> Answer<'_, Vec<SubscriptionStatus>> {
        async {
            let mut shown = Vec::new();
            for reading in self.all_subscriptions() {
                shown.push(self.show_subscription(reading).await?);
            }
            Ok(shown)
        }
        .boxed()
    }

    fn subscription<'a>(&'a self, subscription: &'a str) -> Answer<'a, SubscriptionStatus> {
        async move { self.show_subscription(self.find_subscription(subscription)?).await }.boxed()
    }

    fn seek<'a>(&'a self, subscription: &'a str, to: Seek) -> Answer<'a, ()> {
        self.do_seek(subscription, to).boxed()
    }

    fn pause<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()> {
        async move { self.find_subscription(subscription)?.subscription.pause().await }.boxed()
    }

    fn resume<'a>(&'a self, subscription: &'a str) -> Answer<'a, ()> {
        async move { self.find_subscription(subscription)?.subscription.resume().await }.boxed()
    }

    fn unblock<'a>(&'a self, subscription: &'a str, unblock: Unblock) -> Answer<'a, ()> {
        self.do_unblock(subscription, unblock).boxed()
    }

    fn dead_letters<'a>(
        &'a self,
        subscription: &'a str,
        after: Option<u64>,
        limit: usize,
        filter: DeadLetterFilter,
    ) -> Answer<'a, DeadLetterPage> {
        self.do_dead_letters(subscription, after, limit, filter).boxed()
    }

    fn dead_letter<'a>(
        &'a self,
        subscription: &'a str,
        id: u64,
    ) -> Answer<'a, (DeadLetter, Event)> {
        self.do_dead_letter(subscription, id).boxed()
    }

    fn redrive<'a>(&'a self, subscription: &'a str, redrive: Redrive) -> Answer<'a, Redriven> {
        self.do_redrive(subscription, redrive).boxed()
    }

    fn purge<'a>(
        &'a self,
        subscription: &'a str,
        filter: DeadLetterFilter,
        confirm: u64,
    ) -> Answer<'a, u64> {
        self.do_purge(subscription, filter, confirm).boxed()
    }

    fn replay<'a>(&'a self, topic: &'a str, replay: Replay) -> Answer<'a, JobStatus> {
        self.do_replay(topic, replay).boxed()
    }

    fn jobs(&self) -> Answer<'_, Vec<JobStatus>> {
        self.do_jobs().boxed()
    }

    fn job<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus> {
        self.do_job(id).boxed()
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> Answer<'a, JobStatus> {
        self.do_cancel(id).boxed()
    }
}
