//! What the four services have in common: a signature that is checked, events that are known by their
//! `id`, a few workers that take their time, and answers that get lost now and then.

use std::{collections::HashMap, net::SocketAddr, ops::Add, sync::Arc, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Method, StatusCode, request::Parts};
use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};
use tokio::{sync::Semaphore, time};

use crate::{
    event::{Event, Secret},
    http::{Handler, Reply},
};

/// What a service is for. Its memory is its database: it outlives the service.
pub(crate) trait Business: Send + 'static {
    /// What an event does, and the answer to it.
    fn take(&mut self, event: &Event) -> Reply;

    /// A request that is not an event.
    fn request(&mut self, _head: &Parts, _body: &[u8]) -> Reply {
        Reply::new(StatusCode::NOT_FOUND, Value::Null)
    }
}

/// How a service behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manners {
    /// So many events at once,
    pub(crate) workers: usize,
    /// for so long each.
    pub(crate) time: Duration,
    /// A share of its answers is lost after their effect.
    pub(crate) lost_answers: f64,
    /// Knows an event again. Without, each delivery is taken for a new one.
    pub(crate) remembers: bool,
}

/// A service: its business and the events it has seen, in one transaction.
#[derive(Debug)]
pub(crate) struct Service<B> {
    secret: Secret,
    manners: Manners,
    address: SocketAddr,
    workers: Semaphore,
    state: Mutex<State<B>>,
}

/// What a service has on disk, were it a real one.
#[derive(Debug)]
pub(crate) struct State<B> {
    pub(crate) business: B,
    pub(crate) counts: Counts,
    /// Events it has seen, and what it said.
    seen: HashMap<String, Reply>,
    luck: Rng,
}

/// What it counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Events that came, each delivery.
    pub(crate) deliveries: u64,
    /// Of these, how many it knew already.
    pub(crate) repeats: u64,
    /// Not signed by the gateway.
    pub(crate) forged: u64,
    /// Effects whose answer was lost.
    pub(crate) lost_answers: u64,
}

// === impl Service ===

impl<B: Business> Service<B> {
    pub(crate) fn new(
        business: B,
        (secret, luck): (Secret, Rng),
        manners: Manners,
        address: SocketAddr,
    ) -> Arc<Self> {
        let counts = Counts::default();
        let state = State { business, counts, seen: HashMap::new(), luck };
        let workers = Semaphore::new(manners.workers);
        Arc::new(Self { secret, manners, address, workers, state: Mutex::new(state) })
    }

    /// Where it listens while it runs.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has on disk.
    pub(crate) fn state(&self) -> MutexGuard<'_, State<B>> {
        self.state.lock()
    }

    /// A copy of its books.
    pub(crate) fn books(&self) -> B
    where
        B: Clone,
    {
        self.state().business.clone()
    }

    /// What it counted so far.
    pub(crate) fn counts(&self) -> Counts {
        self.state().counts
    }

    async fn event(&self, head: &Parts, body: &[u8]) -> Option<Reply> {
        if !self.secret.has_signed(&head.headers, body) {
            self.state().counts.forged += 1;
            return Some(Reply::new(StatusCode::UNAUTHORIZED, json!("who are you?")));
        }
        let event = serde_json::from_slice(body).ok().and_then(|event| Event::parse(&event));
        let Some(event) = event else {
            return Some(Reply::new(StatusCode::BAD_REQUEST, json!("this is no event")));
        };
        let Ok(_worker) = self.workers.acquire().await else { return None };
        time::sleep(self.manners.time).await;
        let mut state = self.state();
        let reply = state.take(&event, self.manners.remembers);
        state.answer(reply, self.manners.lost_answers)
    }
}

impl<B: Business> Handler for Service<B> {
    fn answer(self: Arc<Self>, head: Parts, body: Bytes) -> BoxFuture<'static, Option<Reply>> {
        async move {
            if head.method == Method::POST && head.uri.path() == "/events" {
                return self.event(&head, &body).await;
            }
            time::sleep(Duration::from_millis(2)).await;
            let mut state = self.state();
            let reply = state.business.request(&head, &body);
            // Only what had an effect can lose something.
            let share =
                if reply.status == StatusCode::CREATED { self.manners.lost_answers } else { 0.0 };
            state.answer(reply, share)
        }
        .boxed()
    }
}

// === impl State ===

impl<B: Business> State<B> {
    /// The effect of an event, once: a repeated one gets the answer of the first time.
    fn take(&mut self, event: &Event, remembers: bool) -> Reply {
        self.counts.deliveries += 1;
        if let Some(reply) = self.seen.get(&event.id) {
            self.counts.repeats += 1;
            if remembers {
                return reply.clone();
            }
        }
        let reply = self.business.take(event);
        self.seen.insert(event.id.clone(), reply.clone());
        reply
    }

    fn answer(&mut self, reply: Reply, lost_answers: f64) -> Option<Reply> {
        if self.luck.f64() < lost_answers {
            self.counts.lost_answers += 1;
            return None;
        }
        Some(reply)
    }
}

// === impl Counts ===

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            deliveries: self.deliveries + other.deliveries,
            repeats: self.repeats + other.repeats,
            forged: self.forged + other.forged,
            lost_answers: self.lost_answers + other.lost_answers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u32);

    impl Business for Counting {
        fn take(&mut self, _: &Event) -> Reply {
            self.0 += 1;
            Reply::new(StatusCode::OK, json!(self.0))
        }
    }

    fn state() -> State<Counting> {
        let (counts, seen) = (Counts::default(), HashMap::new());
        State { business: Counting(0), counts, seen, luck: Rng::with_seed(1) }
    }

    fn event(id: &str) -> Event {
        Event { id: id.to_owned(), kind: "t".to_owned(), data: Value::Null }
    }

    #[test]
    fn a_repeated_event_has_the_first_answer_and_no_effect() {
        let mut state = state();
        assert_eq!(state.take(&event("a"), true).body, 1);
        assert_eq!(state.take(&event("b"), true).body, 2);
        assert_eq!(state.take(&event("a"), true).body, 1);
        assert_eq!((state.business.0, state.counts.deliveries, state.counts.repeats), (2, 3, 1));
    }

    #[test]
    fn a_service_without_memory_does_it_again() {
        let mut state = state();
        state.take(&event("a"), false);
        assert_eq!(state.take(&event("a"), false).body, 2);
        assert_eq!(state.counts.repeats, 1);
    }

    #[test]
    fn an_answer_that_gets_lost_is_counted() {
        let mut state = state();
        let reply = Reply::new(StatusCode::OK, Value::Null);
        assert!(state.answer(reply.clone(), 0.0).is_some());
        assert!(state.answer(reply, 1.0).is_none());
        assert_eq!(state.counts.lost_answers, 1);
    }
}
