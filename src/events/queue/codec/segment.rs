//! The header of a log file.

use super::reading::Reading;
use crate::events::queue::{LogId, Offset, StoreId};

/// The first frame begins here: the header's page is written once and never again.
pub const SEGMENT_HEADER_BYTES: usize = 4096;
/// The version of everything in a log file. Files of newer ones are refused.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"SLUICE\x01L";
/// The bytes that the checksum covers; it follows them.
const COVERED: usize = 124;
/// Bit 0 of the flags: there is a predecessor. Any other is refused.
const HAS_PREDECESSOR: u16 = 1;

/// Identifies a log file, and says where its predecessor ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store it belongs to.
    pub store: StoreId,
    /// The log it is a part of.
    pub log: LogId,
    /// Its first offset.
    pub base: Offset,
    /// Random for this file; every checksum in it depends on it.
    pub epoch: u64,
    /// The previous file, if there was one when this one was created.
    pub predecessor: Option<Predecessor>,
    /// Number of lost offsets directly below `base`, which the predecessor does not have either.
    pub gap: u64,
}

/// Where a log file ended when its successor was created. Records in it at or above the successor's
/// base are not part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its epoch.
    pub epoch: u64,
    /// Bytes used in it.
    pub end_position: u64,
    /// The offset after its last record.
    pub end_offset: Offset,
    /// The checksum of its last frame; 0 if it has none.
    pub last_crc: u32,
}

/// Why a header is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The file is too short for a header.
    #[error("the file is shorter than a header")]
    Short,
    /// Nothing was ever written there.
    #[error("the header is all zero")]
    Zero,
    /// It is not a log file.
    #[error("it is not a log file")]
    Foreign,
    /// Bytes have changed.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// Written by a later version of the program.
    #[error(
        "it has format {found}, and this program knows up to {FORMAT_VERSION}: use a newer one"
    )]
    Newer {
        /// Its format.
        found: u16,
    },
    /// It has an unknown critical flag.
    #[error("it has flags {flags:#06x} that this program does not know: use a newer one")]
    UnknownFlags {
        /// All of its flags.
        flags: u16,
    },
}

// === impl SegmentHeader ===

impl SegmentHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut page = [0; SEGMENT_HEADER_BYTES];
        let mut out = Vec::with_capacity(COVERED + 4);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        let flags = if self.predecessor.is_some() { HAS_PREDECESSOR } else { 0 };
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(self.store.0.as_bytes());
        out.extend_from_slice(self.log.0.as_bytes());
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.epoch.to_le_bytes());
        let before = self.predecessor.unwrap_or(Predecessor {
            epoch: 0,
            end_position: 0,
            end_offset: Offset::ZERO,
            last_crc: 0,
        });
        out.extend_from_slice(&before.epoch.to_le_bytes());
        out.extend_from_slice(&before.end_position.to_le_bytes());
        out.extend_from_slice(&before.end_offset.0.to_le_bytes());
        out.extend_from_slice(&before.last_crc.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&self.gap.to_le_bytes());
        out.resize(COVERED, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        page[..out.len()].copy_from_slice(&out);
        page
    }

    /// Decodes the beginning of a file. Only the first 128 bytes are read, but the file must have a
    /// whole page.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        let page = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(SegmentError::Short)?;
        let (covered, rest) = page.split_at(COVERED);
        if covered.iter().all(|byte| *byte == 0) {
            return Err(SegmentError::Zero);
        }
        let mut reading = Reading(covered);
        if reading.take(MAGIC.len()) != Some(&MAGIC) {
            return Err(SegmentError::Foreign);
        }
        if Reading(rest).u32() != Some(crc32c::crc32c(covered)) {
            return Err(SegmentError::Checksum);
        }
        // After the checksum: a flipped bit is not a newer version.
        let version = reading.u16().ok_or(SegmentError::Short)?;
        if version > FORMAT_VERSION {
            return Err(SegmentError::Newer { found: version });
        }
        let flags = reading.u16().ok_or(SegmentError::Short)?;
        if flags & !HAS_PREDECESSOR != 0 {
            return Err(SegmentError::UnknownFlags { flags });
        }
        Self::decode_rest(reading, flags).ok_or(SegmentError::Short)
    }

    fn decode_rest(mut reading: Reading<'_>, flags: u16) -> Option<Self> {
        reading.u32()?;
        let store = StoreId(reading.uuid()?);
        let log = LogId(reading.uuid()?);
        let base = Offset(reading.u64()?);
        let epoch = reading.u64()?;
        let before = Predecessor {
            epoch: reading.u64()?,
            end_position: reading.u64()?,
            end_offset: Offset(reading.u64()?),
            last_crc: reading.u32()?,
        };
        reading.u32()?;
        let gap = reading.u64()?;
        let predecessor = (flags & HAS_PREDECESSOR != 0).then_some(before);
        Some(Self { store, log, base, epoch, predecessor, gap })
    }
}
