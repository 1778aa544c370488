//! Exports and restores the state.

use super::{
    entry::Added,
    lane::{Lane, Part},
    machine::Machine,
    place::{LaneId, Place},
    settings::Settings,
    state::{EventState, LaneState, PartState, State},
};
use crate::events::queue::Offset;

impl Machine {
    /// The state: everything that entries change.
    pub fn snapshot(&self) -> State {
        State {
            lanes: self.lanes.values().map(|lane| self.lane_state(lane)).collect(),
            next_lane: self.next_lane,
            ended: self.ended.iter().cloned().collect(),
            hold: self.hold,
            outage: self.outage.clone(),
            letters: self
                .letters
                .from(Offset::ZERO)
                .map(|(at, letter)| (at, letter.clone()))
                .collect(),
            fingerprint: self.fingerprint,
            lost: self.lost,
        }
    }

    fn lane_state(&self, lane: &Lane) -> LaneState {
        let parts = lane.parts.iter().map(|(&partition, part)| PartState {
            partition,
            epoch: part.epoch,
            resume: part.resume,
            damaged: part.damaged,
        });
        let events = lane.parts.values().flat_map(|part| part.events.values());
        LaneState {
            lane: lane.id,
            epoch: lane.epoch,
            scan: lane.scan,
            job: lane.job.clone(),
            parts: parts.filter(PartState::says_something).collect(),
            events: events.map(|&index| self.event_state(index)).collect(),
        }
    }

    fn event_state(&self, index: u32) -> EventState {
        let slot = &self.slab[index];
        EventState {
            event: Added {
                partition: slot.place.partition,
                offset: slot.place.offset,
                key: slot.key,
                published: slot.published,
                expires: slot.expires,
                bytes: slot.bytes,
            },
            attempts: slot.attempts,
            counted: slot.counted,
            failures: slot.failures,
            unknown: slot.unknown,
            is_refused: slot.is_refused,
            first_attempt: slot.first,
            failure: slot.failure.clone(),
            parked: slot.parked,
            status: slot.status.clone(),
        }
    }

    /// A machine with this state. Apply the later entries of the journal next, then call
    /// [`Machine::recover`].
    pub fn restore(state: State, settings: Settings) -> Self {
        let mut machine = Self::new(settings, Offset::ZERO);
        machine.next_lane = state.next_lane.max(1);
        machine.ended = state.ended.into();
        machine.hold = state.hold;
        machine.outage = state.outage;
        machine.letters = state.letters.into_iter().collect();
        machine.fingerprint = state.fingerprint;
        machine.lost = state.lost;
        for lane in state.lanes {
            machine.restore_lane(lane);
        }
        machine
    }

    fn restore_lane(&mut self, state: LaneState) {
        let id: LaneId = state.lane;
        let mut lane = Lane::new(id, state.scan);
        lane.epoch = state.epoch;
        lane.job = state.job;
        for part in state.parts {
            let PartState { partition, epoch, resume, damaged } = part;
            lane.parts.insert(partition, Part { epoch, resume, damaged, ..Part::default() });
        }
        self.lanes.insert(id, lane);
        let mut events = state.events;
        // In reading order, so that no chain of a key is walked twice.
        events.sort_unstable_by_key(|event| event.event.offset);
        for event in events {
            self.restore_event(id, event);
        }
    }

    fn restore_event(&mut self, id: LaneId, state: EventState) {
        let Added { partition, offset, .. } = state.event;
        let place = Place { lane: id, partition, offset };
        let index = self.slab.insert(place, &state.event);
        let slot = &mut self.slab[index];
        slot.attempts = state.attempts;
        slot.counted = state.counted;
        slot.failures = state.failures;
        slot.unknown = state.unknown;
        slot.is_refused = state.is_refused;
        slot.first = state.first_attempt;
        slot.failure = state.failure;
        slot.parked = state.parked;
        slot.status = state.status;
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        lane.unsettled += 1;
        lane.parts.entry(partition).or_default().events.insert(offset.0, index);
        self.keys.link(&mut self.slab, index);
        self.enter(index);
        self.stir(index);
    }
}

impl PartState {
    fn says_something(&self) -> bool {
        self.epoch != 0 || self.resume.is_some() || self.damaged.is_some()
    }
}
