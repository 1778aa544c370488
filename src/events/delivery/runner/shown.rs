//! The reported state of a subscription, its events, dead letters and jobs.

use std::{ops::Range, sync::Arc};

use super::actor::Actor;
use crate::events::{
    delivery::{
        dead_letter,
        subscription::{
            EventView, Hold, Job, JobEnd, JobKind, LaneId, PartNumbers, Partition, Place, Reason,
        },
    },
    facade::{
        self, DeadLetterCount, EventState, JobFailure, JobId, JobState, JobStatus,
        SubscriptionMode, SubscriptionPartition, SubscriptionState, SubscriptionStatus,
    },
    queue::{Offset, log::Log, time::Clock as _},
};

/// A status that may still lack the age of the oldest event.
#[derive(Debug)]
pub struct Status {
    /// Complete but for that age, if it was not looked up yet.
    pub status: SubscriptionStatus,
    /// The offset of the oldest event, if its age is missing.
    pub oldest_at: Option<Offset>,
}

/// A subscription's backlog in its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// The range it is in, mixed with settled records.
    pub records: Range<u64>,
    /// Maximum number of waiting records.
    pub waiting: u64,
}

// === impl Actor ===

impl Actor {
    /// Its status.
    pub(super) fn show(&mut self, is_orphaned: bool) -> Status {
        let now = self.around.clock.now().wall;
        let numbers = self.machine.numbers();
        let log = self.around.topic.log();
        let durable = log.as_ref().map_or(Offset::ZERO, Log::durable);
        let scan = self.machine.position(LaneId::LIVE).unwrap_or_default();
        let floor = self.machine.floor();
        let parts = self.machine.parts(LaneId::LIVE);
        let behind = behind(&parts, scan);
        let oldest_at = behind.or_else(|| (scan < durable).then_some(scan));
        let status = SubscriptionStatus {
            name: self.settings.name.clone(),
            id: self.around.id.to_string(),
            topic: self.settings.topic.clone(),
            mode: match self.settings.push {
                Some(_) => SubscriptionMode::Push,
                None => SubscriptionMode::Pull,
            },
            state: self.state(is_orphaned),
            failing: self.machine.tally().failing(),
            lag_events: self.lag(behind.unwrap_or(scan), durable),
            lag_bytes: log.as_ref().map_or(0, |log| bytes_from(log, floor)),
            oldest_age: numbers
                .oldest
                .map(|at| std::time::Duration::from_millis(now.saturating_sub(at))),
            in_flight: numbers.in_flight.into(),
            parked: numbers.parked.into(),
            blocked_keys: numbers.blocked.into(),
            suspects: numbers.suspects.into(),
            dead_letters: self.count_letters(),
            next_retry: self.machine.wake_at(now),
            partitions: self.show_partitions(&parts, scan),
            is_orphaned,
        };
        let oldest_at = oldest_at.filter(|_| status.oldest_age.is_none());
        Status { status, oldest_at }
    }

    /// Unsettled events: those found, and everything from `unread` on.
    fn lag(&self, unread: Offset, end: Offset) -> u64 {
        let found = self.machine.unsettled().get(&LaneId::LIVE).copied().unwrap_or(0);
        found as u64 + end.since(unread)
    }

    /// Its backlog below `end`.
    pub(super) fn backlog(&self, end: Offset) -> Backlog {
        let scan = self.machine.position(LaneId::LIVE).unwrap_or_default();
        let unread = behind(&self.machine.parts(LaneId::LIVE), scan).unwrap_or(scan);
        let start = self.machine.pins().topic;
        Backlog { records: start.0..end.0, waiting: self.lag(unread, end) }
    }

