//! One worker's connections to one endpoint.
//!
//! The most recently used connection is taken first: it is the least likely to have been closed by
//! the peer, and connections that are not needed become idle and are closed. A connection that is
//! closed, disturbed or expired is discarded. Before an unsafe method uses one that was idle for
//! over a second, the pool checks the socket for a close that the kernel has seen. Dials belong to
//! the pool: a request that gives up leaves its connection to the next.
//!
//! Invariant: every waiter is answered. Each dial that ends serves waiters, fails those that no
//! other dial will serve, or dials again.
//!
//! A checkout costs one uncontended lock that only this worker takes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::{
    sync::oneshot,
    time::{self, Instant},
};

use crate::{
    error::{Error, Kind, Result},
    telemetry::{
        clock,
        metrics::{Cells, Counter, POOL_RACES, UPSTREAM_CONNECTIONS},
        task,
    },
    upstream::{
        Local, Pools, Protocol, Transport,
        checkout::{Checkout, Lease, Waiting},
        h1::H1,
        handshake::{self, H2, H2Stream, Opened},
    },
};

/// How long the request may go on after its response: as long as that of a client answered early.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection idle for longer may have been closed without our knowledge. Under load connections
/// are reused sooner and do not pay for the doubt.
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
    #[expect(clippy::vec_box, reason = "boxed for life: in and out moves a pointer")]
    idle: Vec<Box<H1>>,
    h2: SmallVec<[Arc<H2>; 4]>,
    /// Longest waiting first.
    waiters: VecDeque<oneshot::Sender<Result<Lease>>>,
    dialling: usize,
    /// The endpoint's protocol; with `auto` unknown until the first connection.
    speaks: Option<Speaks>,
    /// Another [`Local`] of the endpoint has taken over: nothing is kept any more.
    is_retired: bool,
}

/// A dial in flight, counted until it is over.
struct Dial {
    local: Arc<Local>,
    is_over: bool,
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

    /// Counts a connection that closed while a request was written to it.
    pub(crate) fn count_race(&self) {
        self.counters.races.add(1);
    }

    pub(crate) fn count_opened(&self, is_ok: bool) {
        if is_ok { self.counters.opened.add(1) } else { self.counters.failed.add(1) }
    }

    /// A connection for a request. `is_unsafe`: its method must not be sent twice.
    pub(crate) fn checkout(&self, local: &Arc<Local>, is_unsafe: bool) -> Checkout {
        let mut state = self.state.lock();
        let dials = match state.speaks {
            Some(Speaks::H1) => {
                if let Some(h1) = self.pop_idle(&mut state, is_unsafe) {
                    self.counters.reused.add_alone(1);
                    return Checkout::Ready(Lease::H1(h1));
                }
                true
            }
            Some(Speaks::H2) => {
                if let Some(stream) = state.h2_stream() {
                    self.counters.reused.add_alone(1);
                    return Checkout::Ready(Lease::H2(stream));
                }
                if state.h2.len() >= self.max_h2 {
                    return Checkout::Full;
                }
                state.dialling == 0
            }
            None => state.dialling == 0,
        };
        let (sender, lease) = oneshot::channel();
        state.waiters.push_back(sender);
        state.dialling += usize::from(dials);
        drop(state);
        if dials {
            dial(local);
        }
        Checkout::Wait(Waiting::new(lease, local))
    }

    /// Whether no idle connection has anything to read; `None` without one.
    #[cfg(test)]
    pub(crate) fn idle_are_quiet(&self) -> Option<bool> {
        let idle = &self.state.lock().idle;
        (!idle.is_empty()).then(|| idle.iter().all(|h1| h1.is_quiet()))
    }

    /// The streams open on each h2 connection.
    #[cfg(test)]
    pub(crate) fn h2_open(&self) -> Vec<usize> {
        self.state.lock().h2.iter().map(|h2| h2.open()).collect()
    }

    fn pop_idle(&self, state: &mut State, is_unsafe: bool) -> Option<Box<H1>> {
        let now = clock::tick();
        while let Some(mut h1) = state.idle.pop() {
            self.pools.remove_idle(1);
            let idle_for = h1.idle_for(now);
            let probe = is_unsafe && idle_for > self.probe_idle_after;
            h1.is_doubtful = idle_for > DOUBT_AFTER;
            if !h1.has_expired(idle_for) && !h1.is_disturbed() && (!probe || h1.is_quiet()) {
                return Some(h1);
            }
            self.counters.closed_idle.add(1);
        }
        None
    }

    /// Takes back a connection whose response has been read to its end.
    pub(crate) fn put(&self, local: &Arc<Local>, mut h1: Box<H1>) {
        if h1.is_ready() {
            self.put_ready(h1);
        } else if h1.is_sending() && !h1.is_spent {
            let local = local.clone();
            task::spawn("upstream settle", async move {
                let sent = time::timeout(SETTLE_TIMEOUT, h1.sent()).await;
                if sent == Ok(true) && h1.is_ready() {
                    local.pool().put_ready(h1);
                }
            });
        }
    }

