//! The event queue in the process: opened with the gateway, kept over reloads, closed when nobody
//! is served any more; and its metrics for the operator.

use std::{future, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::timeout;

use crate::{
    events::{
        Events as _, Settings, Store,
        facade::{
            SubscriptionMode, SubscriptionState, SubscriptionStatus, Tally, TopicState, TopicStatus,
        },
        ingress,
        queue::gauges::{Gauges, Histogram},
    },
    gateway::{StartError, build::Plan, delivery::Delivery, events::Served, outbox::Outbox},
    telemetry::metrics::{
        Cells, Desc, Exposition, QUEUE_APPEND, QUEUE_BYTES, QUEUE_CLOCK_FROZEN,
        QUEUE_COMMIT_EVENTS, QUEUE_CORRUPTION, QUEUE_DEDUP_ENTRIES, QUEUE_DEDUP_HITS,
        QUEUE_DEDUP_WINDOW, QUEUE_DELAYED, QUEUE_DISK_FREE, QUEUE_DROPPED, QUEUE_EVENTS,
        QUEUE_INGRESS_BYTES, QUEUE_INGRESS_ENTRIES, QUEUE_INGRESS_KEYS, QUEUE_INGRESS_RESULTS,
        QUEUE_INGRESS_UNREAD, QUEUE_LOST, QUEUE_OFFLINE, QUEUE_RECOVERY, QUEUE_REJECTED,
        QUEUE_SCRUBBED, QUEUE_SYNC, QUEUE_UNCERTAIN, QUEUE_UNCERTAIN_KEYS, SUBSCRIPTION_ATTEMPTS,
        SUBSCRIPTION_BLOCKED_KEYS, SUBSCRIPTION_CIRCUIT, SUBSCRIPTION_DEAD_LETTERED,
        SUBSCRIPTION_DEAD_LETTERS, SUBSCRIPTION_DELIVERIES, SUBSCRIPTION_DELIVERY,
        SUBSCRIPTION_DISCARDED, SUBSCRIPTION_END_TO_END, SUBSCRIPTION_IN_FLIGHT,
        SUBSCRIPTION_LAG_BYTES, SUBSCRIPTION_LAG_EVENTS, SUBSCRIPTION_LOST,
        SUBSCRIPTION_OLDEST_AGE, SUBSCRIPTION_PARKED, SUBSCRIPTION_PAUSED,
        SUBSCRIPTION_STOPPED_SAGAS, SUBSCRIPTION_SUSPECTS,
    },
    telemetry::tracing::Exporter,
};

/// How many topics and subscriptions get their own series, in the order of their names.
const MAX_LABELLED: usize = 1000;
/// How long a scrape waits for the state of subscriptions.
const PATIENCE: Duration = Duration::from_secs(2);

/// The store, if there are topics. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// `None`: there are no topics, or it is not open.
    store: Option<Store>,
    /// There are topics, but their store is not open.
    is_closed: bool,
    /// And it will not be opened any more.
    is_over: bool,
    /// `queue.required`
    is_required: bool,
}

/// Control's side, which owns the store.
#[derive(Debug)]
pub(super) struct Keeper {
    queue: Queue,
    outbox: Outbox,
    delivery: Option<Delivery>,
    /// The settings last applied.
    settings: Option<Settings>,
}

// === impl Keeper ===

impl Keeper {
    /// Opens the store that `plan` needs; without topics there is none. If another process has it
    /// and `queue.lock_wait` allows, it is opened later: [`Keeper::opened`].
    pub(super) async fn open(
        plan: &Plan,
        cells: &Cells,
        exporter: &Exporter,
    ) -> Result<Self, StartError> {
        let outbox = Outbox::new(cells);
        let queue = Queue::default();
        let mut keeper = Self { queue, outbox, delivery: None, settings: None };
        keeper.follow(plan, None, exporter).await?;
        Ok(keeper)
    }

    /// The shared view of it.
    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Applies a plan in place of the previous one. On an error nothing has changed.
    pub(super) async fn follow(
        &mut self,
        plan: &Plan,
        previous: Option<&Plan>,
        exporter: &Exporter,
    ) -> Result<(), StartError> {
        // Subscriptions with new settings find their paths; old paths last as long as old settings.
        self.outbox.learn(plan);
        let followed = self.follow_settings(plan.config.events.as_ref()).await;
        match (&followed, previous) {
            (Ok(()), _) => self.outbox.follow(plan, exporter),
            (Err(_), Some(previous)) => self.outbox.follow(previous, exporter),
            (Err(_), None) => {}
        }
        followed
    }

    /// Applies new settings. An open store stays open: without topics it contains only orphans.
    async fn follow_settings(&mut self, settings: Option<&Settings>) -> Result<(), StartError> {
        let none = || {
            let (topics, subscriptions) = (Vec::new(), Vec::new());
            Some(Settings { topics, subscriptions, ..self.settings.clone()? })
        };
        let Some(settings) = settings.cloned().or_else(none) else { return Ok(()) };
        if let Some(delivery) = &self.delivery {
            delivery.reload(settings.clone()).await?;
        } else {
            let sink = Arc::new(self.outbox.clone());
            self.delivery = Some(Delivery::start(settings.clone(), sink).await?);
        }
        let store = self.delivery.as_ref().and_then(|it| it.store().cloned());
        let mut state = self.queue.0.lock();
        state.is_closed = store.is_none();
        state.store = store;
        state.is_required = settings.is_required;
        drop(state);
        self.settings = Some(settings);
        Ok(())
    }

