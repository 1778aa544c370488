//! A FIFO of deliverable events; ones that no longer are get skipped.

use std::collections::VecDeque;

use super::slab::Slab;

/// A sweep is not worth it for fewer leftovers than this.
const MIN_LEFTOVERS: usize = 64;

/// Slots, each with its ticket from when it was queued.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<(u32, u64)>,
    meant: usize,
}

// === impl Queue ===

impl Queue {
    /// Number of events in the queue.
    pub(super) fn len(&self) -> usize {
        self.meant
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.items.len()
    }

    /// Appends an event that is in no queue.
    pub(super) fn push(&mut self, slab: &mut Slab, index: u32) {
        let ticket = slab.ticket();
        slab[index].ticket = ticket;
        self.items.push_back((index, ticket));
        self.meant += 1;
        // Replaying a journal removes events without popping them.
        if self.items.len() > 2 * self.meant + MIN_LEFTOVERS {
            self.items.retain(|&(index, ticket)| slab[index].ticket == ticket);
        }
    }

    /// Returns an event that was just popped to the front.
    pub(super) fn put_back(&mut self, slab: &mut Slab, index: u32) {
        let ticket = slab.ticket();
        slab[index].ticket = ticket;
        self.items.push_front((index, ticket));
        self.meant += 1;
    }

    /// Removes and returns the first event.
    pub(super) fn pop(&mut self, slab: &mut Slab) -> Option<u32> {
        while let Some((index, ticket)) = self.items.pop_front() {
            if slab[index].ticket == ticket {
                self.forget(slab, index);
                return Some(index);
            }
        }
        None
    }

    /// Removes an event of this queue.
    pub(super) fn forget(&mut self, slab: &mut Slab, index: u32) {
        slab[index].ticket = 0;
        self.meant -= 1;
    }
}
