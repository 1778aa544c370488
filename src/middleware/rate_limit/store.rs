//! The buckets of one policy: bounded, sharded, in slots of 16 bytes.
//!
//! Invariants, each with a test:
//! - An idle key (its bucket is full again) and an unknown key are the same to GCRA, so idle keys
//!   are forgotten without a trace: their slots are reused in passing, and a shard without room is
//!   swept.
//! - At most `max_keys` are remembered (one more for each thread that races for the last place).
//!   Further keys share one overflow bucket. That is stricter for them, until one gets its own
//!   slot: with a full bucket, whatever it spent of the other, so at most one more burst each time.
//!   Starting with the state of the overflow bucket would let whoever floods that one deny keys
//!   that find room.
//! - Memory never exceeds [`Store::max_bytes`], is allocated shard by shard as keys come, at most
//!   doubling one shard at a time, and freed by [`Store::sweep`].
//! - Whoever locks several shards does so by store, then by shard, the overflow bucket last, so
//!   there is no deadlock.
//!
//! A shard is an open-addressed table with linear probing, at most 4/5 full. A lookup is a lock and
//! on average a few neighbouring slots; nothing is allocated. A sweep looks at one shard's slots
//! (by default a few thousand, in about ten microseconds), and a full shard is swept so rarely that
//! sweeping takes at most about one percent of the time.

use std::{
    fmt,
    hash::RandomState,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use parking_lot::{Mutex, MutexGuard};

use super::{gcra::Nanos, key::Fingerprint};

/// The number of keys per shard that a large store aims for.
const KEYS_PER_SHARD: usize = 4096;
/// Enough that workers seldom contend for a lock.
const MIN_SHARDS: usize = 16;
const MAX_SHARDS: usize = 4096;
/// The first table size of a shard.
const FIRST_SLOTS: usize = 16;
/// The pause between two sweeps of a full shard, per slot: a hundred times the cost of looking at
/// one slot.
const SWEEP_PAUSE_NANOS: u64 = 500;
/// How many other shards may be swept for a key without room.
const OTHERS_SWEPT: usize = 16;

/// The buckets of one policy.
pub struct Store {
    /// Unique in the process, so that all stores have one order in every configuration.
    id: u64,
    seed: RandomState,
    max_keys: AtomicUsize,
    counts: Line<Counts>,
    shards: Box<[Shard]>,
    overflow: Line<Mutex<Option<Nanos>>>,
}

/// What changes as keys come and go.
#[derive(Debug, Default)]
struct Counts {
    /// Slots in use, including those of idle keys.
    used: AtomicUsize,
    /// The next shard to sweep for the sake of another.
    hand: AtomicUsize,
}

/// A part of `Store` on cache lines of its own; two, because processors fetch pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Line<T>(T);

type Shard = Line<Mutex<Table>>;

#[derive(Debug, Default)]
struct Table {
    slots: Box<[Slot]>,
    used: usize,
    swept_at: Nanos,
}

/// `key` is 0 in an empty slot; fingerprints are not.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: u64,
    full_at: Nanos,
}

/// A key's bucket, locked.
#[derive(Debug)]
pub struct Bucket<'a> {
    store: &'a Store,
    place: Place<'a>,
}

