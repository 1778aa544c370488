//! One worker's connections to its endpoints.
//!
//! Newest first: what was used last is the least likely to be closed by the other side, and what is
//! not needed falls idle and is closed. A connection that is closed, not ready or past its time is
//! discarded before use; one idle for over a second is looked at by the kernel's eyes before an
//! unsafe method goes out on it. Dials belong to the pool: a request that gives up leaves its
//! connection to the next.
//!
//! Invariant: whoever waits is answered. Each dial that ends serves those who wait, fails those no
//! other dial will serve, or dials again.
//!
//! A checkout costs one uncontended lock, shared with nobody outside this worker.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{
    sync::oneshot,
    time::{self, Instant},
};

use crate::{
    error::{Error, Kind, Result},
    telemetry::{
        metrics::{Cells, Counter, POOL_RACES, UPSTREAM_CONNECTIONS},
        task,
    },
    upstream::{
        Local, Pools, Protocol, Transport,
        handshake::{self, H1, H2, H2Stream, Opened},
    },
};

/// How long a connection whose response has ended may take to get ready for the next request.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);
/// A connection idle for longer may have been closed without our having heard of it; under load they
/// are used again sooner, and what doubt costs is not paid.
const DOUBT_AFTER: Duration = Duration::from_millis(5);

/// One worker's connections to one endpoint.
pub(crate) struct Pool {
    pools: Arc<Pools>,
    max_idle: usize,
    max_h2: usize,
    probe_idle_after: Duration,
    idle_timeout: Duration,
    counters: Counters,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    idle: Vec<H1>,
    h2: SmallVec<[Arc<H2>; 4]>,
    /// Longest waiting first.
    waiters: VecDeque<oneshot::Sender<Result<Lease>>>,
    dialling: usize,
    /// What the endpoint speaks; with `auto` unknown until the first connection.
    speaks: Option<Speaks>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    H1,
    H2,
}

#[derive(Clone)]
struct Counters {
    opened: Counter,
    failed: Counter,
    reused: Counter,
    closed_idle: Counter,
    races: Counter,
}

/// A connection, or a stream of one, for one request.
pub(crate) enum Lease {
    H1(Box<H1>),
    H2(H2Stream),
}

/// What a checkout finds.
pub(crate) enum Checkout {
    Ready(Lease),
    Wait(Waiting),
    /// Every stream of every connection we may have is taken.
    Full,
}

/// Waits for a connection. Dropped, it leaves what it was given to the pool.
pub(crate) struct Waiting {
    lease: oneshot::Receiver<Result<Lease>>,
    local: Arc<Local>,
}

// === impl Pool ===

impl Pool {
    pub(crate) fn new(transport: &Transport, pools: &Arc<Pools>) -> Self {
        let settings = transport.settings();
        let speaks = match settings.protocol {
            Protocol::H1 => Some(Speaks::H1),
            Protocol::H2 => Some(Speaks::H2),
            Protocol::Auto => (!transport.is_tls()).then_some(Speaks::H1),
        };
        Self {
            pools: pools.clone(),
            max_idle: settings.max_idle,
            max_h2: settings.max_h2_connections,
            probe_idle_after: settings.probe_idle_after,
            idle_timeout: settings.idle_timeout,
            counters: Counters::new(pools.cells(), &settings.name),
            state: Mutex::new(State { speaks, ..State::default() }),
        }
    }

    pub(crate) fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// A connection closed as a request was written to it.
    pub(crate) fn count_race(&self) {
        self.counters.races.add(1);
    }

    pub(crate) fn count_opened(&self, is_ok: bool) {
        if is_ok { self.counters.opened.add(1) } else { self.counters.failed.add(1) }
    }

