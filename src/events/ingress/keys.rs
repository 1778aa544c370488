//! Idempotency keys in memory: a pure table over the records of the ingress log; time is an
//! argument.
//!
//! Invariant: **a key that is held or remembered is never given to a second request**, until it
//! expires or its result is known to be "not done". Nothing is evicted for room: a request that
//! gets no place is refused before it is sent.

use std::collections::{BTreeSet, HashMap};

use super::key_record::{Claim, Said};
use crate::events::queue::Offset;

/// The hash of route, principal and key.
pub(super) type KeyHash = u128;

/// Idempotency keys in use or remembered.
#[derive(Debug, Default)]
pub(super) struct Keys {
    entries: HashMap<KeyHash, Entry>,
    /// When each is forgotten.
    expiries: BTreeSet<(u64, KeyHash)>,
    /// How many are [`KeyState::Uncertain`].
    in_doubt: usize,
    /// Records older than this (milliseconds) have no effect any more.
    longest: u64,
}

/// The entry of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Prefix of the SHA-256 of the request it was used for.
    pub(super) fingerprint: u64,
    /// Milliseconds since 1970.
    pub(super) expires: u64,
    /// Offset of its claim, once that is written.
    pub(super) claim: Offset,
    pub(super) state: KeyState,
}

/// The state of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyState {
    /// Its request is in flight.
    Running,
    /// The outcome is unknown.
    Uncertain,
    /// It was answered; the record is at this offset.
    Done { at: Offset },
}

/// The result of a key's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The key may be used again.
    Free,
    /// It was answered.
    Done,
    /// The outcome is unknown.
    Uncertain,
}

/// When a request arrives, and how long its key is remembered; milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// Wall time since 1970.
    pub(super) wall: u64,
    /// The same, or 0 while the clock is not trusted, so that nothing expires.
    pub(super) now: u64,
    pub(super) ttl: u64,
}

/// The decision whether a request may use a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may; the key's previous entry.
    New(Option<Entry>),
    /// Another request with it is in flight.
    Running,
    /// It was used for a different request.
    Mismatch,
    /// Its request may have been done.
    Uncertain,
    /// Its request was done.
    Done { at: Offset },
}

// === impl Keys ===

impl Keys {
    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of keys with an unknown outcome.
    pub(super) fn in_doubt(&self) -> usize {
        self.in_doubt
    }

    /// Decides about a request. If it may use its key, it holds the key on return.
    pub(super) fn judge(
        &mut self,
        hash: KeyHash,
        fingerprint: u64,
        may_resend: bool,
        Moment { wall, now, ttl }: Moment,
    ) -> Verdict {
        let known = self.entries.get(&hash).copied().filter(|entry| !entry.is_over(now));
        if let Some(entry) = known {
            if entry.fingerprint != fingerprint {
                return Verdict::Mismatch;
            }
            match entry.state {
                KeyState::Running => return Verdict::Running,
                KeyState::Done { at } => return Verdict::Done { at },
                KeyState::Uncertain if !may_resend => return Verdict::Uncertain,
                KeyState::Uncertain => {}
            }
        }
        let (claim, state) = (Offset::ZERO, KeyState::Running);
        self.longest = self.longest.max(ttl);
        let expires = wall.saturating_add(ttl);
        self.put(hash, Entry { fingerprint, expires, claim, state });
        Verdict::New(known)
    }

    /// Restores the entry from before the key was given out.
    pub(super) fn give_back(&mut self, hash: KeyHash, before: Option<Entry>) {
        match before {
            Some(entry) => self.put(hash, entry),
            None => self.remove(hash),
        }
    }

    /// Its claim was written at this offset.
    pub(super) fn placed(&mut self, hash: KeyHash, claim: Offset) {
        if let Some(entry) = self.entries.get_mut(&hash) {
            entry.claim = claim;
        }
    }

    /// Sets the result, written at this offset.
    pub(super) fn mark(&mut self, hash: KeyHash, mark: Mark, at: Offset) {
        let state = match mark {
            Mark::Free => return self.remove(hash),
            Mark::Done => KeyState::Done { at },
            Mark::Uncertain => KeyState::Uncertain,
        };
        if let Some(entry) = self.entries.get(&hash).copied() {
            self.put(hash, Entry { state, ..entry });
        }
    }

    /// Applies a claim that is read back, written at `wall`. Later records tell its result.
    pub(super) fn replay(&mut self, hash: KeyHash, entry: Entry, wall: u64) {
        self.longest = self.longest.max(entry.expires.saturating_sub(wall));
        self.put(hash, entry);
    }

    /// Applies a result read back at `at`, even if the claim was not found.
    pub(super) fn replay_end(&mut self, said: Said, at: Offset) {
        if let (Some(Claim { hash, fingerprint, expires }), true) =
            (said.claim, said.mark != Mark::Free)
        {
            let claim = self.entries.get(&hash).map_or(Offset::ZERO, |entry| entry.claim);
            let state = KeyState::Uncertain;
            self.replay(hash, Entry { fingerprint, expires, claim, state }, said.wall);
        }
        self.mark(said.hash, said.mark, at);
    }

    /// Forgets keys that have expired at `now`.
    pub(super) fn sweep(&mut self, now: u64) {
        let mut kept = Vec::new();
        while let Some((expires, hash)) = self.expiries.first().copied().filter(|it| it.0 <= now) {
            self.expiries.pop_first();
            match self.entries.get(&hash) {
                // Looked at again once its request has ended.
                Some(entry) if entry.state == KeyState::Running => kept.push((expires, hash)),
                _ => self.forget(hash),
            }
        }
        self.expiries.extend(kept);
    }

