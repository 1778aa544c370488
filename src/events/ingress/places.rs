//! Places in memory: one for each key that is remembered, each exchange that is not settled and each stored
//! request, at most `max_entries` together.
//!
//! A stored request has its place from before it is accepted: one that had none could not be sent. Those that
//! were never attempted have no record here; after a restart they are read where they were stored, and up to
//! then no newcomer gets a place that one of them may need.

use std::sync::atomic::Ordering::Relaxed;

use super::handle::Ingress;
use crate::events::request::Place;

// === impl Ingress ===

impl Ingress {
    /// Takes a place for a request that is about to be stored.
    pub(super) fn reserve_place(&self) -> bool {
        let others = self.others();
        let mut results = self.0.results.lock();
        let has_place = ((others + results.spoken_for()) as u64) < self.0.max_entries;
        if has_place {
            results.reserve();
        } else {
            drop(results);
            self.full();
        }
        has_place
    }

    /// So many records that were written before this process may be of requests that wait: each may need a
    /// place, until [`Ingress::looked_at`] says which do.
    pub fn inherit(&self, records: u64) {
        let (_, now) = self.clock();
        let mut results = self.0.results.lock();
        // What is over has no place any more, whatever waits under its name.
        results.sweep(now);
        results.inherit(usize::try_from(records).unwrap_or(usize::MAX));
    }

    /// For so many of those nothing is to be kept any more: what `waiting` has of them is asked for up to then
    /// (milliseconds since 1970), and the rest needs no place. Where `max_entries` is less than all that waits, the rest has no place before it is sent.
    pub fn looked_at(&self, records: u64, waiting: &[(Place, u64)]) {
        let (others, wall) = (self.others(), self.clock().0);
        let mut results = self.0.results.lock();
        results.looked_at(usize::try_from(records).unwrap_or(usize::MAX));
        for (place, until) in waiting {
            if ((others + results.taken()) as u64) < self.0.max_entries {
                results.keep_place(*place, *until, wall);
            }
        }
    }

    /// Whether something is known of the request there: it has a place.
    pub fn has_place(&self, place: Place) -> bool {
        self.0.results.lock().get(place).is_some()
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
        let taken = (self.others() + self.0.results.lock().spoken_for()) as u64;
        if taken <= self.0.max_entries - self.0.max_entries / 10 {
            self.0.is_full.store(false, Relaxed);
        }
    }

    fn others(&self) -> usize {
        let exchanges = self.0.state.lock().len();
        exchanges + self.0.keys.lock().len()
    }
}
