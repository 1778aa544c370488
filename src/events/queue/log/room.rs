//! Admission to a log: permits, and the reasons to refuse one.
//!
//! A disk may report room and still reject writes: a quota, a limit of files. A log whose last
//! write failed that way is full and accepts nothing new: an event accepted now might be refused
//! when its request has already been sent. Whether the disk takes writes again is tried with an
//! empty append, on demand and rarely, so that no event is put at risk. What was already accepted
//! is not held back by this: the disk takes or refuses it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    commit::Waiter,
    error::{Reason, Refused},
    open::OpenLog,
    permit::Permit,
    settings::Purpose,
    writer::Urgency,
};
use crate::events::queue::codec::MAX_FRAME_BYTES;

/// Minimum time between two tries whether a full disk takes writes again.
const APART: Duration = Duration::from_secs(1);

/// When a full log last tried for room.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<Option<Instant>>);

// === impl OpenLog ===

impl OpenLog {
    /// Room for `bytes`. Never waits.
    pub(super) fn permit(self: &Arc<Self>, purpose: Purpose, bytes: u64) -> Result<Permit, Reason> {
        let gauges = &self.gauges;
        if gauges.is_offline.get() || self.place.disk.is_gone() {
            return Err(Reason::Offline);
        }
        if bytes > MAX_FRAME_BYTES as u64 || !self.budget.can_ever(bytes) {
            return Err(Reason::TooLarge);
        }
        let disk = &self.place.disk;
        let is_low = match purpose {
            Purpose::Publish => disk.is_low() || self.stays_full(),
            Purpose::Accepted => disk.is_reserve_out(),
            Purpose::Journal => false,
        };
        if is_low {
            return Err(Reason::DiskLow);
        }
        if let Some(max) = self.settings.max_bytes {
            let more = if purpose == Purpose::Publish { 0 } else { max / 10 };
            let max = max.saturating_add(more);
            if gauges.bytes.get().saturating_add(self.budget.taken()).saturating_add(bytes) > max {
                return Err(Reason::Full);
            }
        }
        self.budget.take(bytes).ok_or(Reason::Full)
    }

    /// Whether a permit belongs to this log.
    pub(super) fn is_own(&self, permit: &Permit) -> bool {
        permit.is_of(&self.budget)
    }

    /// Counts a refusal.
    pub(super) fn refuse(&self, reason: Reason) -> Refused {
        let rejected = &self.gauges.rejected;
        let counter = match reason {
            Reason::Full | Reason::Behind => &rejected.full,
            Reason::DiskLow => &rejected.disk_low,
            Reason::Offline => &rejected.offline,
            Reason::TooLarge => &rejected.too_large,
        };
        counter.add(1);
        Refused::new(reason)
    }

    /// Whether the disk rejected the last write. If so, the writer is asked, rarely, to create a
    /// new file.
    fn stays_full(self: &Arc<Self>) -> bool {
        let is_full = self.gauges.is_full.get();
        if is_full && self.tries.is_due(Instant::now()) {
            let waiter = Waiter::nobody();
            self.submit(Permit::empty(&self.budget), Vec::new(), waiter, Urgency::Written);
        }
        is_full
    }
}

// === impl Tries ===

impl Tries {
    /// Whether the next try is due; if so, it counts as made.
    fn is_due(&self, now: Instant) -> bool {
        let mut last = self.0.lock();
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= APART);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_try_is_due_once_in_a_while() {
        let (tries, now) = (Tries::default(), Instant::now());
        let after = |part: f64| tries.is_due(now + APART.mul_f64(part));
        assert_eq!(
            [0.0, 0.5, 0.9, 1.0, 1.5, 2.5].map(after),
            [true, false, false, true, false, true]
        );
    }
}