    /// Returns when a store that was waited for is open, so that stacks can be updated. Never
    /// returns if there is nothing to wait for. Cancel-safe.
    pub(super) async fn opened(&mut self) {
        let Some(delivery) = &mut self.delivery else { return future::pending().await };
        match delivery.opened().await {
            Ok(store) => self.queue.open(store),
            Err(error) => {
                tracing::error!(%error, "the queue stays closed until the next reload opens it");
                self.delivery = None;
                future::pending::<()>().await;
            }
        }
    }

    /// Begins no more deliveries. Serving continues until [`Keeper::close`].
    pub(super) async fn wind_down(&self) {
        if let Some(delivery) = &self.delivery {
            delivery.wind_down().await;
        }
    }

    /// Closes the store: everything accepted is then on disk. Waits this long for deliveries in
    /// progress. `false`: there was no store.
    pub(super) async fn close(&mut self, patience: Duration) -> bool {
        self.queue.close();
        let Some(delivery) = self.delivery.take() else { return false };
        delivery.stop(patience).await;
        true
    }
}

// === impl Queue ===

impl Queue {
    fn open(&self, store: Store) {
        let mut state = self.0.lock();
        state.store = Some(store);
        state.is_closed = false;
    }

    fn close(&self) {
        let mut state = self.0.lock();
        state.is_over = true;
        state.is_closed |= state.store.take().is_some();
    }

    /// What can be served.
    pub(super) fn served(&self) -> Served {
        let state = self.0.lock();
        match &state.store {
            Some(store) => Served::Open(Arc::new(store.clone())),
            None if state.is_closed && state.is_over => Served::Over,
            None if state.is_closed => Served::Closed,
            None => Served::Nothing,
        }
    }

    /// The store itself; `None`: there are no topics, or it is not open.
    pub(super) fn store(&self) -> Option<Store> {
        self.0.lock().store.clone()
    }

    /// Why readiness must wait: a sentence for each log that is offline while `queue.required`, or
    /// one for all if the store is not open.
    pub(super) fn lacks(&self) -> Vec<String> {
        let events = {
            let state = self.0.lock();
            if state.is_required && state.is_closed {
                return vec!["the queue is not open".to_owned()];
            }
            state.store.clone().filter(|_| state.is_required)
        };
        let Some(events) = events else { return Vec::new() };
        events.offline()
    }

    /// The series for a scrape. A part that is not ready in time is left out.
    pub(super) async fn told(&self) -> Exposition {
        let mut told = Exposition::new();
        let Some(events) = self.store() else { return told };
        requests(&mut told, events.ingress().status());
        if let Some(free) = events.disk_free() {
            told.number(&QUEUE_DISK_FREE, &[], free as f64);
        }
        for (name, gauges) in events.gauges().iter().take(MAX_LABELLED) {
            log(&mut told, name, gauges);
        }
        let tallies = events.tallies();
        for (name, tally) in tallies.iter().take(MAX_LABELLED) {
            counted(&mut told, name, tally);
        }
        if let Ok(Ok(topics)) = timeout(PATIENCE, events.topics()).await {
            topics.iter().take(MAX_LABELLED).for_each(|it| topic(&mut told, it));
        }
        if let Ok(Ok(subscriptions)) = timeout(PATIENCE, events.subscriptions()).await {
            for it in subscriptions.iter().take(MAX_LABELLED) {
                subscription(&mut told, it);
                let tally = tallies.iter().find(|(name, _)| *name == it.name);
                if let (SubscriptionMode::Push, Some((name, tally))) = (it.mode, tally) {
                    let is_open = f64::from(u8::from(tally.is_circuit_open.get()));
                    told.number(&SUBSCRIPTION_CIRCUIT, &[name], is_open);
                }
            }
        }
        told
    }
}

/// Adds the series for the records of requests.
fn requests(told: &mut Exposition, status: ingress::Status) {
    told.number(&QUEUE_INGRESS_ENTRIES, &[], status.entries as f64);
    told.number(&QUEUE_INGRESS_KEYS, &[], status.keys as f64);
    told.number(&QUEUE_UNCERTAIN_KEYS, &[], status.uncertain_keys as f64);
    told.number(&QUEUE_INGRESS_RESULTS, &[], status.results as f64);
    told.number(&QUEUE_INGRESS_UNREAD, &[], status.unread as f64);
    told.number(&QUEUE_INGRESS_BYTES, &[], status.bytes as f64);
    told.number(&QUEUE_UNCERTAIN, &[], status.uncertain as f64);
}

