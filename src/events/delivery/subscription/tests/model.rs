//! The reference model: every event a row, every rule a loop. Slow but obvious.
//!
//! It follows requests and answers, and predicts statuses, counts and events in flight. What the
//! machine delivers and how it ends events is checked against what is known, not predicted.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::*, world::World};
use crate::events::queue::Offset;

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    rows: BTreeMap<Place, Row>,
    /// Events settled since the last seek.
    done: BTreeSet<Place>,
    /// Where live partitions were last moved.
    base: BTreeMap<Partition, u64>,
    all_base: u64,
    pub(super) leases: Vec<Lease>,
    pub(super) is_paused: bool,
    /// The offsets of each job.
    pub(super) jobs: BTreeMap<LaneId, Vec<u64>>,
    over: BTreeMap<LaneId, JobEnd>,
    starts: BTreeMap<LaneId, u32>,
    parked: BTreeSet<Place>,
    epochs: BTreeMap<Partition, u32>,
    all_epoch: u32,
}

#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact, and plain to see")]
struct Row {
    attempts: u32,
    counted: u32,
    unknown: u32,
    first: Option<u64>,
    was_alone: bool,
    is_ending: bool,
    is_blocked: bool,
    is_acked: bool,
    is_rejected: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Lease {
    pub(super) token: Token,
    deadline: u64,
    key: Option<u64>,
    mode: Mode,
}

impl Model {
    fn base(&self, partition: Partition) -> u64 {
        self.base.get(&partition).copied().unwrap_or(self.all_base)
    }

    fn key(world: &World, place: Place) -> Option<u64> {
        world.log[usize::try_from(world.origin(place).0).unwrap()].key
    }

    /// Every offset of a lane.
    fn offsets(&self, world: &World, lane: LaneId) -> Vec<Place> {
        let live = || {
            let all = 0..world.log.len() as u64;
            all.map(|at| (at, world.log[usize::try_from(at).unwrap()].partition))
                .filter(|&(at, partition)| at >= self.base(partition))
                .map(|(at, partition)| Place::live(partition, Offset(at)))
                .collect()
        };
        let Some(offsets) = self.jobs.get(&lane) else { return live() };
        let place = |&at: &u64| {
            let mut place = Place { lane, partition: Partition::default(), offset: Offset(at) };
            let origin = world.origin(place);
            place.partition = world.log[usize::try_from(origin.0).unwrap()].partition;
            place
        };
        offsets.iter().map(place).collect()
    }

    pub(super) fn is_done(&self, place: Place) -> bool {
        self.done.contains(&place)
    }

    pub(super) fn wanted(&self, world: &World, lane: LaneId) -> Vec<Place> {
        let is_wanted =
            |place: &Place| world.log[usize::try_from(world.origin(*place).0).unwrap()].is_wanted;
        self.offsets(world, lane).into_iter().filter(is_wanted).collect()
    }

    /// Whether an earlier event of the same key is unsettled.
    fn is_behind(&self, world: &World, place: Place, but: &[Place]) -> bool {
        let Some(key) = Self::key(world, place) else { return false };
        self.wanted(world, place.lane).into_iter().any(|other| {
            other.offset < place.offset
                && Self::key(world, other) == Some(key)
                && !self.done.contains(&other)
                && !but.contains(&other)
        })
    }

