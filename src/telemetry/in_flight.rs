//! Counting what is under way.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many of something are under way. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicUsize>);

/// One that is under way, until it is dropped.
#[derive(Debug)]
pub struct InFlight(Counter);

// === impl Counter ===

// Every access is Relaxed: the count orders nothing else, it only has to be exact.
impl Counter {
    /// Counts one more.
    pub fn enter(&self) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Counts one more unless `limit` are under way already.
    pub fn try_enter(&self, limit: usize) -> Option<InFlight> {
        let guard = self.enter();
        // Entered first, judged afterwards: two that race for the last place cannot both get it.
        (self.get() <= limit).then_some(guard)
    }

    /// How many are under way.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
