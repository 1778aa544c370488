//! Reading ahead: scans logs for events to deliver.

use futures_util::FutureExt as _;
use tokio::time::Instant;

use super::{
    Shelf,
    actor::{AGAIN, Actor, Done},
    ledger::Until,
    reading::{self, Seen, Stop},
};
use crate::events::{
    delivery::subscription::{LaneId, Loss, Partition, Scan},
    queue::Offset,
};

impl Actor {
    /// Starts the next scan, if there is something to read.
    pub(super) fn read_ahead(&mut self) {
        if self.scanning || self.retry_at.is_some_and(|at| at > Instant::now()) {
            return;
        }
        let Some((scan, shelf)) = self.next_scan() else { return };
        self.scanning = true;
        let (sieve, pool) = (self.sieve.clone(), self.around.pool.clone());
        self.work.push(
            async move {
                let asked = scan.clone();
                let read = move || shelf.read(|reader| reading::scan(reader, &asked, &sieve));
                Done::Scanned(scan, pool.run(read).await.ok().flatten())
            }
            .boxed(),
        );
    }

    /// The first range to read that contains something.
    fn next_scan(&mut self) -> Option<(Scan, Shelf)> {
        for scan in self.machine.scans() {
            let shelf = self.shelf(scan.lane);
            let Some(log) = shelf.log() else {
                self.retry_at = Some(Instant::now() + AGAIN);
                continue;
            };
            if scan.lane.is_live() && self.durable.is_none() {
                self.durable = Some(log.subscribe_durable());
            }
            if scan.from < log.durable() {
                return Some((scan, shelf));
            }
        }
        None
    }

    pub(super) fn scanned(&mut self, scan: &Scan, seen: Option<Seen>) {
        self.scanning = false;
        let Some(seen) = seen else {
            self.retry_at = Some(Instant::now() + AGAIN);
            return;
        };
        let Seen { found, to, gaps, stop } = seen;
        let decided = self.decide(Until::Written, |machine, moment, out| {
            machine.scanned(scan, to, moment.now, &found, out);
            for gap in gaps {
                let lost = (scan.lane, Loss::Damage);
                machine.lose(moment.now, lost, (gap.start, gap.end), out);
            }
        });
        if decided.is_err() {
            return;
        }
        if let Some(stop) = stop {
            self.stopped_at(scan.lane, scan.only.as_deref(), &stop);
        }
    }

    /// A log cannot be read any further.
    pub(super) fn stopped_at(&mut self, lane: LaneId, only: Option<&[Partition]>, stop: &Stop) {
        let partitions = match only {
            Some(only) => only.to_vec(),
            None => self.partitions(),
        };
        let decided = self.decide(Until::Written, |machine, moment, out| match stop {
            Stop::Damaged(range) => {
                for partition in partitions {
                    machine.damaged(lane, partition, (range.start, range.end), out);
                }
            }
            Stop::Retired(start) => {
                machine.lose(moment.now, (lane, Loss::Dropped), (Offset::ZERO, *start), out);
            }
            // A scan skips what is gone; a single event is reported elsewhere.
            Stop::Gone | Stop::Failed(_) => {}
        });
        if let Stop::Failed(error) = stop {
            tracing::warn!(subscription = %self.settings.name, %error, "a log cannot be read; it is tried again");
        }
        if decided.is_err() || matches!(stop, Stop::Failed(_)) {
            self.retry_at = Some(Instant::now() + AGAIN);
        }
    }
}
