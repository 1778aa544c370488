//! The shared handle to the records of requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::{
    exchange::{Bound, Room},
    key::Key,
    keys::Keys,
    record::{self, Entry, SMALL},
    replay::Replay,
    results::Results,
    state::State,
    waiters::Waiters,
};
use crate::events::queue::{
    Offset,
    codec::HashKey,
    log::{Log, Purpose, ReadError, Reason, Refused, RetireError, SegmentInfo},
    pool::Pool,
    topic::clock_guard::GuardedClock,
};

/// Bytes read from the log at once.
const BLOCK: usize = 1 << 20;

/// The records of requests of one store. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub struct Ingress(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) log: Log,
    pub(super) state: Mutex<State>,
    pub(super) keys: Mutex<Keys>,
    pub(super) results: Mutex<Results>,
    /// Tasks waiting for a stored request to change.
    pub(super) waiters: Waiters,
    pub(super) max_entries: u64,
    pub(super) hash_key: HashKey,
    pub(super) pool: Pool,
    clock: GuardedClock,
    /// Below this offset nothing is owed, according to the log.
    noted: Mutex<Offset>,
    /// Whether it was logged that no place is left.
    pub(super) is_full: AtomicBool,
    /// No new attempt begins. Relaxed: the bells that ring afterwards order it.
    pub(super) is_winding_down: AtomicBool,
    /// Exchanges that ended with an unknown outcome, since start.
    pub(super) uncertain: AtomicU64,
    /// The log was offline when it was read: it may contain more than is known here.
    is_partial: bool,
}

/// What [`Ingress`] needs from its store.
#[derive(Debug)]
pub struct Around {
    /// Secret of the hashes.
    pub hash_key: HashKey,
    /// Reads records.
    pub pool: Pool,
    /// The clock by which keys expire.
    pub clock: GuardedClock,
}

/// Why the records cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the records of requests cannot be read: {0}")]
pub struct IngressError(#[from] ReadError);

/// Numbers about the records of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Exchanges not yet settled.
    pub entries: u64,
    /// Idempotency keys remembered.
    pub keys: u64,
    /// Of these, keys whose request may or may not have been done.
    pub uncertain_keys: u64,
    /// Stored requests that are being sent or have a result.
    pub results: u64,
    /// Requests stored before this process and not read yet; places are reserved for them.
    pub unread: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Exchanges that ended with an unknown outcome, since start.
    pub uncertain: u64,
}

// === impl Ingress ===

impl Ingress {
    /// Reads what `log` contains. Blocks. Orphans are left to [`Ingress::resolve`].
    ///
    /// A log that is offline is read as far as possible: it accepts no request anyway.
    pub fn open(log: Log, max_entries: u64, around: Around) -> Result<Self, IngressError> {
        let mut replay = Replay::default();
        let read = each(&log, log.start(), |offset, entry| replay.take(offset, entry));
        let Replay { mut state, keys, results } = replay;
        state.replayed_all();
        match read {
            Err(error) if !log.is_offline() => return Err(error.into()),
            Err(error) => tracing::error!(%error, "the records of requests are damaged"),
            Ok(()) => {}
        }
        let (noted, is_partial) = (Mutex::new(log.start()), log.is_offline());
        let Around { hash_key, pool, clock } = around;
        let inner = Inner {
            log,
            state: Mutex::new(state),
            keys: Mutex::new(keys),
            results: Mutex::new(results),
            waiters: Waiters::default(),
            max_entries,
            hash_key,
            pool,
            clock,
            noted,
            is_full: AtomicBool::new(false),
            is_winding_down: AtomicBool::new(false),
            uncertain: AtomicU64::new(0),
            is_partial,
        };
        Ok(Self(Arc::new(inner)))
    }

    /// Reserves room for everything an exchange may write, or refuses: `begin` bytes before the
    /// request is sent and `answer` bytes afterwards ([`record::Owed::bytes`] of each event, plus
    /// what [`Key`] asks for).
    pub fn reserve(&self, begin: u64, answer: u64, key: Option<Arc<Key>>) -> Result<Room, Refused> {
        let key = key.map(Bound);
        let inner = &self.0;
        // Room first: the log counts a refusal.
        let permit = inner.log.permit(begin.saturating_add(answer).saturating_add(4 * SMALL))?;
        let mut state = inner.state.lock();
        // A request with a key already has a place: its key's.
        let taken = state.len() + inner.keys.lock().len() + inner.results.lock().spoken_for();
        if taken as u64 >= inner.max_entries && key.is_none() {
            self.full();
            return Err(Refused::new(Reason::Full));
        }
        // Whoever reads the low mark later sees this exchange: see [`State::low`].
        let id = state.begin(inner.log.durable());
        Ok(Room::new(self.clone(), id, permit, begin, key))
    }