    /// Checks that what was delivered may be delivered.
    pub(super) fn deliver(&mut self, world: &World, deliveries: &[Delivery], deadline: u64) {
        if deliveries.is_empty() {
            return;
        }
        assert!(!self.is_paused, "paused");
        let before = self.leases.clone();
        let mut batch = Vec::new();
        for delivery in deliveries {
            let place = delivery.token.place;
            let origin = usize::try_from(world.origin(place).0).unwrap();
            let stored = world.log[origin];
            assert!(stored.is_wanted, "filtered");
            assert!(stored.expires.is_none_or(|expires| expires > world.now), "expired");
            assert!(!self.done.contains(&place), "settled: {place:?}");
            assert!(before.iter().all(|lease| lease.token.place != place), "leased twice");
            assert!(!self.is_behind(world, place, &batch), "out of order: {place:?}");
            let is_of_key = |lease: &&Lease| stored.key.is_some() && lease.key == stored.key;
            assert!(before.iter().find(is_of_key).is_none(), "two of a key: {place:?}");
            let row = self.rows.entry(place).or_default();
            if row.unknown >= 2 {
                assert_eq!((deliveries.len(), delivery.mode), (1, Mode::Alone), "a suspect");
            }
            if delivery.mode == Mode::Alone {
                assert!(before.iter().all(|lease| lease.mode != Mode::Alone), "two suspects");
            }
            row.attempts += 1;
            row.counted += 1;
            row.first.get_or_insert(world.now);
            row.was_alone = delivery.mode == Mode::Alone;
            assert_eq!(delivery.token.attempt, row.attempts, "{place:?}");
            assert_eq!(delivery.counted, row.counted, "{place:?}");
            let (key, mode) = (stored.key, delivery.mode);
            self.leases.push(Lease { token: delivery.token, deadline, key, mode });
            batch.push(place);
        }
        assert!(self.leases.len() <= world.settings.in_flight as usize, "in flight");
    }

    fn epoch(&self, partition: Partition) -> u32 {
        self.all_epoch + self.epochs.get(&partition).copied().unwrap_or(0)
    }

    /// The expected answer to a verb for this token.
    pub(super) fn expect(&self, world: &World, token: Token, is_ack: bool) -> TokenStatus {
        let place = token.place;
        if let Some(end) = self.over.get(&place.lane) {
            return match end {
                JobEnd::Done => TokenStatus::Settled,
                JobEnd::Cancelled => TokenStatus::LeaseExpired,
            };
        }
        if !place.lane.is_live() && !self.jobs.contains_key(&place.lane) {
            // The start of its job was lost in a power failure.
            return TokenStatus::Unknown;
        }
        let live = self.epoch(place.partition);
        let epoch = self.starts.get(&place.lane).copied().unwrap_or(live);
        if token.epoch != epoch {
            let is_old = place.lane.is_live() && token.epoch < epoch;
            return if is_old { TokenStatus::LeaseExpired } else { TokenStatus::Unknown };
        }
        let row = self.rows.get(&place).cloned().unwrap_or_default();
        let is_before = place.lane.is_live() && place.offset.0 < self.base(place.partition);
        if self.done.contains(&place) || row.is_ending || is_before {
            return TokenStatus::Settled;
        }
        if world.machine.event(place) == EventView::Ahead {
            return TokenStatus::Unknown;
        }
        if token.attempt < row.attempts {
            return TokenStatus::LeaseExpired;
        }
        let is_leased = self.leases.iter().any(|lease| lease.token.place == place);
        let is_latest = token.attempt == row.attempts;
        if is_ack {
            let is_late = !is_leased && self.is_behind(world, place, &[]);
            return if is_late { TokenStatus::LeaseExpired } else { TokenStatus::Ok };
        }
        if is_leased && is_latest { TokenStatus::Ok } else { TokenStatus::LeaseExpired }
    }

    fn unlease(&mut self, place: Place) {
        self.leases.retain(|lease| lease.token.place != place);
    }

    /// Later events of a run go back and do not count.
    fn release_behind(&mut self, world: &World, place: Place) {
        let Some(key) = Self::key(world, place) else { return };
        let behind: Vec<Place> = self
            .leases
            .iter()
            .filter(|lease| lease.key == Some(key))
            .map(|lease| lease.token.place)
            .filter(|other| other.lane == place.lane && other.offset > place.offset)
            .collect();
        for place in behind {
            self.uncount(place);
            self.unlease(place);
        }
    }

