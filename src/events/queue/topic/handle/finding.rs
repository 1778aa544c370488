//! Finds events of a topic by ID or correlation ID, through the keys of its segments.

use std::io;

use tokio::time::Instant;

use super::{Inner, Topic};
use crate::events::queue::{
    Offset,
    codec::{FileError, KeysHead, Lookup, LookupError, PAGE_BYTES, Role},
    log::{self, OwnedRecord, ReadError},
};

/// The result of a lookup.
#[derive(Debug, Default)]
pub struct Found {
    /// The records, in order.
    pub records: Vec<OwnedRecord>,
    /// There may be more: time ran out, the limit was reached, or a file could not be searched.
    pub is_partial: bool,
}

// === impl Topic ===

impl Topic {
    /// The ID of the event at `offset`, if the event exists and has one. Blocks.
    pub fn id_at(&self, offset: Offset) -> Result<Option<String>, ReadError> {
        let found = self.0.log.reader().get(offset)?;
        Ok(found.and_then(|found| found.record().and_then(|it| it.id().map(str::to_owned))))
    }

    /// Events with this ID or correlation ID: the newest `most` of those found before `until`.
    /// Blocks.
    pub fn find(&self, lookup: Lookup, text: &str, most: usize, until: Instant) -> Found {
        let inner = &*self.0;
        let role = match lookup {
            Lookup::Id => Role::Id,
            Lookup::Correlation => Role::Correlation,
        };
        let hash = inner.hash_key.hash(role, &[text.as_bytes()]);
        let mut found = Found::default();
        let mut offsets = inner.shared.find(lookup, hash, most);
        for segment in inner.log.segments().iter().rev().filter(|segment| segment.is_sealed) {
            if offsets.len() >= most {
                break;
            }
            if Instant::now() >= until {
                found.is_partial = true;
                break;
            }
            match inner.find_sealed(segment, lookup, hash, most - offsets.len()) {
                Ok(sealed) => offsets.extend(sealed),
                Err(error) => {
                    tracing::debug!(topic = %inner.id, %error, base = %segment.base, "no keys");
                    found.is_partial = true;
                }
            }
        }
        // The limit was reached, so there may be more.
        found.is_partial |= offsets.len() >= most;
        offsets.sort_unstable();
        offsets.dedup();
        let mut reader = inner.log.reader();
        for offset in offsets {
            match reader.get(offset) {
                Ok(Some(record)) if has(&record, lookup, text) => found.records.push(record),
                // Another event with the same half hash, or not durable yet, or just retired.
                Ok(_) | Err(ReadError::Retired { .. }) => {}
                Err(_) => found.is_partial = true,
            }
        }
        found
    }
}

// === impl Inner ===

impl Inner {
    fn find_sealed(
        &self,
        segment: &log::SegmentInfo,
        lookup: Lookup,
        hash: u128,
        most: usize,
    ) -> Result<Vec<Offset>, LookupError> {
        let path = self.dir.join(format!("{:020}.keys", segment.base.0));
        let file = self.storage.open_read(&path)?;
        let mut page = [0; PAGE_BYTES];
        file.read_at(&mut page, 0)?;
        let head = KeysHead::decode(&page)?;
        if (head.epoch, head.end) != (segment.epoch, segment.end) {
            return Err(FileError::Contradiction.into());
        }
        let read = |buffer: &mut [u8], at: u64| -> io::Result<usize> { file.read_at(buffer, at) };
        head.find(lookup, hash, most, read)
    }
}

fn has(record: &OwnedRecord, lookup: Lookup, text: &str) -> bool {
    let Some(record) = record.record() else { return false };
    let own = match lookup {
        Lookup::Id => record.id(),
        Lookup::Correlation => record.correlation(),
    };
    own == Some(text)
}