    /// The key's entry, if there is one.
    pub(super) fn get(&self, hash: KeyHash) -> Option<&Entry> {
        self.entries.get(&hash)
    }

    /// Keys with an unknown outcome, in order of expiry.
    pub(super) fn uncertain(&self) -> impl Iterator<Item = (KeyHash, &Entry)> {
        let known =
            self.expiries.iter().filter_map(|(_, hash)| Some((*hash, self.entries.get(hash)?)));
        known.filter(|(_, entry)| entry.state == KeyState::Uncertain)
    }

    /// How long records are needed at most, in milliseconds.
    pub(super) fn longest(&self) -> u64 {
        self.longest
    }

    fn put(&mut self, hash: KeyHash, entry: Entry) {
        self.remove(hash);
        self.expiries.insert((entry.expires, hash));
        self.in_doubt += usize::from(entry.state == KeyState::Uncertain);
        self.entries.insert(hash, entry);
    }

    fn remove(&mut self, hash: KeyHash) {
        if let Some(entry) = self.entries.get(&hash) {
            self.expiries.remove(&(entry.expires, hash));
        }
        self.forget(hash);
    }

    /// Removes a key whose expiry was already removed.
    fn forget(&mut self, hash: KeyHash) {
        if let Some(entry) = self.entries.remove(&hash) {
            self.in_doubt -= usize::from(entry.state == KeyState::Uncertain);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn is_over(&self, now: u64) -> bool {
        self.expires <= now && self.state != KeyState::Running
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NEW: Verdict = Verdict::New(None);

    fn at(now: u64, ttl: u64) -> Moment {
        Moment { wall: now, now, ttl }
    }

    #[test]
    fn a_key_is_one_requests_until_it_is_told_what_became_of_it() {
        let mut keys = Keys::default();
        let judge =
            |keys: &mut Keys, fingerprint, now| keys.judge(1, fingerprint, false, at(now, 100));
        assert_eq!(judge(&mut keys, 7, 0), NEW);
        assert_eq!(judge(&mut keys, 7, 0), Verdict::Running);
        assert_eq!(judge(&mut keys, 8, 0), Verdict::Mismatch);
        assert_eq!(judge(&mut keys, 7, 1_000), Verdict::Running, "it does not expire under way");
        keys.mark(1, Mark::Uncertain, Offset(3));
        assert_eq!(judge(&mut keys, 7, 0), Verdict::Uncertain);
        let resent = keys.judge(1, 7, true, at(0, 150));
        assert!(matches!(resent, Verdict::New(Some(Entry { state: KeyState::Uncertain, .. }))));
        keys.mark(1, Mark::Done, Offset(5));
        assert_eq!(judge(&mut keys, 7, 149), Verdict::Done { at: Offset(5) });
        assert_eq!(judge(&mut keys, 8, 150), NEW, "its time is over");
        keys.mark(1, Mark::Free, Offset(6));
        assert_eq!(judge(&mut keys, 9, 0), NEW);
    }

    #[test]
    fn what_was_not_used_is_as_it_was() {
        let mut keys = Keys::default();
        let Verdict::New(before) = keys.judge(1, 7, false, at(0, 100)) else { panic!() };
        keys.give_back(1, before);
        assert_eq!(keys.len(), 0);
        keys.judge(1, 7, false, at(0, 100));
        keys.mark(1, Mark::Uncertain, Offset(1));
        let Verdict::New(before) = keys.judge(1, 7, true, at(0, 100)) else { panic!() };
        keys.give_back(1, before);
        assert_eq!(keys.judge(1, 7, false, at(0, 100)), Verdict::Uncertain);
    }

    #[test]
    fn a_clock_that_is_not_to_be_trusted_ends_nothing_and_shortens_nothing() {
        let mut keys = Keys::default();
        let frozen = Moment { wall: 1_000, now: 0, ttl: 100 };
        assert_eq!(keys.judge(1, 7, false, frozen), NEW);
        keys.mark(1, Mark::Done, Offset(5));
        assert_eq!(keys.judge(1, 7, false, at(1_099, 100)), Verdict::Done { at: Offset(5) });
        let late = Moment { wall: 9_000, ..frozen };
        assert_eq!(keys.judge(1, 7, false, late), Verdict::Done { at: Offset(5) });
        assert_eq!(keys.longest(), 100);
        assert_eq!(keys.judge(1, 7, false, at(1_100, 100)), NEW);
    }

    proptest! {
        #[test]
        fn nothing_is_forgotten_before_its_time_and_everything_after_it(
            steps in prop::collection::vec((0_u128..6, 1_u64..50, 0_u8..4), 1..80),
        ) {
            let (mut keys, mut now) = (Keys::default(), 0);
            for (hash, ttl, step) in steps {
                now += 1;
                if let Verdict::New(_) = keys.judge(hash, 1, false, at(now, ttl)) {
                    let mark = [Mark::Free, Mark::Done, Mark::Uncertain].get(usize::from(step));
                    if let Some(mark) = mark { keys.mark(hash, *mark, Offset(now)) }
                }
                keys.sweep(now);
                for (hash, entry) in &keys.entries {
                    prop_assert!(entry.expires > now || entry.state == KeyState::Running);
                    prop_assert!(keys.expiries.contains(&(entry.expires, *hash)));
                }
                prop_assert_eq!(keys.expiries.len(), keys.entries.len());
                prop_assert_eq!(keys.in_doubt(), keys.uncertain().count());
            }
            let running = keys.entries.values().filter(|it| it.state == KeyState::Running).count();
            keys.sweep(u64::MAX);
            prop_assert_eq!(keys.len(), running);
        }
    }
}
