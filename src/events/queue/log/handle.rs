//! The handle that everyone has of a log.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    commit::{Commit, Then, Waiter},
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

/// A log that is open. Cheap to clone; the log stays open until it is closed or its writer stops.
#[derive(Clone, Debug)]
pub struct Log(Arc<OpenLog>);

/// What comes of an append that nobody waits for.
pub enum Later {
    /// Somebody goes on with it once it is on disk.
    GoesOn(Then),
    /// Somebody is told, whenever it is on disk.
    IsTold(Then),
    /// Nothing.
    Forgets,
}

// === impl Log ===

impl Log {
    /// When the writer has something to do that nobody waits for.
    #[cfg(test)]
    pub(super) fn due(&self) -> Option<tokio::time::Instant> {
        self.0.due()
    }

    /// Opens the log at `place`, or makes it, and recovers it from whatever has happened. Blocks.
    ///
    /// No offset below `floor` is given out: whoever reads the log has seen those. With damage and
    /// [`super::Recovery::Strict`] the log is there, offline, and readable up to the damage.
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

    /// A handle of a log that a test drives.
    #[cfg(test)]
    pub(super) fn of(shared: Arc<OpenLog>) -> Self {
        Self(shared)
    }

    /// Room for `bytes` of something new ([`Draft::encoded_bytes`] of each), at once or not at all.
    pub fn permit(&self, bytes: u64) -> Result<Permit, Refused> {
        self.permit_for(Purpose::Publish, bytes)
    }

    /// Room for `bytes`, at once or not at all.
    pub fn permit_for(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        self.0.permit(purpose, bytes).map_err(|reason| self.0.refuse(reason))
    }

    /// Bytes for which permits are out, what is being written among them.
    pub fn permitted(&self) -> u64 {
        self.0.budget.taken()
    }

    /// Appends all of `drafts` in one frame, or none of them. Those that are there already are answered
    /// as duplicates. Done at once, whether or not the future is polled; dropping it cancels nothing.
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

    /// As [`Log::append`], but it completes as soon as it is written, which a killed process survives; it
    /// is synced within 20 ms ([`Settings::unwaited`]). If that fails the log goes offline.
    pub fn append_unwaited(&self, permit: Permit, drafts: Vec<Draft>) -> Commit {
        if let Err(reason) = self.check(&permit, &drafts) {
            return Commit::refused(self.0.refuse(reason));
        }
        let (waiter, commit) = Commit::pair();
        self.0.submit(permit, drafts, waiter, Urgency::Written);
        commit
    }

    /// As [`Log::append`], for what nobody waits for: written within a millisecond or so, together with what
    /// else comes, and synced within 20 ms ([`Settings::unwaited`]), or 5 where somebody goes on with it.
    /// Whoever is to be told is told when it is as durable as the log's mode says, or has failed; a refusal
    /// is told here.
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
            Later::Forgets => (Waiter::nobody(), Urgency::Later),
        };
        self.0.submit(permit, drafts, waiter, urgency);
        Ok(())
    }

    fn check(&self, permit: &Permit, drafts: &[Draft]) -> Result<(), Reason> {
        // With a permit from before, too.
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

    /// The first offset there is.
    pub fn start(&self) -> Offset {
        self.0.view.start()
    }

    /// Everything below is on disk, and only that is read.
    pub fn durable(&self) -> Offset {
        self.0.view.durable()
    }

    /// Tells of each advance of [`Log::durable`].
    pub fn subscribe_durable(&self) -> watch::Receiver<Offset> {
        self.0.view.subscribe()
    }

    /// Reads this log. Each reader has its own file handle.
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.clone())
    }

    /// Follows this log: from now on what is written is kept in memory for a while.
    pub fn follow(&self) -> Following {
        Following::new(self.0.clone())
    }

    /// The first offset that was written at `wall` (milliseconds since 1970) or later, as far as clocks
    /// tell; the end if there is none. Blocks.
    pub fn offset_at(&self, wall: u64) -> Result<Offset, ReadError> {
        self.0.offset_at(wall)
    }

    /// Its files, oldest first. Blocks where an index has to be read.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.0.segments()
    }

    /// Removes sealed segments that are wholly below `below`, and gives the offset the log begins at
    /// then. Blocks. The start moves on disk first: a crash between loses nothing and brings nothing
    /// back.
    pub fn retire(&self, below: Offset) -> Result<Offset, RetireError> {
        self.0.retire(below)
    }

    /// Where the newest file begins: everything below is in sealed ones.
    pub(super) fn sealed_end(&self) -> Offset {
        self.0.view.all().last().map_or(Offset::ZERO, |it| it.base())
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// Whether it takes no appends until it is reopened.
    pub fn is_offline(&self) -> bool {
        self.0.is_offline()
    }

    /// Another number for each time it was recovered from disk; `None` while it is offline. What was being
    /// appended under one number and is not known to be there is below [`Log::durable`] under the next, or
    /// nowhere.
    pub fn opening(&self) -> Option<u64> {
        if self.0.place.disk.is_gone() { None } else { self.0.view.opening() }
    }

    /// Recovers the log from disk as [`Log::open`] does, whatever its state. Blocks; appends are refused
    /// until it is done.
    pub fn reopen(&self) -> Result<Opened, OpenError> {
        self.0.reopen().map_err(|error| error.of(&self.0.place))
    }

    /// Writes and syncs what is on its way, notes how far it is, and takes nothing more. Blocks. A
    /// second call does nothing.
    pub fn close(&self) {
        self.0.close();
    }

    /// What it counts.
    pub fn gauges(&self) -> &Arc<Gauges> {
        &self.0.gauges
    }
}
