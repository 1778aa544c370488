//! The reported numbers of a subscription.

use std::collections::BTreeMap;

use super::{
    entry::{Hold, JobKind},
    lane::{Job, Lane, Part},
    machine::Machine,
    outage::Outage,
    place::{LaneId, Partition, Place},
    settings::DeliveryMode,
    slab::Slot,
    state::EventStatus as Status,
};
use crate::events::queue::Offset;

/// The state of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Events being delivered.
    pub in_flight: u32,
    /// Events whose end is being written.
    pub ending: u32,
    /// Events held in memory and not being delivered.
    pub parked: u32,
    /// Events that hold their key until an operator unblocks it.
    pub blocked: u32,
    /// Events that are delivered alone.
    pub suspects: u32,
    /// When the oldest scanned unsettled event was published.
    pub oldest: Option<u64>,
    /// Unsettled events dropped because their bytes were gone.
    pub lost: u64,
    /// Why nothing is delivered.
    pub hold: Option<Hold>,
    /// The dead letters are full.
    pub is_out_of_room: bool,
    /// How many concurrent deliveries the endpoint takes, as far as known.
    pub concurrency: Option<u32>,
    /// Number and bytes of the dead letters.
    pub dead_letters: (u64, u64),
}

/// The state of a partition in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartNumbers {
    /// The partition.
    pub partition: Partition,
    /// Everything before is settled.
    pub floor: Offset,
    /// Everything before was scanned.
    pub scan: Offset,
    /// Unsettled events between the two.
    pub unsettled: u64,
    /// It holds the maximum of parked events and is read no further.
    pub is_full: bool,
    /// It stops before this damage, end excluded.
    pub damaged: Option<(Offset, Offset)>,
}

/// The lowest offsets still needed: nothing below will be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pins {
    /// Of the topic's log.
    pub topic: Offset,
    /// Of the parked log; `None` if nothing is needed there.
    pub parked: Option<Offset>,
}

/// The state of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventView {
    /// Not scanned yet.
    Ahead,
    /// Settled, or not wanted by this subscription.
    Settled,
    /// To be delivered.
    Waiting {
        /// Counted attempts.
        counted: u32,
        /// Not delivered before this.
        until: u64,
    },
    /// Being delivered.
    InFlight {
        /// Counted attempts.
        counted: u32,
    },
    /// Holds its key.
    Blocked,
    /// Its end is being written.
    Ending,
}

impl Machine {
    /// The state of the subscription.
    pub fn numbers(&self) -> Numbers {
        let parts = self.lanes.get(&LaneId::LIVE).into_iter().flat_map(|lane| lane.parts.values());
        let first = |part: &Part| part.events.first_key_value().map(|(_, &index)| index);
        let oldest = parts.filter_map(first).map(|index| self.slab[index].published).min();
        let slots = self.slots();
        Numbers {
            in_flight: self.counts.in_flight,
            ending: self.counts.ending,
            parked: self.counts.parked,
            blocked: self.counts.blocked,
            suspects: count(slots.filter(|slot| !slot.is_ending() && slot.unknown >= 2)),
            oldest,
            lost: self.lost,
            hold: self.hold,
            is_out_of_room: self.is_out_of_room(),
            concurrency: match self.settings.delivery {
                DeliveryMode::Pull => None,
                DeliveryMode::Push { concurrency, .. } => Some(self.window.size(concurrency)),
            },
            dead_letters: (self.letters.len() as u64, self.letters.bytes()),
        }
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Slot> {
        let parts = self.lanes.values().flat_map(|lane| lane.parts.values());
        parts.flat_map(|part| part.events.values()).map(|&index| &self.slab[index])
    }

    /// Partitions of a lane whose state differs from the lane's.
    pub fn parts(&self, lane: LaneId) -> Vec<PartNumbers> {
        let Some(lane) = self.lanes.get(&lane) else { return Vec::new() };
        let numbers = |(&partition, part): (&Partition, &Part)| {
            let scan = lane.position(partition);
            PartNumbers {
                partition,
                floor: part.floor(scan),
                scan,
                unsettled: part.events.len() as u64,
                is_full: part.is_full,
                damaged: part.damaged,
            }
        };
        lane.parts.iter().map(numbers).collect()
    }

    /// How far a lane has scanned, except for partitions with a position of their own.
    pub fn position(&self, lane: LaneId) -> Option<Offset> {
        self.lanes.get(&lane).map(|lane| lane.scan)
    }

    /// The lowest unsettled offset of the live lane.
    pub fn floor(&self) -> Offset {
        self.lanes.get(&LaneId::LIVE).map_or(Offset::ZERO, floor)
    }

    /// The lowest offsets it still needs.
    pub fn pins(&self) -> Pins {
        let mut topic: Option<Offset> = None;
        let mut parked: Option<Offset> = None;
        let least =
            |of: &mut Option<Offset>, at: Offset| *of = Some(of.map_or(at, |of| of.min(at)));
        for lane in self.lanes.values() {
            if lane.job.as_ref().is_some_and(Job::is_redrive) {
                continue;
            }
            least(&mut topic, lane.scan);
            for part in lane.parts.values() {
                if let Some(resume) = part.resume {
                    least(&mut topic, resume);
                }
                let mut slots = part.events.values().map(|&index| &self.slab[index]);
                // Few have copies, and those come first.
                if let Some(slot) = slots.find(|slot| slot.parked.is_none()) {
                    least(&mut topic, slot.place.offset);
                }
            }
        }
        for slot in self.slots().filter(|slot| slot.parked.is_some()) {
            if let Some(at) = slot.parked {
                least(&mut parked, at);
            }
        }
        Pins { topic: topic.unwrap_or_default(), parked }
    }

    /// What is known of the endpoint.
    pub fn outage(&self) -> &Outage {
        &self.outage
    }

    /// Running jobs, and those that ended last.
    pub fn jobs(&self) -> impl Iterator<Item = (LaneId, &Job)> {
        let running = self.lanes.values().filter_map(|lane| Some((lane.id, lane.job.as_ref()?)));
        self.ended.iter().map(|(lane, job)| (*lane, job)).chain(running)
    }

    /// The progress of a job: offsets or dead letters done, and their total.
    pub fn progress(&self, lane: LaneId) -> Option<(u64, u64)> {
        let lane = self.lanes.get(&lane)?;
        let (read, all) = match &lane.job.as_ref()?.kind {
            JobKind::Replay { from, to } => (lane.scan.min(*to).since(*from), to.since(*from)),
            JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
                letters.iter().fold((0, 0), |(done, all), &(from, to)| {
                    (done + lane.scan.min(to).since(from), all + to.since(from))
                })
            }
        };
        // Events that were read but wait or are in flight are still to be done.
        Some((read.saturating_sub(lane.unsettled as u64), all))
    }

