//! The dedup keys that a topic has seen recently.
//!
//! A ring of entries in log order, and a hash table of places in it: 32 bytes an entry plus 8 in
//! the table; no record is ever read. A key is remembered for the window. If there are more keys
//! than entries the oldest go first and the window is shorter, as [`DedupTable::window`] tells.
//! Times are in seconds, rounded so that keys are remembered slightly longer, never shorter.

use std::{collections::VecDeque, hint::black_box, time::Duration};

use crate::events::queue::{Offset, codec::DedupEntry};

/// Entries are allocated in pieces, so that growing does not move all of them.
const PIECE: usize = 4096;
/// Initial size of the table.
const FIRST_PLACES: usize = 4096;
/// Growth factor of a table that is too small.
const GROWTH: usize = 8;
/// A free place of the table.
const FREE: u32 = 0;
/// Offsets are below 2^48, more than any log reaches.
const OFFSET_BITS: u32 = 48;
const OFFSET_MASK: u64 = (1 << OFFSET_BITS) - 1;
/// Number of different marks that a place can have besides [`FREE`].
const MARKS: u64 = u32::MAX as u64;

/// How duplicates are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupSettings {
    /// How long a key is remembered.
    pub window: Duration,
    /// How many keys are remembered, at most 2^30.
    pub max_entries: u64,
}

/// The dedup keys of one topic.
#[derive(Debug)]
pub struct DedupTable {
    settings: DedupSettings,
    ring: Ring,
    /// For each hash the number of its ring entry plus one; open addressing, at most half full.
    places: Vec<u32>,
    /// The newest time added, in milliseconds: the ring is ordered by time.
    newest: u64,
    /// Time of the newest entry that was evicted for lack of space, if any was.
    crowded_out: Option<u64>,
}

/// What is hashed of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashes {
    pub(super) dedup: Option<u128>,
    /// Of its type and body, if it has a dedup key.
    pub(super) digest: u32,
    pub(super) id: Option<u128>,
    pub(super) correlation: Option<u128>,
}

/// What is remembered of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its offset.
    pub offset: Offset,
    /// Its partition.
    pub partition: u16,
    /// Distinguishes its body from others.
    pub digest: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: [u64; 2],
    digest: u32,
    second: u32,
    /// The offset, with the partition in the bits above it.
    place: u64,
}

/// Entries by number; numbers are assigned in order, and entries are removed from either end.
#[derive(Debug, Default)]
struct Ring {
    pieces: VecDeque<Vec<Entry>>,
    /// Entries of the first piece that are gone.
    gone: usize,
    /// The number of the first entry that remains.
    first: u64,
    length: usize,
}

// === impl DedupTable ===

impl DedupTable {
    /// Empty.
    pub fn new(settings: DedupSettings) -> Self {
        Self {
            settings,
            ring: Ring::default(),
            places: vec![FREE; FIRST_PLACES],
            newest: 0,
            crowded_out: None,
        }
    }

    /// Changes the settings. A longer window does not bring back what was forgotten.
    pub fn set(&mut self, settings: DedupSettings, wall: u64) {
        if settings.window > self.settings.window {
            // Keys that expired under the shorter window count as evicted.
            let forgotten = wall.saturating_sub(millis(self.settings.window));
            self.crowded_out = self.crowded_out.max(Some(forgotten));
        }
        self.settings = settings;
        while self.ring.length as u64 > self.max_entries() {
            self.crowd_out();
        }
    }

    /// What is remembered under this hash at this time; nothing if the window is zero.
    pub fn get(&self, hash: u128, wall: u64) -> Option<Known> {
        let (_, number) = self.find(hash)?;
        let entry = self.ring.get(number).filter(|_| !self.settings.window.is_zero())?;
        self.is_fresh(entry, wall).then(|| entry.known())
    }

    /// Reads what the search for each of these reads first, so that many searches wait for memory
    /// together and not in turn.
    pub fn warm(&self, hashes: impl Iterator<Item = u128> + Clone) {
        let places = hashes.map(|hash| self.places[self.home(hash)]);
        // A pass without branches, then one that needs its results.
        black_box(places.clone().fold(0, |all, place| all ^ place));
        let taken = places.filter_map(|place| self.ring.get(self.number(place)?));
        black_box(taken.fold(0, |all, entry| all ^ entry.hash[0]));
    }

