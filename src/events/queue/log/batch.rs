//! What one batch consists of, and how it fills frames.

use std::io;

use super::{
    commit::{Appended, Duplicate, Outcome},
    error::{AppendError, Reason},
    open::OpenLog,
    sequencer::{Placement, Sequencer},
};
use crate::events::queue::{
    Offset,
    codec::{
        Draft, FRAME_HEADER_BYTES, FRAME_TRAILER_BYTES, FrameWriter, MAX_FRAME_BYTES, MAX_RECORDS,
        Stamp,
    },
    mutation::{self, Mutation},
    time::Now,
};

/// One append.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) drafts: Vec<Draft>,
    /// Whether anybody wants to know the places.
    pub(super) is_asked: bool,
    /// Bytes it takes in a frame, at most.
    pub(super) bytes: usize,
    /// Set when it is written or refused. A written item counts only after the sync.
    pub(super) outcome: Option<Outcome>,
    /// The outcome holds once everything below this offset is on disk.
    pub(super) needs: Offset,
}

// === impl Item ===

impl Item {
    pub(super) fn new(drafts: Vec<Draft>) -> Self {
        let bytes = drafts.iter().map(Draft::encoded_bytes).sum();
        Self { drafts, is_asked: true, bytes, outcome: None, needs: Offset::ZERO }
    }

    /// The outcome, and the offset below which everything must be on disk for it to hold.
    pub(super) fn into_outcome(self) -> (Outcome, Offset) {
        (self.outcome.unwrap_or(Err(AppendError::Unknown)), self.needs)
    }

    pub(super) fn refuse(&mut self, reason: Reason, shared: &OpenLog) {
        self.outcome = Some(Err(shared.refuse(reason).into()));
    }
}

/// How many of the items fit into one frame; at least one.
pub(super) fn fitting(items: &[Item]) -> usize {
    let (mut bytes, mut records) = (FRAME_HEADER_BYTES + FRAME_TRAILER_BYTES, 0);
    let fits = items.iter().take_while(|item| {
        bytes += item.bytes;
        records += item.drafts.len();
        bytes <= MAX_FRAME_BYTES && records <= MAX_RECORDS as usize
    });
    fits.count().max(1)
}

/// Puts the items into the frame, and the partition of each record into `partitions`. They fit: the
/// size was checked before.
pub(super) fn place(
    items: &mut [Item],
    frames: &mut FrameWriter,
    partitions: &mut Vec<u16>,
    sequencer: &mut dyn Sequencer,
    now: Now,
) -> io::Result<()> {
    partitions.clear();
    sequencer.prepare(&mut items.iter().flat_map(|item| &item.drafts));
    items.iter_mut().try_for_each(|item| place_one(item, frames, partitions, sequencer, now))
}

fn place_one(
    item: &mut Item,
    frames: &mut FrameWriter,
    partitions: &mut Vec<u16>,
    sequencer: &mut dyn Sequencer,
    now: Now,
) -> io::Result<()> {
    let mut appended = Vec::new();
    if item.is_asked {
        appended.reserve_exact(item.drafts.len());
    }
    item.needs = Offset::ZERO;
    for draft in &item.drafts {
        let next = frames.next();
        let placed = match sequencer.place(draft, next, now) {
            Placement::Append { generation, partition } => {
                let stamp = Stamp { generation, partition, published: now.wall };
                frames.push(draft, stamp).map_err(io::Error::other)?;
                partitions.push(partition);
                Appended { offset: next, partition, duplicate: None }
            }
            Placement::Duplicate { offset, partition, mismatch } => {
                Appended { offset, partition, duplicate: Some(Duplicate { mismatch }) }
            }
        };
        let is_ahead = placed.duplicate.is_some()
            && mutation::is(Mutation::AnswerADuplicateBeforeTheOriginalsSync);
        if !is_ahead {
            item.needs = item.needs.max(placed.offset.plus(1));
        }
        if item.is_asked {
            appended.push(placed);
        }
    }
    item.outcome = Some(Ok(appended));
    Ok(())
}
