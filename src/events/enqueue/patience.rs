//! Counts clients that wait for a result: each holds a place of its route's `max_in_flight`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Waiting clients on one worker for one route, for a status or for the answer itself.
const MAX_WAITING: usize = 128;

/// The number of waiting clients. Relaxed: one more or less does not matter.
#[derive(Debug, Default)]
pub(super) struct Waits(AtomicUsize);

/// One waiting client, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiter<'a>(&'a AtomicUsize);

// === impl Waits ===

impl Waits {
    /// Counts one more; `None` if too many wait already.
    pub(super) fn enter(&self) -> Option<Waiter<'_>> {
        let waiter = Waiter(&self.0);
        (self.0.fetch_add(1, Relaxed) < MAX_WAITING).then_some(waiter)
    }
}

// === impl Waiter ===

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_wait_and_no_more_until_one_has_gone() {
        let waits = Waits::default();
        let mut all: Vec<_> = std::iter::from_fn(|| waits.enter()).collect();
        assert!(all.len() == MAX_WAITING && waits.enter().is_none());
        all.pop();
        assert!(waits.enter().is_some());
    }
}
