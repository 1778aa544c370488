//! The machine: the state, and what keeps its parts consistent.
//!
//! Invariants, each with a test:
//! - State changes only by [`Machine::apply`]; a decision makes entries and applies them itself.
//!   The rest (queues, timers, counts) is derived, and rebuilt by [`Machine::restore`].
//! - A floor never passes an unsettled event.
//! - Each key has only one delivery in flight across all lanes, or an ordered run in one receive.
//! - Every deliverable event is in exactly one queue of deliverable events.
//! - At most `in_flight` events are in flight or ending; a partition with `parked` parked events is
//!   read no further. Nothing grows with the backlog.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    effect::{Effect, Token},
    entry::{Entry, Hold, Mode},
    keys::Keys,
    lane::{Job, Lane, Part},
    letters::Letters,
    outage::Outage,
    pace::{Rate, Window},
    place::{LaneId, Partition, Place},
    queue::Queue,
    settings::{DeliveryMode, Settings},
    slab::Slab,
    state::EventStatus as Status,
    timers::Timers,
};
use crate::events::{facade::Tally, queue::Offset};

/// Number of ended jobs that are remembered.
pub(super) const ENDED_JOBS: usize = 64;

/// One subscription.
#[derive(Debug)]
pub struct Machine {
    pub(super) settings: Settings,
    pub(super) lanes: BTreeMap<LaneId, Lane>,
    pub(super) slab: Slab,
    pub(super) next_lane: u32,
    pub(super) ended: VecDeque<(LaneId, Job)>,
    pub(super) hold: Option<Hold>,
    pub(super) outage: Outage,
    pub(super) letters: Letters,
    pub(super) fingerprint: u64,
    pub(super) lost: u64,
    // --- Derived from the rest, or learned again after a restart:
    pub(super) keys: Keys,
    pub(super) timers: Timers,
    /// Events to deliver alone, in the order in which they became ready.
    pub(super) suspects: Queue,
    pub(super) counts: Counts,
    pub(super) window: Window,
    pub(super) rate: Rate,
    pub(super) job_rates: BTreeMap<LaneId, Rate>,
    pub(super) tally: Arc<Tally>,
}

/// Number of events by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// In flight, by lease or push.
    pub(super) in_flight: u32,
    /// In flight by push.
    pub(super) pushed: u32,
    /// In flight alone or as a probe.
    pub(super) alone: u32,
    /// In flight as a probe.
    pub(super) probes: u32,
    /// With an outcome.
    pub(super) ending: u32,
    /// Bytes that events in flight or ending may add to the dead letters.
    pub(super) bytes: u64,
    /// Waiting for their time, their turn or a consumer.
    pub(super) parked: u32,
    /// Waiting for an operator.
    pub(super) blocked: u32,
}

/// The result of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Entries for the journal, in this order; already applied.
    pub entries: Vec<Entry>,
    /// Effects to carry out once the journal is synced with the entries.
    pub effects: Vec<Effect>,
}

// === impl Machine ===

impl Machine {
    /// A new subscription that starts at `start`.
    pub fn new(settings: Settings, start: Offset) -> Self {
        let mut lanes = BTreeMap::new();
        lanes.insert(LaneId::LIVE, Lane::new(LaneId::LIVE, start));
        Self {
            settings,
            lanes,
            slab: Slab::default(),
            next_lane: 1,
            ended: VecDeque::new(),
            hold: None,
            outage: Outage::default(),
            letters: Letters::default(),
            fingerprint: 0,
            lost: 0,
            keys: Keys::default(),
            timers: Timers::default(),
            suspects: Queue::default(),
            counts: Counts::default(),
            window: Window::default(),
            rate: Rate::default(),
            job_rates: BTreeMap::new(),
            tally: Arc::default(),
        }
    }

    /// The current settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Its counters.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Applies an entry and adds it to the output.
    pub(super) fn commit(&mut self, out: &mut Output, entry: Entry) {
        self.count(&entry);
        let lost = self.lost;
        self.apply(&entry);
        self.tally.lost.add(self.lost - lost);
        self.tally.is_circuit_open.set(self.outage.open.is_some());
        out.entries.push(entry);
    }

    /// The slot of an unsettled event.
    pub(super) fn find(&self, place: Place) -> Option<u32> {
        self.lanes.get(&place.lane)?.slot(place)
    }

    pub(super) fn token(&self, index: u32) -> Token {
        let slot = &self.slab[index];
        let place = slot.place;
        let epoch = self.lanes.get(&place.lane).map_or(0, |lane| lane.epoch(place.partition));
        Token { place, epoch, attempt: slot.attempts }
    }

    pub(super) fn part(&mut self, lane: LaneId, partition: Partition) -> Option<&mut Part> {
        Some(self.lanes.get_mut(&lane)?.parts.entry(partition).or_default())
    }

    pub(super) fn is_push(&self) -> bool {
        matches!(self.settings.delivery, DeliveryMode::Push { .. })
    }

    /// Changes an event's state, and queues events that waited for it.
    pub(super) fn turn(&mut self, index: u32, status: Status) {
        self.unqueue(index);
        self.leave(index);
        self.slab[index].status = status;
        self.enter(index);
        self.stir(index);
    }

