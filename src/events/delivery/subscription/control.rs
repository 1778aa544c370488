//! Requests of operators, of retention and of the runner.

use super::{
    entry::{Entry, Hold, JobEnd, JobKind, Loss, Removal, Seek},
    letters::LetterState,
    machine::{Machine, Output},
    place::{LaneId, Partition, Place},
    settings::Settings,
};
use crate::events::queue::{LogId, Offset};

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// Consumers hold leases; seeking now must be forced.
    InFlight,
    /// The job does not exist or has ended.
    NoSuchJob,
    /// There is nothing to deliver.
    Nothing,
    /// The maximum number of jobs is running.
    TooManyJobs,
}

/// Maximum number of running jobs.
const JOBS: usize = 16;

impl Machine {
    /// Stops delivery; what is in flight ends normally.
    pub fn pause(&mut self, out: &mut Output) {
        if self.hold != Some(Hold::Operator) {
            self.commit(out, Entry::Held(Hold::Operator));
        }
    }

    /// Resumes delivery, also after a 410 and past repaired damage.
    pub fn resume(&mut self, out: &mut Output) {
        let is_damaged =
            |lane: &super::lane::Lane| lane.parts.values().any(|part| part.damaged.is_some());
        if self.hold.is_some() || self.lanes.values().any(is_damaged) {
            self.commit(out, Entry::Resumed);
        }
    }

    /// Moves the live lane. Without `force`, not while consumers hold leases on it, because others
    /// would get the same events. An event with an outcome is still completed, and delivered again
    /// only if it is scanned again later.
    pub fn seek(&mut self, seek: Seek, force: bool, out: &mut Output) -> Result<(), Refused> {
        let is_held = self.lanes.get(&LaneId::LIVE).is_some_and(|lane| {
            let is_meant = |partition: &Partition| match &seek {
                Seek::All(_) => true,
                Seek::Partitions(parts) => parts.iter().any(|(meant, _)| meant == partition),
            };
            lane.parts
                .iter()
                .filter(|(partition, _)| is_meant(partition))
                .flat_map(|(_, part)| part.events.values())
                .any(|&index| self.slab[index].is_in_flight())
        });
        if is_held && !force {
            return Err(Refused::InFlight);
        }
        self.commit(out, Entry::Sought(seek));
        Ok(())
    }

    /// Delivers a range of the topic's log again, besides and after live events.
    pub fn replay(
        &mut self,
        at: u64,
        (log, from, to): (LogId, Offset, Offset),
        (rate, publishes): (Option<u64>, bool),
        out: &mut Output,
    ) -> Result<LaneId, Refused> {
        if from >= to {
            return Err(Refused::Nothing);
        }
        self.start_new_job(at, log, JobKind::Replay { from, to }, (rate, publishes), out)
    }

    /// Delivers those of these dead letters again that exist and that no other job delivers. The
    /// caller decides whether ones with a published compensation are among them. `is_forced`: also
    /// sends what may have been seen.
    pub fn redrive(
        &mut self,
        at: u64,
        (log, letters): (LogId, &[Offset]),
        (rate, publishes): (Option<u64>, bool),
        is_forced: bool,
        out: &mut Output,
    ) -> Result<LaneId, Refused> {
        let mut letters: Vec<Offset> = letters
            .iter()
            .copied()
            .filter(|&letter| self.letters.get(letter).is_some() && !self.is_redriven(letter))
            .collect();
        letters.sort_unstable();
        letters.dedup();
        let mut stretches: Vec<(Offset, Offset)> = Vec::new();
        for letter in letters {
            match stretches.last_mut() {
                Some((_, end)) if *end == letter => *end = letter.plus(1),
                _ => stretches.push((letter, letter.plus(1))),
            }
        }
        if stretches.is_empty() {
            return Err(Refused::Nothing);
        }
        let letters = stretches;
        let kind = if is_forced {
            JobKind::ForcedRedrive { letters }
        } else {
            JobKind::Redrive { letters }
        };
        self.start_new_job(at, log, kind, (rate, publishes), out)
    }

    /// Whether this lane also sends what may have been seen.
    pub fn is_forced(&self, lane: LaneId) -> bool {
        let job = self.lanes.get(&lane).and_then(|lane| lane.job.as_ref());
        job.is_some_and(|job| matches!(job.kind, JobKind::ForcedRedrive { .. }))
    }

    fn start_new_job(
        &mut self,
        at: u64,
        log: LogId,
        kind: JobKind,
        (rate, publishes): (Option<u64>, bool),
        out: &mut Output,
    ) -> Result<LaneId, Refused> {
        if self.lanes.len() > JOBS {
            return Err(Refused::TooManyJobs);
        }
        let lane = LaneId(self.next_lane);
        let rate = rate.map(|rate| rate.max(1));
        self.commit(out, Entry::JobStarted { lane, at, log, kind, rate, publishes });
        Ok(lane)
    }

    /// Ends a job; tokens of its events become invalid.
    pub fn cancel(&mut self, at: u64, lane: LaneId, out: &mut Output) -> Result<(), Refused> {
        if lane.is_live() || !self.lanes.contains_key(&lane) {
            return Err(Refused::NoSuchJob);
        }
        self.commit(out, Entry::JobEnded { lane, at, end: JobEnd::Cancelled });
        Ok(())
    }

