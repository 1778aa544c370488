//! First in, first out, of events that can be delivered; one that cannot any more is passed over.

use std::collections::VecDeque;

use super::slab::Slab;

/// Fewer leftovers than this are not worth a sweep.
const MIN_LEFTOVERS: usize = 64;

/// Slots with the tickets they had when they were queued.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<(u32, u64)>,
    meant: usize,
}

// === impl Queue ===

impl Queue {
    /// How many wait here.
    pub(super) fn len(&self) -> usize {
        self.meant
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.items.len()
    }

    /// Puts one that is in no queue at the end.
    pub(super) fn push(&mut self, slab: &mut Slab, index: u32) {
        let ticket = slab.ticket();
        slab[index].ticket = ticket;
        self.items.push_back((index, ticket));
        self.meant += 1;
        // Reading a journal takes events away without asking who is first.
        if self.items.len() > 2 * self.meant + MIN_LEFTOVERS {
            self.items.retain(|&(index, ticket)| slab[index].ticket == ticket);
        }
    }

    /// Puts one that was just taken back to the front.
    pub(super) fn put_back(&mut self, slab: &mut Slab, index: u32) {
        let ticket = slab.ticket();
        slab[index].ticket = ticket;
        self.items.push_front((index, ticket));
        self.meant += 1;
    }

    /// The first one; it is in no queue then.
    pub(super) fn pop(&mut self, slab: &mut Slab) -> Option<u32> {
        while let Some((index, ticket)) = self.items.pop_front() {
            if slab[index].ticket == ticket {
                self.forget(slab, index);
                return Some(index);
            }
        }
        None
    }

    /// Takes one that is in this queue out of it.
    pub(super) fn forget(&mut self, slab: &mut Slab, index: u32) {
        slab[index].ticket = 0;
        self.meant -= 1;
    }
}