    fn uncount(&mut self, place: Place) {
        let row = self.rows.entry(place).or_default();
        row.counted -= 1;
        if row.counted == 0 {
            row.first = None;
        }
    }

    pub(super) fn ack(&mut self, place: Place) {
        self.unlease(place);
        self.rows.entry(place).or_default().is_acked = true;
    }

    pub(super) fn nack(&mut self, world: &World, place: Place) {
        self.release_behind(world, place);
        self.rows.entry(place).or_default().unknown = 0;
        self.unlease(place);
    }

    pub(super) fn release(&mut self, world: &World, place: Place) {
        self.release_behind(world, place);
        self.uncount(place);
        self.unlease(place);
    }

    pub(super) fn reject(&mut self, place: Place) {
        self.rows.entry(place).or_default().is_rejected = true;
        self.unlease(place);
    }

    pub(super) fn extend(&mut self, place: Place, deadline: u64) {
        let leases = self.leases.iter_mut();
        for lease in leases.filter(|lease| lease.token.place == place) {
            lease.deadline = deadline;
        }
    }

    /// Expires leases.
    pub(super) fn expire(&mut self, world: &World) {
        let over: Vec<Place> = self
            .leases
            .iter()
            .filter(|lease| lease.deadline <= world.now)
            .map(|lease| lease.token.place)
            .collect();
        for place in &over {
            self.rows.entry(*place).or_default().unknown += 1;
            self.unlease(*place);
        }
        for place in over {
            self.release_behind(world, place);
        }
    }

    /// Checks that every event which the machine ended has a reason to end.
    pub(super) fn observe(&mut self, world: &World, old: &Settings) {
        for entry in &world.last {
            match entry {
                Entry::Outcome(outcome) => {
                    self.judge(world, old, outcome.place, outcome.ending);
                    self.unlease(outcome.place);
                    self.rows.entry(outcome.place).or_default().is_ending = true;
                }
                Entry::Blocked { place, reason, .. } => {
                    self.judge(world, old, *place, Ending::Discarded(*reason));
                    self.unlease(*place);
                    self.rows.entry(*place).or_default().is_blocked = true;
                }
                Entry::Unblocked { place } => {
                    let row = self.rows.get(place).cloned().unwrap_or_default();
                    let Row { attempts, unknown, .. } = row;
                    self.rows.insert(*place, Row { attempts, unknown, ..Row::default() });
                }
                Entry::Settled { ending, events, .. } => {
                    for &place in events {
                        let is_known = self.rows.get(&place).is_some_and(|row| row.is_ending);
                        if !is_known {
                            self.judge(world, old, place, *ending);
                        }
                        self.unlease(place);
                        self.rows.remove(&place);
                        // Its copy goes too, even if it was moved back before its end was certain
                        // and will be scanned again.
                        self.parked.remove(&place);
                        if world.machine.event(place) != EventView::Ahead {
                            self.done.insert(place);
                        }
                    }
                }
                Entry::JobEnded { lane, end, .. } => self.end_job(*lane, *end),
                _ => {}
            }
        }
    }

    fn judge(&self, world: &World, old: &Settings, place: Place, ending: Ending) {
        let row = self.rows.get(&place).cloned().unwrap_or_default();
        let most = old.max_attempts.min(world.settings.max_attempts);
        let is_worn = row.counted >= most;
        let day = old.max_age.min(world.settings.max_age);
        let is_aged = row.first.is_some_and(|first| world.now - first >= day);
        let stored = world.log[usize::try_from(world.origin(place).0).unwrap()];
        let is_expired = stored.expires.is_some_and(|expires| expires <= world.now);
        match ending {
            Ending::Succeeded => assert!(row.is_acked, "nobody took {place:?}"),
            // It was judged when it was blocked, and now by an operator.
            _ if row.is_blocked => {}
            Ending::DeadLettered(reason) | Ending::Discarded(reason) | Ending::Failed(reason) => {
                let is_right = match reason {
                    Reason::AttemptsExhausted => is_worn && row.unknown == 0,
                    Reason::LeaseExpiredLimit => {
                        (is_worn || is_aged) && row.unknown > 0 && row.was_alone
                    }
                    Reason::Expired => is_expired || is_aged,
                    Reason::Rejected => row.is_rejected,
                    Reason::MaybeSeen | Reason::TooLarge => false,
                };
                assert!(is_right, "{place:?} ended {ending:?}: {row:?}");
            }
        }
    }

