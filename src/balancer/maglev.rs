//! Hashing: the same value goes to the same endpoint. Maglev (Eisenbud et al., NSDI 2016) with
//! bounded load (Mirrokni et al., 2018). Pure.
//!
//! Each endpoint has its own order of the table's slots, derived from its name alone. They take
//! turns by weight, each claiming its next free slot. If an endpoint goes, the others take over its
//! slots and few other values move. If an endpoint has over 1.5 times its share of the requests in
//! flight, its values overflow to the next endpoint of the table, the same one for all of them.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::balancer::set::MAX_MEMBERS;

/// A prime, well above a hundred times the number of endpoints in a group.
const SLOTS: usize = 65_537;
/// The multiple of its fair share that an endpoint may get before values overflow to another.
const BOUND: f64 = 1.5;

/// The slots, each with the index of the member that claimed it.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Box<[u16]>,
    members: usize,
}

/// The members visited, by index: half a KiB on the stack.
struct Seen([u64; MAX_MEMBERS / 64]);

/// One member of a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) index: u16,
    pub(crate) name: &'a str,
    pub(crate) weight: u32,
}

/// The hash of a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(u64);

struct Turn {
    index: u16,
    offset: usize,
    skip: usize,
    next: usize,
    share: f64,
    credit: f64,
}

// === impl Table ===