    /// Writes the offset below which nothing is owed, and retires the log below it. Call it about
    /// once a second. Blocks.
    pub fn tidy(&self) -> Result<(), RetireError> {
        let inner = &self.0;
        if inner.log.is_offline() {
            return Ok(());
        }
        let (_, now) = self.clock();
        inner.keys.lock().sweep(now);
        inner.results.lock().sweep(now);
        self.look_for_places();
        let low = {
            // The durable offset is read under the lock: exchanges that begin later lie above it.
            let state = inner.state.lock();
            state.low(inner.log.durable())
        };
        let mut noted = inner.noted.lock();
        // The mark itself is a record: a log that contains only marks must not grow.
        if low > noted.plus(1)
            && let Ok(permit) = inner.log.permit_for(Purpose::Accepted, SMALL)
        {
            drop(inner.log.append_unwaited(permit, vec![record::settled(low)]));
            *noted = low;
        }
        let below = self.forgotten(*noted);
        drop(noted);
        inner.log.retire(below).map(drop)
    }

    /// The offset below which nothing is owed (as `noted` says) and no record of a key or stored
    /// request is needed.
    fn forgotten(&self, noted: Offset) -> Offset {
        let (longest, (_, now)) = (self.0.keys.lock().longest(), self.clock());
        let results = self.0.results.lock();
        let longest = longest.max(results.longest());
        let noted = results.low().map_or(noted, |low| low.min(noted));
        drop(results);
        if longest == 0 {
            return noted;
        }
        let is_old = |segment: &&SegmentInfo| {
            let written = segment.newest_wall;
            segment.is_sealed && written > 0 && written.saturating_add(longest) <= now
        };
        let segments = self.0.log.segments();
        let old = segments.iter().take_while(is_old).last();
        old.map_or(Offset::ZERO, |segment| segment.end.min(noted))
    }

    /// Milliseconds since 1970, twice: the wall time, and the time to expire by, which is 0 while
    /// the clock is not trusted, so that nothing expires.
    pub(super) fn clock(&self) -> (u64, u64) {
        let judged = self.0.clock.judge();
        (judged.wall, if judged.is_frozen { 0 } else { judged.wall })
    }

    /// Stops new attempts, and wakes those who wait for requests that are not in flight.
    pub fn wind_down(&self) {
        self.0.is_winding_down.store(true, Relaxed);
        self.0.waiters.ring_all();
    }

    /// Whether it accepts nothing until it is reopened.
    pub fn is_offline(&self) -> bool {
        self.0.log.is_offline()
    }

    /// Whether the log may continue after a failure. If it was offline when it was read it may not:
    /// keys behind the damage would be taken for new.
    pub fn may_reopen(&self) -> bool {
        !self.0.is_partial
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// Numbers for the operator.
    pub fn status(&self) -> Status {
        let (keys, uncertain_keys) = {
            let keys = self.0.keys.lock();
            (keys.len() as u64, keys.in_doubt() as u64)
        };
        let (results, unread) = {
            let results = self.0.results.lock();
            (results.len() as u64, results.unread() as u64)
        };
        Status {
            entries: self.0.state.lock().len() as u64,
            keys,
            uncertain_keys,
            results,
            unread,
            bytes: self.0.log.gauges().bytes.get(),
            uncertain: self.0.uncertain.load(Relaxed),
        }
    }
}

/// Calls back for each record of `log` from `from` on. Blocks.
pub(super) fn each(
    log: &Log,
    from: Offset,
    mut look: impl FnMut(Offset, Entry),
) -> Result<(), ReadError> {
    let (mut reader, mut next) = (log.reader(), from);
    loop {
        let block = match reader.read(next, BLOCK) {
            Err(ReadError::Retired { start }) => {
                next = start;
                continue;
            }
            other => other?,
        };
        if block.is_empty() {
            return Ok(());
        }
        for (offset, record) in block.records() {
            if let Some(entry) = record::entry(&record) {
                look(offset, entry);
            }
        }
        next = block.next();
    }
}
