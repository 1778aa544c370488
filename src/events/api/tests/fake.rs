//! An event flow in memory, for tests of the endpoints: one topic `orders`, one subscription
//! `billing`, and what was asked of it.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;

use crate::events::{
    event::Event,
    facade::{
        Answer, DeadLetter, DeadLetterCount, DeadLetterFilter, DeadLetterPage, DedupStatus,
        Dropped, EventState, Events, Found, Hold, JobId, JobKind, JobState, JobStatus, Leased,
        Origin, Published, Reason, Receive, Redrive, Redriven, Refusal, Replay, Seek, StoredEvent,
        SubscriptionMode, SubscriptionPartition, SubscriptionState, SubscriptionStatus, Tail,
        TailPage, TokenItem, TokenResult, TokenStatus, Told, TopicState, TopicStatus, Trace,
        Unblock, Verb,
    },
};

#[derive(Debug, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) log: Vec<Event>,
    /// Attempts of each event, and whether it is settled.
    progress: Vec<(u32, bool)>,
    dead: Vec<u64>,
    is_paused: bool,
    /// So many events a tail that asks next is too slow for.
    pub(super) skipped: u64,
    /// The next call of `publish` or `receive` ends in this.
    pub(super) refusal: Option<Refusal>,
    /// What was asked for, as it was understood.
    pub(super) asked: Vec<String>,
}

/// When everything happens.
pub(super) const NOW: u64 = 1_795_687_200_000;

fn ready<'a, T: Send + 'a>(result: Result<T, Refusal>) -> Answer<'a, T> {
    Box::pin(std::future::ready(result))
}

fn is_topic(name: &str) -> Result<(), Refusal> {
    if name == "orders" { Ok(()) } else { Err(Refusal::unknown("topic", name)) }
}

fn is_subscription(name: &str) -> Result<(), Refusal> {
    if name == "billing" { Ok(()) } else { Err(Refusal::unknown("subscription", name)) }
}

// === impl State ===

impl State {
    fn stored(&self, offset: usize) -> StoredEvent {
        StoredEvent {
            topic: "orders".into(),
            partition: 0,
            offset: offset as u64,
            published: NOW,
            event: self.log[offset].clone(),
        }
    }

    /// What a tail is told next; the first event after a gap is told of it.
    fn page(&mut self, from: u64) -> Option<TailPage> {
        let end = self.log.len();
        let at = usize::try_from(from).unwrap().min(end);
        let skipped = std::mem::take(&mut self.skipped);
        let first = end.min(at + usize::try_from(skipped).unwrap());
        let events: Arc<[Told]> = (first..end).map(|at| Told::new(self.stored(at))).collect();
        let is_any = skipped > 0 || !events.is_empty();
        is_any.then_some(TailPage { events, next: end as u64, gap: 0, skipped })
    }

    fn topic(&self) -> TopicStatus {
        TopicStatus {
            name: "orders".into(),
            id: "t".to_owned(),
            state: TopicState::Serving,
            partitions: 1,
            start: 0,
            end: self.log.len() as u64,
            events: self.log.len() as u64,
            bytes: self.log.iter().map(|event| event.bytes() as u64).sum(),
            oldest: (!self.log.is_empty()).then_some(NOW),
            segments: 1,
            delayed: 0,
            dropped: Dropped::default(),
            dedup: DedupStatus::default(),
            lost: 0,
            recovery: Duration::from_millis(3),
            scrubbed: None,
            is_clock_frozen: false,
            is_orphaned: false,
            subscriptions: vec!["billing".into()],
        }
    }

    fn subscription(&self) -> SubscriptionStatus {
        let lag = self.progress.iter().filter(|(_, is_settled)| !is_settled).count() as u64;
        SubscriptionStatus {
            name: "billing".into(),
            id: "s".to_owned(),
            topic: "orders".into(),
            mode: SubscriptionMode::Pull,
            state: if self.is_paused {
                SubscriptionState::Paused(Hold::Operator)
            } else {
                SubscriptionState::Active
            },
            failing: None,
            lag_events: lag,
            lag_bytes: 0,
            oldest_age: None,
            in_flight: 0,
            parked: 0,
            blocked_keys: 0,
            suspects: 0,
            dead_letters: DeadLetterCount {
                count: self.dead.len() as u64,
                bytes: 0,
                reasons: vec![(Reason::Rejected, self.dead.len() as u64)],
            },
            next_retry: None,
            partitions: vec![SubscriptionPartition {
                partition: 0,
                floor: 0,
                scan: self.log.len() as u64,
                unsettled: lag,
                is_full: false,
            }],
            is_orphaned: false,
        }
    }

    fn letter(&self, offset: u64) -> DeadLetter {
        let event = &self.log[usize::try_from(offset).unwrap()];
        DeadLetter {
            id: offset,
            origin: Origin { lane: 0, topic: "orders".into(), partition: 0, offset },
            event_id: event.id.clone(),
            kind: event.kind.clone(),
            key: event.key.clone(),
            attempts: 1,
            first_attempt: Some(NOW),
            died: NOW,
            reason: Reason::Rejected,
            last_status: None,
            last_error: Some("no".to_owned()),
            redrives: 0,
            is_compensated: false,
            bytes: 7,
        }
    }

