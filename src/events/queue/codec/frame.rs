//! One frame: the records of one group commit, all or nothing.
//!
//! The header's checksum covers epoch and base offset, so a frame proves where it belongs. Each
//! record has its own checksum: damage to one does not affect the others of the frame, not even
//! damage to its length.

use super::{
    draft::{Draft, Stamp, TooLarge},
    reading::Reading,
    record::{self, Record, RecordError, Seed},
    records::Records,
};
use crate::events::queue::{
    Offset,
    mutation::{self, Mutation},
};

/// The largest frame, including header and trailer.
pub const MAX_FRAME_BYTES: usize = 32 << 20;
/// The most records in a frame.
pub const MAX_RECORDS: u32 = 65_536;
/// Size of the header, before the first record.
pub const FRAME_HEADER_BYTES: usize = 64;
/// Size of the trailer, after the last record: the header's checksum and length, again.
pub const FRAME_TRAILER_BYTES: usize = 8;

const MAGIC: u32 = u32::from_le_bytes(*b"SlFr");
const VERSION: u16 = 1;
/// A buffer larger than this is not kept after a frame.
const KEPT_BYTES: usize = 4 << 20;

/// Encodes frames, one after another, into one buffer.
#[derive(Debug)]
pub struct FrameWriter {
    buffer: Vec<u8>,
    epoch: u64,
    seed: Seed,
    base: Offset,
    count: u32,
}

/// The state of a frame, to return to.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    length: usize,
    count: u32,
}

/// The header's fields that are not about its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closing {
    /// The checksum of the frame before it in the same file, or 0.
    pub previous_crc: u32,
    /// Every offset below this is known to be on disk.
    pub durable: Offset,
    /// Milliseconds since 1970.
    pub wall: u64,
    /// Milliseconds of a monotonic clock.
    pub mono: u64,
}

/// A frame, ready to be written.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its checksum, which the next frame of the file repeats.
    pub crc: u32,
    /// Number of records.
    pub count: u32,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Its checksum, which the next frame of the file repeats.
    pub crc: u32,
    /// Bytes of the whole frame.
    pub length: usize,
    /// The offset of its first record.
    pub base: Offset,
    /// Number of records.
    pub count: u32,
    /// The other fields.
    pub closing: Closing,
}

/// A frame on disk: header and trailer are verified, its records are not yet.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    head: FrameHead,
    seed: Seed,
    records: &'a [u8],
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header's place is all zero. This is a clean end only if everything after it is zero too:
    /// see [`is_zero`].
    #[error("there is nothing")]
    Zero,
    /// More bytes are needed to decide: this many from the beginning of the frame.
    #[error("{needed} bytes are needed")]
    Short {
        /// From the beginning of the frame.
        needed: usize,
    },
    /// It is not the frame that belongs here.
    #[error("{0}")]
    Bad(Fault),
    /// Written by a later version of the program.
    #[error(
        "the frame has version {found}, and this program knows up to {VERSION}: use a newer one"
    )]
    Newer {
        /// Its version.
        found: u16,
    },
    /// It has a critical flag that is unknown.
    #[error("the frame has flags {flags:#06x} that this program does not know: use a newer one")]
    UnknownFlags {
        /// All of its flags.
        flags: u16,
    },
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin like a frame.
    #[error("no frame begins here")]
    Magic,
    /// The header's checksum is wrong.
    #[error("the frame's checksum is wrong")]
    Checksum,
    /// The lengths or the count are impossible.
    #[error("the frame's lengths contradict each other")]
    Length,
    /// It belongs to another file, or to an earlier use of this one.
    #[error("the frame has another epoch")]
    Epoch,
    /// It belongs elsewhere in the file.
    #[error("the frame begins with another offset")]
    Base,
    /// Its trailer does not match.
    #[error("the frame's end is missing")]
    Trailer,
}

// === impl FrameWriter ===

impl FrameWriter {
    /// With an empty buffer.
    #[expect(clippy::new_without_default, reason = "it is no frame before it is begun")]
    pub fn new() -> Self {
        Self { buffer: Vec::new(), epoch: 0, seed: Seed::new(0), base: Offset::ZERO, count: 0 }
    }