    /// Remembers an event, which is the newest. Replaces an older one with the same hash.
    pub fn insert(&mut self, entry: &DedupEntry) {
        if self.max_entries() == 0 {
            return;
        }
        self.expire(entry.wall);
        while self.ring.length as u64 >= self.max_entries() {
            self.crowd_out();
        }
        self.newest = self.newest.max(entry.wall);
        if (self.ring.length + 1) * 2 > self.places.len() {
            self.grow();
        }
        let number = self.ring.push(Entry::new(entry, second(self.newest)));
        match self.find(entry.hash) {
            Some((place, _)) => self.places[place] = mark(number),
            None => self.settle(entry.hash, number),
        }
    }

    /// Forgets events at `end` and above, which were not written.
    pub fn truncate(&mut self, end: Offset) {
        while let Some((number, last)) = self.ring.last()
            && last.known().offset >= end
        {
            self.forget(number, last.hash());
            self.ring.pop_back();
        }
    }

    /// Forgets events older than the window.
    pub fn expire(&mut self, wall: u64) {
        while let Some((number, first)) = self.ring.first()
            && !self.is_fresh(&first, wall)
        {
            self.forget(number, first.hash());
            self.ring.pop_front();
        }
    }

    fn crowd_out(&mut self) {
        if let Some((number, first)) = self.ring.first() {
            self.forget(number, first.hash());
            let until = u64::from(first.second) * 1000;
            self.crowded_out = self.crowded_out.max(Some(until));
            self.ring.pop_front();
        }
    }

    /// Number of remembered keys.
    pub fn entries(&self) -> usize {
        self.ring.length
    }

    /// How long a key is certain to be remembered.
    pub fn window(&self, wall: u64) -> Duration {
        let since = self.crowded_out.map(|until| wall.saturating_sub(until));
        let since = since.map_or(Duration::MAX, Duration::from_millis);
        self.settings.window.min(since)
    }

    /// The most bytes it takes with these settings.
    pub fn max_bytes(settings: &DedupSettings) -> u64 {
        let entries = settings.max_entries.min(1 << 30);
        let places = places_for(entries) as u64;
        // Two tables exist while one grows.
        entries * size_of::<Entry>() as u64 + places * 4 * 3 / 2
    }

    fn max_entries(&self) -> u64 {
        self.settings.max_entries.min(1 << 30)
    }

    fn is_fresh(&self, entry: &Entry, wall: u64) -> bool {
        let at = u64::from(entry.second) * 1000;
        at.saturating_add(millis(self.settings.window)) >= wall
    }

    /// The place in the table, and the number, of the entry with this hash.
    fn find(&self, hash: u128) -> Option<(usize, u64)> {
        let mut place = self.home(hash);
        loop {
            let number = self.number(self.places[place])?;
            if self.ring.get(number).is_some_and(|entry| entry.hash() == hash) {
                return Some((place, number));
            }
            place = self.after(place);
        }
    }

    /// Puts a number into the first free place for a hash that is not in the table.
    fn settle(&mut self, hash: u128, number: u64) {
        let mut place = self.home(hash);
        while self.places[place] != FREE {
            place = self.after(place);
        }
        self.places[place] = mark(number);
    }

    /// Frees the place of an entry, if it has one: a newer entry of its hash may have it. Later
    /// entries of the probe sequence move up, so no tombstone is needed.
    fn forget(&mut self, number: u64, hash: u128) {
        let Some((mut hole, _)) = self.find(hash).filter(|(_, found)| *found == number) else {
            return;
        };
        let mut place = hole;
        loop {
            place = self.after(place);
            let Some(number) = self.number(self.places[place]) else { break };
            let Some(entry) = self.ring.get(number) else { break };
            let mask = self.places.len() - 1;
            let from_home = place.wrapping_sub(self.home(entry.hash())) & mask;
            let from_hole = place.wrapping_sub(hole) & mask;
            if from_home >= from_hole {
                self.places[hole] = self.places[place];
                hole = place;
            }
        }
        self.places[hole] = FREE;
    }

    /// The number that a place stands for. Marks repeat after 2^32 numbers: more than exist at once.
    fn number(&self, mark: u32) -> Option<u64> {
        let low = u64::from(mark.checked_sub(1)?);
        let ahead = (low + MARKS - self.ring.first % MARKS) % MARKS;
        Some(self.ring.first + ahead)
    }

    fn home(&self, hash: u128) -> usize {
        hash as usize & (self.places.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.places.len() - 1)
    }

