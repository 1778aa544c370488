//! The handle that everyone has of the records of requests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;

use super::{
    exchange::Room,
    record::{self, Entry, SMALL},
    state::State,
};
use crate::events::queue::{
    Offset,
    log::{Log, Purpose, ReadError, Reason, Refused, RetireError},
};

/// A block of the log, as it is read.
const BLOCK: usize = 1 << 20;

/// The records of requests of one store. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct Ingress(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) log: Log,
    pub(super) state: Mutex<State>,
    max_entries: u64,
    /// Below it nothing is owed, as the log says.
    noted: Mutex<Offset>,
    /// Exchanges whose outcome nobody knows, since start.
    pub(super) uncertain: AtomicU64,
}

/// Why the records cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the records of requests cannot be read: {0}")]
pub struct IngressError(#[from] ReadError);

/// How the records of requests stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Exchanges that are not settled.
    pub entries: u64,
    /// Bytes on disk.
    pub bytes: u64,
    /// Exchanges whose outcome nobody knew, since start.
    pub uncertain: u64,
}

// === impl Ingress ===

impl Ingress {
    /// Reads what `log` has. Blocks. What others have left is for [`Ingress::resolve`].
    ///
    /// A log that is offline is taken as far as it can be read: it takes no request anyway.
    pub fn open(log: Log, max_entries: u64) -> Result<Self, IngressError> {
        let mut state = State::default();
        let read = each(&log, log.start(), |offset, entry| state.replay(offset, entry));
        state.replayed_all();
        match read {
            Err(error) if !log.is_offline() => return Err(error.into()),
            Err(error) => tracing::error!(%error, "the records of requests are damaged"),
            Ok(()) => {}
        }
        let noted = Mutex::new(log.start());
        let (state, uncertain) = (Mutex::new(state), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { log, state, max_entries, noted, uncertain })))
    }

    /// Room for all that may be written of an exchange, at once or not at all: `begin` bytes before the
    /// request is sent, and `answer` bytes afterwards ([`record::Owed::bytes`] of each event).
    pub fn reserve(&self, begin: u64, answer: u64) -> Result<Room, Refused> {
        let inner = &self.0;
        // First the room: a refusal is counted by the log.
        let permit = inner.log.permit(begin.saturating_add(answer).saturating_add(4 * SMALL))?;
        let mut state = inner.state.lock();
        if state.len() as u64 >= inner.max_entries {
            return Err(Refused::new(Reason::Full));
        }
        // Whoever reads the mark after this sees it: see [`State::low`].
        let id = state.begin(inner.log.durable());
        Ok(Room::new(self.clone(), id, permit, begin))
    }

    /// Notes how far nothing is owed any more, and lets go of what lies below. To be called about once a
    /// second. Blocks.
    pub fn tidy(&self) -> Result<(), RetireError> {
        let inner = &self.0;
        if inner.log.is_offline() {
            return Ok(());
        }
        let low = {
            // Durable is read under the lock: what begins later begins above it.
            let state = inner.state.lock();
            state.low(inner.log.durable())
        };
        let mut noted = inner.noted.lock();
        // The mark itself is a record: a log with nothing but marks stands still.
        if low > noted.plus(1)
            && let Ok(permit) = inner.log.permit_for(Purpose::Accepted, SMALL)
        {
            drop(inner.log.append_unwaited(permit, vec![record::settled(low)]));
            *noted = low;
        }
        inner.log.retire(*noted).map(drop)
    }

    /// Whether it takes nothing before it is reopened.
    pub fn is_offline(&self) -> bool {
        self.0.log.is_offline()
    }

    /// Its log.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        Status {
            entries: self.0.state.lock().len() as u64,
            bytes: self.0.log.gauges().bytes.get(),
            uncertain: self.0.uncertain.load(Relaxed),
        }
    }
}

/// What `log` says from `from` on. Blocks.
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