    fn settle(&mut self, verb: Verb, token: &str) -> TokenStatus {
        let parsed = token.split_once('-').and_then(|(offset, attempt)| {
            Some((offset.parse::<usize>().ok()?, attempt.parse::<u32>().ok()?))
        });
        let Some((offset, attempt)) = parsed else { return TokenStatus::Unknown };
        match &mut self.progress[offset] {
            (_, true) => return TokenStatus::Settled,
            (latest, _) if *latest != attempt => return TokenStatus::LeaseExpired,
            (_, is_settled) => *is_settled = matches!(verb, Verb::Ack | Verb::Reject),
        }
        if verb == Verb::Reject {
            self.dead.push(offset as u64);
        }
        TokenStatus::Ok
    }
}

fn job(kind: JobKind, total: u64) -> JobStatus {
    JobStatus {
        id: JobId { subscription: "billing".into(), lane: 1 },
        kind,
        state: JobState::Running,
        started: NOW,
        ended: None,
        total,
        done: 0,
        delivered: 0,
        failed: 0,
        failures: Vec::new(),
    }
}

// === impl Events ===

impl Events for Fake {
    fn publish<'a>(&'a self, topic: &'a str, events: Vec<Event>) -> Answer<'a, Vec<Published>> {
        let mut state = self.0.lock();
        if let Some(refusal) = state.refusal.take() {
            return ready(Err(refusal));
        }
        ready(is_topic(topic).map(|()| {
            let mut published = Vec::new();
            for event in events {
                let known = state.log.iter().position(|it| it.id == event.id);
                let offset = known.unwrap_or(state.log.len());
                published.push(Published {
                    id: event.id.clone(),
                    partition: 0,
                    offset: offset as u64,
                    duplicate: known.is_some(),
                    mismatch: known.is_some_and(|at| state.log[at].data != event.data),
                    is_delayed: event.not_before.is_some(),
                });
                if known.is_none() {
                    state.log.push(event);
                    state.progress.push((0, false));
                }
            }
            published
        }))
    }

