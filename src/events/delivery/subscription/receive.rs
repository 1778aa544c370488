//! Chooses what is delivered next: leases for consumers that ask, and the passing of time.

use super::{
    effect::Delivery,
    ending::Reason,
    entry::{Attempt, Entry, Mode},
    machine::{Machine, Output},
    place::LaneId,
    settings::Moment,
    slab::NONE,
    state::EventStatus as Status,
};

/// A consumer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Maximum number of events.
    pub events: usize,
    /// Maximum number of bytes, not counting the first event.
    pub bytes: u64,
    /// Length of the lease in milliseconds.
    pub lease: u64,
}

/// Remaining room in a receive.
struct Room {
    events: usize,
    bytes: u64,
    is_first: bool,
    /// Bytes of dead letters for which there is room.
    letters: u64,
}

impl Machine {
    /// Leases deliverable events to a consumer: live ones first, and runs of one key in order; or,
    /// alone, one event that is suspected of killing its consumers.
    pub fn receive(&mut self, moment: &Moment, ask: &Ask, out: &mut Output) -> Vec<Delivery> {
        self.tick(moment, out);
        let deadline = Some(moment.now.saturating_add(ask.lease).max(1));
        if ask.events == 0 || !self.delivers() {
            return Vec::new();
        }
        if self.counts.alone == 0
            && let Some(index) = self.pick_suspect(moment, out)
        {
            self.pay(self.slab[index].place.lane, moment.now);
            return self.start(moment, deadline, Mode::Alone, &[index], out);
        }
        let mut room = Room {
            events: ask.events,
            bytes: ask.bytes,
            is_first: true,
            letters: self.letter_room(),
        };
        let mut deliveries = Vec::new();
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        for lane in lanes {
            let picked = self.pick_many(moment, lane, &mut room, out);
            if deliveries.is_empty() {
                deliveries = self.start(moment, deadline, Mode::Shared, &picked, out);
            } else {
                deliveries.extend(self.start(moment, deadline, Mode::Shared, &picked, out));
            }
        }
        deliveries
    }

    /// Lets time pass: leases expire, waits end. Call it when [`Machine::wake_at`] says so.
    pub fn tick(&mut self, moment: &Moment, out: &mut Output) {
        let mut lapsed = Vec::new();
        while let Some(index) = self.timers.pop(&mut self.slab, moment.now) {
            match self.slab[index].status {
                Status::Waiting { .. } => {
                    self.slab[index].is_due = true;
                    self.stir(index);
                }
                Status::InFlight { .. } => lapsed.push(index),
                Status::Blocked { .. } | Status::Ending { .. } => {}
            }
        }
        self.lapse_all(moment, lapsed, out);
    }

    /// Whether anything can be delivered at all.
    pub(super) fn delivers(&self) -> bool {
        self.hold.is_none() && !self.is_out_of_room() && self.room() > 0
    }

    /// Whether the dead letters have no room beyond what events in flight may need.
    pub fn is_out_of_room(&self) -> bool {
        self.letter_room() == 0
    }

    /// Bytes that dead letters may still take, beyond the existing ones and those that may come of
    /// events in flight.
    fn letter_room(&self) -> u64 {
        let used = self.letters.bytes().saturating_add(self.counts.bytes);
        self.settings.dead_letter_bytes.map_or(u64::MAX, |most| most.saturating_sub(used))
    }

    /// How many deliveries may start.
    pub(super) fn room(&self) -> u32 {
        self.settings.in_flight.saturating_sub(self.counts.in_flight + self.counts.ending)
    }

    /// Takes the next deliverable suspect out of its queue.
    pub(super) fn pick_suspect(&mut self, moment: &Moment, out: &mut Output) -> Option<u32> {
        loop {
            if self.room() == 0 {
                return None;
            }
            let index = self.suspects.pop(&mut self.slab)?;
            if !self.is_deliverable(index) {
                continue;
            }
            let lane = self.slab[index].place.lane;
            if !self.may_go(lane, moment.now) {
                // The rate of its own job holds it back: it is asked again with the next one.
                self.suspects.put_back(&mut self.slab, index);
                return None;
            }
            if !self.expire(moment, index, out) {
                return Some(index);
            }
        }
    }

