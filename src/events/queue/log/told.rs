//! Who is told what became of an append, and when.
//!
//! The writer tells at once whoever waits, and with the next sync whoever is to know but does not wait.

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

/// What is left of an append that was handed over to be written.
#[derive(Debug)]
pub(super) struct End {
    pub(super) waiter: Waiter,
    /// Held until it is told, so that what is untold is bounded as well.
    pub(super) permit: Permit,
    pub(super) urgency: Urgency,
    pub(super) since: Instant,
}

/// What was written, or could not be, and is not told yet. What it was made of is gone.
#[derive(Debug)]
pub(super) struct Untold {
    outcome: Outcome,
    /// The outcome holds once everything below is on disk.
    needs: Offset,
    end: End,
    /// Which opening of the log it was written in.
    life: u64,
}

// === impl Untold ===

impl Untold {
    /// Of an append that was written in this opening of the log.
    pub(super) fn new(item: Item, end: End, life: u64) -> Self {
        let (outcome, needs) = item.into_outcome();
        Self { outcome, needs, end, life }
    }

    /// Told with a later sync: nobody waits for it, and it is there.
    pub(super) fn is_put_off(&self) -> bool {
        self.outcome.is_ok() && matches!(self.end.urgency, Urgency::Soon | Urgency::Later)
    }

    /// Whether a sync, or one that fails, can no longer change what it comes to.
    pub(super) fn is_settled(&self, core: &Core) -> bool {
        self.life != core.life() || core.is_poisoned() || self.needs <= core.synced()
    }
}

// === impl End ===

impl End {
    pub(super) fn complete(self, outcome: Outcome, shared: &OpenLog) {
        // Room first: who is woken may want it.
        drop(self.permit);
        if outcome.is_ok() && self.urgency == Urgency::Synced {
            shared.gauges.append_micros.record_span(self.since.elapsed());
        }
        self.waiter.complete(outcome);
    }
}

/// Tells what became of those for which it is time, and gives back the others.
pub(super) fn tell(
    shared: &OpenLog,
    mut all: Vec<Untold>,
    is_time: impl Fn(&Untold, &Core) -> bool,
) -> Vec<Untold> {
    let mut outcomes: Vec<(End, Outcome)> = Vec::with_capacity(all.len());
    let mut left = Vec::new();
    shared.with_core(|core| {
        for it in all.drain(..) {
            // Between writing and now it was opened again: what was written may be gone.
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
    // Not there, or being opened again.
    outcomes.extend(all.into_iter().map(|it| (it.end, Err(AppendError::Unknown))));
    // The log is not held here: whoever is told may look at it.
    for (end, outcome) in outcomes {
        end.complete(outcome, shared);
    }
    left
}
