//! Places in memory: one for each remembered key, each unsettled exchange and each stored request,
//! at most `max_entries` together.
//!
//! A stored request gets its place before it is accepted, because without one it could not be sent.
//! Requests that were never attempted have no record here: after a restart they are read from their
//! topics. Until that is done, no newcomer gets a place that one of them may need.

use std::sync::atomic::Ordering::Relaxed;

use super::handle::Ingress;
use crate::events::request::Place;

// === impl Ingress ===

impl Ingress {
    /// Reserves a place for a request about to be stored.
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

    /// Announces records from before this process that may be waiting requests. Each may need a
    /// place, until [`Ingress::looked_at`] says which do.
    pub fn inherit(&self, records: u64) {
        let (_, now) = self.clock();
        let mut results = self.0.results.lock();
        // What has expired holds no place any more, even if a waiting request has the same name.
        results.sweep(now);
        results.inherit(usize::try_from(records).unwrap_or(usize::MAX));
    }

    /// Of the announced records, this many have been read. Those in `waiting` keep a place, with
    /// the time until which they are asked for (milliseconds since 1970); the others need none. If
    /// more wait than `max_entries` allows, the excess gets a place only when it is sent.
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

    /// Whether something is known of the request, so that it has a place.
    pub fn has_place(&self, place: Place) -> bool {
        self.0.results.lock().get(place).is_some()
    }

    /// Counts a refusal for want of a place, and logs it once until places are free again.
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

    /// Notes when a tenth of the places is free again.
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
