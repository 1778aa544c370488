//! Applies the entries of operators, jobs and retention.

use super::{
    entry::{Entry, JobEnd, JobKind, Seek},
    lane::{Job, Lane},
    machine::{ENDED_JOBS, Machine},
    place::{LaneId, Partition},
    settings::mix,
    state::EventStatus as Status,
};
use crate::events::queue::Offset;

/// After a clock jump, waits end within this many milliseconds of when they would have, not together.
const SPREAD: u64 = 1_000;

impl Machine {
    /// The part of `apply` that is not about single events.
    pub(super) fn operate(&mut self, entry: &Entry) {
        match entry {
            Entry::LettersRemoved { removal, letters } => self.remove_letters(*removal, letters),
            Entry::LetterMoved { from, to } => {
                if let Some(letter) = self.letters.remove(*from) {
                    self.letters.insert(*to, letter);
                }
            }
            Entry::Sought(Seek::All(to)) => self.seek_all(*to),
            Entry::Sought(Seek::Partitions(parts)) => {
                for &(partition, to) in parts {
                    self.seek_partition(partition, to);
                }
            }
            Entry::Held(hold) => self.hold = Some(*hold),
            Entry::Resumed => self.resume_all(),
            Entry::Damaged { lane, partition, from, to } => {
                if let Some(part) = self.part(*lane, *partition) {
                    part.damaged = Some((*from, *to));
                }
            }
            Entry::Lost { lane, from, to, .. } => self.lose_at(*lane, *from, *to),
            Entry::LostEvents { events } => {
                for place in events {
                    if let Some(index) = self.find(*place) {
                        self.remove(index);
                        self.lost += 1;
                    }
                }
            }
            Entry::JobStarted { lane, at, log, kind, rate, publishes } => {
                let job = Job {
                    kind: kind.clone(),
                    log: *log,
                    started: *at,
                    rate: *rate,
                    publishes: *publishes,
                    delivered: 0,
                    failed: 0,
                    failures: Vec::new(),
                    ended: None,
                };
                self.start_job(*lane, job);
            }
            Entry::JobEnded { lane, at, end } => self.end_job(*lane, *at, *end),
            Entry::Configured { fingerprint, .. } => self.fingerprint = *fingerprint,
            Entry::ClockMoved { by } => self.move_clock(*by),
            // `apply` handles all others.
            _ => {}
        }
    }

    fn seek_all(&mut self, to: Offset) {
        self.drop_where(LaneId::LIVE, |machine, index| !machine.slab[index].is_ending());
        let Some(lane) = self.lanes.get_mut(&LaneId::LIVE) else { return };
        lane.epoch = lane.epoch.wrapping_add(1);
        lane.scan = to;
        for part in lane.parts.values_mut() {
            (part.resume, part.damaged) = (None, None);
        }
        lane.parts.retain(|_, part| !part.is_plain());
    }

    fn seek_partition(&mut self, partition: Partition, to: Offset) {
        self.drop_where(LaneId::LIVE, |machine, index| {
            let slot = &machine.slab[index];
            slot.place.partition == partition && !slot.is_ending()
        });
        let Some(lane) = self.lanes.get_mut(&LaneId::LIVE) else { return };
        let part = lane.parts.entry(partition).or_default();
        part.epoch = part.epoch.wrapping_add(1);
        part.resume = Some(to).filter(|&to| to != lane.scan);
        part.damaged = None;
    }

    fn resume_all(&mut self) {
        self.hold = None;
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        for id in lanes {
            self.mend(id, |_| true);
        }
    }

    /// Lets partitions continue whose damage is over.
    fn mend(&mut self, id: LaneId, is_over: impl Fn((Offset, Offset)) -> bool) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let mut slots = Vec::new();
        for part in lane.parts.values_mut() {
            if part.damaged.is_some_and(&is_over) {
                part.damaged = None;
                slots.extend(part.events.values().copied());
            }
        }
        lane.parts.retain(|_, part| !part.is_plain());
        for index in slots {
            self.stir(index);
        }
    }

    fn lose_at(&mut self, id: LaneId, from: Offset, to: Offset) {
        self.lost += self.drop_where(id, |machine, index| {
            let slot = &machine.slab[index];
            let is_within = (from..to).contains(&slot.place.offset);
            is_within && !slot.has_copy()
        });
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        let before = lane.scan;
        if (from..to).contains(&before) {
            lane.scan = to;
        }
        let scan = lane.scan;
        for part in lane.parts.values_mut() {
            if let Some(at) = part.resume {
                let at = if (from..to).contains(&at) { to } else { at };
                // Past the lane's old position, up to its new one: that was scanned, or is gone.
                let is_lanes = at == scan || at > before && at <= scan;
                part.resume = Some(at).filter(|_| !is_lanes);
            }
        }
        self.mend(id, |(first, end)| from <= first && end <= to);
    }

    fn start_job(&mut self, id: LaneId, job: Job) {
        let start = match &job.kind {
            JobKind::Replay { from, .. } => *from,
            JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
                letters.first().map_or(Offset::ZERO, |letters| letters.0)
            }
        };
        self.next_lane = self.next_lane.max(id.0.saturating_add(1));
        // The low bits suffice: no two jobs of a lane begin at one moment or n times 49 days apart.
        let epoch = (job.started & u64::from(u32::MAX)).try_into().unwrap_or(0);
        let lane = Lane { epoch, job: Some(job), ..Lane::new(id, start) };
        self.lanes.insert(id, lane);
    }

    fn end_job(&mut self, id: LaneId, at: u64, end: JobEnd) {
        if id.is_live() {
            return;
        }
        self.drop_where(id, |_, _| true);
        self.job_rates.remove(&id);
        let Some(mut job) = self.lanes.remove(&id).and_then(|lane| lane.job) else { return };
        job.ended = Some((at, end));
        self.ended.push_back((id, job));
        if self.ended.len() > ENDED_JOBS {
            self.ended.pop_front();
        }
    }

    fn move_clock(&mut self, by: i64) {
        let moved = |at: u64| at.saturating_add_signed(by);
        let slots: Vec<u32> = self
            .lanes
            .values()
            .flat_map(|lane| lane.parts.values().flat_map(|part| part.events.values().copied()))
            .collect();
        for index in slots {
            let slot = &mut self.slab[index];
            slot.first = slot.first.map(moved);
            let status = match slot.status.clone() {
                Status::Waiting { until } if until > 0 => {
                    let later = mix(by.cast_unsigned(), slot.place.offset.0) % SPREAD;
                    Status::Waiting { until: moved(until).saturating_add(later).max(1) }
                }
                Status::InFlight { deadline: Some(deadline), mode } => {
                    Status::InFlight { deadline: Some(moved(deadline)), mode }
                }
                _ => continue,
            };
            self.turn(index, status);
        }
        self.outage.until = moved(self.outage.until);
        if let Some(open) = &mut self.outage.open {
            (open.since, open.until) = (moved(open.since), moved(open.until));
        }
    }
}
