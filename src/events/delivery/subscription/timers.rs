//! Timers of events: a heap whose outdated entries are dropped lazily.
//!
//! A slot has at most one current timer. One that was moved or cancelled stays in the heap until it
//! is due, or until such leftovers outnumber the rest and are swept out. So a lease settled long before
//! its deadline costs nothing more, and the heap has at most twice as many entries as current timers.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::slab::{Handle, Slab};

/// A sweep is not worth it for fewer leftovers than this.
const MIN_LEFTOVERS: usize = 64;

/// Timers of slots.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(u64, u32, u32)>>,
    meant: usize,
}

// === impl Timers ===

impl Timers {
    /// Sets the slot's only timer to `at`, which is not 0.
    pub(super) fn set(&mut self, slab: &mut Slab, index: u32, at: u64) {
        self.clear(slab, index);
        slab[index].timer = at;
        self.meant += 1;
        let handle = slab.handle(index);
        self.heap.push(Reverse((at, handle.slot, handle.stamp)));
        if self.heap.len() > 2 * self.meant + MIN_LEFTOVERS {
            self.heap.retain(|entry| is_meant(slab, entry.0));
        }
    }

    /// Cancels the slot's timer.
    pub(super) fn clear(&mut self, slab: &mut Slab, index: u32) {
        if slab[index].timer != 0 {
            slab[index].timer = 0;
            self.meant -= 1;
        }
    }

    /// Removes and returns a slot whose timer is due at `now`.
    pub(super) fn pop(&mut self, slab: &mut Slab, now: u64) -> Option<u32> {
        while let Some(Reverse(entry)) = self.heap.peek().copied() {
            if entry.0 > now {
                return None;
            }
            self.heap.pop();
            if is_meant(slab, entry) {
                self.clear(slab, entry.1);
                return Some(entry.1);
            }
        }
        None
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    /// When the next timer is due.
    pub(super) fn next(&mut self, slab: &Slab) -> Option<u64> {
        while let Some(Reverse(entry)) = self.heap.peek().copied() {
            if is_meant(slab, entry) {
                return Some(entry.0);
            }
            self.heap.pop();
        }
        None
    }
}

fn is_meant(slab: &Slab, (at, slot, stamp): (u64, u32, u32)) -> bool {
    slab.live(Handle { slot, stamp }).is_some_and(|slot| slot.timer == at)
}