    /// A connection for a request; `is_unsafe`: its method must not be sent twice.
    pub(crate) fn checkout(&self, local: &Arc<Local>, is_unsafe: bool) -> Checkout {
        let mut state = self.state.lock();
        match state.speaks {
            Some(Speaks::H1) => {
                if let Some(h1) = self.pop_idle(&mut state, is_unsafe) {
                    self.counters.reused.add(1);
                    return Checkout::Ready(Lease::H1(Box::new(h1)));
                }
                Self::dial(&mut state, local);
            }
            Some(Speaks::H2) => {
                if let Some(stream) = state.h2_stream() {
                    self.counters.reused.add(1);
                    return Checkout::Ready(Lease::H2(stream));
                }
                if state.h2.len() >= self.max_h2 {
                    return Checkout::Full;
                }
                if state.dialling == 0 {
                    Self::dial(&mut state, local);
                }
            }
            None if state.dialling == 0 => Self::dial(&mut state, local),
            None => {}
        }
        let (sender, lease) = oneshot::channel();
        state.waiters.push_back(sender);
        Checkout::Wait(Waiting { lease, local: local.clone() })
    }

    /// Whether no idle connection has anything to read; `None` without one.
    #[cfg(test)]
    pub(crate) fn idle_are_quiet(&self) -> Option<bool> {
        let state = self.state.lock();
        (!state.idle.is_empty()).then(|| state.idle.iter().all(H1::is_quiet))
    }

    /// The streams open on each h2 connection.
    #[cfg(test)]
    pub(crate) fn h2_open(&self) -> Vec<usize> {
        self.state.lock().h2.iter().map(|h2| h2.open()).collect()
    }

    fn pop_idle(&self, state: &mut State, is_unsafe: bool) -> Option<H1> {
        let now = Instant::now();
        while let Some(mut h1) = state.idle.pop() {
            self.pools.remove_idle(1);
            let idle_for = now.saturating_duration_since(h1.idle_since);
            let probe = is_unsafe && idle_for > self.probe_idle_after;
            h1.is_doubtful = idle_for > DOUBT_AFTER;
            if !h1.is_expired(now) && h1.is_ready() && (!probe || h1.is_quiet()) {
                return Some(h1);
            }
            self.counters.closed_idle.add(1);
        }
        None
    }

    /// Takes a connection back whose response has been read to its end.
    pub(crate) fn put(&self, local: &Arc<Local>, mut h1: Box<H1>) {
        if h1.is_spent {
        } else if h1.is_ready() {
            self.put_ready(*h1);
        } else if !h1.is_closed() {
            let local = local.clone();
            // Rare: the request's body is still being written, or another thread runs the task.
            task::spawn("upstream settle", async move {
                if time::timeout(SETTLE_TIMEOUT, h1.ready()).await.is_ok_and(|ready| ready) {
                    local.pool().put_ready(*h1);
                }
            });
        }
    }

