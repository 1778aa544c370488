//! What decides where a record goes: partition, generation, and whether it is there already.

use std::{fmt, ops::Range};

use crate::events::queue::{
    Offset,
    codec::{Draft, Record},
    time::Now,
};

/// One for each log. Called by one thread at a time, in the order of the log.
pub trait Sequencer: fmt::Debug + Send {
    /// Where `draft` goes, which would get `offset`. What was placed since the last
    /// [`Sequencer::commit`] counts as if it were there: it is written in the same frame.
    fn place(&mut self, draft: &Draft, offset: Offset, now: Now) -> Placement;

    /// What was placed is written, though not yet synced. If that sync fails the log is opened again,
    /// and everything learnt anew.
    fn commit(&mut self);

    /// A write failed: what was placed since the last commit is not there, and its offsets are given
    /// again.
    fn rollback(&mut self);

    /// Everything is forgotten; what is there follows.
    fn reset(&mut self);

    /// Segments whose newest record is older, in milliseconds since 1970, need not be learnt.
    fn since(&self, now: Now) -> u64;

    /// A sealed segment, in order. `keys`: what [`Sequencer::sealed`] gave for it, if that is still
    /// there; it may be that of another epoch, or damaged.
    fn learn_sealed(&mut self, epoch: u64, range: Range<Offset>, keys: Option<&[u8]>) -> Learnt;

    /// A record that is there, in order.
    fn learn(&mut self, record: &Record<'_>, offset: Offset);

    /// The segment with what was placed or learnt in this range is sealed. The bytes are kept beside
    /// it; none: nothing to keep.
    fn sealed(&mut self, epoch: u64, range: Range<Offset>) -> Option<Vec<u8>>;
}

/// Where a draft goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// It is new.
    Append {
        /// The generation of the topic's partitions.
        generation: u16,
        /// The partition.
        partition: u16,
    },
    /// It is there.
    Duplicate {
        /// Where it is.
        offset: Offset,
        /// Its partition.
        partition: u16,
        /// Whether what was stored differs.
        mismatch: bool,
    },
}

/// What came of showing a sequencer a sealed segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learnt {
    /// All it needs to know.
    Known,
    /// It has to see the records: [`Sequencer::learn`] for each, then [`Sequencer::sealed`].
    Wanting,
}

/// Takes drafts as they are: for logs whose writers know what they do.
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
