//! The unsettled events, in reusable slots.

use super::{ending::Failure, entry::Added, place::Place, state::EventStatus as Status};
use crate::events::queue::Offset;

/// No slot.
pub(super) const NONE: u32 = u32::MAX;

/// Unsettled events, by slot number.
#[derive(Debug, Default)]
pub(super) struct Slab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    tickets: u64,
}

/// Refers to the event in a slot, and to no later one there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle {
    pub(super) slot: u32,
    pub(super) stamp: u32,
}

/// An unsettled event. Fields below the line are derived, not state.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) place: Place,
    pub(super) key: Option<u64>,
    pub(super) published: u64,
    pub(super) expires: Option<u64>,
    pub(super) bytes: u32,
    /// Number of deliveries ever begun, which is the number of the latest attempt.
    pub(super) attempts: u32,
    /// Counted attempts.
    pub(super) counted: u32,
    /// Failures, for the schedule.
    pub(super) failures: u32,
    /// Consecutive attempts that ended without a result.
    pub(super) unknown: u32,
    /// Whether the endpoint refused it once.
    pub(super) is_refused: bool,
    /// When the first counted attempt began.
    pub(super) first: Option<u64>,
    pub(super) failure: Option<Box<Failure>>,
    /// Offset of its copy in the parked log.
    pub(super) parked: Option<Offset>,
    pub(super) status: Status,
    // ---
    /// Its neighbours in its key and lane.
    pub(super) next: u32,
    pub(super) previous: u32,
    /// Number of its current timer; 0 for none.
    pub(super) timer: u64,
    /// Whether its wait is over.
    pub(super) is_due: bool,
    /// Its ticket in a queue of deliverable events; 0 for none.
    pub(super) ticket: u64,
    /// Whether that is the queue of suspects.
    pub(super) is_suspect: bool,
    /// When the latest attempt began; 0 if unknown.
    pub(super) begun: u64,
    /// When the first of the `unknown` attempts began; 0 if unknown.
    pub(super) left: u64,
    stamp: u32,
}

// === impl Slab ===

impl Slab {
    pub(super) fn insert(&mut self, place: Place, added: &Added) -> u32 {
        let slot = Slot {
            place,
            key: added.key,
            published: added.published,
            expires: added.expires,
            bytes: added.bytes,
            attempts: 0,
            counted: 0,
            failures: 0,
            unknown: 0,
            is_refused: false,
            first: None,
            failure: None,
            parked: None,
            status: Status::Waiting { until: 0 },
            next: NONE,
            previous: NONE,
            timer: 0,
            is_due: true,
            ticket: 0,
            is_suspect: false,
            begun: 0,
            left: 0,
            stamp: 0,
        };
        if let Some(index) = self.free.pop() {
            let stamp = self.slots[index as usize].stamp;
            self.slots[index as usize] = Slot { stamp, ..slot };
            return index;
        }
        self.slots.push(slot);
        // Far below the limit, because the parked events of all partitions are bounded.
        u32::try_from(self.slots.len() - 1).unwrap_or(NONE)
    }

    pub(super) fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.stamp = slot.stamp.wrapping_add(1);
        slot.failure = None;
        slot.status = Status::Waiting { until: 0 };
        (slot.timer, slot.ticket) = (0, 0);
        self.free.push(index);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.slots.len() + self.free.len()
    }

    /// A number never used before.
    pub(super) fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    pub(super) fn handle(&self, index: u32) -> Handle {
        Handle { slot: index, stamp: self.slots[index as usize].stamp }
    }

    /// The slot, if the event is still in it.
    pub(super) fn live(&self, handle: Handle) -> Option<&Slot> {
        self.slots.get(handle.slot as usize).filter(|slot| slot.stamp == handle.stamp)
    }
}

impl std::ops::Index<u32> for Slab {
    type Output = Slot;

    fn index(&self, index: u32) -> &Slot {
        &self.slots[index as usize]
    }
}

impl std::ops::IndexMut<u32> for Slab {
    fn index_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.slots[index as usize]
    }
}

// === impl Slot ===

impl Slot {
    /// When the first of the latest attempts without a result began, if there are such.
    pub(super) fn left(&self) -> Option<u64> {
        (self.unknown > 0).then_some(self.left)
    }

    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.status, Status::InFlight { .. })
    }

    pub(super) fn is_ending(&self) -> bool {
        matches!(self.status, Status::Ending { .. })
    }

    /// Whether its bytes are elsewhere too: in the parked log, or in a dead letter whose
    /// compensation is still to come.
    pub(super) fn has_copy(&self) -> bool {
        self.parked.is_some() || matches!(self.status, Status::Ending { letter: Some(_), .. })
    }

    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.status, Status::Waiting { .. })
    }

    /// Whether it is too old for another wait at `now`.
    pub(super) fn is_aged(&self, max_age: u64, now: u64) -> bool {
        self.first.is_some_and(|first| now.saturating_sub(first) >= max_age)
    }
}
