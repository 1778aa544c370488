//! The index of a log file: where to start reading for an offset, a time or a partition.
//!
//! Derived: rebuilt from the log whenever it is missing or invalid, never evidence of what the log
//! contains. A block begins with the first frame at least 64 KiB after the previous block's start.

use super::{
    envelope::{Envelope, FileError},
    reading::Reading,
};
use crate::events::queue::Offset;

const ENVELOPE: Envelope = Envelope { magic: *b"SLUICE\x01I", version: 1 };
/// Bytes of the log in a block, at least.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Far more blocks or partitions than a segment has.
const MAX_BLOCKS: u32 = 1 << 20;

/// The index of one log file, growing or loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The epoch of its log file.
    pub epoch: u64,
    /// The offset after the last it covers.
    pub end: Offset,
    /// Position in the file where the next frame would begin.
    pub end_position: u64,
    blocks: Vec<Block>,
    /// Number of records by partition.
    counts: Vec<u32>,
}

/// Consecutive frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Position of its first frame in the file.
    pub position: u64,
    /// The first offset of that frame.
    pub base: Offset,
    /// The newest time of a frame in this block or an earlier one: milliseconds since 1970.
    pub newest: u64,
    /// One bit for each partition that has a record in the block.
    partitions: Vec<u64>,
}

// === impl Index ===

impl Index {
    /// For a file without frames.
    pub fn new(epoch: u64, base: Offset, position: u64) -> Self {
        let (blocks, counts) = (Vec::new(), Vec::new());
        Self { epoch, end: base, end_position: position, blocks, counts }
    }

    /// Adds the next frame: its position, length in bytes, base offset and time, and the partition
    /// of each of its records.
    pub fn add_frame(
        &mut self,
        position: u64,
        length: u64,
        base: Offset,
        wall: u64,
        partitions: impl IntoIterator<Item = u16>,
    ) {
        let newest = self.blocks.last().map_or(wall, |last| last.newest.max(wall));
        let is_in_last =
            self.blocks.last().is_some_and(|last| position < last.position + BLOCK_BYTES);
        if !is_in_last {
            self.blocks.push(Block { position, base, newest, partitions: Vec::new() });
        }
        self.end = base;
        self.end_position = position + length;
        let Some(block) = self.blocks.last_mut() else { return };
        block.newest = newest;
        for partition in partitions {
            let partition = usize::from(partition);
            set(&mut block.partitions, partition);
            if self.counts.len() <= partition {
                self.counts.resize(partition + 1, 0);
            }
            self.counts[partition] += 1;
            self.end = self.end.plus(1);
        }
    }

    /// Skips offsets that were lost and have no frame: the next frame begins later.
    pub fn skip_to(&mut self, position: u64, end: Offset) {
        (self.end_position, self.end) = (position, end);
    }

    /// All blocks, in order.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The block to start reading at for `offset`; none if every frame begins after it.
    pub fn block_of(&self, offset: Offset) -> Option<&Block> {
        let after = self.blocks.partition_point(|block| block.base <= offset);
        after.checked_sub(1).and_then(|index| self.blocks.get(index))
    }

    /// The first block with a frame of this time or later.
    pub fn block_at(&self, wall: u64) -> Option<&Block> {
        self.blocks.get(self.blocks.partition_point(|block| block.newest < wall))
    }

    /// The time of the newest frame: milliseconds since 1970.
    pub fn newest(&self) -> Option<u64> {
        self.blocks.last().map(|last| last.newest)
    }

    /// Number of records of a partition.
    pub fn count(&self, partition: u16) -> u64 {
        self.counts.get(usize::from(partition)).copied().map_or(0, u64::from)
    }

    /// Number of records by partition, up to the last that has any.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        let words = self.counts.len().div_ceil(64);
        ENVELOPE.encode(|out| {
            for number in [self.epoch, self.end.0, self.end_position] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            for length in [self.blocks.len(), self.counts.len()] {
                out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
            }
            for count in &self.counts {
                out.extend_from_slice(&count.to_le_bytes());
            }
            for block in &self.blocks {
                for number in [block.position, block.base.0, block.newest] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                for word in 0..words {
                    let bits = block.partitions.get(word).copied().unwrap_or_default();
                    out.extend_from_slice(&bits.to_le_bytes());
                }
            }
        })
    }

    /// From the whole file.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let reading = ENVELOPE.decode(bytes)?;
        Self::decode_payload(reading).ok_or(FileError::Contradiction)
    }

    fn decode_payload(mut reading: Reading<'_>) -> Option<Self> {
        let (epoch, end, end_position) = (reading.u64()?, Offset(reading.u64()?), reading.u64()?);
        let (blocks, partitions) = (reading.u32()?, reading.u32()?);
        let words = partitions.div_ceil(64) as usize;
        if blocks > MAX_BLOCKS || partitions > 1 << 16 {
            return None;
        }
        // Checked before anything is allocated: the bytes must be there.
        let needed = partitions as usize * 4 + blocks as usize * (24 + words * 8);
        if reading.0.len() != needed {
            return None;
        }
        let counts = (0..partitions).map(|_| reading.u32()).collect::<Option<Vec<_>>>()?;
        let blocks = (0..blocks)
            .map(|_| {
                let (position, base) = (reading.u64()?, Offset(reading.u64()?));
                let newest = reading.u64()?;
                let mut bits = (0..words).map(|_| reading.u64()).collect::<Option<Vec<_>>>()?;
                // As it was when it was built: without trailing zero words.
                bits.truncate(bits.iter().rposition(|word| *word != 0).map_or(0, |last| last + 1));
                Some(Block { position, base, newest, partitions: bits })
            })
            .collect::<Option<Vec<_>>>()?;
        let is_sorted = blocks.is_sorted_by(|a, b| a.position < b.position && a.base <= b.base);
        is_sorted.then_some(Self { epoch, end, end_position, blocks, counts })
    }
}

// === impl Block ===

impl Block {
    /// Whether the partition has a record in the block.
    pub fn has(&self, partition: u16) -> bool {
        let partition = usize::from(partition);
        self.partitions.get(partition / 64).is_some_and(|word| word >> (partition % 64) & 1 == 1)
    }
}

fn set(bits: &mut Vec<u64>, index: usize) {
    if bits.len() <= index / 64 {
        bits.resize(index / 64 + 1, 0);
    }
    bits[index / 64] |= 1 << (index % 64);
}
