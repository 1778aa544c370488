//! Looks up whether events are in the topic.

use std::collections::{BTreeSet, HashMap};

use crate::events::queue::{
    Offset,
    codec::{Draft, Record, Tag},
    log::{Log, ReadError},
};

/// Which of the wanted events are in the topic, at or after `from`.
pub(super) fn find(
    topic: &Log,
    from: Offset,
    wanted: &HashMap<Vec<u8>, Vec<Offset>>,
) -> Result<Vec<Offset>, ReadError> {
    let mut found = BTreeSet::new();
    topic.reader().find(from, |_, record| {
        found.extend(wanted.get(&identity_of(record)).into_iter().flatten());
        None::<()>
    })?;
    Ok(found.into_iter().collect())
}

/// What identifies an event: its dedup key, or its source and ID.
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
