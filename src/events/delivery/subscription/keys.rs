//! The order of events: for each key its unsettled events in each lane by offset, and how many of
//! them are in flight in all lanes.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::{
    place::LaneId,
    slab::{NONE, Slab},
};

/// All keys with an unsettled event.
#[derive(Debug, Default)]
pub(super) struct Keys {
    keys: HashMap<u64, Key, RandomState>,
}

#[derive(Debug, Default)]
struct Key {
    in_flight: u32,
    /// Mostly of a single lane.
    chains: SmallVec<[Chain; 1]>,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    lane: LaneId,
    head: u32,
    tail: u32,
}

// === impl Keys ===

impl Keys {
    /// Adds the event in `index` to its key's chain, if it has a key.
    pub(super) fn link(&mut self, slab: &mut Slab, index: u32) {
        let (Some(key), place) = (slab[index].key, slab[index].place) else { return };
        let key = self.keys.entry(key).or_default();
        let Some(chain) = key.chains.iter_mut().find(|chain| chain.lane == place.lane) else {
            key.chains.push(Chain { lane: place.lane, head: index, tail: index });
            return;
        };
        // Nearly always the last, unless a partition was moved back.
        let mut before = chain.tail;
        while before != NONE && slab[before].place.offset > place.offset {
            before = slab[before].previous;
        }
        let after = if before == NONE { chain.head } else { slab[before].next };
        slab[index].previous = before;
        slab[index].next = after;
        match before {
            NONE => chain.head = index,
            before => slab[before].next = index,
        }
        match after {
            NONE => chain.tail = index,
            after => slab[after].previous = index,
        }
    }

    /// Removes the event in `index`.
    pub(super) fn unlink(&mut self, slab: &mut Slab, index: u32) {
        let slot = &mut slab[index];
        let (Some(number), lane) = (slot.key, slot.place.lane) else { return };
        let (before, after) = (slot.previous, slot.next);
        (slot.previous, slot.next) = (NONE, NONE);
        if before != NONE {
            slab[before].next = after;
        }
        if after != NONE {
            slab[after].previous = before;
        }
        if before != NONE && after != NONE {
            return;
        }
        let Some(key) = self.keys.get_mut(&number) else { return };
        let Some(at) = key.chains.iter().position(|chain| chain.lane == lane) else { return };
        let chain = &mut key.chains[at];
        if before == NONE {
            chain.head = after;
        }
        if after == NONE {
            chain.tail = before;
        }
        if chain.head == NONE {
            key.chains.swap_remove(at);
        }
        if key.chains.is_empty() {
            self.keys.remove(&number);
        }
    }

    /// Counts up the events of this key in flight.
    pub(super) fn take_off(&mut self, key: Option<u64>) {
        if let Some(key) = key.and_then(|key| self.keys.get_mut(&key)) {
            key.in_flight += 1;
        }
    }

    /// Counts down the events of this key in flight.
    pub(super) fn land(&mut self, key: Option<u64>) {
        if let Some(key) = key.and_then(|key| self.keys.get_mut(&key)) {
            key.in_flight = key.in_flight.saturating_sub(1);
        }
    }

    /// Number of events of this key in flight.
    pub(super) fn in_flight(&self, key: Option<u64>) -> u32 {
        key.and_then(|key| self.keys.get(&key)).map_or(0, |key| key.in_flight)
    }

    /// The first event of this key in each lane, if none is in flight.
    pub(super) fn heads(&self, key: u64) -> SmallVec<[u32; 2]> {
        let key = self.keys.get(&key).filter(|key| key.in_flight == 0);
        key.map(|key| key.chains.iter().map(|chain| chain.head).collect()).unwrap_or_default()
    }

    /// The first event of this key in this lane.
    pub(super) fn head(&self, key: u64, lane: LaneId) -> Option<u32> {
        let chains = &self.keys.get(&key)?.chains;
        chains.iter().find(|chain| chain.lane == lane).map(|chain| chain.head)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}
