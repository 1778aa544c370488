//! The interface of topics for publishing on behalf of requests.

use std::{fmt, sync::Arc};

use crate::events::queue::{
    LogId, Offset,
    codec::Draft,
    log::{Commit, Later, Log, Permit, Purpose, Refused},
};

/// One topic.
pub trait Target: fmt::Debug + Send + Sync {
    /// Its ID, which outlives its name.
    fn id(&self) -> LogId;

    /// The largest event it takes.
    fn max_event_bytes(&self) -> u64;

    /// Room for `bytes`, at once or not at all.
    fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused>;

    /// Its log; an error: it was never open.
    fn open_log(&self) -> Result<&Log, Refused>;

    /// Appends in one frame; what is there already is answered as a duplicate.
    fn append(&self, permit: Permit, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        Ok(self.open_log()?.append(permit, drafts))
    }

    /// As [`Target::append`], for what nobody waits for ([`Log::append_later`]).
    fn append_later(
        &self,
        permit: Permit,
        drafts: Vec<Draft>,
        later: Later,
    ) -> Result<(), Refused> {
        self.open_log()?.append_later(permit, drafts, later)
    }

    /// A handle of its log; `None`: it was never open.
    fn log(&self) -> Option<Log> {
        self.open_log().ok().cloned()
    }

    /// Below it everything is settled that is delivered to an upstream, as far as is known.
    fn settled(&self) -> Offset {
        Offset::ZERO
    }

    /// Whether something is there, or on its way, under this dedup key.
    fn knows(&self, _dedup: &[u8]) -> bool {
        false
    }

    /// Another number for each time it was opened; `None`: it is not open.
    fn opening(&self) -> Option<u64> {
        self.open_log().ok().and_then(Log::opening)
    }

    /// Its end: what is appended from now on is not below.
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

    /// Where events wait that are not due yet, of the topic of this ID: with its log and its end, but the ID
    /// of the topic. Made if nothing has had to wait yet; `None`: that is not possible now. Blocks then.
    fn delayed(&self, id: LogId) -> Option<Arc<dyn Target>>;
}