    /// Begins a frame of the file with this epoch, and discards what was encoded before.
    pub fn begin(&mut self, epoch: u64, base: Offset) {
        self.buffer.clear();
        self.buffer.shrink_to(KEPT_BYTES);
        self.buffer.resize(FRAME_HEADER_BYTES, 0);
        (self.epoch, self.seed, self.base, self.count) = (epoch, Seed::new(epoch), base, 0);
    }

    /// The offset of the next record.
    pub fn next(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }

    /// Number of records so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Length of the frame in bytes if it ended here.
    pub fn length(&self) -> usize {
        self.buffer.len() + FRAME_TRAILER_BYTES
    }

    /// Adds a record and returns its offset. If the record or the frame would exceed a limit it is
    /// refused, and nothing changes.
    pub fn push(&mut self, draft: &Draft, stamp: Stamp) -> Result<Offset, TooLarge> {
        draft.check()?;
        self.make_room(draft.encoded_bytes())?;
        let offset = self.next();
        draft.encode(&mut self.buffer, stamp, self.seed, offset);
        self.count += 1;
        Ok(offset)
    }

    /// Adds a record that was read elsewhere, with its unknown fields and time of publishing.
    pub fn push_record(&mut self, record: &Record<'_>) -> Result<Offset, TooLarge> {
        self.make_room(record.encoded_bytes())?;
        let offset = self.next();
        record.encode(&mut self.buffer, self.seed, offset);
        self.count += 1;
        Ok(offset)
    }

    fn make_room(&self, more: usize) -> Result<(), TooLarge> {
        let bytes = self.length() + more;
        if bytes > MAX_FRAME_BYTES {
            return Err(TooLarge { what: "a frame", bytes, limit: MAX_FRAME_BYTES });
        }
        if self.count == MAX_RECORDS {
            let limit = MAX_RECORDS as usize;
            return Err(TooLarge { what: "a frame's count of records", bytes: limit + 1, limit });
        }
        Ok(())
    }

    /// The current state, to return to.
    pub fn mark(&self) -> Mark {
        Mark { length: self.buffer.len(), count: self.count }
    }

    /// Removes what was added since the mark, which must be of this frame.
    pub fn rewind(&mut self, mark: Mark) {
        self.buffer.truncate(mark.length);
        self.count = mark.count;
    }

    /// Completes the frame.
    pub fn finish(&mut self, closing: &Closing) -> Encoded<'_> {
        let length = u32::try_from(self.length()).unwrap_or(u32::MAX).to_le_bytes();
        let header = &mut self.buffer[..FRAME_HEADER_BYTES];
        header[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..12].copy_from_slice(&length);
        header[12..16].copy_from_slice(&self.count.to_le_bytes());
        header[16..24].copy_from_slice(&self.epoch.to_le_bytes());
        header[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        header[32..40].copy_from_slice(&closing.durable.0.to_le_bytes());
        header[40..48].copy_from_slice(&closing.wall.to_le_bytes());
        header[48..56].copy_from_slice(&closing.mono.to_le_bytes());
        header[56..60].copy_from_slice(&closing.previous_crc.to_le_bytes());
        header[60..62].copy_from_slice(&VERSION.to_le_bytes());
        let crc = crc32c::crc32c(&header[8..]);
        header[4..8].copy_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&crc.to_le_bytes());
        self.buffer.extend_from_slice(&length);
        Encoded { bytes: &self.buffer, crc, count: self.count }
    }
}

/// The header of the frame at the beginning of `bytes`, in the file with this epoch.
pub fn parse_head(bytes: &[u8], epoch: u64) -> Result<FrameHead, FrameError> {
    let short = FrameError::Short { needed: FRAME_HEADER_BYTES };
    let header = bytes.first_chunk::<FRAME_HEADER_BYTES>().ok_or(short)?;
    if header.iter().all(|byte| *byte == 0) {
        return Err(FrameError::Zero);
    }
    let (head, found, version, flags) = raw_head(header).ok_or(short)?;
    let is_ours = Reading(header).u32() == Some(MAGIC);
    if !is_ours {
        return Err(FrameError::Bad(Fault::Magic));
    }
    if crc32c::crc32c(&header[8..]) != head.crc && !mutation::is(Mutation::AcceptABadCrc) {
        return Err(FrameError::Bad(Fault::Checksum));
    }
    if found != epoch && !mutation::is(Mutation::EpochIgnored) {
        return Err(FrameError::Bad(Fault::Epoch));
    }
    if version > VERSION {
        return Err(FrameError::Newer { found: version });
    }
    if flags != 0 {
        return Err(FrameError::UnknownFlags { flags });
    }
    let least = FRAME_HEADER_BYTES
        + FRAME_TRAILER_BYTES
        + (head.count as usize).saturating_mul(record::RECORD_HEADER_BYTES);
    let fits = (least..=MAX_FRAME_BYTES).contains(&head.length) && head.count <= MAX_RECORDS;
    if !fits || head.length % record::ALIGNMENT != 0 {
        return Err(FrameError::Bad(Fault::Length));
    }
    Ok(head)
}

