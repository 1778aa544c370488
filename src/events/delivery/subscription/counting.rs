//! Counts the results of decisions, just before an entry is applied; the counters are not state.

use super::{
    ending::{Ending, Outcome, Reason},
    entry::Entry,
    machine::Machine,
    place::Place,
    slab::Slot,
    state::EventStatus as Status,
};
use crate::events::{delivery::dead_letter, facade::DeliveryEnd};

impl Machine {
    /// Counts what the entry of a decision ends. Not for replayed entries: those were.
    pub(super) fn count(&self, entry: &Entry) {
        match entry {
            Entry::Failed { at, events } => {
                for event in events {
                    let end =
                        if event.counts { DeliveryEnd::Failed } else { DeliveryEnd::Released };
                    self.count_delivery(event.place, end, *at);
                }
            }
            Entry::Lapsed { at, events } => {
                for event in events {
                    self.count_delivery(event.place, DeliveryEnd::Lapsed, *at);
                }
            }
            Entry::Released { events, .. } => {
                for place in events {
                    self.count_delivery(*place, DeliveryEnd::Released, 0);
                }
            }
            Entry::Blocked { at, place, .. } => {
                self.count_delivery(*place, DeliveryEnd::Failed, *at);
            }
            Entry::Outcome(Outcome { at, place, ending, .. }) => {
                self.count_ending(*at, *ending, *place);
            }
            Entry::DeadLettered { place, .. } => {
                let status = self.find(*place).map(|index| &self.slab[index].status);
                if let Some(Status::Ending { outcome, letter: None }) = status
                    && let Ending::DeadLettered(reason) = outcome.ending
                {
                    self.tally.count_dead_letter(dead_letter::reason(reason));
                }
            }
            _ => {}
        }
    }

    /// Counts the end of an event, unless its outcome was already counted.
    pub(super) fn count_ending(&self, at: u64, ending: Ending, place: Place) {
        let Some(index) = self.find(place) else { return };
        let slot = &self.slab[index];
        if slot.is_ending() {
            return;
        }
        if matches!(ending, Ending::Discarded(_)) {
            self.tally.discarded.add(1);
        }
        let is_success = ending == Ending::Succeeded;
        let end = match ending {
            Ending::Succeeded => DeliveryEnd::Succeeded,
            Ending::DeadLettered(reason) | Ending::Discarded(reason) | Ending::Failed(reason) => {
                match reason {
                    Reason::Rejected | Reason::TooLarge => DeliveryEnd::Rejected,
                    _ => DeliveryEnd::Failed,
                }
            }
        };
        self.count_delivery(place, end, at);
        // A successful probe does not count as an attempt, but it was one.
        let attempts = slot.counted.max(u32::from(is_success));
        if attempts > 0 {
            self.tally.attempts.record(attempts.into());
        }
        if is_success && place.lane.is_live() {
            self.tally.end_to_end_millis.record(at.saturating_sub(slot.published));
        }
    }

    /// Counts the end of a delivery, if the event is in flight.
    fn count_delivery(&self, place: Place, end: DeliveryEnd, at: u64) {
        let Some(index) = self.find(place) else { return };
        let slot: &Slot = &self.slab[index];
        // An ack after the lease still settles the event: that is an end of its own.
        let is_told = slot.is_in_flight() || end == DeliveryEnd::Succeeded;
        if !is_told {
            return;
        }
        self.tally.count_delivery(end);
        let has_answer = !matches!(end, DeliveryEnd::Lapsed | DeliveryEnd::Released);
        if has_answer && slot.begun > 0 {
            self.tally.delivery_millis.record(at.saturating_sub(slot.begun));
        }
    }
}
