//! The open connections of one worker: counts them, closes them when the worker drains, and closes
//! an idle one when the listener is full.
//!
//! A connection takes the lock when it opens and when it ends, never per request; whether it is
//! idle is in its own state. One scan of all connections finds the oldest idle ones and remembers
//! many of them; those that stayed idle since are still the oldest.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{connection::state::State, http::Peer};

/// How many idle connections one scan remembers.
const CANDIDATES: usize = 64;
/// If a scan found no idle connection, how long to wait before the next.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// A scan is followed by a pause of this many times its duration, so that scanning takes less than
/// a tenth of the worker's time, however many connections are open.
const LOOK_SHARE: u32 = 10;

/// The open connections of one worker. Clones are the same set.
#[derive(Clone, Debug)]
pub struct Connections(Arc<Shared>);

/// One connection's place in the set, until it is dropped.
#[derive(Debug)]
pub(super) struct Registered {
    connections: Connections,
    id: u64,
    state: Arc<State>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    draining: AtomicBool,
    cut: AtomicBool,
    none_open: Notify,
    has_freed: Notify,
    set: Mutex<Set>,
}

#[derive(Debug, Default)]
struct Set {
    next_id: u64,
    open: HashMap<u64, Entry, RandomState>,
    candidates: Candidates,
}

#[derive(Debug)]
struct Entry {
    peer: Arc<Peer>,
    state: Arc<State>,
}

/// Idle connections of one listener, oldest first, with the time since when.
#[derive(Debug, Default)]
struct Candidates {
    listener: Box<str>,
    oldest: VecDeque<(u64, u64)>,
    not_before: Option<Instant>,
}

// === impl Connections ===

impl Default for Connections {
    fn default() -> Self {
        Self::new()
    }
}

impl Connections {
    /// No connection yet.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            epoch: Instant::now(),
            draining: AtomicBool::new(false),
            cut: AtomicBool::new(false),
            none_open: Notify::new(),
            has_freed: Notify::new(),
            set: Mutex::default(),
        }))
    }

    /// Asks every connection, open now or later, to close gracefully: idle ones now, others after
    /// the responses they owe (h1: `Connection: close`; h2: GOAWAY). An h1 connection that has not
    /// sent a request yet has `discard_timeout` from its start to send one. Idempotent.
    pub fn drain(&self) {
        // Relaxed: registration takes the lock below, and that orders this store.
        self.0.draining.store(true, Ordering::Relaxed);
        for entry in self.0.set.lock().open.values() {
            entry.state.ask_to_close();
        }
    }

    /// Ends every connection, open now or later, whatever it is doing. An incomplete response is
    /// ended so that the client cannot take it for a complete one, and is logged as `draining`.
    /// Idempotent.
    pub fn cut(&self) {
        // Relaxed: as in `drain`.
        self.0.cut.store(true, Ordering::Relaxed);
        for entry in self.0.set.lock().open.values() {
            entry.cut();
        }
    }

    /// Whether [`Connections::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Open connections, without upgraded ones: those are counted where their tunnel runs.
    pub fn open(&self) -> usize {
        self.0.set.lock().open.len()
    }

    /// Closes this listener's longest idle connection. `false` if none is idle.
    pub fn close_oldest_idle(&self, listener: &str) -> bool {
        let mut set = self.0.set.lock();
        if set.candidates.listener.as_ref() != listener {
            set.candidates = Candidates { listener: listener.into(), ..Candidates::default() };
        }
        if set.close_candidate() {
            return true;
        }
        let started = Instant::now();
        if set.candidates.not_before.is_some_and(|at| started < at) {
            return false;
        }
        set.look();
        let is_closed = set.close_candidate();
        let now = Instant::now();
        let pause = (now - started) * LOOK_SHARE;
        set.candidates.not_before =
            Some(now + if is_closed { pause } else { pause.max(LOOK_AGAIN) });
        is_closed
    }

    /// Completes when no connection is open. Cancel-safe.
    pub async fn drained(&self) {
        loop {
            let none_open = self.0.none_open.notified();
            if self.open() == 0 {
                return;
            }
            none_open.await;
        }
    }

    /// Completes when a connection has released its buffers since the last call, by going idle or
    /// by ending. For one caller at a time. Cancel-safe.
    pub async fn freed(&self) {
        self.0.has_freed.notified().await;
    }

    pub(super) fn register(self, peer: Arc<Peer>) -> Registered {
        let state = Arc::new(State::default());
        let entry = Entry { peer, state: state.clone() };
        let mut set = self.0.set.lock();
        if self.is_draining() {
            state.ask_to_close();
        }
        if self.0.cut.load(Ordering::Relaxed) {
            entry.cut();
        }
        let id = set.next_id;
        set.next_id += 1;
        set.open.insert(id, entry);
        drop(set);
        Registered { connections: self, id, state }
    }
}