#[derive(Debug)]
enum Place<'a> {
    /// The key has this slot.
    Known { table: MutexGuard<'a, Table>, index: usize },
    /// The key can take this slot.
    Vacant { table: MutexGuard<'a, Table>, index: usize, key: u64 },
    /// There is no room for the key.
    Overflow(MutexGuard<'a, Option<Nanos>>),
}

// === impl Store ===

impl Store {
    /// An empty store with room for `max_keys`.
    pub fn new(max_keys: usize) -> Self {
        Self::with_seed(max_keys, RandomState::new())
    }

    fn with_seed(max_keys: usize, seed: RandomState) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self {
            // Relaxed: it publishes nothing.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            seed,
            max_keys: AtomicUsize::new(max_keys),
            counts: Line::default(),
            shards: (0..shards_for(max_keys)).map(|_| Shard::default()).collect(),
            overflow: Line::default(),
        }
    }

    /// A store for `max_keys` with a copy of these buckets, if there are so many more keys that
    /// sweeping one of the present shards would take long; `None` if this store can hold them.
    pub fn regrown(&self, max_keys: usize) -> Option<Self> {
        if shards_for(max_keys) <= self.shards.len() * 2 {
            return None;
        }
        let grown = Self::with_seed(max_keys, self.seed.clone());
        for shard in &self.shards {
            // Locked only for the copy, not while places are found.
            let slots = shard.0.lock().slots.clone();
            for slot in slots.iter().filter(|slot| slot.key != 0) {
                let bucket = grown.bucket(Fingerprint::from_bits(slot.key), Nanos::default());
                if !bucket.is_overflow() {
                    bucket.commit(slot.full_at);
                }
            }
        }
        *grown.overflow.0.lock() = *self.overflow.0.lock();
        Some(grown)
    }

    /// Its place in the order of locking.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The seed of its fingerprints.
    pub fn seed(&self) -> &RandomState {
        &self.seed
    }

    /// Changes the bound. Keys beyond it are forgotten as they become idle.
    pub fn set_max_keys(&self, max_keys: usize) {
        // Relaxed, like all accesses to the counts: each stands alone, the slots are locked.
        self.max_keys.store(max_keys, Ordering::Relaxed);
    }

    /// Remembered keys, including those that became idle since their shard was last swept.
    pub fn keys(&self) -> usize {
        self.counts.0.used.load(Ordering::Relaxed)
    }

    /// The number of parts that are locked separately.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// The current size of the tables in bytes.
    pub fn bytes(&self) -> usize {
        let slots: usize = self.shards.iter().map(|shard| shard.0.lock().slots.len()).sum();
        slots * size_of::<Slot>() + self.shards.len() * size_of::<Shard>()
    }

    /// The maximum of [`bytes`](Self::bytes).
    pub fn max_bytes(&self) -> usize {
        self.shards.len() * (self.max_slots() * size_of::<Slot>() + size_of::<Shard>())
    }

    /// The bucket of `key`, locked until it is dropped: see the module for the order of locking.
    pub fn bucket(&self, key: Fingerprint, now: Nanos) -> Bucket<'_> {
        let key = key.get();
        let mut table = self.shard(key).0.lock();
        let mut found = table.find(key, now);
        if let Err(index) = found
            && self.lacks_room(&table, index)
        {
            self.make_room(&mut table, now);
            found = table.find(key, now);
            if table.has_room() {
                self.make_room_elsewhere(now);
            }
        }
        let place = match found {
            Ok(index) => Place::Known { table, index },
            Err(Some(index)) if !self.lacks_room(&table, Some(index)) => {
                Place::Vacant { table, index, key }
            }
            Err(_) => {
                drop(table);
                Place::Overflow(self.overflow.0.lock())
            }
        };
        Bucket { store: self, place }
    }

    /// The state of `key`, without making room for it; `None` if its bucket is full.
    pub fn peek(&self, key: Fingerprint, now: Nanos) -> Option<Nanos> {
        let table = self.shard(key.get()).0.lock();
        let index = table.find(key.get(), now).ok()?;
        Some(table.slots[index].full_at)
    }

    /// Forgets the idle keys of all shards and frees memory that is no longer needed.
    pub fn sweep(&self, now: Nanos) {
        for shard in &self.shards {
            let mut table = shard.0.lock();
            if !table.slots.is_empty() {
                let freed = table.rebuild(now, self.max_slots());
                self.counts.0.used.fetch_sub(freed, Ordering::Relaxed);
            }
        }
    }

    fn make_room(&self, table: &mut Table, now: Nanos) {
        let freed = table.make_room(now, self.max_slots());
        self.counts.0.used.fetch_sub(freed, Ordering::Relaxed);
    }

    /// Forgets idle keys of other shards while the store is at its bound. Skips locked shards,
    /// whose lock might come before one already held.
    fn make_room_elsewhere(&self, now: Nanos) {
        for _ in 0..OTHERS_SWEPT.min(self.shards.len()) {
            if self.keys() < self.max_keys.load(Ordering::Relaxed) {
                return;
            }
            let next = self.counts.0.hand.fetch_add(1, Ordering::Relaxed);
            let next = next & (self.shards.len() - 1);
            if let Some(mut table) = self.shards[next].0.try_lock() {
                self.make_room(&mut table, now);
            }
        }
    }

    fn shard(&self, key: u64) -> &Shard {
        // The low bits choose the shard, the high ones the slot.
        let low = usize::try_from(key & (MAX_SHARDS as u64 - 1)).unwrap_or(0);
        &self.shards[low & (self.shards.len() - 1)]
    }

    /// The maximum number of slots per shard. Keys fall into shards at random, so some shards get
    /// more; six standard deviations above the mean, `max_keys` evenly hashed keys still find room.
    fn max_slots(&self) -> usize {
        let mean = self.max_keys.load(Ordering::Relaxed).div_ceil(self.shards.len());
        (mean + 6 * mean.isqrt()) * 5 / 4 + FIRST_SLOTS
    }

    /// Whether a key that would take this slot needs more room than there is.
    fn lacks_room(&self, table: &Table, index: Option<usize>) -> bool {
        // An idle key's slot is reused: nothing grows.
        match index {
            Some(index) if table.slots[index].key != 0 => false,
            Some(_) => !table.has_room() || self.keys() >= self.max_keys.load(Ordering::Relaxed),
            None => true,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("id", &self.id)
            .field("keys", &self.keys())
            .finish_non_exhaustive()
    }
}

// === impl Table ===

impl Table {
    /// The slot of `key`, or the one it can take: an idle key's or an empty one; `None` in a table
    /// without slots.
    fn find(&self, key: u64, now: Nanos) -> Result<usize, Option<usize>> {
        let mut idle = None;
        let (before, after) = self.slots.split_at(self.home(key));
        let probes = after.iter().zip(before.len()..).chain(before.iter().zip(0..));
        // Visits every slot once, so it ends.
        for (slot, index) in probes {
            if slot.key == key {
                return Ok(index);
            }
            if slot.key == 0 {
                return Err(idle.or(Some(index)));
            }
            if idle.is_none() && slot.full_at <= now {
                idle = Some(index);
            }
        }
        Err(idle)
    }

    /// The first slot to probe for a key.
    fn home(&self, key: u64) -> usize {
        // The high half, scaled to the number of slots: less than that, so it fits.
        usize::try_from(((key >> 32) * self.slots.len() as u64) >> 32).unwrap_or(0)
    }

    /// Whether one more empty slot may be filled: one in five stays empty, to keep probes short.
    fn has_room(&self) -> bool {
        (self.used + 1) * 5 <= self.slots.len() * 4
    }

    /// Forgets idle keys, and grows if that is not enough; does nothing if it just did so and
    /// cannot grow. Returns how many were forgotten.
    fn make_room(&mut self, now: Nanos, max_slots: usize) -> usize {
        let pause = Nanos::from(self.slots.len() as u64 * SWEEP_PAUSE_NANOS);
        let is_grown = self.slots.len() >= max_slots || self.has_room();
        if is_grown && now.saturating_sub(self.swept_at) < pause {
            return 0;
        }
        self.rebuild(now, max_slots)
    }

    fn rebuild(&mut self, now: Nanos, max_slots: usize) -> usize {
        let is_live = |slot: &&Slot| slot.key != 0 && slot.full_at > now;
        let live = self.slots.iter().filter(is_live).count();
        let fresh = Self::with_slots(slots_for(live, self.slots.len(), max_slots));
        let old = std::mem::replace(self, fresh);
        for slot in old.slots.iter().filter(is_live) {
            if let Err(Some(index)) = self.find(slot.key, Nanos::default()) {
                self.slots[index] = *slot;
                self.used += 1;
            }
        }
        self.swept_at = now;
        old.used - self.used
    }

    fn with_slots(slots: usize) -> Self {
        Self {
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            used: 0,
            swept_at: Nanos::default(),
        }
    }
}

/// The number of shards for a store of `max_keys`.
fn shards_for(max_keys: usize) -> usize {
    (max_keys / KEYS_PER_SHARD).next_power_of_two().clamp(MIN_SHARDS, MAX_SHARDS)
}

/// The new size of a table of `slots` with `live` keys: doubled if over half are live, smaller if
/// few are.
fn slots_for(live: usize, slots: usize, max_slots: usize) -> usize {
    let wanted = if live * 2 >= slots { slots * 2 } else { slots.min(live * 4) };
    // Whatever the current maximum is: live keys stay.
    wanted.max(FIRST_SLOTS).min(max_slots.max(live * 5 / 4 + 1))
}

// === impl Bucket ===

impl Bucket<'_> {
    /// When it is full again; `None` if it is now.
    pub fn full_at(&self) -> Option<Nanos> {
        match &self.place {
            Place::Known { table, index } => Some(table.slots[*index].full_at),
            Place::Vacant { .. } => None,
            Place::Overflow(full_at) => **full_at,
        }
    }

    /// Whether it is the bucket shared by keys without room.
    pub fn is_overflow(&self) -> bool {
        matches!(self.place, Place::Overflow(_))
    }

    /// Writes the new state and unlocks it.
    pub fn commit(self, next: Nanos) {
        match self.place {
            Place::Known { mut table, index } => table.slots[index].full_at = next,
            Place::Vacant { mut table, index, key } => {
                if table.slots[index].key == 0 {
                    table.used += 1;
                    self.store.counts.0.used.fetch_add(1, Ordering::Relaxed);
                }
                table.slots[index] = Slot { key, full_at: next };
            }
            Place::Overflow(mut full_at) => *full_at = Some(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, mem::offset_of};

    use proptest::prelude::*;

    use super::*;

    fn key(n: u64) -> Fingerprint {
        // Splitmix: spreads small numbers over all bits, like a hash.
        let mut bits = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Fingerprint::from_bits(bits ^ (bits >> 31))
    }

    fn at(micros: u64) -> Nanos {
        Nanos::from(micros * 1_000)
    }

    /// Whether `key` got its own slot.
    fn put(store: &Store, n: u64, now: Nanos, full_at: Nanos) -> bool {
        let bucket = store.bucket(key(n), now);
        let is_own = !bucket.is_overflow();
        bucket.commit(full_at);
        is_own
    }

    #[test]
    fn what_is_not_committed_leaves_no_trace() {
        let store = Store::new(100);
        assert_eq!(store.bucket(key(1), at(1)).full_at(), None);
        assert_eq!(store.keys(), 0);
        store.bucket(key(1), at(1)).commit(at(9));
        assert_eq!(store.bucket(key(1), at(2)).full_at(), Some(at(9)));
        assert_eq!(store.peek(key(1), at(2)), Some(at(9)));
        assert_eq!(store.peek(key(2), at(2)), None);
        assert_eq!(store.keys(), 1);
    }

    #[test]
    fn at_most_max_keys_are_remembered_and_the_others_share_a_bucket() {
        let store = Store::new(1000);
        for n in 0..1000 {
            assert!(put(&store, n, at(1), at(1_000_000)), "{n} of 1000 found no room");
        }
        for n in 1000..5000 {
            assert!(!put(&store, n, at(2), at(7)), "{n} got a place beyond the bound");
        }
        assert_eq!(store.keys(), 1000);
        assert_eq!(store.bucket(key(9_999), at(3)).full_at(), Some(at(7)), "one bucket for all");
        for n in 0..1000 {
            assert_eq!(store.peek(key(n), at(3)), Some(at(1_000_000)), "{n} was forgotten");
        }
        assert!(store.bytes() <= store.max_bytes());
    }

    #[test]
    fn idle_keys_make_room() {
        let store = Store::new(1000);
        for round in 0..20_u64 {
            let now = at(1 + round * 1_000_000);
            for n in 0..900 {
                let is_own = put(&store, round * 900 + n, now, now + at(10));
                assert!(is_own, "{n} of round {round} found no room beside idle keys");
            }
        }
        assert!(store.keys() <= 1000);
        assert!(store.bytes() <= store.max_bytes());
    }

    #[test]
    fn memory_comes_with_keys_and_goes_with_them() {
        let store = Store::new(1_000_000);
        let empty = store.bytes();
        assert!(empty <= 64 * 1024, "{empty} bytes before the first key");
        for n in 0..200_000 {
            put(&store, n, at(1), at(1_000));
        }
        let full = store.bytes();
        assert!(full <= 200_000 * 16 * 4, "{full} bytes for 200,000 keys");
        store.sweep(at(2));
        assert_eq!(store.keys(), 200_000, "none is idle yet");
        store.sweep(at(2_000));
        assert_eq!(store.keys(), 0);
        assert!(store.bytes() <= empty + 256 * FIRST_SLOTS * 16, "{} bytes kept", store.bytes());
    }

    #[test]
    fn a_larger_bound_holds_from_then_on() {
        let store = Store::new(100);
        for n in 0..1000 {
            put(&store, n, at(1), at(1_000_000));
        }
        assert_eq!(store.keys(), 100);
        store.set_max_keys(1000);
        for n in 0..1000 {
            put(&store, n, at(100_000), at(1_000_000));
        }
        assert_eq!(store.keys(), 1000);
    }

    #[test]
    fn a_slot_is_16_bytes() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn what_every_request_reads_is_on_no_line_that_requests_write() {
        let line = |offset| offset / align_of::<Line<()>>();
        let read = [offset_of!(Store, seed), offset_of!(Store, shards)].map(line);
        let written = [offset_of!(Store, counts), offset_of!(Store, overflow)].map(line);
        assert!(read.iter().all(|line| !written.contains(line)), "{read:?}, {written:?}");
    }

    proptest! {
        /// Below its bound a store is a map that forgets idle keys.
        #[test]
        fn is_a_map_that_forgets_idle_keys(
            steps in prop::collection::vec((0_u64..300, 0_u64..50, 0_u64..2_000), 1..2_000),
        ) {
            let store = Store::new(300);
            let mut model: HashMap<u64, Nanos> = HashMap::new();
            let mut now = at(1);
            for (n, step, lasts) in steps {
                now = now + at(step);
                let bucket = store.bucket(key(n), now);
                prop_assert!(!bucket.is_overflow());
                let known = bucket.full_at().filter(|full_at| *full_at > now);
                let expected = model.get(&n).copied().filter(|full_at| *full_at > now);
                prop_assert_eq!(known, expected);
                bucket.commit(now + at(lasts));
                model.insert(n, now + at(lasts));
            }
            prop_assert!(store.bytes() <= store.max_bytes());
        }
    }
}
