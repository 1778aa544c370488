//! The envelope of every file but a log: kind, version, length and checksum.

use super::reading::Reading;
use crate::events::queue::mutation::{self, Mutation};

/// Magic, version, two zero bytes, length of the payload.
pub(super) const ENVELOPE_HEADER_BYTES: usize = 16;
/// Larger lengths are rejected: no such file has more.
const MAX_PAYLOAD_BYTES: u32 = 256 << 20;

/// Why a file is invalid. A derived file is then rebuilt from its log; for any other this is
/// damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileError {
    /// It ends too early.
    #[error("the file ends too early")]
    Short,
    /// It is another kind of file.
    #[error("it is another kind of file")]
    Foreign,
    /// Bytes have changed.
    #[error("the file's checksum is wrong")]
    Checksum,
    /// Its parts contradict each other, although the checksum is right.
    #[error("the file's parts contradict each other")]
    Contradiction,
    /// Written by a later version of the program.
    #[error("the file has version {found}, and this program knows up to {known}: use a newer one")]
    Newer {
        /// Its version.
        found: u16,
        /// The newest known version.
        known: u16,
    },
}

/// A kind of file and its version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope {
    pub(super) magic: [u8; 8],
    pub(super) version: u16,
}

// === impl Envelope ===

impl Envelope {
    /// The file, with what `put` appends as its payload.
    pub(super) fn encode(self, put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.magic);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        put(&mut out);
        let length = u32::try_from(out.len() - ENVELOPE_HEADER_BYTES).unwrap_or(u32::MAX);
        out[12..16].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// The payload. Bytes after it are ignored.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<Reading<'_>, FileError> {
        let mut reading = Reading(bytes);
        let magic = reading.take(self.magic.len()).ok_or(FileError::Short)?;
        if magic != self.magic {
            return Err(FileError::Foreign);
        }
        let version = reading.u16().ok_or(FileError::Short)?;
        reading.u16().ok_or(FileError::Short)?;
        let length = reading.u32().ok_or(FileError::Short)?;
        if length > MAX_PAYLOAD_BYTES {
            return Err(FileError::Checksum);
        }
        let length = length as usize;
        let payload = reading.take(length).ok_or(FileError::Short)?;
        let covered = bytes.get(..ENVELOPE_HEADER_BYTES + length).ok_or(FileError::Short)?;
        let is_right = reading.u32().ok_or(FileError::Short)? == crc32c::crc32c(covered);
        if !is_right && !mutation::is(Mutation::AcceptABadCrc) {
            return Err(FileError::Checksum);
        }
        if version > self.version {
            return Err(FileError::Newer { found: version, known: self.version });
        }
        Ok(Reading(payload))
    }
}
