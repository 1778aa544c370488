//! Clients that wait for a result are counted: each takes a place of its route's `max_in_flight`.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// So many may wait, on one worker and for one route: for a status, and for the answer itself.
const MAX_WAITING: usize = 128;

/// Clients that wait. Relaxed: one more or less.
#[derive(Debug, Default)]
pub(super) struct Waits(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiter<'a>(&'a AtomicUsize);

// === impl Waits ===

impl Waits {
    /// One more waits. `None`: too many do already.
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
