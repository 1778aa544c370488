//! Whether an event is in the topic.

use std::collections::{BTreeSet, HashMap};

use super::mover::READ_BYTES;
use crate::events::queue::{
    Offset,
    codec::{Draft, Record, Tag},
    log::{Log, ReadError},
};

/// Which of the wanted are in the topic, at `from` or after it.
pub(super) fn find(
    topic: &Log,
    from: Offset,
    wanted: &HashMap<Vec<u8>, Vec<Offset>>,
) -> Result<Vec<Offset>, ReadError> {
    let mut reader = topic.reader();
    let mut at = from.max(topic.start());
    let mut found = BTreeSet::new();
    loop {
        let block = match reader.read(at, READ_BYTES) {
            Ok(block) => block,
            Err(ReadError::Retired { start }) => {
                at = start;
                continue;
            }
            // Bytes that nobody can read were delivered to nobody.
            Err(ReadError::Damaged { range }) => {
                at = range.end;
                continue;
            }
            Err(error) => return Err(error),
        };
        if block.is_empty() {
            return Ok(found.into_iter().collect());
        }
        for (_, record) in block.records() {
            found.extend(wanted.get(&identity_of(&record)).into_iter().flatten());
        }
        at = block.next();
    }
}

/// What tells an event from others: its dedup key, or source and ID.
pub(super) fn identity(draft: &Draft) -> Vec<u8> {
    let text = |tag| draft.fields.get(tag).unwrap_or_default();
    joined(draft.dedup.as_deref(), text(Tag::SOURCE), text(Tag::ID))
}

fn identity_of(record: &Record<'_>) -> Vec<u8> {
    let (source, id) = (record.source().unwrap_or_default(), record.id().unwrap_or_default());
    joined(record.dedup_key(), source.as_bytes(), id.as_bytes())
}

fn joined(dedup: Option<&[u8]>, source: &[u8], id: &[u8]) -> Vec<u8> {
    match dedup {
        Some(key) => [&b"k"[..], key].concat(),
        None => [&b"i"[..], &(source.len() as u64).to_le_bytes(), source, id].concat(),
    }
}