fn log(told: &mut Exposition, name: &str, gauges: &Gauges) {
    const MICROS: f64 = 1e6;
    let labels = [name];
    spread(told, &QUEUE_APPEND, name, &gauges.append_micros, MICROS);
    spread(told, &QUEUE_SYNC, name, &gauges.sync_micros, MICROS);
    spread(told, &QUEUE_COMMIT_EVENTS, name, &gauges.commit_events, 1.0);
    let rejected = &gauges.rejected;
    for (reason, count) in [
        ("queue-full", &rejected.full),
        ("queue-disk", &rejected.disk_low),
        ("queue-unavailable", &rejected.offline),
        ("event-too-large", &rejected.too_large),
    ] {
        told.number(&QUEUE_REJECTED, &[name, reason], count.get() as f64);
    }
    told.number(&QUEUE_CORRUPTION, &labels, gauges.corruption.get() as f64);
}

fn spread<const N: usize>(
    told: &mut Exposition,
    desc: &'static Desc,
    name: &str,
    histogram: &Histogram<N>,
    unit: f64,
) {
    let bucket = |(bound, count): (Option<u64>, u64)| (bound.map(|it| it as f64 / unit), count);
    let buckets: Vec<_> = histogram.buckets().map(bucket).collect();
    told.histogram(desc, &[name], buckets, histogram.sum() as f64 / unit);
}

fn topic(told: &mut Exposition, topic: &TopicStatus) {
    let labels = [&*topic.name];
    let is_offline = matches!(topic.state, TopicState::Offline { .. });
    for (desc, value) in [
        (&QUEUE_EVENTS, topic.events as f64),
        (&QUEUE_BYTES, topic.bytes as f64),
        (&QUEUE_OFFLINE, f64::from(u8::from(is_offline))),
        (&QUEUE_LOST, topic.lost as f64),
        (&QUEUE_RECOVERY, topic.recovery.as_secs_f64()),
        (&QUEUE_DELAYED, topic.delayed as f64),
        (&QUEUE_CLOCK_FROZEN, f64::from(u8::from(topic.is_clock_frozen))),
        (&QUEUE_DEDUP_ENTRIES, topic.dedup.entries as f64),
        (&QUEUE_DEDUP_HITS, topic.dedup.hits as f64),
        (&QUEUE_DEDUP_WINDOW, topic.dedup.window.as_secs_f64()),
    ] {
        told.number(desc, &labels, value);
    }
    let dropped = &topic.dropped;
    for (reason, count) in [
        ("drop_oldest", dropped.oldest),
        ("pin_false", dropped.unpinned),
        ("dead_letter_age", dropped.dead_letters),
    ] {
        told.number(&QUEUE_DROPPED, &[&*topic.name, reason], count as f64);
    }
    if let Some(at) = topic.scrubbed {
        told.number(&QUEUE_SCRUBBED, &labels, at as f64 / 1e3);
    }
}

fn counted(told: &mut Exposition, name: &str, tally: &Tally) {
    const MILLIS: f64 = 1e3;
    for (end, count) in tally.deliveries() {
        told.number(&SUBSCRIPTION_DELIVERIES, &[name, end.word()], count as f64);
    }
    for (reason, count) in tally.dead_letters() {
        told.number(&SUBSCRIPTION_DEAD_LETTERED, &[name, reason.word()], count as f64);
    }
    told.number(&SUBSCRIPTION_LOST, &[name], tally.lost.get() as f64);
    told.number(&SUBSCRIPTION_DISCARDED, &[name], tally.discarded.get() as f64);
    told.number(&SUBSCRIPTION_STOPPED_SAGAS, &[name], tally.stopped_sagas.get() as f64);
    spread(told, &SUBSCRIPTION_ATTEMPTS, name, &tally.attempts, 1.0);
    spread(told, &SUBSCRIPTION_DELIVERY, name, &tally.delivery_millis, MILLIS);
    spread(told, &SUBSCRIPTION_END_TO_END, name, &tally.end_to_end_millis, MILLIS);
}

fn subscription(told: &mut Exposition, status: &SubscriptionStatus) {
    let labels = [&*status.name];
    let is_paused = status.state != SubscriptionState::Active;
    for (desc, value) in [
        (&SUBSCRIPTION_LAG_EVENTS, status.lag_events as f64),
        (&SUBSCRIPTION_LAG_BYTES, status.lag_bytes as f64),
        (&SUBSCRIPTION_OLDEST_AGE, status.oldest_age.unwrap_or_default().as_secs_f64()),
        (&SUBSCRIPTION_IN_FLIGHT, status.in_flight as f64),
        (&SUBSCRIPTION_PARKED, status.parked as f64),
        (&SUBSCRIPTION_BLOCKED_KEYS, status.blocked_keys as f64),
        (&SUBSCRIPTION_SUSPECTS, status.suspects as f64),
        (&SUBSCRIPTION_PAUSED, f64::from(u8::from(is_paused))),
    ] {
        told.number(desc, &labels, value);
    }
    for (reason, count) in &status.dead_letters.reasons {
        let labels = [&*status.name, reason.word()];
        told.number(&SUBSCRIPTION_DEAD_LETTERS, &labels, *count as f64);
    }
}