    /// By a large factor, so that it happens about twice, the last time near a hundred thousand keys.
    fn grow(&mut self) {
        let most = places_for(self.max_entries());
        let count = (self.places.len() * GROWTH).min(most.max(self.places.len() * 2));
        let old = std::mem::replace(&mut self.places, vec![FREE; count]);
        for mark in old {
            let number = self.number(mark);
            let entry = number.and_then(|number| Some((number, self.ring.get(number)?.hash())));
            if let Some((number, hash)) = entry {
                self.settle(hash, number);
            }
        }
    }
}

// === impl Entry ===

impl Entry {
    #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
    fn new(entry: &DedupEntry, second: u32) -> Self {
        let hash = [entry.hash as u64, (entry.hash >> 64) as u64];
        let place = u64::from(entry.partition) << OFFSET_BITS | entry.offset.0 & OFFSET_MASK;
        Self { hash, digest: entry.digest, second, place }
    }

    fn hash(&self) -> u128 {
        u128::from(self.hash[1]) << 64 | u128::from(self.hash[0])
    }

    fn known(&self) -> Known {
        Known {
            offset: Offset(self.place & OFFSET_MASK),
            partition: (self.place >> OFFSET_BITS) as u16,
            digest: self.digest,
        }
    }
}

// === impl Ring ===

impl Ring {
    fn push(&mut self, entry: Entry) -> u64 {
        if self.pieces.back().is_none_or(|piece| piece.len() == PIECE) {
            self.pieces.push_back(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.push(entry);
        }
        self.length += 1;
        self.first + self.length as u64 - 1
    }

    fn get(&self, number: u64) -> Option<&Entry> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()? + self.gone;
        self.pieces.get(index / PIECE)?.get(index % PIECE)
    }

    fn first(&self) -> Option<(u64, Entry)> {
        self.get(self.first).map(|entry| (self.first, *entry))
    }

    fn last(&self) -> Option<(u64, Entry)> {
        let number = (self.first + self.length as u64).checked_sub(1)?;
        self.get(number).map(|entry| (number, *entry))
    }

    fn pop_front(&mut self) {
        self.length = self.length.saturating_sub(1);
        self.first += 1;
        self.gone += 1;
        if self.gone == PIECE {
            self.pieces.pop_front();
            self.gone = 0;
        }
    }

    fn pop_back(&mut self) {
        let Some(piece) = self.pieces.back_mut() else { return };
        piece.pop();
        self.length = self.length.saturating_sub(1);
        if piece.is_empty() && self.pieces.len() > 1 {
            self.pieces.pop_back();
        }
    }
}

/// The mark of a number in the table; 0 is free.
fn mark(number: u64) -> u32 {
    (number % MARKS) as u32 + 1
}

/// Twice as many places as entries.
fn places_for(entries: u64) -> usize {
    let entries = usize::try_from(entries).unwrap_or(usize::MAX / 4);
    (entries.saturating_mul(2)).next_power_of_two().max(FIRST_PLACES)
}

