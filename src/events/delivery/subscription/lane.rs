//! How far a lane has read, and which of its events are unsettled.

use std::collections::BTreeMap;

use super::{
    ending::Reason,
    entry::{Added, JobEnd, JobKind},
    place::{LaneId, Partition, Place},
    queue::Queue,
};
use crate::events::queue::{LogId, Offset};

/// Number of failures that a job lists.
pub(super) const NAMED_FAILURES: usize = 100;

/// One flow of events.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) id: LaneId,
    /// How often the whole lane was moved; for a job, when it began.
    pub(super) epoch: u32,
    /// Everything below was scanned, except for partitions with a position of their own.
    pub(super) scan: Offset,
    pub(super) parts: BTreeMap<Partition, Part>,
    pub(super) job: Option<Job>,
    // --- Derived from the rest:
    /// Deliverable events, in the order in which they became so.
    pub(super) ready: Queue,
    /// Unsettled events.
    pub(super) unsettled: usize,
}

/// One partition of a lane.
#[derive(Debug, Default)]
pub(super) struct Part {
    /// How often it was moved.
    pub(super) epoch: u32,
    /// Its position, if it differs from the lane's.
    pub(super) resume: Option<Offset>,
    /// It stops before this damage, end excluded.
    pub(super) damaged: Option<(Offset, Offset)>,
    /// Slots of its unsettled events, by offset.
    pub(super) events: BTreeMap<u64, u32>,
    // --- Derived from the rest:
    /// Events that are not in flight.
    pub(super) parked: u32,
    /// It is read no further until it has become emptier.
    pub(super) is_full: bool,
}

/// The job of a lane other than the live one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// What it does.
    pub kind: JobKind,
    /// The log it reads.
    pub log: LogId,
    /// When it began.
    pub started: u64,
    /// Maximum events per thousand seconds.
    pub rate: Option<u64>,
    /// Whether its events publish followers.
    pub publishes: bool,
    /// Events settled by success.
    pub delivered: u64,
    /// Events failed for good.
    pub failed: u64,
    /// The first failures, at most 100.
    pub failures: Vec<JobFailure>,
    /// When and how it ended.
    pub ended: Option<(u64, JobEnd)>,
}

/// An event that a job could not deliver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobFailure {
    /// The event.
    pub place: Place,
    /// Why.
    pub reason: Reason,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(id: LaneId, scan: Offset) -> Self {
        Self { id, scan, ..Self::default() }
    }

    /// How far a partition was scanned.
    pub(super) fn position(&self, partition: Partition) -> Offset {
        self.parts.get(&partition).and_then(|part| part.resume).unwrap_or(self.scan)
    }

    /// The epoch of this partition's tokens.
    pub(super) fn epoch(&self, partition: Partition) -> u32 {
        let own = self.parts.get(&partition).map_or(0, |part| part.epoch);
        self.epoch.wrapping_add(own)
    }

    /// The slot of an unsettled event.
    pub(super) fn slot(&self, place: Place) -> Option<u32> {
        self.parts.get(&place.partition)?.events.get(&place.offset.0).copied()
    }

    /// Forgets a partition that has no state of its own.
    pub(super) fn tidy(&mut self, partition: Partition) {
        if self.parts.get(&partition).is_some_and(Part::is_plain) {
            self.parts.remove(&partition);
        }
    }

    /// The end of a job's range.
    pub(super) fn end(&self) -> Option<Offset> {
        match &self.job.as_ref()?.kind {
            JobKind::Replay { to, .. } => Some(*to),
            JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
                letters.last().map(|letters| letters.1)
            }
        }
    }

    /// The first offset at or after `from` that the lane wants, and the end of that range.
    pub(super) fn stretch(&self, from: Offset) -> (Offset, Option<Offset>) {
        let Some(job) = &self.job else { return (from, None) };
        match &job.kind {
            JobKind::Replay { to, .. } => (from, Some(*to)),
            JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
                let index = letters.partition_point(|&(_, end)| end <= from);
                letters
                    .get(index)
                    .map_or((from, Some(from)), |&(start, end)| (from.max(start), Some(end)))
            }
        }
    }

    /// Whether all of a job is scanned and settled.
    pub(super) fn is_done(&self) -> bool {
        let is_scanned = self.end().is_some_and(|end| self.scan >= end);
        let is_caught_up =
            || self.parts.values().all(|part| part.resume.is_none_or(|at| at >= self.scan));
        is_scanned && self.unsettled == 0 && is_caught_up()
    }

    /// Whether this partition is stopped by damage.
    pub(super) fn is_stopped(&self, partition: Partition) -> bool {
        self.parts.get(&partition).is_some_and(|part| part.damaged.is_some())
    }

    /// Whether this partition waits until those of earlier generations are read.
    pub(super) fn is_gated(&self, partition: Partition) -> bool {
        // A key may be in another partition of each generation: its older events come first.
        partition.generation > 0
            && self.parts.iter().any(|(other, part)| {
                other.generation < partition.generation
                    && part.resume.is_some_and(|resume| resume < self.scan)
            })
    }
}

// === impl Part ===

impl Part {
    pub(super) fn is_plain(&self) -> bool {
        self.epoch == 0 && self.resume.is_none() && self.damaged.is_none() && self.events.is_empty()
    }

    /// The lowest unsettled offset.
    pub(super) fn floor(&self, position: Offset) -> Offset {
        self.events.first_key_value().map_or(position, |(&offset, _)| position.min(Offset(offset)))
    }
}

// === impl Job ===

impl Job {
    /// Whether this dead letter is one of the job's.
    pub(super) fn selects(&self, letter: Offset) -> bool {
        match &self.kind {
            JobKind::Replay { .. } => false,
            JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
                let index = letters.partition_point(|&(_, end)| end <= letter);
                letters.get(index).is_some_and(|&(start, _)| start <= letter)
            }
        }
    }

    /// Whether it delivers dead letters.
    pub fn is_redrive(&self) -> bool {
        matches!(self.kind, JobKind::Redrive { .. } | JobKind::ForcedRedrive { .. })
    }

    pub(super) fn fail(&mut self, place: Place, reason: Reason) {
        self.failed += 1;
        if self.failures.len() < NAMED_FAILURES {
            self.failures.push(JobFailure { place, reason });
        }
    }
}

/// An event found by a scan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The event, with the hash of its key whatever the order is.
    pub event: Added,
    /// Whether it matches the types.
    pub is_wanted: bool,
}
