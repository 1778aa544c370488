//! The handle of a log, for all of its users.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    commit::{Commit, Then, Waiter, Watch},
    error::{OpenError, ReadError, Reason, Refused, RetireError},
    live::Following,
    open::OpenLog,
    permit::Permit,
    reader::Reader,
    sequencer::Sequencer,
    settings::{Place, Purpose, Settings},
    status::{Opened, SegmentInfo, Status},
    writer::{Urgency, Writer},
};
use crate::events::queue::{
    Offset,
    codec::{Draft, MAX_FRAME_BYTES, MAX_RECORDS},
    gauges::Gauges,
};

/// An open log. Cheap to clone; it stays open until it is closed or its writer stops.
#[derive(Clone, Debug)]
pub struct Log(Arc<OpenLog>);

/// What follows an append that nobody waits for.
pub enum Later {
    /// Work continues once it is on disk.
    GoesOn(Then),
    /// Somebody is told when it is on disk.
    IsTold(Then),
    /// As the first or the second, but somebody is told of a failure only.
    IsWatched {
        /// Who.
        by: Arc<dyn Watch>,
        /// Whether work continues once it is on disk.
        goes_on: bool,
    },
    /// Nothing.
    Forgets,
}

// === impl Log ===

impl Log {
    /// When the writer next has work that nobody waits for.
    #[cfg(test)]
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.0.due()
    }

    /// Opens or creates the log at `place`, and recovers it after any crash. Blocks.
    ///
    /// Offsets below `floor` are never assigned again: readers have seen them. If there is damage
    /// with [`super::Recovery::Strict`], the log is offline, and readable up to the damage.
    pub fn open(
        writer: &Writer,
        place: Place,
        settings: &Settings,
        floor: Offset,
        sequencer: Box<dyn Sequencer>,
    ) -> Result<(Self, Opened), OpenError> {
        let at = place.clone();
        let opened = OpenLog::open(writer, place, settings, floor, sequencer);
        let (shared, opened) = opened.map_err(|error| error.of(&at))?;
        Ok((Self(shared), opened))
    }

    /// A handle for a log that a test drives.
    #[cfg(test)]
    pub(super) fn of(shared: Arc<OpenLog>) -> Self {
        Self(shared)
    }

    /// Room for `bytes` of new events ([`Draft::encoded_bytes`] of each). Never waits.
    pub fn permit(&self, bytes: u64) -> Result<Permit, Refused> {
        self.permit_for(Purpose::Publish, bytes)
    }

    /// Room for `bytes`. Never waits.
    pub fn permit_for(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        self.0.permit(purpose, bytes).map_err(|reason| self.0.refuse(reason))
    }

    /// Bytes held by permits, including what is being written.
    pub fn permitted(&self) -> u64 {
        self.0.budget.taken()
    }

    /// Appends all of `drafts` in one frame, or none; those already there are answered as duplicates.
    /// Takes effect at once, whether or not the future is polled; dropping it cancels nothing.
    ///
    /// A permit that is too small for the drafts, or of another log, refuses them as too large.
    pub fn append(&self, permit: Permit, drafts: Vec<Draft>) -> Commit {
        if let Err(reason) = self.check(&permit, &drafts) {
            return Commit::refused(self.0.refuse(reason));
        }
        let (waiter, commit) = Commit::pair();
        self.0.submit(permit, drafts, waiter, Urgency::Synced);
        commit
    }

    /// As [`Log::append`], but completes as soon as it is written, which survives a killed process;
    /// synced within 20 ms ([`Settings::unwaited`]). If that sync fails the log goes offline.
    pub fn append_unwaited(&self, permit: Permit, drafts: Vec<Draft>) -> Commit {
        if let Err(reason) = self.check(&permit, &drafts) {
            return Commit::refused(self.0.refuse(reason));
        }
        let (waiter, commit) = Commit::pair();
        self.0.submit(permit, drafts, waiter, Urgency::Written);
        commit
    }

    /// As [`Log::append`], but nobody waits: written within about a millisecond, batched with other
    /// appends, and synced within 20 ms ([`Settings::unwaited`]), or 5 ms if work depends on it.
    /// The callback runs when it is as durable as the log's mode says, or has failed; a refusal
    /// is returned here.
    pub fn append_later(
        &self,
        permit: Permit,
        drafts: Vec<Draft>,
        later: Later,
    ) -> Result<(), Refused> {
        self.check(&permit, &drafts).map_err(|reason| self.0.refuse(reason))?;
        let (waiter, urgency) = match later {
            Later::GoesOn(then) => (Waiter::then(then), Urgency::Soon),
            Later::IsTold(then) => (Waiter::then(then), Urgency::Later),
            Later::IsWatched { by, goes_on } => {
                let urgency = if goes_on { Urgency::Soon } else { Urgency::Later };
                (Waiter::watched(by), urgency)
            }
            Later::Forgets => (Waiter::nobody(), Urgency::Later),
        };
        self.0.submit(permit, drafts, waiter, urgency);
        Ok(())
    }

    fn check(&self, permit: &Permit, drafts: &[Draft]) -> Result<(), Reason> {
        // A permit from before the directory was lost is refused too.
        if self.0.place.disk.is_gone() {
            return Err(Reason::Offline);
        }
        let bytes: usize = drafts.iter().map(Draft::encoded_bytes).sum();
        let fits = bytes + 1024 <= MAX_FRAME_BYTES
            && drafts.len() <= MAX_RECORDS as usize
            && permit.bytes() >= bytes as u64
            && self.0.is_own(permit)
            && drafts.iter().all(|draft| draft.check().is_ok());
        if fits { Ok(()) } else { Err(Reason::TooLarge) }
    }

    /// The log's first offset.
    pub fn start(&self) -> Offset {
        self.0.view.start()
    }

    /// Everything below is on disk; only that is readable.
    pub fn durable(&self) -> Offset {
        self.0.view.durable()
    }

    /// Reports each advance of [`Log::durable`].
    pub fn subscribe_durable(&self) -> watch::Receiver<Offset> {
        self.0.view.subscribe()
    }

    /// A reader of this log, with its own file handle.
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.clone())
    }

    /// Follows this log: from now on recently written frames are kept in memory.
    pub fn follow(&self) -> Following {
        Following::new(self.0.clone())
    }

    /// The first offset written at `wall` (milliseconds since 1970) or later, as far as clocks can
    /// be trusted; the end if there is none. Blocks.
    pub fn offset_at(&self, wall: u64) -> Result<Offset, ReadError> {
        self.0.offset_at(wall)
    }

    /// Its files, oldest first. Blocks if an index has to be read.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.0.segments()
    }

    /// Removes sealed segments wholly below `below`, and returns the log's new start. Blocks. The
    /// start moves on disk first, so a crash in between loses nothing and brings nothing back.
    pub fn retire(&self, below: Offset) -> Result<Offset, RetireError> {
        self.0.retire(below)
    }

    /// Base of the newest file: everything below is in sealed ones.
    pub(super) fn sealed_end(&self) -> Offset {
        self.0.view.all().last().map_or(Offset::ZERO, |it| it.base())
    }

    /// Its current state and extent.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Whether it refuses appends until it is reopened.
    pub fn is_offline(&self) -> bool {
        self.0.is_offline()
    }

    /// Differs for each recovery from disk; `None` while it is offline. An append that was in
    /// flight under one number, with unknown outcome, is below [`Log::durable`] under the next, or
    /// nowhere.
    pub fn opening(&self) -> Option<u64> {
        if self.0.place.disk.is_gone() { None } else { self.0.view.opening() }
    }

    /// Recovers the log from disk as [`Log::open`] does, whatever its state. Blocks; appends are
    /// refused meanwhile.
    pub fn reopen(&self) -> Result<Opened, OpenError> {
        self.0.reopen().map_err(|error| error.of(&self.0.place))
    }

    /// Writes and syncs what is in flight, writes CHECKPOINT, and takes nothing more. Blocks.
    /// Idempotent.
    pub fn close(&self) {
        self.0.close();
    }

    /// Its counters.
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.0.gauges
    }
}
