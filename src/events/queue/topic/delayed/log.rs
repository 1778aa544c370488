//! The delayed log as publishers see it.

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

/// Limits of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many events may wait. Events in flight when it is reached may exceed it.
    pub max_delayed: u64,
    /// How long one may wait: as long as the topic keeps events.
    pub max_age: Duration,
}

/// Events that wait until they are due. Cheap to clone; only [`Mover`] releases them.
///
/// A batch with a delayed event is one frame here. Its other events are due at once, and so are
/// moved at once.
#[derive(Clone, Debug)]
pub struct DelayedLog {
    log: Log,
    counts: Arc<Counts>,
}

/// Counters of the mover. Relaxed: each is independent.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Events that wait, as far as the mover has read.
    pub(super) waiting: AtomicU64,
    /// Where the log would end if nothing had been published since.
    pub(super) seen: AtomicU64,
    /// Events lost to damage before they were due.
    pub(super) lost: AtomicU64,
    /// Events that are due but unreadable.
    pub(super) stuck: AtomicU64,
}

/// Why an event is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// It would wait longer than the topic keeps events.
    TooLong,
    /// The limit of waiting events is reached.
    Full,
}

// === impl DelayedLog ===

impl DelayedLog {
    /// Name of its directory in the topic's.
    pub const DIR: &str = "delayed";

    /// Opens or creates the delayed log of the topic whose log is at `topic`, and reads what waits
    /// in it. Blocks. Only one thread at a time may run the mover.
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
                // A later open must be its only writer.
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
        // While the clock is frozen either may be right, so the later one counts.
        if not_before > judged.wall.max(now).saturating_add(max_age) {
            return Err(NotAdmitted::TooLong);
        }
        if self.has_room(settings.max_delayed, count) { Ok(()) } else { Err(NotAdmitted::Full) }
    }

    /// Whether `count` more may wait with this limit. Events in flight may exceed it.
    pub fn has_room(&self, max_delayed: u64, count: u64) -> bool {
        self.waiting().saturating_add(count) <= max_delayed
    }

    /// Appends delayed events, all or none. As durable as any publish.
    pub fn append(&self, drafts: Vec<Draft>) -> Result<Commit, Refused> {
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let permit = self.log.permit(bytes)?;
        Ok(self.log.append(permit, drafts))
    }

    /// Events that wait; an upper bound, because what the mover has not read yet is counted whole.
    pub fn waiting(&self) -> u64 {
        let unseen = self.log.durable().since(Offset(self.counts.seen.load(Relaxed)));
        self.counts.waiting.load(Relaxed).saturating_add(unseen)
    }

    /// Events lost to damage before they were due, since start.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Events that are due but unreadable; they are retried once the log was reopened.
    pub fn stuck(&self) -> u64 {
        self.counts.stuck.load(Relaxed)
    }

    /// The log, for its status, to close it, and to wait for appends.
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
    /// The events in it.
    #[error("the log of delayed events: {0}")]
    Read(#[from] ReadError),
}

/// The directory and the ID of the delayed log of a topic whose own log is in `dir`.
pub fn lies_at(dir: &Path, topic: LogId) -> (PathBuf, LogId) {
    (dir.join(DelayedLog::DIR), LogId(derived(topic.0)))
}

/// Always the same for a topic, and different from every other log's: mixed-up files are detected.
fn derived(topic: Uuid) -> Uuid {
    Uuid::from_u128(topic.as_u128() ^ 0x6465_6c61_7965_6400_0000_0000_0000_0000)
}
