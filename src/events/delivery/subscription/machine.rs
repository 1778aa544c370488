//! The machine: state, and what keeps its parts in step with one another.
//!
//! Invariants, each tested under the same words:
//! - State changes only by [`Machine::apply`]; a decision makes entries and applies them itself. What else
//!   is kept (queues, timers, counts) follows from the state and is made anew by [`Machine::restore`].
//! - A floor never passes an unsettled event.
//! - Of one key only one delivery is on its way across all lanes, or a run in order in one receive.
//! - Whoever can be delivered is in exactly one queue of those that can.
//! - At most `in_flight` events are on their way or ending; a partition whose parked events are `parked`
//!   many is not read on. Nothing grows with the backlog.

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

/// Ended jobs that are remembered.
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
    // --- What is below follows from the rest, or is learned anew.
    pub(super) keys: Keys,
    pub(super) timers: Timers,
    /// Events to be delivered alone, in the order in which they became ready.
    pub(super) suspects: Queue,
    pub(super) counts: Counts,
    pub(super) window: Window,
    pub(super) rate: Rate,
    pub(super) job_rates: BTreeMap<LaneId, Rate>,
    pub(super) tally: Arc<Tally>,
}

/// How many events stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// On their way, by lease or by push.
    pub(super) in_flight: u32,
    /// Those that the gateway pushes.
    pub(super) pushed: u32,
    /// Alone or as a probe.
    pub(super) alone: u32,
    /// As a probe.
    pub(super) probes: u32,
    /// With an outcome.
    pub(super) ending: u32,
    /// What is in flight or ending may add so much to the dead letters.
    pub(super) bytes: u64,
    /// Waiting for their time, their turn or somebody to take them.
    pub(super) parked: u32,
    /// Waiting for an operator.
    pub(super) blocked: u32,
}

/// What a decision came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// For the journal, in this order; already applied.
    pub entries: Vec<Entry>,
    /// To do once the journal is synced with the entries.
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

    /// The settings that hold.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What it counts of itself.
    pub fn tally(&self) -> &Arc<Tally> {
        &self.tally
    }

    /// Applies an entry and hands it on to the journal.
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

    /// Puts an event in another state and lets go whoever waited for that.
    pub(super) fn turn(&mut self, index: u32, status: Status) {
        self.unqueue(index);
        self.leave(index);
        self.slab[index].status = status;
        self.enter(index);
        self.stir(index);
    }

    /// Takes an event out for good.
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

    /// Takes an event's state out of all that is counted by state.
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

    /// Counts an event by its state.
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

    /// Queues the event in `index`, or the first ones of its key, if they can be delivered now.
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

    /// Queues an event that is first of its key, if it is due.
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

    /// Takes an event out of the queue it is in, if it is in one.
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

    /// Nobody came back from it twice in a row; or once, and it has no other attempt left: it is not to
    /// die for what another did.
    pub(super) fn is_suspect(&self, index: u32) -> bool {
        let slot = &self.slab[index];
        slot.unknown >= 2 || slot.unknown >= 1 && slot.counted >= self.settings.max_attempts
    }

    /// Whether the event can be delivered now.
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
