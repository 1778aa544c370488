//! Who is delivered next: leases for consumers that ask, and time passing.

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

/// What a consumer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// At most so many events.
    pub events: usize,
    /// At most so many bytes, the first event not judged.
    pub bytes: u64,
    /// For how long, in milliseconds.
    pub lease: u64,
}

/// Room that is left in a receive.
struct Room {
    events: usize,
    bytes: u64,
    is_first: bool,
    /// Bytes of dead letters that there is room for.
    letters: u64,
}

impl Machine {
    /// Leases events to a consumer: those that can be delivered, the live ones first, a run of one key in
    /// order; or one that is suspected of killing its consumers, alone.
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

    /// Time passes: leases run out, waits are over. To be called when [`Machine::wake_at`] says so.
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

    /// Whether anything is delivered at all.
    pub(super) fn delivers(&self) -> bool {
        self.hold.is_none() && !self.is_out_of_room() && self.room() > 0
    }

    /// Whether the dead letters could not take what is on its way and one more.
    pub fn is_out_of_room(&self) -> bool {
        self.letter_room() == 0
    }

    /// Bytes of dead letters that may come to those that there are and those that may come of what is on
    /// its way.
    fn letter_room(&self) -> u64 {
        let used = self.letters.bytes().saturating_add(self.counts.bytes);
        self.settings.dead_letter_bytes.map_or(u64::MAX, |most| most.saturating_sub(used))
    }

    /// Deliveries that may begin.
    pub(super) fn room(&self) -> u32 {
        self.settings.in_flight.saturating_sub(self.counts.in_flight + self.counts.ending)
    }

    /// The next suspect that can be delivered; it is in no queue then.
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
                // Its job's rate is its own: it is asked again when another one is.
                self.suspects.put_back(&mut self.slab, index);
                return None;
            }
            if !self.expire(moment, index, out) {
                return Some(index);
            }
        }
    }

    /// The next event of a lane that can be delivered; it is in no queue then.
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
                // The settings have changed since it was queued.
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
            // Others of its key in order: the consumer has them all, and nobody else does.
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

    /// Takes room for an event, if there is some.
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

    /// Whether an event may be delivered together with the one before it in its key.
    fn follows(&self, index: u32, judged: u64) -> bool {
        let slot = &self.slab[index];
        slot.is_waiting()
            && slot.is_due
            && slot.expires.is_none_or(|expires| judged < expires)
            && !self.is_suspect(index)
    }

    /// Gives an event up whose own time is over.
    fn expire(&mut self, moment: &Moment, index: u32, out: &mut Output) -> bool {
        let is_over = self.slab[index].expires.is_some_and(|expires| expires <= moment.judged);
        if is_over {
            self.give_up(moment, index, (Reason::Expired, true), None, out);
        }
        is_over
    }

    /// Whether the rate of a job lets one more go.
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

    /// Begins deliveries, in this order.
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
