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

/// What is left of an append that was handed over to be written.
#[derive(Debug)]
pub(super) struct End {
    pub(super) waiter: Waiter,
    /// Held until it is told, so that what is untold is bounded as well.
    pub(super) permit: Permit,
    pub(super) urgency: Urgency,
    pub(super) since: Instant,
}

/// What was written, and is not told yet.
#[derive(Debug)]
pub(super) struct Untold {
    pub(super) item: Item,
    pub(super) end: End,
    /// Which opening of the log it was written in.
    pub(super) life: u64,
}

// === impl Untold ===

impl Untold {
    /// Whether a sync, or one that fails, can no longer change what it comes to.
    pub(super) fn is_settled(&self, core: &Core) -> bool {
        let is_stored = matches!(self.item.outcome, Some(Ok(_)));
        !is_stored || core.is_poisoned() || self.item.needs <= core.synced()
    }
}

// === impl End ===

impl End {
    /// Nobody waits for it.
    pub(super) fn is_put_off(&self) -> bool {
        matches!(self.urgency, Urgency::Soon | Urgency::Later)
    }

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
        for mut it in all.drain(..) {
            // Between writing and now it was opened again: what was written may be gone.
            if it.life != core.life() {
                outcomes.push((it.end, Err(AppendError::Unknown)));
            } else if is_time(&it, core) {
                let outcome = core.settle(&mut it.item, it.end.urgency != Urgency::Written);
                outcomes.push((it.end, outcome));
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
