//! Wakes those who wait for a stored request to change. A fixed number of bells, so that waiting
//! costs no memory here; a change wakes the few that share its bell.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use tokio::sync::{Notify, futures::OwnedNotified};

use crate::events::request::Place;

const BELLS: usize = 256;

/// The bells.
pub(super) struct Waiters {
    bells: Box<[Arc<Notify>]>,
    hasher: RandomState,
}

// === impl Waiters ===

impl Waiters {
    /// Completes on the next change, from this call on, of what shares the bell of `place`.
    pub(super) fn changed(&self, place: Place) -> OwnedNotified {
        self.bell(place).clone().notified_owned()
    }

    /// The state of `place` has changed.
    pub(super) fn ring(&self, place: Place) {
        self.bell(place).notify_waiters();
    }

    /// Something changed that concerns everyone.
    pub(super) fn ring_all(&self) {
        self.bells.iter().for_each(|bell| bell.notify_waiters());
    }

    #[expect(clippy::cast_possible_truncation, reason = "any part of a hash is one")]
    fn bell(&self, place: Place) -> &Arc<Notify> {
        &self.bells[self.hasher.hash_one(place) as usize % self.bells.len()]
    }
}

impl Default for Waiters {
    fn default() -> Self {
        let bells = std::iter::repeat_with(Arc::default).take(BELLS).collect();
        Self { bells, hasher: RandomState::new() }
    }
}

impl fmt::Debug for Waiters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiters").finish_non_exhaustive()
    }
}
