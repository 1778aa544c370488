//! Counts what is in flight.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many of something are in flight. Clones share the count.
///
/// Whoever is counted holds an `Arc` around the counter, and that `Arc` belongs to one worker: all
/// workers write the count itself, but none writes a reference count of another.
#[derive(Clone, Debug, Default)]
pub struct Counter(Arc<AtomicUsize>);

/// Counts as one in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight(Arc<Counter>);

// === impl Counter ===

// Every access is Relaxed: the count must be exact, but orders nothing else.
impl Counter {
    /// Counts one more.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.0.fetch_add(1, Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Counts one more unless `limit` are in flight already.
    pub fn try_enter(self: &Arc<Self>, limit: usize) -> Option<InFlight> {
        // Checked and counted in one step: of two that race for the last place one gets it.
        let room = |count| (count < limit).then_some(count + 1);
        let entered = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        entered.then(|| InFlight(self.clone()))
    }

    /// How many are in flight.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl InFlight ===

impl Drop for InFlight {
    fn drop(&mut self) {
        (self.0).0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_as_many_enter_as_the_limit_says() {
        let counter = Arc::new(Counter::default());
        let first = counter.try_enter(2);
        let second = counter.try_enter(2);
        assert!(first.is_some() && second.is_some());
        assert!(counter.try_enter(2).is_none());
        assert_eq!(counter.get(), 2, "a refusal leaves no trace");
        drop(first);
        assert!(counter.try_enter(2).is_some());
    }
}