// === impl Registered ===

impl Registered {
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The connection has given up its buffers.
    pub(super) fn note_freed(&self) {
        self.connections.0.has_freed.notify_one();
    }

    /// Notes since when the connection has been idle, if it is.
    pub(super) fn note_idle(&self, since: Option<Instant>) {
        let at = since.map_or(0, |since| {
            let age = since.saturating_duration_since(self.connections.0.epoch);
            u64::try_from(age.as_micros()).unwrap_or(u64::MAX - 1) + 1
        });
        self.state.set_idle_since(at);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // A tunnel keeps the state: not the task that served the connection, too.
        self.state.set_waker(None);
        let shared = &self.connections.0;
        let mut set = shared.set.lock();
        set.open.remove(&self.id);
        if set.open.is_empty() {
            shared.none_open.notify_waiters();
        }
        shared.has_freed.notify_one();
    }
}

// === impl Entry ===

impl Entry {
    fn cut(&self) {
        self.peer.cut();
        self.state.cut();
    }
}

// === impl Set ===

impl Set {
    /// Closes the first candidate that is still open and still idle since the same time.
    fn close_candidate(&mut self) -> bool {
        while let Some((since, id)) = self.candidates.oldest.pop_front() {
            if let Some(entry) = self.open.get(&id)
                && entry.state.idle_since() == since
                && !entry.state.is_closing()
            {
                entry.state.close_now();
                return true;
            }
        }
        false
    }

    /// Scans all connections for the oldest idle ones.
    fn look(&mut self) {
        let listener = &self.candidates.listener;
        let mut idle: Vec<_> = self
            .open
            .iter()
            .filter(|(_, entry)| *entry.peer.listener == **listener && !entry.state.is_closing())
            .map(|(&id, entry)| (entry.state.idle_since(), id))
            .filter(|&(since, _)| since != 0)
            .collect();
        if idle.len() > CANDIDATES {
            idle.select_nth_unstable(CANDIDATES);
            idle.truncate(CANDIDATES);
        }
        idle.sort_unstable();
        self.candidates.oldest = idle.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::peer::Address;

    fn peer() -> Arc<Peer> {
        Arc::new(Peer::new("web".into(), Address::Unix, Address::Unix))
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_idle_connection_that_has_not_stirred_goes_first() {
        let connections = Connections::new();
        let start = Instant::now();
        let open: Vec<_> = (0..4).map(|_| connections.clone().register(peer())).collect();
        for (connection, secs) in open.iter().zip([3, 1, 2]) {
            connection.note_idle(Some(start + Duration::from_secs(secs)));
        }
        assert!(connections.close_oldest_idle("web"));
        assert!(open[1].state().is_closing());
        // Kept from the same look, but it has stirred since.
        open[2].note_idle(None);
        assert!(connections.close_oldest_idle("web"));
        assert!(open[0].state().is_closing());
        assert!(!open[2].state().is_closing() && !open[3].state().is_closing());
        assert!(!connections.close_oldest_idle("web"));
        open[3].note_idle(Some(start));
        assert!(!connections.close_oldest_idle("web"), "another look is not worth it yet");
        tokio::time::advance(LOOK_AGAIN).await;
        assert!(connections.close_oldest_idle("web"));
    }

    #[tokio::test(start_paused = true)]
    async fn many_go_oldest_first_and_a_used_up_look_is_followed_by_another() {
        let connections = Connections::new();
        let start = Instant::now();
        let count = CANDIDATES * 2 + 5;
        let open: Vec<_> = (0..count).map(|_| connections.clone().register(peer())).collect();
        // 5 and the count have no common divisor: every place once, in no order.
        let place = |n: usize| n * 5 % count;
        for (n, connection) in open.iter().enumerate() {
            let secs = u64::try_from(place(n)).unwrap();
            connection.note_idle(Some(start + Duration::from_secs(secs)));
        }
        for closed in 1..=count {
            while !connections.close_oldest_idle("web") {
                tokio::time::advance(LOOK_AGAIN).await;
            }
            for (n, connection) in open.iter().enumerate() {
                assert_eq!(connection.state().is_closing(), place(n) < closed);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_comes_while_draining_is_asked_at_once() {
        let connections = Connections::new();
        connections.drain();
        let late = connections.clone().register(peer());
        assert!(late.state().is_closing());
        let dropping = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            drop(late);
        };
        let started = Instant::now();
        tokio::join!(connections.drained(), dropping);
        assert_eq!(started.elapsed().as_secs(), 3);
        assert_eq!(connections.open(), 0);
    }
}