impl Table {
    /// The table of these members; `None` without members.
    pub(crate) fn new(members: &[Member<'_>]) -> Option<Self> {
        let heaviest = f64::from(members.iter().map(|member| member.weight.max(1)).max()?);
        let mut turns: Vec<Turn> =
            members.iter().map(|member| Turn::new(*member, heaviest)).collect();
        let mut slots = vec![None; SLOTS];
        let mut free = SLOTS;
        // The heaviest claims a slot in every round, so each round makes progress.
        while free > 0 {
            for turn in &mut turns {
                turn.credit += turn.share;
                if turn.credit < 1.0 || free == 0 {
                    continue;
                }
                turn.credit -= 1.0;
                turn.claim(&mut slots);
                free -= 1;
            }
        }
        let slots = slots.into_iter().flatten().collect();
        Some(Self { slots, members: members.len() })
    }

    /// The member for `key`. `may` says who can be chosen, `load` how many requests each has in
    /// flight, and `share` its fair part of all requests, 0 to 1. `None` if nobody may be chosen.
    pub(crate) fn pick(
        &self,
        key: Key,
        may: impl Fn(u16) -> bool,
        load: impl Fn(u16) -> usize,
        total: usize,
        share: impl Fn(u16) -> f64,
    ) -> Option<u16> {
        let start = slot(key.0);
        let has_room = |member| {
            let bound = ((total as f64 + 1.0) * share(member) * BOUND).ceil();
            (load(member) as f64) < bound
        };
        // Most often it is the first, and nothing has to be recorded.
        let first = self.slots[start];
        if may(first) && has_room(first) {
            return Some(first);
        }
        let mut seen = Seen::new();
        let mut count = 0;
        let mut fallback = None;
        for step in 0..SLOTS {
            let member = self.slots[(start + step) % SLOTS];
            if !seen.insert(member) {
                continue;
            }
            if may(member) {
                if has_room(member) {
                    return Some(member);
                }
                fallback = fallback.or(Some(member));
            }
            count += 1;
            if count == self.members {
                break;
            }
        }
        fallback
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of SLOTS fits")]
fn slot(hash: u64) -> usize {
    (hash % SLOTS as u64) as usize
}

// === impl Seen ===

impl Seen {
    fn new() -> Self {
        Self([0; MAX_MEMBERS / 64])
    }

    /// Adds a member; `true` if it is new.
    fn insert(&mut self, index: u16) -> bool {
        let word = usize::from(index) / 64;
        let bit = 1 << (index % 64);
        // A group has no members beyond this.
        let Some(word) = self.0.get_mut(word) else { return true };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

// === impl Key ===

impl Key {
    pub(crate) fn new(value: &[u8]) -> Self {
        Self(xxh3_64(value))
    }

    /// Its position between 0 and 1, independent of its slot (Fibonacci hashing).
    pub(crate) fn fraction(self) -> f64 {
        // 53 bits are exact in an `f64`.
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 53) as f64
    }
}

// === impl Turn ===

impl Turn {
    fn new(member: Member<'_>, heaviest: f64) -> Self {
        let name = member.name.as_bytes();
        Self {
            index: member.index,
            offset: slot(xxh3_64_with_seed(name, 1)),
            skip: slot(xxh3_64_with_seed(name, 2)) % (SLOTS - 1) + 1,
            next: 0,
            share: f64::from(member.weight.max(1)) / heaviest,
            credit: 0.0,
        }
    }

    /// Claims the next free slot in its order; there is one.
    fn claim(&mut self, slots: &mut [Option<u16>]) {
        loop {
            let slot = (self.offset + self.next * self.skip) % SLOTS;
            self.next += 1;
            if slots[slot].is_none() {
                slots[slot] = Some(self.index);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str], weights: &[u32]) -> Table {
        let members: Vec<_> = names
            .iter()
            .zip(weights)
            .zip(0..)
            .map(|((name, &weight), index)| Member { index, name, weight })
            .collect();
        Table::new(&members).unwrap()
    }

    fn claimed(table: &Table, by: u16) -> usize {
        table.slots.iter().filter(|&&slot| slot == by).count()
    }

    fn idle(table: &Table, key: &str) -> u16 {
        let share = 1.0 / table.members as f64;
        table.pick(Key::new(key.as_bytes()), |_| true, |_| 0, 0, |_| share).unwrap()
    }

    #[test]
    fn slots_are_shared_by_weight() {
        let table = table(&["a:1", "b:1", "c:1"], &[2, 1, 1]);
        assert_eq!(table.slots.len(), SLOTS);
        assert!(claimed(&table, 0).abs_diff(SLOTS / 2) < 10);
        assert!(claimed(&table, 1).abs_diff(SLOTS / 4) < 10);
    }

    #[test]
    fn few_values_move_when_one_goes() {
        let before = table(&["a", "b", "c", "d", "e"], &[1; 5]);
        let after = table(&["a", "b", "c", "d"], &[1; 4]);
        let keys: Vec<String> = (0..2000).map(|n| format!("user-{n}")).collect();
        let moved = keys
            .iter()
            .filter(|key| {
                let old = idle(&before, key);
                old != 4 && idle(&after, key) != old
            })
            .count();
        assert!(moved < 100, "{moved} of 2000 moved without need");
    }

    #[test]
    fn what_is_over_its_bound_overflows_to_one_and_the_same() {
        let table = table(&["a", "b", "c", "d"], &[1; 4]);
        let home = idle(&table, "hot");
        let pick = |load: usize| {
            table.pick(
                Key::new(b"hot"),
                |_| true,
                |m| if m == home { load } else { 0 },
                load,
                |_| 0.25,
            )
        };
        assert_eq!(pick(0), Some(home));
        let overflow = pick(100).unwrap();
        assert_ne!(overflow, home);
        assert_eq!(pick(200), Some(overflow));
    }

    #[test]
    fn who_may_not_is_not_chosen() {
        let table = table(&["a", "b"], &[1; 2]);
        let pick = |may: fn(u16) -> bool| table.pick(Key::new(b"x"), may, |_| 0, 0, |_| 0.5);
        assert_eq!(pick(|m| m == 1), Some(1));
        assert_eq!(pick(|_| false), None);
    }

    #[test]
    fn of_many_the_only_one_that_may_is_found_whatever_the_load() {
        let names: Vec<String> = (0..MAX_MEMBERS).map(|index| format!("m{index}")).collect();
        let member = |(index, name): (u16, &'static str)| Member { index, name, weight: 1 };
        let names = names.into_iter().map(|name| &*name.leak());
        let table = Table::new(&(0..).zip(names).map(member).collect::<Vec<_>>()).unwrap();
        let looked = std::cell::Cell::new(0);
        let last = u16::try_from(MAX_MEMBERS - 1).unwrap();
        for value in 0..20 {
            looked.set(0);
            let may = |index| {
                looked.set(looked.get() + 1);
                index == last
            };
            let key = Key::new(&[value]);
            assert_eq!(table.pick(key, may, |_| 100, 100, |_| 0.001), Some(last));
            assert!(looked.get() <= MAX_MEMBERS + 1, "each is asked once: {}", looked.get());
        }
    }
}
