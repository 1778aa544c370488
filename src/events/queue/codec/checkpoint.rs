//! CHECKPOINT: where a log begins and how far it was proven durable.

use super::envelope::{Envelope, FileError};
use crate::events::queue::{LogId, Offset, StoreId};

const ENVELOPE: Envelope = Envelope { magic: *b"SLUICE\x01C", version: 1 };

/// Replaces the old file as a whole, after the sync that it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The store that the log belongs to.
    pub store: StoreId,
    /// The log.
    pub log: LogId,
    /// Everything below was retired: files wholly below it are leftovers.
    pub start: Offset,
    /// Everything below is known to be on disk.
    pub durable: Offset,
}

// === impl Checkpoint ===

impl Checkpoint {
    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        ENVELOPE.encode(|out| {
            out.extend_from_slice(self.store.0.as_bytes());
            out.extend_from_slice(self.log.0.as_bytes());
            out.extend_from_slice(&self.start.0.to_le_bytes());
            out.extend_from_slice(&self.durable.0.to_le_bytes());
        })
    }

    /// From the whole file.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let mut reading = ENVELOPE.decode(bytes)?;
        let mut decode = || {
            let (store, log) = (StoreId(reading.uuid()?), LogId(reading.uuid()?));
            Some(Self {
                store,
                log,
                start: Offset(reading.u64()?),
                durable: Offset(reading.u64()?),
            })
        };
        decode().ok_or(FileError::Contradiction)
    }
}
