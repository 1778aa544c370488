//! Places in memory: one for each key that is remembered, each exchange that is not settled and each stored
//! request, at most `max_entries` together.
//!
//! A stored request has its place from before it is accepted: one that had none could not be sent. After a
//! restart those that were never attempted have none before they are; what is left of the places they
//! wait for.

use std::sync::atomic::Ordering::Relaxed;

use super::handle::Ingress;

// === impl Ingress ===

impl Ingress {
    /// Takes a place for a request that is about to be stored.
    pub(super) fn reserve_place(&self) -> bool {
        let others = self.others();
        let mut results = self.0.results.lock();
        let has_place = ((others + results.taken()) as u64) < self.0.max_entries;
        if has_place {
            results.reserve();
        } else {
            drop(results);
            self.full();
        }
        has_place
    }

    /// There was no place. Counted, and said once before there are some again.
    pub(super) fn full(&self) {
        self.0.log.gauges().rejected.full.add(1);
        if !self.0.is_full.swap(true, Relaxed) {
            let max_entries = self.0.max_entries;
            tracing::warn!(
                max_entries,
                "`queue.ingress.max_entries` is reached: requests are refused"
            );
        }
    }

    /// Whether what was full has a tenth of its places again.
    pub(super) fn look_for_places(&self) {
        let taken = (self.others() + self.0.results.lock().taken()) as u64;
        if taken <= self.0.max_entries - self.0.max_entries / 10 {
            self.0.is_full.store(false, Relaxed);
        }
    }

    fn others(&self) -> usize {
        let exchanges = self.0.state.lock().len();
        exchanges + self.0.keys.lock().len()
    }
}
