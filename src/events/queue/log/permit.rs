//! Bounds the bytes in flight into a log: room is taken before they exist, and given back when they
//! are written or not needed.
//!
//! One atomic word. Nobody waits for it: a caller without room is refused at once, which is the
//! back-pressure.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Cost of each permit beside its bytes, so that small ones are bounded in number too.
pub(super) const OVERHEAD: u64 = 128;

/// The budget of one log.
#[derive(Debug)]
pub(super) struct Budget {
    taken: AtomicU64,
    limit: u64,
}

/// Room for a number of bytes in front of a log. Given back on drop.
#[derive(Debug)]
#[must_use = "a dropped permit gives its room back"]
pub struct Permit {
    budget: Arc<Budget>,
    /// Including the overhead.
    held: u64,
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), limit })
    }

    /// Room for `bytes`, or none. Never waits.
    pub(super) fn take(self: &Arc<Self>, bytes: u64) -> Option<Permit> {
        let held = bytes.saturating_add(OVERHEAD);
        // Relaxed: it guards a number, not memory.
        self.taken
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(held).filter(|all| *all <= self.limit)
            })
            .ok()?;
        Some(Permit { budget: self.clone(), held })
    }

    /// Whether `bytes` would fit into an empty budget.
    pub(super) fn can_ever(&self, bytes: u64) -> bool {
        bytes.saturating_add(OVERHEAD) <= self.limit
    }

    /// Bytes taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }
}

// === impl Permit ===

impl Permit {
    /// The bytes it grants.
    pub fn bytes(&self) -> u64 {
        self.held.saturating_sub(OVERHEAD)
    }

    /// For an append without bytes, which must not wait for room.
    pub(super) fn empty(budget: &Arc<Budget>) -> Self {
        Self { budget: budget.clone(), held: 0 }
    }

    /// Gives back everything above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let spare = self.bytes().saturating_sub(bytes);
        self.held -= spare;
        self.budget.taken.fetch_sub(spare, Ordering::Relaxed);
    }

    /// Splits off a permit for `bytes`, which has the usual overhead. `None`, with nothing changed,
    /// if it does not hold that many.
    pub fn split(&mut self, bytes: u64) -> Option<Self> {
        let held = bytes.checked_add(OVERHEAD)?;
        if self.bytes() < held {
            return None;
        }
        self.held -= held;
        Some(Self { budget: self.budget.clone(), held })
    }

    /// Whether it belongs to this budget.
    pub(super) fn is_of(&self, budget: &Arc<Budget>) -> bool {
        Arc::ptr_eq(&self.budget, budget)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_dropped_is_given_back() {
        let budget = Budget::new(1_000);
        let first = budget.take(600).unwrap();
        assert!(budget.take(200).is_none(), "128 bytes are the permit's own");
        drop(first);
        assert_eq!(budget.taken(), 0);
        assert!(budget.take(872).is_some());
        assert!(budget.can_ever(872) && !budget.can_ever(873) && !budget.can_ever(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_permit_makes_or_loses_room(
            steps in prop::collection::vec((0_u8..4, 0_u64..2_000), 1..60),
        ) {
            let budget = Budget::new(10_000);
            let mut permits: Vec<Permit> = Vec::new();
            for (step, bytes) in steps {
                match step {
                    0 => permits.extend(budget.take(bytes)),
                    1 => drop(permits.pop()),
                    2 => {
                        let other = permits.last_mut().and_then(|it| it.split(bytes));
                        permits.extend(other);
                    }
                    _ => if let Some(it) = permits.last_mut() { it.shrink_to(bytes) },
                }
                prop_assert_eq!(budget.taken(), permits.iter().map(|it| it.held).sum::<u64>());
                prop_assert!(budget.taken() <= 10_000);
            }
            drop(permits);
            prop_assert_eq!(budget.taken(), 0);
        }
    }
}
