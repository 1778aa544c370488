//! A part of a log, read at once.

use std::ops::Range;

use bytes::Bytes;

use crate::events::queue::{
    Offset,
    codec::{self, FrameWriter, Record},
};

/// Whole, verified frames of one segment. Records borrow from it; their bodies can be kept without
/// a copy ([`Block::slice`]), which keeps the whole block in memory.
#[derive(Clone, Debug)]
pub struct Block {
    pub(super) bytes: Bytes,
    pub(super) epoch: u64,
    /// Where in `bytes` each frame is, with its base offset.
    pub(super) frames: Vec<(usize, Offset)>,
    /// The offset that was asked for; ...
    pub(super) from: Offset,
    /// ... the offset to read on from.
    pub(super) next: Offset,
    pub(super) gaps: Vec<Range<Offset>>,
}

/// A record with its bytes.
#[derive(Clone, Debug)]
pub struct OwnedRecord {
    /// A frame that holds this record alone.
    frame: Bytes,
    offset: Offset,
}

// === impl Block ===

impl Block {
    /// The records from the offset that was asked for, in order. Damaged ones are left out; their
    /// offsets are in [`Block::gaps`].
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

    /// Offsets that are lost for good, in order.
    pub fn gaps(&self) -> &[Range<Offset>] {
        &self.gaps
    }

    /// The offset that was asked for.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// The offset to read on from.
    pub fn next(&self) -> Offset {
        self.next
    }

    /// Whether it has neither records nor gaps: nothing at `from` is durable yet.
    pub fn is_empty(&self) -> bool {
        self.next <= self.from
    }

    /// Bytes it holds in memory.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// `part` of a record of this block, without a copy.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.bytes.slice_ref(part) }
    }
}

// === impl OwnedRecord ===

impl OwnedRecord {
    /// A copy of `record`. Never `None` for a record that was read, because it fits a frame.
    pub(super) fn copy(record: &Record<'_>, offset: Offset) -> Option<Self> {
        let mut writer = FrameWriter::new();
        writer.begin(0, offset);
        writer.push_record(record).ok()?;
        let closing = codec::Closing { previous_crc: 0, durable: Offset::ZERO, wall: 0, mono: 0 };
        let frame = Bytes::copy_from_slice(writer.finish(&closing).bytes);
        Some(Self { frame, offset })
    }

    /// Its offset.
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The record. Never `None`: it was made from one.
    pub fn record(&self) -> Option<Record<'_>> {
        let frame = codec::parse_frame(&self.frame, 0, self.offset).ok()?;
        frame.records().next()?.1.ok()
    }

    /// `part` of the record, without a copy.
    pub fn slice(&self, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { self.frame.slice_ref(part) }
    }
}