    fn put_ready(&self, mut h1: Box<H1>) {
        // What follows a response would be taken for the answer to the next request.
        if h1.is_disturbed() {
            return;
        }
        let mut state = self.state.lock();
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.send(Ok(Lease::H1(h1))) {
                Err(Ok(Lease::H1(unclaimed))) => h1 = unclaimed,
                Ok(()) | Err(Ok(Lease::H2(_)) | Err(_)) => return,
            }
        }
        if state.is_retired || state.idle.len() >= self.max_idle || self.pools.is_full() {
            return;
        }
        h1.rest(clock::tick());
        state.idle.push(h1);
        self.pools.add_idle();
        drop(state);
        self.pools.ensure_janitor();
    }

    /// Takes back a lease that was not used.
    pub(crate) fn put_unused(&self, local: &Arc<Local>, lease: Lease) {
        if let Lease::H1(h1) = lease {
            self.put(local, h1);
        }
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
        // Those that waited to learn the protocol cannot share a connection: each needs its own.
        let missing = state.waiters.len().saturating_sub(state.dialling);
        state.dialling += missing;
        drop(state);
        for _ in 0..missing {
            dial(local);
        }
        if let Some(lease) = unclaimed {
            self.put_unused(local, lease);
        }
    }

    fn opened_h2(&self, local: &Arc<Local>, h2: Arc<H2>) {
        let mut state = self.state.lock();
        state.dialling -= 1;
        state.speaks = Some(Speaks::H2);
        state.h2.retain(|h2| !h2.is_closed());
        // Dials meant for h1 may return more h2 connections than are allowed.
        if state.h2.len() < self.max_h2 {
            state.h2.push(h2);
        }
        state.serve_streams();
        let mut dials = false;
        if state.waiters.is_empty() || state.dialling > 0 {
        } else if state.h2.len() < self.max_h2 {
            dials = true;
            state.dialling += 1;
        } else {
            for waiter in state.waiters.drain(..) {
                drop(waiter.send(Err(Kind::ConcurrencyFull.into())));
            }
        }
        if state.is_retired {
            // Streams keep their connection alive.
            state.h2.clear();
        }
        drop(state);
        if dials {
            dial(local);
        }
        self.pools.ensure_janitor();
    }

    /// A stream became free on a connection that had none free.
    pub(crate) fn freed_stream(&self) {
        // If the lock is taken, streams are being handed out, and the freed one is the one that
        // loop could not place.
        if let Some(mut state) = self.state.try_lock() {
            state.serve_streams();
        }
    }

    /// Lets go of all pooled connections, and keeps none from now on.
    pub(crate) fn retire(&self) {
        let mut state = self.state.lock();
        state.is_retired = true;
        let idle = std::mem::take(&mut state.idle);
        state.h2.clear();
        drop(state);
        self.pools.remove_idle(idle.len());
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
        state.idle.retain_mut(|h1| !h1.is_expired(now) && !h1.is_disturbed());
        let closed = before - state.idle.len();
        let before = state.h2.len();
        state.h2.retain(|h2| !h2.is_closed() && !h2.is_idle_for(self.idle_timeout, now));
        let closed_h2 = before - state.h2.len();
        drop(state);
        self.pools.remove_idle(closed);
        self.counters.closed_idle.add((closed + closed_h2) as u64);
    }
}

/// Starts a dial that is already counted. Call without the lock: a dial dropped at once takes it.
fn dial(local: &Arc<Local>) {
    let mut dial = Dial { local: local.clone(), is_over: false };
    // A task, so that a request that gives up does not cancel the dial.
    task::spawn("upstream dial", async move {
        let opened = handshake::open(&dial.local).await;
        dial.is_over = true;
        let pool = dial.local.pool();
        pool.count_opened(opened.is_ok());
        match opened {
            Ok(Opened::H1(h1)) => pool.opened_h1(&dial.local, h1),
            Ok(Opened::H2(h2)) => pool.opened_h2(&dial.local, h2),
            Err(error) => pool.failed(&error),
        }
    });
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.pools.remove_idle(self.state.get_mut().idle.len());
    }
}

// === impl State ===

impl State {
    /// A stream of the first connection that has room.
    fn h2_stream(&mut self) -> Option<H2Stream> {
        self.h2.retain(|h2| !h2.is_closed());
        self.h2.iter().find_map(H2::try_stream)
    }

    /// Gives free streams to waiters.
    fn serve_streams(&mut self) {
        while !self.waiters.is_empty() {
            let Some(stream) = self.h2_stream() else { return };
            let Some(waiter) = self.waiters.pop_front() else { return };
            // If the waiter is gone, dropping the stream frees its place.
            drop(waiter.send(Ok(Lease::H2(stream))));
        }
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

// === impl Dial ===

impl Drop for Dial {
    fn drop(&mut self) {
        // It panicked, or its runtime has ended.
        if !self.is_over {
            self.local.pool().failed(&Error::new(Kind::UpstreamConnect).with_detail("broken off"));
        }
    }
}
