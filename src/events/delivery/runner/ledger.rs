//! Writes the steps of one subscription to the journal, which all subscriptions share.
//!
//! Room is taken before a decision, so that the decision can be written. If the journal still does
//! not take a step, or the outcome is unknown, it has a hole: nothing is written after a hole, and
//! nothing decided, until a snapshot covers it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use uuid::Uuid;

use crate::events::{
    delivery::{journal, subscription::Entry},
    queue::{
        Offset,
        codec::{Draft, Fields, Kind},
        log::{AppendError, Commit, Log, Permit, Purpose},
    },
};

/// What a decision usually takes at most.
const ROOM: u64 = 64 << 10;

/// One subscription's access to the journal.
#[derive(Debug)]
pub(super) struct Ledger {
    journal: Log,
    subscription: Uuid,
    room: Option<Permit>,
    hole: Arc<AtomicBool>,
    /// The journal's opening when this started or was last mended.
    opening: Option<u64>,
}

/// A step being written to the journal; completes once it is written or synced, as requested.
#[derive(Debug)]
pub(super) struct Written {
    commit: Option<Commit>,
    hole: Arc<AtomicBool>,
}

/// The journal has a hole where a step should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hole;

/// When a step counts as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// It survives a killed process, and is on disk within 20 ms.
    Written,
    /// It is on disk.
    Synced,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(journal: Log, subscription: Uuid) -> Self {
        let opening = journal.opening();
        Self { journal, subscription, room: None, hole: Arc::default(), opening }
    }

    /// Whether a decision may be made: there is room for its entries, and no hole before them.
    pub(super) fn is_ready(&mut self) -> bool {
        let Some(opening) = self.journal.opening() else {
            // Room that was taken before is of no use either.
            self.room = None;
            return false;
        };
        if self.hole.load(Ordering::Relaxed) || self.opening != Some(opening) {
            return false;
        }
        if self.room.is_none() {
            self.room = self.journal.permit_for(Purpose::Journal, ROOM).ok();
        }
        self.room.is_some()
    }

    /// Whether a snapshot must be taken before anything else is written. Relaxed.
    pub(super) fn has_hole(&self) -> bool {
        self.hole.load(Ordering::Relaxed) || self.is_opened_anew()
    }

    /// Whether the journal was recovered from disk since: steps that were written but not synced
    /// are below [`Ledger::durable`] now, or lost.
    pub(super) fn is_opened_anew(&self) -> bool {
        self.journal.opening().is_some_and(|opening| Some(opening) != self.opening)
    }

    /// A snapshot now covers everything so far.
    pub(super) fn mend(&mut self) {
        self.opening = self.journal.opening();
        self.hole.store(false, Ordering::Relaxed);
    }

    /// How far the journal is durable.
    pub(super) fn durable(&self) -> Offset {
        self.journal.durable()
    }

    /// Writes a step. Submitted at once, in call order.
    pub(super) fn write(&mut self, entries: &[Entry], until: Until) -> Written {
        let hole = self.hole.clone();
        if entries.is_empty() {
            return Written { commit: None, hole };
        }
        let body = journal::encode(self.subscription, entries);
        let draft = Draft::new(Kind::Control, Fields::default(), body);
        let Some(permit) = self.permit(draft.encoded_bytes() as u64) else {
            hole.store(true, Ordering::Relaxed);
            return Written { commit: None, hole };
        };
        let commit = match until {
            Until::Written => self.journal.append_unwaited(permit, vec![draft]),
            Until::Synced => self.journal.append(permit, vec![draft]),
        };
        Written { commit: Some(commit), hole }
    }

    fn permit(&mut self, bytes: u64) -> Option<Permit> {
        let held = self.room.take().filter(|room| room.bytes() >= bytes);
        if let Some(mut held) = held {
            held.shrink_to(bytes);
            return Some(held);
        }
        self.journal.permit_for(Purpose::Journal, bytes).ok()
    }
}

// === impl Written ===

impl Written {
    /// Completes when the step is written, with the offset of the next one; `None` if there was no
    /// step. Must be polled to its end, because it detects failures.
    pub(super) fn wait(
        self,
    ) -> impl Future<Output = Result<Option<Offset>, Hole>> + Send + 'static {
        let Self { commit, hole } = self;
        async move {
            let Some(commit) = commit else {
                return if hole.load(Ordering::Relaxed) { Err(Hole) } else { Ok(None) };
            };
            match commit.await {
                Ok(appended) => Ok(appended.last().map(|last| last.offset.plus(1))),
                Err(error) => {
                    hole.store(true, Ordering::Relaxed);
                    tell(&error);
                    Err(Hole)
                }
            }
        }
    }
}

fn tell(error: &AppendError) {
    tracing::warn!(%error, "a step of the delivery journal could not be written: delivery pauses until the next snapshot");
}
