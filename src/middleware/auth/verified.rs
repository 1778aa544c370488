//! Caches verified tokens, so that a token costs one signature check instead of one per request.
//!
//! One cache per worker, bounded in entries and bytes. An entry is found by a seeded hash of the end
//! of the token, which is its signature, and used only if the whole token is equal. It ends with the token's `exp`, with its key, and with its
//! issuer's settings: it carries the [`Grounds`] for its validity, and the caller says whether they
//! still hold. A hit costs one uncontended lock (only this worker takes it), one hash and one
//! comparison, without allocation. Only verified tokens are cached, so strangers cannot evict
//! anyone.
//!
//! A set-associative table, allocated for the first token. Of its four possible places a token
//! takes a free one, else that of an expired entry, else that of the least recently used one.

use std::{hash::BuildHasher as _, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

use crate::http::Principal;

/// The bounds of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Tokens; rounded up to a power of two.
    pub entries: usize,
    /// Bytes, as [`cost`] counts them.
    pub bytes: usize,
}

/// The verified tokens of one worker.
#[derive(Debug)]
pub struct VerifiedTokens {
    limits: Limits,
    hasher: RandomState,
    table: Mutex<Table>,
}

/// What the validity of an entry depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grounds {
    /// The identity of the issuer and its settings.
    pub issuer: u64,
    /// The generation of its key.
    pub key: u64,
    /// How often the issuer's set had changed when the key was last seen in it.
    pub changes: u64,
}

/// Whether an entry's grounds still hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// They hold.
    Holds,
    /// They no longer hold; the entry is removed.
    Gone,
    /// The caller does not accept this issuer; others may.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Table {
    /// Empty until the first token.
    places: Box<[Option<Entry>]>,
    bytes: usize,
    /// Counts uses: the entry with the lowest number is the least recently used.
    clock: u64,
    /// Where eviction continues when bytes run out.
    hand: usize,
}

#[derive(Debug)]
struct Entry {
    hash: u64,
    token: Box<[u8]>,
    grounds: Grounds,
    until: f64,
    used: u64,
    principal: Arc<Principal>,
}

/// How much of a token's end is hashed: 96 bits of its signature.
const HASHED: usize = 16;
/// The number of places a token may take.
const WAYS: usize = 4;

/// The bytes counted for a token: itself and its claims, which are a small multiple of it.
fn cost(token: &[u8]) -> usize {
    size_of::<Entry>() + token.len() * 4
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 16 * 1024, bytes: 32 * 1024 * 1024 }
    }
}

// === impl VerifiedTokens ===

impl VerifiedTokens {
    /// An empty cache.
    pub fn new(limits: Limits) -> Self {
        Self { limits, hasher: RandomState::default(), table: Mutex::default() }
    }

    /// The principal of `token`, unless it has expired at `now` (seconds since 1970) or its grounds
    /// no longer hold; `standing` decides that, and may bring the grounds up to date.
    pub fn get(
        &self,
        token: &[u8],
        now: f64,
        standing: impl FnOnce(&mut Grounds) -> Standing,
    ) -> Option<Arc<Principal>> {
        let hash = self.hash(token);
        let mut table = self.table.lock();
        let at = table.find(hash, token)?;
        let table = &mut *table;
        let place = &mut table.places[at];
        let entry = place.as_mut()?;
        let is_over = now >= entry.until;
        let standing = if is_over { Standing::Gone } else { standing(&mut entry.grounds) };
        if standing == Standing::Elsewhere {
            return None;
        }
        if standing == Standing::Gone {
            table.bytes -= cost(&entry.token);
            *place = None;
            return None;
        }
        table.clock += 1;
        entry.used = table.clock;
        Some(entry.principal.clone())
    }

    /// Whose end it is does not matter: nobody can choose what an issuer's signature ends with.
    fn hash(&self, token: &[u8]) -> u64 {
        self.hasher.hash_one(&token[token.len().saturating_sub(HASHED)..])
    }

    /// Stores `token`, valid from `now` to `until` on these grounds.
    pub fn insert(
        &self,
        token: &[u8],
        grounds: Grounds,
        (now, until): (f64, f64),
        principal: Arc<Principal>,
    ) {
        if cost(token) > self.limits.bytes {
            return;
        }
        let hash = self.hash(token);
        let mut table = self.table.lock();
        if table.places.is_empty() {
            let entries = self.limits.entries.max(WAYS).next_power_of_two();
            table.places = (0..entries).map(|_| None).collect();
        }
        table.clock += 1;
        let used = table.clock;
        let entry = Entry { hash, token: token.into(), grounds, until, used, principal };
        table.put(entry, now, self.limits.bytes);
    }
}

// === impl Table ===

impl Table {
    /// The first of the places for this hash.
    fn set(&self, hash: u64) -> usize {
        let sets = self.places.len() / WAYS;
        // The low bits; the table is far smaller than usize.
        (usize::try_from(hash & u64::from(u32::MAX)).unwrap_or(0) & (sets - 1)) * WAYS
    }

