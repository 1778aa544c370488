//! A piece of a log, read at once.

use std::ops::Range;

use bytes::Bytes;

use crate::events::queue::{
    Offset,
    codec::{self, FrameWriter, Record},
};

/// Whole frames of one segment, verified. Records borrow from it; their bodies can be kept without a
/// copy ([`Block::slice`]), which keeps all of it.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) bytes: Bytes,
    pub(super) epoch: u64,
    /// Where the frames are in `bytes`, with the offset each begins with.
    pub(super) frames: Vec<(usize, Offset)>,
    /// Offsets asked for: from here ...
    pub(super) from: Offset,
    /// ... to here.
    pub(super) next: Offset,
    pub(super) gaps: Vec<Range<Offset>>,
}

/// A record with its bytes.
#[derive(Clone, Debug)]
pub struct OwnedRecord {
    /// A frame with nothing else in it.
    frame: Bytes,
    offset: Offset,
}

// === impl Block ===

impl Block {
    /// The records from where it was asked to begin, in order. Damaged ones are missing: their offsets
    /// are in [`Block::gaps`].
    pub fn records(&self) -> impl Iterator<Item = (Offset, Record<'_>)> {
        let frames = self.frames.iter().filter_map(|(at, base)| {
            codec::parse_frame(self.bytes.get(*at..)?, self.epoch, *base).ok()
        });
        let records = frames.flat_map(|frame| frame.records());
        records
            .skip_while(|(offset, _)| *offset < self.from)
            .take_while(|(offset, _)| *offset < self.next)
            .filter_map(|(offset, record)| Some((offset, record.ok()?)))
    }

    /// Offsets that are lost, in order: nothing will ever be read there.
    pub fn gaps(&self) -> &[Range<Offset>] {
        &self.gaps
    }

    /// Where it was asked to begin.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// Where to read on.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Whether it has neither records nor gaps: there is nothing durable at `from` yet.
    pub fn is_empty(&self) -> bool {
        self.next <= self.from
    }

    /// Bytes it holds in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// `part`, which a record of this block has lent, without a copy.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.bytes.slice_ref(part) }
    }
}

// === impl OwnedRecord ===

impl OwnedRecord {
    /// A copy of `record`. `None` never happens to one that was read: it fits a frame.
    pub(super) fn copy(record: &Record<'_>, offset: Offset) -> Option<Self> {
        let mut writer = FrameWriter::new();
        writer.begin(0, offset);
        writer.push_record(record).ok()?;
        let closing = codec::Closing { previous_crc: 0, durable: Offset::ZERO, wall: 0, mono: 0 };
        let frame = Bytes::copy_from_slice(writer.finish(&closing).bytes);
        Some(Self { frame, offset })
    }

    /// Where it is.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// What it says. `None` never happens: it was made from a record.
    pub fn record(&self) -> Option<Record<'_>> {
        let frame = codec::parse_frame(&self.frame, 0, self.offset).ok()?;
        frame.records().next()?.1.ok()
    }

    /// `part`, which its record has lent, without a copy.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.frame.slice_ref(part) }
    }
}