    fn end_job(&mut self, lane: LaneId, end: JobEnd) {
        self.jobs.remove(&lane);
        self.leases.retain(|lease| lease.token.place.lane != lane);
        self.rows.retain(|place, _| place.lane != lane);
        self.done.retain(|place| place.lane != lane);
        self.over.insert(lane, end);
    }

    pub(super) fn start_job(&mut self, lane: LaneId, at: u64, offsets: Vec<u64>) {
        self.starts.insert(lane, u32::try_from(at).unwrap());
        self.jobs.insert(lane, offsets);
    }

    pub(super) fn is_held(&self, partition: Option<Partition>) -> bool {
        self.leases.iter().map(|lease| lease.token.place).any(|place| {
            place.lane.is_live() && partition.is_none_or(|partition| partition == place.partition)
        })
    }

    pub(super) fn seek(&mut self, partition: Option<Partition>, to: u64) {
        let is_meant = |place: &Place| {
            place.lane.is_live() && partition.is_none_or(|partition| partition == place.partition)
        };
        self.leases.retain(|lease| !is_meant(&lease.token.place));
        self.rows.retain(|place, row| !is_meant(place) || row.is_ending);
        self.done.retain(|place| !is_meant(place));
        self.parked.retain(|place| !is_meant(place) || self.rows.contains_key(place));
        if let Some(partition) = partition {
            self.base.insert(partition, to);
            *self.epochs.entry(partition).or_default() += 1;
        } else {
            self.base.clear();
            self.all_base = to;
            self.all_epoch += 1;
        }
    }

    pub(super) fn park(&mut self, place: Place) {
        self.parked.insert(place);
    }

    /// Live offsets below this are gone.
    pub(super) fn lose(&mut self, world: &World, below: u64) {
        let wanted = self.wanted(world, LaneId::LIVE);
        // An event that was ending when its partition was moved past it is not wanted any more.
        let places: BTreeSet<Place> = wanted.into_iter().chain(self.rows.keys().copied()).collect();
        for place in places {
            let is_live = place.lane.is_live();
            if is_live && place.offset.0 < below && !self.parked.contains(&place) {
                self.done.insert(place);
                self.rows.remove(&place);
                self.unlease(place);
            }
        }
    }

    /// What must hold after every operation.
    pub(super) fn check(&self, world: &World) {
        let machine = &world.machine;
        let lanes = self.jobs.keys().copied().chain([LaneId::LIVE]);
        for lane in lanes {
            for place in self.wanted(world, lane) {
                let is_done = self.done.contains(&place);
                let view = machine.event(place);
                if view == EventView::Settled {
                    assert!(is_done, "passed unsettled: {place:?}");
                }
                if lane.is_live() && !is_done {
                    assert!(machine.floor() <= place.offset, "the floor passed {place:?}");
                    let is_pinned = machine.pins().topic <= place.offset;
                    assert!(is_pinned || self.parked.contains(&place), "not pinned: {place:?}");
                }
                let is_leased = self.leases.iter().any(|lease| lease.token.place == place);
                assert_eq!(is_leased, matches!(view, EventView::InFlight { .. }), "{place:?}");
            }
        }
        let numbers = machine.numbers();
        assert_eq!(numbers.in_flight as usize, self.leases.len());
        for part in machine.parts(LaneId::LIVE) {
            let bound = u64::from(world.settings.parked.max(4) + world.settings.in_flight.max(8));
            assert!(part.unsettled <= 2 * bound, "{part:?}");
        }
    }
}