    fn state(&self, is_orphaned: bool) -> SubscriptionState {
        let numbers = self.machine.numbers();
        let damaged = self
            .machine
            .parts(LaneId::LIVE)
            .into_iter()
            .find_map(|part| Some((part.partition, part.damaged?)));
        let journal = &self.around.journal;
        let hold = if is_orphaned {
            facade::Hold::Orphaned
        } else if journal.is_offline() {
            facade::Hold::Offline { detail: "the delivery state is offline".into() }
        } else if self.ledger.has_hole() {
            facade::Hold::Disk
        } else if let Some(hold) = numbers.hold {
            match hold {
                Hold::Operator => facade::Hold::Operator,
                Hold::Gone => facade::Hold::Gone,
            }
        } else if numbers.is_out_of_room {
            facade::Hold::DeadLettersFull
        } else if let Some((partition, (from, to))) = damaged {
            facade::Hold::Damage { partition: partition.number.into(), from: from.0, to: to.0 }
        } else if self.around.topic.log().is_none() {
            facade::Hold::Offline { detail: "the topic is offline".into() }
        } else {
            return SubscriptionState::Active;
        };
        SubscriptionState::Paused(hold)
    }

    fn show_partitions(&self, parts: &[PartNumbers], scan: Offset) -> Vec<SubscriptionPartition> {
        let shown = |partition: Partition| {
            let part = parts.iter().find(|part| part.partition == partition);
            SubscriptionPartition {
                partition: partition.number.into(),
                floor: part.map_or(scan, |part| part.floor).0,
                scan: part.map_or(scan, |part| part.scan).0,
                unsettled: part.map_or(0, |part| part.unsettled),
                is_full: part.is_some_and(|part| part.is_full),
            }
        };
        self.partitions().into_iter().map(shown).collect()
    }

    fn count_letters(&self) -> DeadLetterCount {
        let mut count = DeadLetterCount::default();
        let mut reasons = [0_u64; facade::Reason::ALL.len()];
        for (_, letter) in self.machine.dead_letters(Offset::ZERO) {
            count.count += 1;
            count.bytes += u64::from(letter.bytes);
            let reason = dead_letter::reason(letter.reason);
            if let Some(at) = facade::Reason::ALL.iter().position(|other| *other == reason) {
                reasons[at] += 1;
            }
        }
        let reasons = facade::Reason::ALL.into_iter().zip(reasons);
        count.reasons = reasons.filter(|(_, count)| *count > 0).collect();
        count
    }

    /// The state of an event of its topic.
    pub(super) fn show_event(&self, partition: Partition, offset: Offset) -> EventState {
        match self.machine.event(Place::live(partition, offset)) {
            EventView::Ahead | EventView::Waiting { counted: 0, .. } => EventState::Queued,
            EventView::Waiting { counted, until } => {
                EventState::Retrying { attempts: counted, next: until }
            }
            EventView::InFlight { counted } => EventState::InFlight { attempt: counted },
            EventView::Blocked => EventState::KeyBlocked,
            EventView::Ending | EventView::Settled => EventState::Settled,
        }
    }

    /// Which of these events are unsettled.
    pub(super) fn are_unsettled(&self, events: &[(Partition, Offset)]) -> Vec<bool> {
        let view = |&(partition, at)| self.machine.event(Place::live(partition, at));
        events.iter().map(|event| view(event) != EventView::Settled).collect()
    }

    /// Up to `most` dead letters after `after` that match the filter, as far as known unread.
    pub(super) fn letters_after(
        &self,
        after: Option<Offset>,
        filter: &facade::DeadLetterFilter,
        most: usize,
    ) -> Vec<Letter> {
        let from = after.map_or(Offset::ZERO, |after| after.plus(1));
        let meant = self.machine.dead_letters(from).filter(|(_, letter)| {
            filter.reason.is_none_or(|reason| reason == dead_letter::reason(letter.reason))
                && filter.since.is_none_or(|since| letter.died >= since)
                && filter.until.is_none_or(|until| letter.died < until)
        });
        let shown = meant.map(|(id, letter)| Letter {
            id,
            redrives: letter.redrives,
            is_compensated: letter.is_compensated,
            reason: letter.reason,
            died: letter.died,
            last_error: letter.failure.as_ref().and_then(|failure| failure.snippet.clone()),
            bytes: letter.bytes,
            is_redriven: self.machine.is_redriven(id),
        });
        shown.take(most).collect()
    }