    /// Whether a running job delivers this dead letter, which then must not be moved.
    pub fn is_redriven(&self, letter: Offset) -> bool {
        let jobs = self.lanes.values().filter_map(|lane| lane.job.as_ref());
        jobs.into_iter().any(|job| job.selects(letter))
    }

    /// Removes dead letters, for an operator or by age; from jobs too.
    pub fn remove_dead_letters(
        &mut self,
        at: u64,
        removal: Removal,
        letters: Vec<Offset>,
        out: &mut Output,
    ) {
        self.commit(out, Entry::LettersRemoved { removal, letters });
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.end_if_done(lane, at, out);
        }
    }

    /// A dead letter that no job delivers was copied forward.
    pub fn dead_letter_moved(&mut self, from: Offset, to: Offset, out: &mut Output) {
        if self.letters.get(from).is_some() && !self.is_redriven(from) {
            self.commit(out, Entry::LetterMoved { from, to });
        }
    }

    /// The remaining dead letters, from `from` on.
    pub fn dead_letters(&self, from: Offset) -> impl Iterator<Item = (Offset, &LetterState)> {
        self.letters.from(from)
    }

    /// Up to `most` dead letters that died before `until`. `now`: the time that age is judged by,
    /// from a clock that is trusted. A time after it is corrected, and not by an entry: a recovery
    /// that knows only the entries corrects it again.
    pub fn aged_dead_letters(&mut self, now: u64, until: u64, most: usize) -> Vec<Offset> {
        self.letters.correct(now);
        let aged = self.letters.from(Offset::ZERO).filter(|(_, letter)| letter.died < until);
        aged.map(|(at, _)| at).take(most).collect()
    }

    /// Stops a partition before damage; events of it that are not in flight stay where they are.
    pub fn damaged(
        &mut self,
        lane: LaneId,
        partition: Partition,
        (from, to): (Offset, Offset),
        out: &mut Output,
    ) {
        if self.lanes.contains_key(&lane) {
            self.commit(out, Entry::Damaged { lane, partition, from, to });
        }
    }

    /// A range of a lane's log is gone, end excluded. Events with a copy in the parked log are
    /// kept; effects in progress for others come to nothing.
    pub fn lose(
        &mut self,
        at: u64,
        (lane, loss): (LaneId, Loss),
        (from, to): (Offset, Offset),
        out: &mut Output,
    ) {
        let Some(of) = self.lanes.get(&lane) else { return };
        let is_within = |at: Offset| from <= at && at < to;
        let concerns = is_within(of.scan)
            || of.parts.values().any(|part| {
                part.resume.is_some_and(is_within)
                    || part.damaged.is_some()
                    || part.events.range(from.0..to.0.max(from.0)).next().is_some()
            });
        if concerns {
            self.commit(out, Entry::Lost { lane, loss, from, to });
            self.end_if_done(lane, at, out);
        }
    }

    /// These events cannot be read any more, wherever they are; effects in progress for them come
    /// to nothing.
    pub fn lose_events(&mut self, at: u64, places: &[Place], out: &mut Output) {
        let events: Vec<Place> =
            places.iter().copied().filter(|&place| self.find(place).is_some()).collect();
        if events.is_empty() {
            return;
        }
        let mut lanes: Vec<LaneId> = events.iter().map(|place| place.lane).collect();
        lanes.dedup();
        self.commit(out, Entry::LostEvents { events });
        for lane in lanes {
            self.end_if_done(lane, at, out);
        }
    }

    /// Up to `most` live events below `below` that would keep a segment from deletion: they should
    /// be copied into the parked log.
    pub fn to_park(&self, below: Offset, most: usize) -> Vec<Place> {
        let Some(lane) = self.lanes.get(&LaneId::LIVE) else { return Vec::new() };
        let mut slots: Vec<u32> = lane
            .parts
            .values()
            .flat_map(|part| part.events.range(..below.0).map(|(_, &index)| index))
            .filter(|&index| !self.slab[index].has_copy())
            .collect();
        slots.sort_unstable_by_key(|&index| self.slab[index].place.offset);
        slots.truncate(most);
        slots.into_iter().map(|index| self.slab[index].place).collect()
    }

    /// The copy of an event in the parked log is synced: it is read from there.
    pub fn parked(&mut self, place: Place, at: Offset, out: &mut Output) {
        if self.find(place).is_some() {
            self.commit(out, Entry::Parked { place, at });
        }
    }

    /// Changes the settings. Known events are judged again only at their next attempt, so a lower
    /// limit ends an event only after one more try.
    pub fn configure(&mut self, at: u64, settings: Settings, fingerprint: u64, out: &mut Output) {
        self.settings = settings;
        if self.fingerprint != fingerprint {
            self.commit(out, Entry::Configured { at, fingerprint });
        }
        self.fill_parts();
    }

    /// The wall clock was set by this many milliseconds: remaining waits keep their length.
    pub fn clock_moved(&mut self, by: i64, out: &mut Output) {
        self.commit(out, Entry::ClockMoved { by });
    }
}
