//! What the records of requests say, read from the first to the last. Pure: a log is opened with it.

use bytes::Bytes;

use super::{
    key_record::{self, Claim},
    keys::{self, KeyState, Keys},
    record::{self, Entry},
    results::Results,
    state::State,
};
use crate::events::queue::{Offset, codec::Record};

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) keys: Keys,
    pub(super) results: Results,
}

/// All that opening, recovering and showing read of these records, whoever wrote them; how many said
/// something. For fuzzing: a log in front of it would spend the time on checksums and files.
pub fn examine<'a>(records: impl Iterator<Item = (Offset, Record<'a>)>) -> usize {
    let (mut replay, mut said) = (Replay::default(), 0);
    for (offset, record) in records {
        let found = record::found(&record);
        let claimed = key_record::claimed(&record);
        let answer = key_record::stored_answer(&record, Bytes::copy_from_slice);
        let entry = record::entry(&record);
        said += usize::from(found.is_some() || claimed.is_some() || !answer.headers.is_empty());
        if let Some(entry) = entry {
            said += 1;
            replay.take(offset, entry);
        }
    }
    replay.state.replayed_all();
    said
}

// === impl Replay ===

impl Replay {
    /// The next record.
    pub(super) fn take(&mut self, offset: Offset, entry: Entry) {
        self.state.replay(offset, entry);
        match entry {
            Entry::Claim { claim: Claim { hash, fingerprint, expires }, wall } => {
                let state = KeyState::Running;
                let entry = keys::Entry { fingerprint, expires, claim: offset, state };
                self.keys.replay(hash, entry, wall);
            }
            Entry::Answer { key: Some((hash, mark)), .. } | Entry::Resolved { hash, mark } => {
                self.keys.mark(hash, mark, offset);
            }
            Entry::Request { place, recorded, wall } => {
                self.results.replay(place, recorded, offset, wall);
            }
            Entry::Answer { key: None, .. }
            | Entry::Intent { .. }
            | Entry::Owed { .. }
            | Entry::Settled { .. } => {}
        }
    }
}