/// Rounded up: slightly late, never early. Valid until 2106.
fn second(wall: u64) -> u32 {
    u32::try_from(wall.div_ceil(1000)).unwrap_or(u32::MAX)
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn table(max_entries: u64) -> DedupTable {
        DedupTable::new(DedupSettings { window: WINDOW, max_entries })
    }

    fn entry(hash: u128, offset: u64, wall: u64) -> DedupEntry {
        #[expect(clippy::cast_possible_truncation, reason = "small numbers")]
        let (digest, partition) = (hash as u32 ^ 1, offset as u16);
        DedupEntry { hash, digest, offset: Offset(offset), wall, partition }
    }

    #[test]
    fn a_key_is_remembered_for_the_window_and_hardly_longer() {
        let mut table = table(100);
        table.insert(&entry(7, 1, 1_500));
        let known = table.get(7, 1_500).unwrap();
        assert_eq!(known, Known { offset: Offset(1), partition: 1, digest: 6 });
        assert!(table.get(8, 1_500).is_none());
        assert!(table.get(7, 11_500).is_some(), "to the millisecond");
        assert!(table.get(7, 12_001).is_none());
        table.insert(&entry(7, 2, 12_001));
        assert_eq!(table.get(7, 12_001).unwrap().offset, Offset(2));
        assert_eq!(table.entries(), 1);
    }

    #[test]
    fn with_too_many_keys_the_window_shrinks_and_says_so() {
        let mut table = table(10);
        for number in 0..10 {
            table.insert(&entry(u128::from(number), number, number * 100));
        }
        assert_eq!(table.window(1_000), WINDOW);
        table.insert(&entry(10, 10, 3_000));
        assert!(table.get(0, 3_000).is_none());
        assert!(table.get(1, 3_000).is_some());
        assert_eq!(table.window(3_000), Duration::from_secs(3));
        assert_eq!(table.window(5_000), Duration::from_secs(5));
        assert_eq!(table.window(60_000), WINDOW, "it grows back");
    }

    #[test]
    fn a_longer_window_is_true_only_later() {
        let mut table = table(10);
        let longer = DedupSettings { window: Duration::from_mins(1), max_entries: 10 };
        table.set(longer, 100_000);
        assert_eq!(table.window(100_000), WINDOW);
        assert_eq!(table.window(130_000), Duration::from_secs(40));
        assert_eq!(table.window(200_000), Duration::from_mins(1));
    }

    #[test]
    fn what_was_not_written_is_forgotten() {
        let mut table = table(100);
        for number in 0..10 {
            table.insert(&entry(u128::from(number), number, 0));
        }
        table.truncate(Offset(6));
        assert_eq!(table.entries(), 6);
        assert!(table.get(5, 0).is_some());
        assert!(table.get(6, 0).is_none());
    }

    #[test]
    fn its_memory_is_what_it_says() {
        let settings = DedupSettings { window: WINDOW, max_entries: 2_000_000 };
        assert_eq!(size_of::<Entry>(), 32);
        let most = 2_000_000 * 32 + 4 * (4 << 20) * 3 / 2;
        assert_eq!(DedupTable::max_bytes(&settings), most);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u8, u64),
        Rollback(u64),
        Settings(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            20 => (0u8..40, 0u64..1_500).prop_map(|(key, after)| Step::Publish(key, after)),
            2 => (0u64..4).prop_map(Step::Rollback),
            1 => (2u64..20, 1u64..40).prop_map(|(window, most)| Step::Settings(window, most)),
        ]
    }

    proptest! {
        /// Whatever is published, whoever was appended within the window that the table tells is found,
        /// and nobody is found who was appended more than a second before the one that is set.
        #[test]
        fn the_table_equals_a_naive_model(steps in prop::collection::vec(step(), 1..300)) {
            let mut table = table(20);
            let mut window = WINDOW;
            // Key, offset, wall.
            let mut log: Vec<(u8, u64, u64)> = Vec::new();
            let mut wall = 1_000_000;
            for step in steps {
                match step {
                    Step::Publish(key, after) => {
                        wall += after;
                        // Bad hashes, so that places meet.
                        let hash = u128::from(key % 8) | u128::from(key) << 64;
                        let last = log.iter().rfind(|(other, ..)| *other == key);
                        let certain = table.window(wall);
                        let age = last.map(|(.., at)| Duration::from_millis(wall - at));
                        if let Some(known) = table.get(hash, wall) {
                            let (_, offset, _) = last.unwrap();
                            prop_assert_eq!(known.offset, Offset(*offset));
                            prop_assert!(age.unwrap() < window + Duration::from_secs(1));
                        } else {
                            prop_assert!(age.is_none_or(|age| age >= certain), "{:?}", age);
                            let offset = log.last().map_or(0, |(_, last, _)| last + 1);
                            table.insert(&entry(hash, offset, wall));
                            log.push((key, offset, wall));
                        }
                    }
                    Step::Rollback(count) => {
                        let keep = log.len().saturating_sub(usize::try_from(count).unwrap());
                        let end = log.get(keep).map(|(_, offset, _)| *offset);
                        log.truncate(keep);
                        if let Some(end) = end {
                            table.truncate(Offset(end));
                        }
                    }
                    Step::Settings(seconds, max_entries) => {
                        window = Duration::from_secs(seconds);
                        table.set(DedupSettings { window, max_entries }, wall);
                    }
                }
                prop_assert!(table.entries() as u64 <= table.max_entries());
                let used = table.places.iter().filter(|place| **place != FREE).count();
                prop_assert!(used <= table.entries());
            }
        }
    }

    #[test]
    fn it_grows_and_turns_over() {
        let mut table = table(50_000);
        for number in 0..200_000_u64 {
            // The first eighth of the hash is spread as a keyed hash is.
            let hash = u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 1 | 1;
            table.insert(&entry(hash, number, 5));
            if number >= 50_000 && number % 997 == 0 {
                let old = number - 49_999;
                let hash =
                    |number: u64| u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 1 | 1;
                assert_eq!(table.get(hash(old), 5).unwrap().offset, Offset(old));
                assert!(table.get(hash(old - 1), 5).is_none());
            }
        }
        assert_eq!(table.entries(), 50_000);
        assert_eq!(table.places.len(), 131_072);
    }
}