/// The header without checks, with epoch, version and flags.
fn raw_head(header: &[u8]) -> Option<(FrameHead, u64, u16, u16)> {
    let mut reading = Reading(header);
    reading.u32()?;
    let crc = reading.u32()?;
    let length = reading.u32()? as usize;
    let count = reading.u32()?;
    let epoch = reading.u64()?;
    let base = Offset(reading.u64()?);
    let durable = Offset(reading.u64()?);
    let (wall, mono) = (reading.u64()?, reading.u64()?);
    let previous_crc = reading.u32()?;
    let closing = Closing { previous_crc, durable, wall, mono };
    let head = FrameHead { crc, length, base, count, closing };
    Some((head, epoch, reading.u16()?, reading.u16()?))
}

/// The frame at the beginning of `bytes`, in the file with this epoch, whose first record must be
/// at `expected`.
pub fn parse_frame(bytes: &[u8], epoch: u64, expected: Offset) -> Result<Frame<'_>, FrameError> {
    let head = parse_head(bytes, epoch)?;
    if head.base != expected {
        return Err(FrameError::Bad(Fault::Base));
    }
    let whole = bytes.get(..head.length).ok_or(FrameError::Short { needed: head.length })?;
    let (rest, trailer) = whole.split_at(head.length - FRAME_TRAILER_BYTES);
    let mut reading = Reading(trailer);
    if reading.u32() != Some(head.crc) || reading.u32() != Reading(&whole[8..]).u32() {
        return Err(FrameError::Bad(Fault::Trailer));
    }
    let told = Reading(&whole[16..]).u64().filter(|_| mutation::is(Mutation::EpochIgnored));
    let seed = Seed::new(told.unwrap_or(epoch));
    Ok(Frame { head, seed, records: &rest[FRAME_HEADER_BYTES..] })
}

/// Finds the next frame header of this epoch with a base offset of at least `least`, to skip a
/// damaged one. Frames begin at multiples of 8 from the beginning of the file, and so must `bytes`.
/// `None` if there is none in these bytes.
pub fn find_frame(bytes: &[u8], epoch: u64, least: Offset) -> Option<(usize, FrameHead)> {
    let magic = MAGIC.to_le_bytes();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= FRAME_HEADER_BYTES) {
        if rest.starts_with(&magic)
            && let Ok(head) = parse_head(rest, epoch)
            && head.base >= least
        {
            return Some((at, head));
        }
        at += record::ALIGNMENT;
    }
    None
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

// === impl Frame ===

impl<'a> Frame<'a> {
    /// Its header.
    pub fn head(&self) -> FrameHead {
        self.head
    }

    /// The offset of its first record.
    pub fn base(&self) -> Offset {
        self.head.base
    }

    /// The offset after its last record.
    pub fn end(&self) -> Offset {
        self.head.base.plus(u64::from(self.head.count))
    }

    /// Length of the whole frame in bytes: the next one begins there.
    pub fn length(&self) -> usize {
        self.head.length
    }

    /// Its records, each verified when it is reached.
    pub fn records(&self) -> Records<'a> {
        Records::new(self.records, self.seed, self.base(), self.end())
    }

    /// Checks that each record is intact, with nothing between or after them.
    pub fn verify(&self) -> Result<(), (Offset, RecordError)> {
        let mut records = self.records();
        for (offset, record) in &mut records {
            record.map_err(|why| (offset, why))?;
        }
        if records.is_at_end() { Ok(()) } else { Err((self.end(), RecordError::Damaged)) }
    }
}
