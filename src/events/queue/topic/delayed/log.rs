//! The front of the delayed log: what publishers see of it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use uuid::Uuid;

use super::mover::Mover;
use crate::events::queue::{
    LogId, Offset,
    codec::Draft,
    log::{self, Commit, Log, OpenError, Opened, Place, Plain, ReadError, Refused, Writer},
    topic::clock_guard::Judged,
};

/// What a topic allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// So many events may wait. Exceeded by what is on its way when the bound is reached.
    pub max_delayed: u64,
    /// None may wait for longer: the topic keeps events for so long.
    pub max_age: Duration,
}

/// Events that wait for their time. Cheap to clone; only [`Mover`] lets them go.
///
/// A batch with a delayed event in it is one frame here, with those that are not delayed: due at once,
/// they are moved at once.
#[derive(Clone, Debug)]
pub struct DelayedLog {
    log: Log,
    counts: Arc<Counts>,
}

/// What the mover tells of. Relaxed: words for themselves.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Events that wait, as far as the mover has read.
    pub(super) waiting: AtomicU64,
    /// Where the log would end if nothing had been published since.
    pub(super) seen: AtomicU64,
    /// Events that were lost to damage before they were due.
    pub(super) lost: AtomicU64,
    /// Events that are due and cannot be read.
    pub(super) stuck: AtomicU64,
}

/// Why an event is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It would wait for longer than the topic keeps anything.
    TooLong,
    /// As many wait as may.
    Full,
}

// === impl DelayedLog ===

impl DelayedLog {
    /// The directory in the topic's.
    pub const DIR: &str = "delayed";

    /// Opens or makes the delayed log of the topic whose log is at `topic`, and reads what waits in it.
    /// Blocks. The mover is to be run by one thread at a time.
    pub fn open(
        writer: &Writer,
        topic: &Place,
        settings: &log::Settings,
    ) -> Result<(Self, Mover, Opened), OpenDelayedError> {
        let (dir, id) = lies_at(&topic.dir, topic.id);
        let place = Place { dir, id, ..topic.clone() };
        let (log, opened) = Log::open(writer, place, settings, Offset::ZERO, Box::new(Plain))?;
        let counts = Arc::<Counts>::default();
        match Mover::open(log.clone(), counts.clone(), settings.segment_bytes) {
            Ok(mover) => Ok((Self { log, counts }, mover, opened)),
            Err(error) => {
                // It may be opened again: by another one, as its only writer.
                log.close();
                Err(error.into())
            }
        }
    }

    /// Whether `count` events, the last of which is due at `not_before`, may be appended now.
    pub fn admit(
        &self,
        settings: &Settings,
        not_before: u64,
        count: u64,
        judged: &Judged,
        now: u64,
    ) -> Result<(), NotAdmitted> {
        let max_age = u64::try_from(settings.max_age.as_millis()).unwrap_or(u64::MAX);
        // While the clock is frozen nobody knows which of the two is right.
        if not_before > judged.wall.max(now).saturating_add(max_age) {
            return Err(NotAdmitted::TooLong);
        }
        if self.has_room(settings.max_delayed, count) { Ok(()) } else { Err(NotAdmitted::Full) }
    }

    /// Whether `count` more may wait where so many may. Exceeded by what is on its way.
    pub fn has_room(&self, max_delayed: u64, count: u64) -> bool {
        self.waiting().saturating_add(count) <= max_delayed
    }

    /// Appends events that wait, all of them or none. Durable as any publish.
    pub fn append(&self, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let permit = self.log.permit(bytes)?;
        Ok(self.log.append(permit, drafts))
    }

    /// Events that wait, an upper bound: what the mover has not seen yet is counted whole.
    pub fn waiting(&self) -> u64 {
        let unseen = self.log.durable().since(Offset(self.counts.seen.load(Relaxed)));
        self.counts.waiting.load(Relaxed).saturating_add(unseen)
    }

    /// Events that were lost to damage before they were due, since start.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Events that are due and cannot be read: they are tried again when the log was reopened.
    pub fn stuck(&self) -> u64 {
        self.counts.stuck.load(Relaxed)
    }

    /// The log: to see where it stands, to close it, to wait for what is appended.
    pub fn log(&self) -> &Log {
        &self.log
    }
}

/// The delayed log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenDelayedError {
    /// The log itself.
    #[error("the log of delayed events: {0}")]
    Open(#[from] OpenError),
    /// What waits in it.
    #[error("the log of delayed events: {0}")]
    Read(#[from] ReadError),
}

/// Where the delayed log of a topic lies, whose own is in `dir`, and what its files say.
pub fn lies_at(dir: &Path, topic: LogId) -> (PathBuf, LogId) {
    (dir.join(DelayedLog::DIR), LogId(derived(topic.0)))
}

/// The same for every opening, and of no other log: files that were mixed up are told apart.
fn derived(topic: Uuid) -> Uuid {
    Uuid::from_u128(topic.as_u128() ^ 0x6465_6c61_7965_6400_0000_0000_0000_0000)
}