    fn topics(&self) -> Answer<'_, Vec<TopicStatus>> {
        ready(Ok(vec![self.0.lock().topic()]))
    }

    fn topic<'a>(&'a self, topic: &'a str) -> Answer<'a, TopicStatus> {
        ready(is_topic(topic).map(|()| self.0.lock().topic()))
    }

    fn event_at<'a>(&'a self, _: &'a str, _: u32, offset: u64) -> Answer<'a, StoredEvent> {
        let state = self.0.lock();
        let at = usize::try_from(offset).unwrap();
        let stored = (at < state.log.len()).then(|| state.stored(at));
        ready(stored.ok_or(Refusal::unknown("event", offset.to_string())))
    }

    fn event<'a>(&'a self, id: &'a str) -> Answer<'a, Trace> {
        let state = self.0.lock();
        let found = (0..state.log.len()).filter(|at| state.log[*at].id == id);
        let found = found.map(|at| Found {
            stored: state.stored(at),
            states: vec![("billing".into(), EventState::InFlight { attempt: 1 })],
        });
        ready(Ok(Trace { events: found.collect(), partial: false }))
    }

    fn saga<'a>(&'a self, _: &'a str) -> Answer<'a, Trace> {
        ready(Ok(Trace { events: Vec::new(), partial: true }))
    }

    fn tail<'a>(&'a self, topic: &'a str, from: Option<u64>) -> Answer<'a, Tail> {
        if let Err(refusal) = is_topic(topic) {
            return ready(Err(refusal));
        }
        let end = self.0.lock().log.len() as u64;
        let next = from.unwrap_or(end);
        let state = self.0.clone();
        let pages = stream::unfold((state, next), |(state, next)| async move {
            loop {
                let page = state.lock().page(next);
                if let Some(page) = page {
                    let next = page.next;
                    return Some((Ok(page), (state, next)));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        ready(Ok(Tail { next, pages: pages.boxed() }))
    }

    fn reopen<'a>(&'a self, _: &'a str) -> Answer<'a, TopicStatus> {
        ready(Err(Refusal::conflict("the topic is not offline")))
    }

    fn confirm_clock(&self) -> Answer<'_, ()> {
        ready(Ok(()))
    }

    fn receive<'a>(&'a self, name: &'a str, receive: Receive) -> Answer<'a, Vec<Leased>> {
        let mut state = self.0.lock();
        state.asked.push(format!("{receive:?}"));
        ready(is_subscription(name).map(|()| {
            let due = (0..state.log.len()).filter(|at| !state.progress[*at].1);
            let due: Vec<usize> = due.take(receive.max_events).collect();
            let lease = |at: usize| {
                state.progress[at].0 += 1;
                Leased {
                    token: format!("{at}-{}", state.progress[at].0),
                    expires: NOW + 30_000,
                    attempt: state.progress[at].0,
                    partition: 0,
                    offset: at as u64,
                    is_replay: state.progress[at].0 > 1,
                    event: state.log[at].clone(),
                }
            };
            due.into_iter().map(lease).collect()
        }))
    }

    fn settle<'a>(
        &'a self,
        name: &'a str,
        verb: Verb,
        items: Vec<TokenItem>,
    ) -> Answer<'a, Vec<TokenResult>> {
        let mut state = self.0.lock();
        state.asked.push(format!("{verb:?} {items:?}"));
        ready(is_subscription(name).map(|()| {
            let mut result = |item: TokenItem| {
                let status = state.settle(verb, &item.token);
                TokenResult { token: item.token, status }
            };
            items.into_iter().map(&mut result).collect()
        }))
    }

    fn subscriptions(&self) -> Answer<'_, Vec<SubscriptionStatus>> {
        ready(Ok(vec![self.0.lock().subscription()]))
    }

    fn subscription<'a>(&'a self, name: &'a str) -> Answer<'a, SubscriptionStatus> {
        ready(is_subscription(name).map(|()| self.0.lock().subscription()))
    }

    fn seek<'a>(&'a self, name: &'a str, to: Seek) -> Answer<'a, ()> {
        self.0.lock().asked.push(format!("{to:?}"));
        ready(is_subscription(name))
    }

    fn pause<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.0.lock().is_paused = true;
        ready(is_subscription(name))
    }

    fn resume<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        self.0.lock().is_paused = false;
        ready(is_subscription(name))
    }

    fn unblock<'a>(&'a self, _: &'a str, unblock: Unblock) -> Answer<'a, ()> {
        self.0.lock().asked.push(format!("{unblock:?}"));
        ready(Ok(()))
    }

    fn dead_letters<'a>(
        &'a self,
        name: &'a str,
        _: Option<u64>,
        _: usize,
        filter: DeadLetterFilter,
    ) -> Answer<'a, DeadLetterPage> {
        let state = self.0.lock();
        ready(is_subscription(name).map(|()| {
            let all = state.dead.iter().map(|offset| state.letter(*offset));
            let kept = all.filter(|it| filter.reason.is_none_or(|reason| reason == it.reason));
            DeadLetterPage { entries: kept.collect(), next: None }
        }))
    }

    fn dead_letter<'a>(&'a self, _: &'a str, id: u64) -> Answer<'a, (DeadLetter, Event)> {
        let state = self.0.lock();
        let is_there = state.dead.contains(&id);
        let at = usize::try_from(id).unwrap();
        let found = is_there.then(|| (state.letter(id), state.log[at].clone()));
        ready(found.ok_or(Refusal::unknown("dead letter", id.to_string())))
    }

    fn redrive<'a>(&'a self, _: &'a str, redrive: Redrive) -> Answer<'a, Redriven> {
        let mut state = self.0.lock();
        let matching = state.dead.len() as u64;
        state.asked.push(format!("{redrive:?}"));
        let id = (!redrive.dry_run).then(|| job(JobKind::Redrive, matching).id);
        ready(Ok(Redriven { job: id, matching, skipped: 0 }))
    }

    fn purge<'a>(&'a self, _: &'a str, _: DeadLetterFilter, confirm: u64) -> Answer<'a, u64> {
        let mut state = self.0.lock();
        let count = state.dead.len() as u64;
        if count != confirm {
            return ready(Err(Refusal::conflict(format!("there are {count}, not {confirm}"))));
        }
        state.dead.clear();
        ready(Ok(count))
    }

    fn replay<'a>(&'a self, topic: &'a str, replay: Replay) -> Answer<'a, JobStatus> {
        let mut state = self.0.lock();
        state.asked.push(format!("{replay:?}"));
        ready(is_topic(topic).map(|()| job(JobKind::Replay, state.log.len() as u64)))
    }

    fn jobs(&self) -> Answer<'_, Vec<JobStatus>> {
        ready(Ok(vec![job(JobKind::Replay, 1)]))
    }

    fn job<'a>(&'a self, _: &'a JobId) -> Answer<'a, JobStatus> {
        ready(Ok(job(JobKind::Replay, 1)))
    }

    fn cancel<'a>(&'a self, _: &'a JobId) -> Answer<'a, JobStatus> {
        ready(Ok(JobStatus {
            state: JobState::Cancelled,
            ended: Some(NOW),
            ..job(JobKind::Replay, 1)
        }))
    }
}

/// A flow with these events in it.
pub(super) fn with(events: impl IntoIterator<Item = Event>) -> Arc<Fake> {
    let log: Vec<Event> = events.into_iter().collect();
    let progress = vec![(0, false); log.len()];
    Arc::new(Fake(Arc::new(Mutex::new(State { log, progress, ..State::default() }))))
}
