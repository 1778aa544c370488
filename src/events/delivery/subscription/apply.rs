//! The one place where state changes: what each entry does.
//!
//! Depends on state and entry only: not on settings, time or randomness. Entries about things that do
//! not exist (any more) are skipped, so a journal that overlaps with a snapshot is applied safely.

use super::{
    ending::{Ending, Failure, FailureKind, Outcome, Reason, Sign},
    entry::{Added, Attempt, Circuit, Entry, Failed, LapsedEvent, Mode, Removal},
    lane::Lane,
    letters::LetterState,
    machine::Machine,
    outage::Open,
    place::{LaneId, Partition, Place},
    state::EventStatus as Status,
};
use crate::events::queue::Offset;

impl Machine {
    /// Applies an entry. For replaying a journal: decisions apply their entries themselves.
    pub fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Scanned { lane, to, moved, added } => self.scan_to(*lane, *to, moved, added),
            Entry::Attempted { at, deadline, mode, events } => {
                self.attempt(*at, *deadline, *mode, events);
            }
            Entry::Extended { deadline, events } => self.extend_to(*deadline, events),
            Entry::Failed { events, .. } => {
                for event in events {
                    self.fail(event);
                }
            }
            Entry::Lapsed { at, events } => {
                for event in events {
                    self.lapse(*at, *event);
                }
            }
            Entry::Released { until, events } => {
                for place in events {
                    self.release_to(*until, *place);
                }
            }
            Entry::GivenBack { events } => {
                for place in events {
                    self.give_back(*place);
                }
            }
            Entry::Blocked { place, reason, failure, .. } => {
                let Some(index) = self.find(*place) else { return };
                self.note(index, failure.as_ref(), true);
                self.turn(index, Status::Blocked { reason: *reason });
            }
            Entry::Unblocked { place } => self.unblock_at(*place),
            Entry::Outcome(outcome) => self.conclude(outcome),
            Entry::DeadLettered { place, letter, bytes } => self.bury(*place, *letter, *bytes),
            Entry::Settled { ending, events, .. } => {
                for place in events {
                    self.settle(*ending, *place);
                }
            }
            Entry::Parked { place, at } => {
                if let Some(index) = self.find(*place) {
                    self.slab[index].parked = Some(*at);
                }
            }
            Entry::Circuit(circuit) => self.circuit(circuit),
            Entry::EndpointWaits { until, throttled } => {
                self.outage.until = self.outage.until.max(*until);
                self.outage.throttled = *throttled;
            }
            rest => self.operate(rest),
        }
    }

    fn scan_to(&mut self, id: LaneId, to: Offset, moved: &[(Partition, Offset)], added: &[Added]) {
        for event in added {
            self.insert(id, event);
        }
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let before = lane.scan;
        lane.scan = to;
        for part in lane.parts.values_mut() {
            // The lane has reached the position to which this partition was moved ahead.
            part.resume = part.resume.filter(|&at| at < before || at > to);
        }
        for &(partition, at) in moved {
            let part = lane.parts.entry(partition).or_default();
            part.resume = Some(at).filter(|&at| at != to);
            lane.tidy(partition);
        }
        lane.parts.retain(|_, part| !part.is_plain());
    }

    /// Adds an event, unless it is known.
    pub(super) fn insert(&mut self, id: LaneId, event: &Added) -> Option<u32> {
        let place = Place { lane: id, partition: event.partition, offset: event.offset };
        let lane = self.lanes.get_mut(&id)?;
        let part = lane.parts.entry(event.partition).or_default();
        let std::collections::btree_map::Entry::Vacant(vacant) = part.events.entry(event.offset.0)
        else {
            return None;
        };
        let index = self.slab.insert(place, event);
        vacant.insert(index);
        lane.unsettled += 1;
        self.keys.link(&mut self.slab, index);
        self.enter(index);
        self.stir(index);
        Some(index)
    }

    fn attempt(&mut self, at: u64, deadline: Option<u64>, mode: Mode, events: &[Attempt]) {
        for event in events {
            let Some(index) = self.find(event.place) else { continue };
            let slot = &mut self.slab[index];
            slot.attempts = event.number;
            slot.begun = at;
            if mode != Mode::Probe {
                slot.counted += 1;
                slot.first.get_or_insert(at);
            }
            self.turn(index, Status::InFlight { deadline, mode });
        }
    }

    fn extend_to(&mut self, deadline: u64, events: &[Place]) {
        for place in events {
            let Some(index) = self.find(*place) else { continue };
            if let Status::InFlight { deadline: Some(_), mode } = self.slab[index].status {
                self.turn(index, Status::InFlight { deadline: Some(deadline), mode });
            }
        }
    }

    /// The mode of an event in flight.
    fn mode(&self, index: u32) -> Option<Mode> {
        match self.slab[index].status {
            Status::InFlight { mode, .. } => Some(mode),
            _ => None,
        }
    }

    fn fail(&mut self, event: &Failed) {
        let Some(index) = self.find(event.place) else { return };
        let Some(mode) = self.mode(index) else { return };
        if !event.counts && mode != Mode::Probe {
            self.uncount(index);
        }
        let is_refused = event.failure.kind == FailureKind::Refused;
        let is_open = self.outage.open.is_some();
        let slot = &mut self.slab[index];
        slot.unknown = 0;
        slot.is_refused |= is_refused;
        if is_refused || !is_open {
            slot.failures += u32::from(event.failure.kind != FailureKind::Throttled);
        }
        self.note(index, Some(&event.failure), event.counts);
        self.turn(index, Status::Waiting { until: event.until });
    }

    /// Remembers how an attempt ended, and what that says about the endpoint.
    fn note(&mut self, index: u32, failure: Option<&Failure>, counts: bool) {
        let Some(failure) = failure else { return };
        let slot = &mut self.slab[index];
        slot.failure = Some(Box::new(failure.clone()));
        if !slot.is_in_flight() {
            return;
        }
        match failure.of_endpoint() {
            Sign::Away => self.outage.fail(slot.place, counts),
            Sign::There => self.outage.answered(),
            Sign::None => {}
        }
    }

    fn lapse(&mut self, at: u64, event: LapsedEvent) {
        let Some(index) = self.find(event.place) else { return };
        let Some(mode) = self.mode(index) else { return };
        let slot = &mut self.slab[index];
        if mode == Mode::Probe {
            slot.counted += 1;
            slot.first.get_or_insert(at);
        }
        if slot.unknown == 0 {
            slot.left = slot.begun;
        }
        slot.unknown += 1;
        slot.failures += 1;
        slot.failure = Some(Box::new(Failure::new(FailureKind::Lapsed, None, None)));
        self.turn(index, Status::Waiting { until: event.until });
    }

    fn release_to(&mut self, until: u64, place: Place) {
        let Some(index) = self.find(place) else { return };
        let Some(mode) = self.mode(index) else { return };
        if mode != Mode::Probe {
            self.uncount(index);
        }
        self.turn(index, Status::Waiting { until });
    }

    fn uncount(&mut self, index: u32) {
        let slot = &mut self.slab[index];
        slot.counted = slot.counted.saturating_sub(1);
        if slot.counted == 0 {
            slot.first = None;
        }
    }

    fn give_back(&mut self, place: Place) {
        let Some(index) = self.find(place) else { return };
        self.uncount(index);
        let slot = &mut self.slab[index];
        slot.failures = slot.failures.saturating_sub(1);
    }

    fn unblock_at(&mut self, place: Place) {
        let Some(index) = self.find(place) else { return };
        let slot = &mut self.slab[index];
        let Status::Blocked { reason } = slot.status else { return };
        (slot.counted, slot.failures) = (0, 0);
        // An attempt that was never answered stays so, however long the event was blocked.
        if reason == Reason::MaybeSeen && slot.unknown == 0 {
            (slot.unknown, slot.left) = (1, slot.begun);
        }
        (slot.is_refused, slot.first) = (false, None);
        self.turn(index, Status::Waiting { until: 0 });
    }

    fn conclude(&mut self, outcome: &Outcome) {
        let Some(index) = self.find(outcome.place) else { return };
        self.note(index, outcome.failure.as_ref(), true);
        if outcome.ending == Ending::Succeeded {
            self.outage.answered();
        }
        self.turn(index, Status::Ending { outcome: Box::new(outcome.clone()), letter: None });
    }

    fn bury(&mut self, place: Place, at: Offset, bytes: u32) {
        let Some(index) = self.find(place) else { return };
        let Status::Ending { outcome, letter } = &mut self.slab[index].status else { return };
        let Ending::DeadLettered(reason) = outcome.ending else { return };
        *letter = Some(at);
        let state = LetterState {
            reason,
            died: outcome.at,
            bytes,
            redrives: 0,
            is_compensated: outcome.publish.is_some(),
            failure: None,
        };
        self.letters.insert(at, state);
    }

    pub(super) fn settle(&mut self, ending: Ending, place: Place) {
        let Some(index) = self.find(place) else { return };
        let is_success = ending == Ending::Succeeded;
        if is_success && self.slab[index].is_in_flight() {
            self.outage.answered();
        }
        if let Some(job) = self.lanes.get_mut(&place.lane).and_then(|lane| lane.job.as_mut()) {
            match ending {
                Ending::Succeeded => job.delivered += 1,
                Ending::DeadLettered(reason)
                | Ending::Discarded(reason)
                | Ending::Failed(reason) => {
                    job.fail(place, reason);
                }
            }
            if job.is_redrive()
                && !is_success
                && let Some(letter) = self.letters.get_mut(place.offset)
            {
                letter.redrives += 1;
                if ending == Ending::Failed(Reason::MaybeSeen) {
                    letter.reason = Reason::MaybeSeen;
                }
                letter.failure = self.slab[index].failure.take();
            }
        }
        self.remove(index);
    }

    fn circuit(&mut self, circuit: &Circuit) {
        match circuit {
            Circuit::Opened { at, until, wait, given_back } => {
                self.outage.run.clear();
                self.outage.open = Some(Open { since: *at, until: *until, wait: *wait });
                for place in given_back {
                    self.give_back(*place);
                }
            }
            Circuit::Waits { until, wait } => {
                if let Some(open) = &mut self.outage.open {
                    (open.until, open.wait) = (*until, *wait);
                }
            }
            Circuit::Closed => {
                self.outage.open = None;
                self.outage.run.clear();
            }
        }
    }

    /// Removes and counts all events that `is_meant` selects.
    pub(super) fn drop_where(
        &mut self,
        id: LaneId,
        is_meant: impl Fn(&Machine, u32) -> bool,
    ) -> u64 {
        let slots = |lane: &Lane| -> Vec<u32> {
            lane.parts.values().flat_map(|part| part.events.values().copied()).collect()
        };
        let slots = self.lanes.get(&id).map(slots).unwrap_or_default();
        let mut count = 0;
        for index in slots {
            if is_meant(self, index) {
                self.remove(index);
                count += 1;
            }
        }
        count
    }

    pub(super) fn remove_letters(&mut self, removal: Removal, letters: &[Offset]) {
        for &letter in letters {
            self.letters.remove(letter);
        }
        if removal == Removal::Delivered {
            return;
        }
        let mut sorted = letters.to_vec();
        sorted.sort_unstable();
        let is_redrive = |lane: &&Lane| lane.job.as_ref().is_some_and(super::Job::is_redrive);
        let lanes: Vec<LaneId> =
            self.lanes.values().filter(is_redrive).map(|lane| lane.id).collect();
        for id in lanes {
            self.drop_where(id, |machine, index| {
                sorted.binary_search(&machine.slab[index].place.offset).is_ok()
            });
        }
    }
}