    /// Takes the next deliverable event of a lane out of its queue.
    pub(super) fn pick(&mut self, moment: &Moment, id: LaneId, out: &mut Output) -> Option<u32> {
        loop {
            if self.room() == 0 || !self.may_go(id, moment.now) {
                return None;
            }
            let index = self.lanes.get_mut(&id)?.ready.pop(&mut self.slab)?;
            if !self.is_deliverable(index) {
                continue;
            }
            if self.is_suspect(index) {
                // The settings changed after it was queued.
                self.stir(index);
                continue;
            }
            if !self.expire(moment, index, out) {
                return Some(index);
            }
        }
    }

    fn pick_many(
        &mut self,
        moment: &Moment,
        id: LaneId,
        room: &mut Room,
        out: &mut Output,
    ) -> Vec<u32> {
        let mut picked = Vec::new();
        let mut left = self.room();
        while room.events > 0 && left > 0 {
            let Some(index) = self.pick(moment, id, out) else { break };
            if !self.fits(index, room) {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.ready.put_back(&mut self.slab, index);
                }
                break;
            }
            picked.push(index);
            self.pay(id, moment.now);
            // The following events of its key, in order: one consumer gets them all.
            let mut next = self.slab[index].next;
            left = self.room().saturating_sub(u32::try_from(picked.len()).unwrap_or(u32::MAX));
            while next != NONE && room.events > 0 && left > 0 && self.follows(next, moment.judged) {
                if !self.may_go(id, moment.now) || !self.fits(next, room) {
                    break;
                }
                picked.push(next);
                self.pay(id, moment.now);
                left -= 1;
                next = self.slab[next].next;
            }
        }
        picked
    }

    /// Takes room for an event, if there is enough.
    fn fits(&self, index: u32, room: &mut Room) -> bool {
        let bytes = u64::from(self.slab[index].bytes);
        if room.letters == 0 || !room.is_first && bytes > room.bytes {
            return false;
        }
        room.letters = room.letters.saturating_sub(bytes);
        room.is_first = false;
        room.bytes = room.bytes.saturating_sub(bytes);
        room.events -= 1;
        true
    }

    /// Whether an event may be delivered together with the previous one of its key.
    fn follows(&self, index: u32, judged: u64) -> bool {
        let slot = &self.slab[index];
        slot.is_waiting()
            && slot.is_due
            && slot.expires.is_none_or(|expires| judged < expires)
            && !self.is_suspect(index)
    }

    /// Gives up an event that has passed its own expiry.
    fn expire(&mut self, moment: &Moment, index: u32, out: &mut Output) -> bool {
        let is_over = self.slab[index].expires.is_some_and(|expires| expires <= moment.judged);
        if is_over {
            self.give_up(moment, index, (Reason::Expired, true), None, out);
        }
        is_over
    }

    /// Whether the rate of its job permits another event.
    pub(super) fn may_go(&self, id: LaneId, now: u64) -> bool {
        let job = self.lanes.get(&id).and_then(|lane| lane.job.as_ref());
        job.and_then(|job| job.rate).is_none_or(|rate| {
            self.job_rates.get(&id).copied().unwrap_or_default().next(rate) <= now
        })
    }

    pub(super) fn pay(&mut self, id: LaneId, now: u64) {
        let job = self.lanes.get(&id).and_then(|lane| lane.job.as_ref());
        if let Some(rate) = job.and_then(|job| job.rate) {
            self.job_rates.entry(id).or_default().take(rate, now);
        }
    }

    /// Starts deliveries, in this order.
    pub(super) fn start(
        &mut self,
        moment: &Moment,
        deadline: Option<u64>,
        mode: Mode,
        picked: &[u32],
        out: &mut Output,
    ) -> Vec<Delivery> {
        if picked.is_empty() {
            return Vec::new();
        }
        let events = picked
            .iter()
            .map(|&index| {
                let slot = &self.slab[index];
                Attempt { place: slot.place, number: slot.attempts.saturating_add(1) }
            })
            .collect();
        self.commit(out, Entry::Attempted { at: moment.now, deadline, mode, events });
        let delivery = |(at, &index): (usize, &u32)| {
            let slot = &self.slab[index];
            let before = at.checked_sub(1).map(|before| picked[before]);
            Delivery {
                token: self.token(index),
                parked: slot.parked,
                deadline,
                mode,
                is_behind: before.is_some_and(|before| slot.previous == before),
                counted: slot.counted,
                bytes: slot.bytes,
                left: slot.left(),
            }
        };
        picked.iter().enumerate().map(delivery).collect()
    }
}