    fn find(&self, hash: u64, token: &[u8]) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        let set = self.set(hash);
        (set..set + WAYS).find(|&at| {
            let entry = self.places[at].as_ref();
            entry.is_some_and(|entry| entry.hash == hash && *entry.token == *token)
        })
    }

    fn put(&mut self, entry: Entry, now: f64, limit: usize) {
        let set = self.set(entry.hash);
        let at = self.find(entry.hash, &entry.token).unwrap_or_else(|| {
            let used = |entry: &Entry| if now < entry.until { entry.used } else { 0 };
            let rank = |at: &usize| self.places[*at].as_ref().map_or(0, used);
            (set..set + WAYS).min_by_key(rank).unwrap_or(set)
        });
        self.bytes += cost(&entry.token);
        if let Some(old) = self.places[at].replace(entry) {
            self.bytes -= cost(&old.token);
        }
        while self.bytes > limit {
            let hand = self.hand % self.places.len();
            self.hand = hand + 1;
            if hand != at
                && let Some(old) = self.places[hand].take()
            {
                self.bytes -= cost(&old.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUNDS: Grounds = Grounds { issuer: 1, key: 2, changes: 3 };

    fn cache(entries: usize, bytes: usize) -> VerifiedTokens {
        VerifiedTokens::new(Limits { entries, bytes })
    }

    fn put(cache: &VerifiedTokens, token: &str, until: f64) {
        put_at(cache, token, (0.0, until));
    }

    fn put_at(cache: &VerifiedTokens, token: &str, valid: (f64, f64)) {
        cache.insert(token.as_bytes(), GROUNDS, valid, Arc::new(Principal::named(token)));
    }

    fn get(cache: &VerifiedTokens, token: &str, now: f64) -> Option<String> {
        let found = cache.get(token.as_bytes(), now, |_| Standing::Holds);
        found.map(|principal| principal.name.to_string())
    }

    #[test]
    fn tokens_with_one_end_are_told_apart() {
        let cache = cache(64, 1 << 20);
        let [first, second] = ["a", "b"].map(|start| start.to_owned() + &"x".repeat(HASHED));
        put(&cache, &first, 10.0);
        assert_eq!(get(&cache, &second, 0.0), None);
        put(&cache, &second, 10.0);
        for token in [first, second] {
            assert_eq!(get(&cache, &token, 0.0), Some(token));
        }
    }

    #[test]
    fn a_token_is_known_until_it_ends() {
        let cache = cache(64, 1 << 20);
        assert_eq!(get(&cache, "a", 0.0), None);
        put(&cache, "a", 10.0);
        assert_eq!(get(&cache, "a", 9.9).as_deref(), Some("a"));
        assert_eq!(get(&cache, "b", 9.9), None);
        assert_eq!(get(&cache, "a", 10.0), None);
        assert_eq!(get(&cache, "a", 0.0), None, "what ended is gone");
        assert_eq!(cache.table.lock().bytes, 0);
    }

    #[test]
    fn an_entry_ends_with_what_it_stands_on() {
        let cache = cache(64, 1 << 20);
        put(&cache, "a", 10.0);
        let renewed = cache.get(b"a", 0.0, |grounds| {
            assert_eq!(*grounds, GROUNDS);
            grounds.changes = 4;
            Standing::Holds
        });
        assert!(renewed.is_some());
        assert!(cache.get(b"a", 0.0, |_| Standing::Elsewhere).is_none());
        let kept = cache.get(b"a", 0.0, |grounds| {
            assert_eq!(grounds.changes, 4);
            Standing::Holds
        });
        assert!(kept.is_some());
        assert!(cache.get(b"a", 0.0, |_| Standing::Gone).is_none());
        assert_eq!(get(&cache, "a", 0.0), None);
    }

    #[test]
    fn what_was_used_longest_ago_makes_place() {
        let cache = cache(WAYS, 1 << 20);
        for token in ["a", "b", "c", "d"] {
            put(&cache, token, 10.0);
        }
        assert!(get(&cache, "a", 0.0).is_some());
        put(&cache, "e", 10.0);
        assert_eq!(get(&cache, "b", 0.0), None);
        for token in ["a", "c", "d", "e"] {
            assert!(get(&cache, token, 0.0).is_some(), "{token}");
        }
    }

    #[test]
    fn what_has_ended_makes_place_before_what_was_used_longest_ago() {
        let cache = cache(WAYS, 1 << 20);
        for (token, until) in [("a", 10.0), ("b", 10.0), ("c", 5.0), ("d", 10.0)] {
            put(&cache, token, until);
        }
        put_at(&cache, "e", (5.0, 10.0));
        assert_eq!(get(&cache, "c", 0.0), None);
        for token in ["a", "b", "d", "e"] {
            assert!(get(&cache, token, 5.0).is_some(), "{token}");
        }
    }

    #[test]
    fn a_token_that_comes_again_has_one_entry() {
        let cache = cache(WAYS, 1 << 20);
        put(&cache, "a", 10.0);
        put(&cache, "a", 20.0);
        assert_eq!(cache.table.lock().bytes, cost(b"a"));
        assert!(get(&cache, "a", 15.0).is_some());
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(tokens in proptest::collection::vec("[a-z]{1,300}", 1..200)) {
            let cache = cache(32, 8 * 1024);
            for token in &tokens {
                put(&cache, token, 10.0);
                prop_assert!(get(&cache, token, 0.0).is_some(), "the newest is there");
                let table = cache.table.lock();
                let held: Vec<_> = table.places.iter().flatten().collect();
                prop_assert!(held.len() <= 32);
                prop_assert_eq!(table.bytes, held.iter().map(|e| cost(&e.token)).sum::<usize>());
                prop_assert!(table.bytes <= 8 * 1024);
            }
        }
    }
}
