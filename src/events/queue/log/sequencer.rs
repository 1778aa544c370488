//! Decides where a record goes: its partition, its generation, and whether it is a duplicate.

use std::{fmt, ops::Range};

use crate::events::queue::{
    Offset,
    codec::{Draft, Record},
    time::Now,
};

/// One for each log. Called by one thread at a time, in log order.
pub trait Sequencer: fmt::Debug + Send {
    /// These are placed next, in this order: whatever is known about them in advance can be looked
    /// up at once.
    fn prepare(&mut self, _drafts: &mut dyn Iterator<Item = &Draft>) {}

    /// Where `draft` goes, which would get `offset`. Records placed since the last
    /// [`Sequencer::commit`] count as present: they are written in the same frame.
    fn place(&mut self, draft: &Draft, offset: Offset, now: Now) -> Placement;

    /// What was placed is written, though not yet synced. If the sync fails the log is reopened and
    /// everything is learnt anew.
    fn commit(&mut self);

    /// A write failed: records placed since the last commit do not exist, and their offsets are
    /// reused.
    fn rollback(&mut self);

    /// Forgets everything; what exists is learnt next.
    fn reset(&mut self);

    /// Segments whose newest record is older need not be learnt: milliseconds since 1970.
    fn since(&self, now: Now) -> u64;

    /// Learns a sealed segment, in order. `keys` is what [`Sequencer::sealed`] returned for it, if
    /// that still exists; it may be of another epoch, or damaged.
    fn learn_sealed(&mut self, epoch: u64, range: Range<Offset>, keys: Option<&[u8]>) -> Learnt;

    /// Learns an existing record, in order.
    fn learn(&mut self, record: &Record<'_>, offset: Offset);

    /// The segment with what was placed or learnt in this range is sealed. The returned bytes are
    /// stored beside it; none if there are none to store.
    fn sealed(&mut self, epoch: u64, range: Range<Offset>) -> Option<Vec<u8>>;
}

/// Where a draft goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A new record.
    Append {
        /// The generation of the topic's partitions.
        generation: u16,
        /// The partition.
        partition: u16,
    },
    /// A duplicate.
    Duplicate {
        /// Offset of the original.
        offset: Offset,
        /// Its partition.
        partition: u16,
        /// Whether the stored bytes differ.
        mismatch: bool,
    },
}

/// The result of learning a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// `keys` sufficed.
    Known,
    /// It needs the records: [`Sequencer::learn`] for each, then [`Sequencer::sealed`].
    Wanting,
}

/// Places drafts as they are: for logs whose writers choose the place themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

// === impl Plain ===

impl Sequencer for Plain {
    fn place(&mut self, draft: &Draft, _: Offset, _: Now) -> Placement {
        Placement::Append { generation: draft.generation, partition: draft.partition }
    }

    fn commit(&mut self) {}

    fn rollback(&mut self) {}

    fn reset(&mut self) {}

    fn since(&self, _: Now) -> u64 {
        u64::MAX
    }

    fn learn_sealed(&mut self, _: u64, _: Range<Offset>, _: Option<&[u8]>) -> Learnt {
        Learnt::Known
    }

    fn learn(&mut self, _: &Record<'_>, _: Offset) {}

    fn sealed(&mut self, _: u64, _: Range<Offset>) -> Option<Vec<u8>> {
        None
    }
}