    /// Removes an event for good.
    pub(super) fn remove(&mut self, index: u32) {
        self.leave(index);
        let Place { lane: id, partition, offset } = self.slab[index].place;
        let key = self.slab[index].key;
        self.unqueue(index);
        self.keys.unlink(&mut self.slab, index);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.unsettled -= 1;
            if let Some(part) = lane.parts.get_mut(&partition) {
                part.events.remove(&offset.0);
            }
            lane.tidy(partition);
        }
        self.slab.remove(index);
        if let Some(key) = key {
            self.stir_key(key);
        }
    }

    /// Removes an event from everything that is counted by state.
    fn leave(&mut self, index: u32) {
        self.timers.clear(&mut self.slab, index);
        let slot = &self.slab[index];
        let (place, key, bytes) = (slot.place, slot.key, slot.bytes);
        match &slot.status {
            Status::Waiting { .. } => self.park(place, -1),
            Status::Blocked { .. } => {
                self.counts.blocked -= 1;
                self.park(place, -1);
            }
            Status::InFlight { deadline, mode } => {
                self.counts.in_flight -= 1;
                self.counts.pushed -= u32::from(deadline.is_none());
                self.counts.alone -= u32::from(*mode != Mode::Shared);
                self.counts.probes -= u32::from(*mode == Mode::Probe);
                self.counts.bytes -= u64::from(bytes);
                self.keys.land(key);
            }
            Status::Ending { .. } => {
                self.counts.ending -= 1;
                self.counts.bytes -= u64::from(bytes);
            }
        }
    }

    /// Adds an event to everything that is counted by state.
    pub(super) fn enter(&mut self, index: u32) {
        let slot = &self.slab[index];
        let (place, key, bytes) = (slot.place, slot.key, slot.bytes);
        let mut is_due = true;
        match &slot.status {
            &Status::Waiting { until } => {
                self.park(place, 1);
                if until > 0 {
                    is_due = false;
                    self.timers.set(&mut self.slab, index, until);
                }
            }
            Status::Blocked { .. } => {
                self.counts.blocked += 1;
                self.park(place, 1);
            }
            &Status::InFlight { deadline, mode } => {
                self.counts.in_flight += 1;
                self.counts.pushed += u32::from(deadline.is_none());
                self.counts.alone += u32::from(mode != Mode::Shared);
                self.counts.probes += u32::from(mode == Mode::Probe);
                self.counts.bytes += u64::from(bytes);
                self.keys.take_off(key);
                if let Some(deadline) = deadline {
                    self.timers.set(&mut self.slab, index, deadline.max(1));
                }
            }
            Status::Ending { .. } => {
                self.counts.ending += 1;
                self.counts.bytes += u64::from(bytes);
            }
        }
        self.slab[index].is_due = is_due;
    }

    fn park(&mut self, place: Place, by: i32) {
        let limit = self.settings.parked;
        let low = self.settings.low_parked();
        self.counts.parked = self.counts.parked.saturating_add_signed(by);
        let Some(lane) = self.lanes.get_mut(&place.lane) else { return };
        let Some(part) = lane.parts.get_mut(&place.partition) else { return };
        part.parked = part.parked.saturating_add_signed(by);
        if part.parked >= limit {
            part.is_full = true;
        } else if part.parked <= low {
            part.is_full = false;
        }
    }

    /// Queues the event in `index`, or the first ones of its key, if they are deliverable now.
    pub(super) fn stir(&mut self, index: u32) {
        match self.slab[index].key {
            Some(key) => self.stir_key(key),
            None => self.queue(index),
        }
    }

    fn stir_key(&mut self, key: u64) {
        for head in self.keys.heads(key) {
            self.queue(head);
        }
    }

    /// Queues an event, which is the first of its key, if it is due.
    fn queue(&mut self, index: u32) {
        let slot = &self.slab[index];
        if slot.ticket != 0 || !slot.is_due || !slot.is_waiting() {
            return;
        }
        let place = slot.place;
        let is_suspect = self.is_suspect(index);
        let Some(lane) = self.lanes.get_mut(&place.lane) else { return };
        if lane.is_stopped(place.partition) {
            return;
        }
        self.slab[index].is_suspect = is_suspect;
        let queue = if is_suspect { &mut self.suspects } else { &mut lane.ready };
        queue.push(&mut self.slab, index);
    }

    /// Removes an event from its queue, if it is in one.
    pub(super) fn unqueue(&mut self, index: u32) {
        let slot = &self.slab[index];
        if slot.ticket == 0 {
            return;
        }
        if slot.is_suspect {
            self.suspects.forget(&mut self.slab, index);
        } else if let Some(lane) = self.lanes.get_mut(&slot.place.lane) {
            lane.ready.forget(&mut self.slab, index);
        }
    }

    /// Whether it ended without a result twice in a row, or once with no attempt left: it must not
    /// die because of another event.
    pub(super) fn is_suspect(&self, index: u32) -> bool {
        let slot = &self.slab[index];
        slot.unknown >= 2 || slot.unknown >= 1 && slot.counted >= self.settings.max_attempts
    }

    /// Whether the event is deliverable now.
    pub(super) fn is_deliverable(&self, index: u32) -> bool {
        let slot = &self.slab[index];
        let is_first = slot.key.is_none_or(|key| {
            self.keys.in_flight(slot.key) == 0
                && self.keys.head(key, slot.place.lane) == Some(index)
        });
        let is_open = self
            .lanes
            .get(&slot.place.lane)
            .is_some_and(|lane| !lane.is_stopped(slot.place.partition));
        slot.is_waiting() && slot.is_due && is_first && is_open
    }
}
