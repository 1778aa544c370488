//! Reading ahead: what to read next, and what was found.

use super::{
    effect::Scan,
    entry::{Added, Entry},
    lane::{Found, Lane},
    machine::{Machine, Output},
    place::{LaneId, Partition},
    settings::{Order, mix},
};
use crate::events::queue::Offset;

/// Keeps keys that represent partitions apart from events' keys (the first digits of pi).
const PARTITION_KEY: u64 = 0x243f_6a88_85a3_08d3;

/// What is taken from a scan.
struct Take {
    added: Vec<Added>,
    /// Partitions that stop, and their positions.
    stopped: Vec<(Partition, Offset)>,
    /// Events taken by partition.
    counts: Vec<(Partition, u32)>,
}

impl Machine {
    /// What to read next: at most one range per lane, the live lane first. Read the first that
    /// contains anything. Ask again after each decision.
    pub fn scans(&self) -> impl Iterator<Item = Scan> {
        let lanes = self.lanes.values().filter(|_| self.hold.is_none());
        lanes.filter_map(|lane| self.scan_of(lane))
    }

    fn scan_of(&self, lane: &Lane) -> Option<Scan> {
        let events =
            self.settings.lookahead().checked_sub(lane.ready.len()).filter(|&room| room > 0)?;
        let behind = |partition: &Partition| lane.position(*partition) < lane.scan;
        let only: Vec<Partition> = lane
            .parts
            .iter()
            .filter(|(partition, part)| {
                behind(partition)
                    && !part.is_full
                    && part.damaged.is_none()
                    && !lane.is_gated(**partition)
            })
            .map(|(partition, _)| *partition)
            .collect();
        if let Some(from) = only.iter().map(|partition| lane.position(*partition)).min() {
            return Some(Scan {
                lane: lane.id,
                from,
                to: Some(lane.scan),
                only: Some(only),
                events,
            });
        }
        if lane.end().is_some_and(|end| lane.scan >= end) {
            return None;
        }
        // With every partition stopped, nothing found would be taken.
        let is_stopped = |(partition, part): &(&Partition, &super::lane::Part)| {
            part.is_full || part.damaged.is_some() || behind(partition)
        };
        let stopped =
            || lane.parts.iter().filter(is_stopped).map(|(partition, _)| partition.generation);
        let newest = stopped().max();
        let count = stopped().filter(|generation| Some(*generation) == newest).count();
        if count >= usize::from(self.settings.partitions) {
            return None;
        }
        let (from, to) = lane.stretch(lane.scan);
        Some(Scan { lane: lane.id, from, to, only: None, events })
    }

    /// Applies what was found between `scan.from` and `to`, by offset. An outdated scan is ignored.
    pub fn scanned(
        &mut self,
        scan: &Scan,
        to: Offset,
        now: u64,
        found: &[Found],
        out: &mut Output,
    ) {
        let Some(lane) = self.lanes.get(&scan.lane) else { return };
        let entry = match &scan.only {
            None => {
                let is_asked = lane.stretch(lane.scan).0 == scan.from && to > lane.scan;
                if !is_asked {
                    return;
                }
                let take = self.take(lane, scan, to, found);
                let (to, _) = lane.stretch(to);
                Entry::Scanned { lane: scan.lane, to, moved: take.stopped, added: take.added }
            }
            Some(only) => {
                let to = to.min(lane.scan);
                let take = self.take(lane, scan, to, found);
                let mut moved = take.stopped;
                for &partition in only {
                    let is_asked =
                        is_behind(lane, scan, partition) && lane.position(partition) < to;
                    if is_asked && !moved.iter().any(|(stopped, _)| *stopped == partition) {
                        moved.push((partition, to));
                    }
                }
                if moved.is_empty() {
                    return;
                }
                Entry::Scanned { lane: scan.lane, to: lane.scan, moved, added: take.added }
            }
        };
        self.commit(out, entry);
        self.end_if_done(scan.lane, now, out);
    }

    fn take(&self, lane: &Lane, scan: &Scan, to: Offset, found: &[Found]) -> Take {
        let mut take = Take { added: Vec::new(), stopped: Vec::new(), counts: Vec::new() };
        for found in found {
            let Added { partition, offset, .. } = found.event;
            let is_within = scan.from <= offset && offset < to;
            if !is_within || !found.is_wanted || !takes(lane, scan, partition, offset) {
                continue;
            }
            if take.stopped.iter().any(|(stopped, _)| *stopped == partition) {
                continue;
            }
            let is_there =
                lane.parts.get(&partition).is_some_and(|part| part.events.contains_key(&offset.0));
            let is_gone = lane.job.as_ref().is_some_and(super::Job::is_redrive)
                && self.letters.get(offset).is_none();
            if is_there || is_gone {
                continue;
            }
            if self.is_shut(lane, &take, partition) {
                take.stopped.push((partition, offset));
                continue;
            }
            match take.counts.iter_mut().find(|(of, _)| *of == partition) {
                Some((_, count)) => *count += 1,
                None => take.counts.push((partition, 1)),
            }
            take.added.push(Added { key: self.order_key(&found.event), ..found.event });
        }
        take
    }

    /// Whether no more events of this partition are taken.
    fn is_shut(&self, lane: &Lane, take: &Take, partition: Partition) -> bool {
        let taken =
            take.counts.iter().find(|(of, _)| *of == partition).map_or(0, |(_, count)| *count);
        let part = lane.parts.get(&partition);
        let is_full =
            part.map_or(0, |part| part.parked).saturating_add(taken) >= self.settings.parked;
        let is_after = |(other, _): &(Partition, Offset)| other.generation < partition.generation;
        is_full
            || part.is_some_and(|part| part.damaged.is_some())
            || lane.is_gated(partition)
            || take.stopped.iter().any(is_after)
    }

    fn order_key(&self, event: &Added) -> Option<u64> {
        match self.settings.order {
            Order::Key => event.key,
            Order::None => None,
            Order::Partition => Some(Self::partition_key(event.partition)),
        }
    }

    /// The key that represents a partition under [`Order::Partition`], for `unblock`.
    pub fn partition_key(partition: Partition) -> u64 {
        let Partition { generation, number } = partition;
        mix(PARTITION_KEY, u64::from(generation) << 16 | u64::from(number))
    }

    pub(super) fn end_if_done(&mut self, id: LaneId, at: u64, out: &mut Output) {
        let is_done = self.lanes.get(&id).is_some_and(|lane| lane.job.is_some() && lane.is_done());
        if is_done {
            self.commit(out, Entry::JobEnded { lane: id, at, end: super::entry::JobEnd::Done });
        }
    }
}

/// Whether a partition is still behind the lane, where the scan found it.
fn is_behind(lane: &Lane, scan: &Scan, partition: Partition) -> bool {
    let position = lane.position(partition);
    position >= scan.from && position < lane.scan
}

/// Whether this scan is the first to see an offset of a partition.
fn takes(lane: &Lane, scan: &Scan, partition: Partition, offset: Offset) -> bool {
    let own = lane.parts.get(&partition).and_then(|part| part.resume);
    match &scan.only {
        // Partitions behind the lane are not this scan's; those ahead are, from their position on.
        None => own.is_none_or(|at| at >= lane.scan && at <= offset),
        Some(only) => {
            only.contains(&partition)
                && is_behind(lane, scan, partition)
                && lane.position(partition) <= offset
        }
    }
}