    /// One dead letter, if it exists.
    pub(super) fn letter(&self, id: Offset) -> Option<Letter> {
        let (found, letter) = self.machine.dead_letters(id).next()?;
        (found == id).then(|| Letter {
            id,
            redrives: letter.redrives,
            is_compensated: letter.is_compensated,
            reason: letter.reason,
            died: letter.died,
            last_error: letter.failure.as_ref().and_then(|failure| failure.snippet.clone()),
            bytes: letter.bytes,
            is_redriven: self.machine.is_redriven(id),
        })
    }

    /// Its jobs.
    pub(super) fn show_jobs(&self) -> Vec<JobStatus> {
        self.machine.jobs().map(|(lane, job)| self.show_job(lane, job)).collect()
    }

    fn show_job(&self, lane: LaneId, job: &Job) -> JobStatus {
        let (done, total) = self.machine.progress(lane).unwrap_or_else(|| {
            let total = size(&job.kind);
            let is_done = matches!(job.ended, Some((_, JobEnd::Done)));
            (if is_done { total } else { (job.delivered + job.failed).min(total) }, total)
        });
        let failure = |failure: &crate::events::delivery::subscription::JobFailure| JobFailure {
            partition: failure.place.partition.number.into(),
            offset: failure.place.offset.0,
            reason: dead_letter::reason(failure.reason),
        };
        JobStatus {
            id: JobId { subscription: Arc::clone(&self.settings.name), lane: lane.0 },
            kind: match job.kind {
                JobKind::Replay { .. } => facade::JobKind::Replay,
                JobKind::Redrive { .. } | JobKind::ForcedRedrive { .. } => facade::JobKind::Redrive,
            },
            state: match job.ended {
                None => JobState::Running,
                Some((_, JobEnd::Done)) => JobState::Done,
                Some((_, JobEnd::Cancelled)) => JobState::Cancelled,
            },
            started: job.started,
            ended: job.ended.map(|(at, _)| at),
            total,
            done,
            delivered: job.delivered,
            failed: job.failed,
            failures: job.failures.iter().map(failure).collect(),
        }
    }
}

/// A dead letter, as far as known without reading it.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its ID.
    pub id: Offset,
    /// How often it was redriven and failed again.
    pub redrives: u32,
    /// Whether a compensating event was published.
    pub is_compensated: bool,
    /// Why nobody took it, as known by now.
    pub reason: Reason,
    /// When it died, as known by now.
    pub died: u64,
    /// Why the last redrive failed.
    pub last_error: Option<Box<str>>,
    /// Its size on disk.
    pub bytes: u32,
    /// Whether a job is delivering it: then it must not be moved.
    pub is_redriven: bool,
}

/// The position of the partition furthest behind `scan`.
fn behind(parts: &[PartNumbers], scan: Offset) -> Option<Offset> {
    parts.iter().map(|part| part.scan).filter(|at| *at < scan).min()
}

fn size(kind: &JobKind) -> u64 {
    match kind {
        JobKind::Replay { from, to } => to.since(*from),
        JobKind::Redrive { letters } | JobKind::ForcedRedrive { letters } => {
            letters.iter().map(|(from, to)| to.since(*from)).sum()
        }
    }
}

/// Approximate bytes of a log from `from` on.
fn bytes_from(log: &Log, from: Offset) -> u64 {
    let part = |segment: crate::events::queue::log::SegmentInfo| {
        let all = segment.end.since(segment.base).max(1);
        let meant = segment.end.since(from.max(segment.base));
        u64::try_from(u128::from(segment.bytes) * u128::from(meant) / u128::from(all)).unwrap_or(0)
    };
    log.segments().into_iter().filter(|segment| segment.end > from).map(part).sum()
}
