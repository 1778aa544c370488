//! The interface of topics for publishing on behalf of requests.

use std::{fmt, sync::Arc};

use crate::events::queue::{
    LogId, Offset,
    codec::Draft,
    log::{Commit, Later, Log, Permit, Purpose, Refused},
};

/// One topic.
pub trait Target: fmt::Debug + Send + Sync {
    /// Its ID, which stays the same if it is renamed.
    fn id(&self) -> LogId;

    /// The largest event it takes.
    fn max_event_bytes(&self) -> u64;

    /// Room for `bytes`. Never waits.
    fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused>;

    /// Its log; an error if it was never open.
    fn open_log(&self) -> Result<&Log, Refused>;

    /// Appends in one frame; events already there are answered as duplicates.
    fn append(&self, permit: Permit, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        Ok(self.open_log()?.append(permit, drafts))
    }

    /// As [`Target::append`], without waiting ([`Log::append_later`]).
    fn append_later(
        &self,
        permit: Permit,
        drafts: Vec<Draft>,
        later: Later,
    ) -> Result<(), Refused> {
        self.open_log()?.append_later(permit, drafts, later)
    }

    /// A handle of its log; `None` if it was never open.
    fn log(&self) -> Option<Log> {
        self.open_log().ok().cloned()
    }

    /// An offset below which everything delivered to an upstream is known to be settled.
    fn settled(&self) -> Offset {
        Offset::ZERO
    }

    /// Whether an event with this dedup key is there or in flight.
    fn knows(&self, _dedup: &[u8]) -> bool {
        false
    }

    /// Differs for each opening; `None` while it is not open.
    fn opening(&self) -> Option<u64> {
        self.open_log().ok().and_then(Log::opening)
    }

    /// Its end: later appends are at or above it.
    fn end(&self) -> Offset {
        self.open_log().map_or(Offset::ZERO, Log::durable)
    }
}

/// All topics of a store.
pub trait Topics: fmt::Debug + Send + Sync {
    /// The topic of this name.
    fn named(&self, name: &str) -> Option<Arc<dyn Target>>;

    /// The topic of this ID.
    fn of_id(&self, id: LogId) -> Option<Arc<dyn Target>> {
        self.find(&|it| it == id)
    }

    /// The topic whose ID is one of these.
    fn find(&self, is_it: &dyn Fn(LogId) -> bool) -> Option<Arc<dyn Target>>;

    /// The log of the topic's events that are not yet due, with its own log and end but the topic's
    /// ID. Created, blocking, if nothing had to wait before; `None` if that is not possible now.
    fn delayed(&self, id: LogId) -> Option<Arc<dyn Target>>;
}
