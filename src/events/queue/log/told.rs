//! Reports the outcome of appends: to whom, and when.
//!
//! The writer reports to those who wait at once, and to others with the next sync.

use tokio::time::Instant;

use super::{
    batch::Item,
    commit::{Outcome, Waiter},
    core::Core,
    error::AppendError,
    open::OpenLog,
    permit::Permit,
    writer::Urgency,
};
use crate::events::queue::Offset;

/// What is left of an append once its draft was handed over for writing.
#[derive(Debug)]
pub(super) struct End {
    pub(super) waiter: Waiter,
    /// Held until the outcome is reported, so that unreported appends are bounded too.
    pub(super) permit: Permit,
    pub(super) urgency: Urgency,
    pub(super) since: Instant,
}

/// An append that was written, or could not be, and is not yet reported. Its draft is gone.
#[derive(Debug)]
pub(super) struct Untold {
    outcome: Outcome,
    /// The outcome holds once everything below this offset is on disk.
    needs: Offset,
    end: End,
    /// The opening of the log in which it was written.
    life: u64,
}

// === impl Untold ===

impl Untold {
    /// For an append written in this opening of the log.
    pub(super) fn new(item: Item, end: End, life: u64) -> Self {
        let (outcome, needs) = item.into_outcome();
        Self { outcome, needs, end, life }
    }

    /// Reported with a later sync: nobody waits, and it is written.
    pub(super) fn is_put_off(&self) -> bool {
        self.outcome.is_ok() && matches!(self.end.urgency, Urgency::Soon | Urgency::Later)
    }

    /// Whether no sync, successful or not, can change the outcome any more.
    pub(super) fn is_settled(&self, core: &Core) -> bool {
        self.life != core.life() || core.is_poisoned() || self.needs <= core.synced()
    }
}

// === impl End ===

impl End {
    pub(super) fn complete(self, outcome: Outcome, shared: &OpenLog, now: Instant) {
        // Room first: whoever is woken may want it.
        drop(self.permit);
        if outcome.is_ok() && self.urgency == Urgency::Synced {
            shared.gauges.append_micros.record_span(now.saturating_duration_since(self.since));
        }
        self.waiter.complete(outcome);
    }
}

/// Reports the appends whose time has come, and returns the others.
pub(super) fn tell(
    shared: &OpenLog,
    mut all: Vec<Untold>,
    is_time: impl Fn(&Untold, &Core) -> bool,
) -> Vec<Untold> {
    let mut outcomes: Vec<(End, Outcome)> = Vec::with_capacity(all.len());
    let mut left = Vec::new();
    shared.with_core(|core| {
        for it in all.drain(..) {
            // The log was reopened between the write and now: the record may be gone.
            if it.life != core.life() {
                outcomes.push((it.end, Err(AppendError::Unknown)));
            } else if is_time(&it, core) {
                let is_awaited = it.end.urgency != Urgency::Written;
                outcomes.push((it.end, core.settle(it.outcome, it.needs, is_awaited)));
            } else {
                left.push(it);
            }
        }
    });
    // The log is offline or being reopened.
    outcomes.extend(all.into_iter().map(|it| (it.end, Err(AppendError::Unknown))));
    let now = Instant::now();
    // The lock is free here: whoever is told may look at the log.
    for (end, outcome) in outcomes {
        end.complete(outcome, shared, now);
    }
    left
}
