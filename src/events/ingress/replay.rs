//! Decodes the records of requests, first to last, when the log is opened. Pure.

use bytes::Bytes;

use super::{
    key_record::{self, Claim},
    keys::{self, KeyState, Keys},
    record::{self, Entry},
    results::Results,
    state::State,
};
use crate::events::queue::{Offset, codec::Record};

/// The state so far.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub(super) state: State,
    pub(super) keys: Keys,
    pub(super) results: Results,
}

/// For fuzzing: reads all that opening, recovery and display read from these untrusted records, and
/// counts what was understood. Without a log, to spend no time on checksums and files.
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
    /// Applies the next record.
    pub(super) fn take(&mut self, offset: Offset, entry: Entry) {
        self.state.replay(offset, entry);
        match entry {
            Entry::Claim { claim: Claim { hash, fingerprint, expires }, wall } => {
                let state = KeyState::Running;
                let entry = keys::Entry { fingerprint, expires, claim: offset, state };
                self.keys.replay(hash, entry, wall);
            }
            Entry::Answer { key: Some(said), .. } | Entry::Resolved(said) => {
                self.keys.replay_end(said, offset);
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            key_record::Said,
            keys::{Mark, Moment, Verdict},
        },
        *,
    };

    const CLAIM: Claim = Claim { hash: 1, fingerprint: 7, expires: 100 };

    fn judge(replay: &mut Replay, fingerprint: u64, now: u64) -> Verdict {
        let moment = Moment { wall: now, now, ttl: 1 };
        replay.keys.judge(CLAIM.hash, fingerprint, false, moment)
    }

    #[test]
    fn a_key_is_remembered_by_what_became_of_it_where_its_claim_is_lost() {
        let at = Offset(5);
        for (mark, expected) in
            [(Mark::Done, Verdict::Done { at }), (Mark::Uncertain, Verdict::Uncertain)]
        {
            let said = Said { hash: CLAIM.hash, mark, claim: Some(CLAIM), wall: 40 };
            let answer = Entry::Answer { exchange: Offset(4), key: Some(said) };
            for entry in [answer, Entry::Resolved(said)] {
                let mut replay = Replay::default();
                replay.take(at, entry);
                assert_eq!(judge(&mut replay, 7, 99), expected);
                assert_eq!(judge(&mut replay, 8, 99), Verdict::Mismatch);
                assert_eq!(replay.keys.longest(), 60);
                assert_eq!(judge(&mut replay, 7, 100), Verdict::New(None));
            }
        }
        let said = Said { hash: CLAIM.hash, mark: Mark::Free, claim: None, wall: 40 };
        let mut replay = Replay::default();
        replay.take(at, Entry::Answer { exchange: Offset(4), key: Some(said) });
        assert_eq!(judge(&mut replay, 7, 99), Verdict::New(None));
    }

    #[test]
    fn a_key_that_was_used_again_lasts_as_long_as_the_request_that_was_answered_last() {
        let mut replay = Replay::default();
        let first = Claim { fingerprint: 3, expires: 50, ..CLAIM };
        replay.take(Offset(0), Entry::Claim { claim: first, wall: 10 });
        // The second exchange's claim, between the two records, is lost.
        let said = Said { hash: CLAIM.hash, mark: Mark::Done, claim: Some(CLAIM), wall: 60 };
        replay.take(Offset(5), Entry::Answer { exchange: Offset(4), key: Some(said) });
        assert_eq!(judge(&mut replay, 7, 99), Verdict::Done { at: Offset(5) });
    }
}