    fn put_ready(&self, mut h1: H1) {
        let mut state = self.state.lock();
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(Ok(Lease::H1(Box::new(h1)))) {
                Err(Ok(Lease::H1(unclaimed))) => h1 = *unclaimed,
                Ok(()) | Err(Ok(Lease::H2(_)) | Err(_)) => return,
            }
        }
        if state.idle.len() >= self.max_idle || self.pools.is_full() {
            return;
        }
        h1.idle_since = Instant::now();
        state.idle.push(h1);
        self.pools.add_idle();
        drop(state);
        self.pools.ensure_janitor();
    }

    /// Takes back what a request was given and did not use.
    fn put_unused(&self, local: &Arc<Local>, lease: Lease) {
        match lease {
            // Not yet polled by its task it is not ready: `put` waits for that.
            Lease::H1(h1) => self.put(local, h1),
            Lease::H2(stream) => drop(stream),
        }
    }

    /// Starts a dial, which `state` counts.
    fn dial(state: &mut State, local: &Arc<Local>) {
        state.dialling += 1;
        let local = local.clone();
        // A task, so that a request that gives up does not take the connection with it.
        task::spawn("upstream dial", async move {
            let opened = handshake::open(&local).await;
            let pool = local.pool();
            pool.count_opened(opened.is_ok());
            match opened {
                Ok(Opened::H1(h1)) => pool.opened_h1(&local, h1),
                Ok(Opened::H2(h2)) => pool.opened_h2(&local, h2),
                Err(error) => pool.failed(&error),
            }
        });
    }

    fn opened_h1(&self, local: &Arc<Local>, h1: Box<H1>) {
        let mut state = self.state.lock();
        state.dialling -= 1;
        state.speaks = Some(Speaks::H1);
        let mut unclaimed = Some(Lease::H1(h1));
        while let Some(lease) = unclaimed.take() {
            let Some(waiter) = state.waiters.pop_front() else {
                unclaimed = Some(lease);
                break;
            };
            unclaimed = waiter.send(Ok(lease)).err().and_then(Result::ok);
        }
        // Those who waited to learn what is spoken share no connection: each needs its own.
        while state.dialling < state.waiters.len() {
            Self::dial(&mut state, local);
        }
        drop(state);
        if let Some(lease) = unclaimed {
            self.put_unused(local, lease);
        }
    }

    fn opened_h2(&self, local: &Arc<Local>, h2: Arc<H2>) {
        let mut state = self.state.lock();
        state.dialling -= 1;
        state.speaks = Some(Speaks::H2);
        state.h2.push(h2);
        while !state.waiters.is_empty() {
            let Some(stream) = state.h2_stream() else { break };
            let Some(waiter) = state.waiters.pop_front() else { break };
            // Unclaimed, the stream frees its place by being dropped.
            drop(waiter.send(Ok(Lease::H2(stream))));
        }
        if state.waiters.is_empty() || state.dialling > 0 {
        } else if state.h2.len() < self.max_h2 {
            Self::dial(&mut state, local);
        } else {
            for waiter in state.waiters.drain(..) {
                drop(waiter.send(Err(Kind::ConcurrencyFull.into())));
            }
        }
        drop(state);
        self.pools.ensure_janitor();
    }

    fn failed(&self, error: &Error) {
        let mut state = self.state.lock();
        state.dialling -= 1;
        let served = match state.speaks {
            Some(Speaks::H1) => state.dialling,
            Some(Speaks::H2) | None if state.dialling > 0 => state.waiters.len(),
            Some(Speaks::H2) | None => 0,
        };
        let unserved = state.waiters.len().saturating_sub(served);
        for waiter in state.waiters.drain(..unserved) {
            let error = Error::new(error.kind().clone()).with_detail(error.to_string());
            drop(waiter.send(Err(error)));
        }
    }

    pub(crate) fn expire(&self, now: Instant) {
        let mut state = self.state.lock();
        let before = state.idle.len();
        state.idle.retain(|h1| !h1.is_expired(now) && !h1.is_closed());
        let closed = before - state.idle.len();
        let before = state.h2.len();
        state.h2.retain(|h2| !h2.is_closed() && !h2.is_idle_for(self.idle_timeout, now));
        let closed_h2 = before - state.h2.len();
        drop(state);
        self.pools.remove_idle(closed);
        self.counters.closed_idle.add((closed + closed_h2) as u64);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pools.remove_idle(self.state.get_mut().idle.len());
    }
}

// === impl State ===

impl State {
    /// A stream of the first connection that has a place free.
    fn h2_stream(&mut self) -> Option<H2Stream> {
        self.h2.retain(|h2| !h2.is_closed());
        self.h2.iter().find_map(H2::try_stream)
    }
}

// === impl Counters ===

impl Counters {
    fn new(cells: &Cells, upstream: &str) -> Self {
        let connections = |outcome| cells.counter(&UPSTREAM_CONNECTIONS, &[upstream, outcome]);
        Self {
            opened: connections("opened"),
            failed: connections("failed"),
            reused: connections("reused"),
            closed_idle: connections("closed-idle"),
            races: cells.counter(&POOL_RACES, &[upstream]),
        }
    }
}

// === impl Waiting ===

impl Future for Waiting {
    type Output = Result<Lease>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.lease).poll(cx).map(|received| {
            // Only the end of the runtime drops a dial before it has answered.
            received.unwrap_or_else(|_| Err(Kind::UpstreamConnect.into()))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lease.close();
        if let Ok(Ok(lease)) = self.lease.try_recv() {
            self.local.pool().put_unused(&self.local, lease);
        }
    }
}