    /// The state of an event.
    pub fn event(&self, place: Place) -> EventView {
        let Some(lane) = self.lanes.get(&place.lane) else { return EventView::Settled };
        let Some(index) = lane.slot(place) else {
            let is_ahead = place.offset >= lane.position(place.partition);
            return if is_ahead { EventView::Ahead } else { EventView::Settled };
        };
        let slot = &self.slab[index];
        match slot.status {
            Status::Waiting { until } => EventView::Waiting { counted: slot.counted, until },
            Status::InFlight { .. } => EventView::InFlight { counted: slot.counted },
            Status::Blocked { .. } => EventView::Blocked,
            Status::Ending { .. } => EventView::Ending,
        }
    }

    /// Keys whose first event waits for an operator, and that event.
    pub fn blocked(&self) -> impl Iterator<Item = (Option<u64>, Place)> {
        let is_blocked = |slot: &&Slot| matches!(slot.status, Status::Blocked { .. });
        self.slots().filter(is_blocked).map(|slot| (slot.key, slot.place))
    }

    /// The next time at which something happens by itself or a push can begin that now cannot.
    pub fn wake_at(&mut self, now: u64) -> Option<u64> {
        let timer = self.timers.next(&self.slab);
        if !self.delivers() {
            return timer;
        }
        let mut next = timer.unwrap_or(u64::MAX);
        let is_push = self.is_push();
        let may_push = !is_push || self.has_place();
        for lane in self.lanes.values().filter(|lane| lane.ready.len() > 0) {
            let rate = lane.job.as_ref().and_then(|job| job.rate);
            let from = rate.map_or(0, |rate| {
                self.job_rates.get(&lane.id).copied().unwrap_or_default().next(rate)
            });
            let from = if is_push { from.max(self.push_from()) } else { from };
            if from > now && may_push {
                next = next.min(from);
            }
        }
        if self.suspects.len() > 0 && is_push && may_push && self.push_from() > now {
            next = next.min(self.push_from());
        }
        Some(next).filter(|&next| next != u64::MAX)
    }

    /// Number of events that are ready by themselves.
    pub fn ready(&self) -> usize {
        let suspects = if self.counts.alone == 0 { self.suspects.len() } else { 0 };
        suspects + self.lanes.values().map(|lane| lane.ready.len()).sum::<usize>()
    }

    /// Marks partitions as full according to the settings.
    pub(super) fn fill_parts(&mut self) {
        let (limit, low) = (self.settings.parked, self.settings.low_parked());
        for part in self.lanes.values_mut().flat_map(|lane| lane.parts.values_mut()) {
            part.is_full = part.parked >= limit || part.is_full && part.parked > low;
        }
    }

    /// Unsettled events by lane, for tests of bounds.
    pub fn unsettled(&self) -> BTreeMap<LaneId, usize> {
        self.lanes.values().map(|lane| (lane.id, lane.unsettled)).collect()
    }
}

fn floor(lane: &Lane) -> Offset {
    let parts = lane.parts.iter().map(|(&partition, part)| part.floor(lane.position(partition)));
    parts.min().unwrap_or(lane.scan).min(lane.scan)
}

fn count<T>(items: impl Iterator<Item = T>) -> u32 {
    u32::try_from(items.count()).unwrap_or(u32::MAX)
}
