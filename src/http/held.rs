//! The shared limit for bodies held in memory for keys, fingerprints and events, over all routes.
//!
//! One atomic word. Nobody waits: without room the caller learns that at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// The limit. Clones share it.
#[derive(Clone, Debug)]
pub struct HeldBodies(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    taken: AtomicU64,
    limit: AtomicU64,
}

/// Bytes taken from the limit; dropping it gives them back.
#[derive(Debug)]
pub struct Held {
    room: HeldBodies,
    bytes: AtomicU64,
}

// === impl HeldBodies ===

// Every access is relaxed: they protect numbers, not memory.
impl HeldBodies {
    /// A limit of this many bytes at once.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner { taken: AtomicU64::new(0), limit: AtomicU64::new(limit) }))
    }

    /// Changes the limit; what is held stays.
    pub fn set_limit(&self, limit: u64) {
        self.0.limit.store(limit, Relaxed);
    }

    /// Holds nothing yet.
    pub fn hold(&self) -> Held {
        Held { room: self.clone(), bytes: AtomicU64::new(0) }
    }
}

// === impl Held ===

impl Held {
    /// Holds `bytes` in total. `false`: there is not enough room, and nothing has changed.
    #[must_use]
    pub fn grow_to(&mut self, bytes: u64) -> bool {
        let held = self.bytes.get_mut();
        let Some(more) = bytes.checked_sub(*held).filter(|more| *more > 0) else {
            return true;
        };
        let Inner { taken, limit } = &*self.room.0;
        let limit = limit.load(Relaxed);
        let fits = |taken: u64| taken.checked_add(more).filter(|all| *all <= limit);
        let is_taken = taken.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if is_taken {
            *held = bytes;
        }
        is_taken
    }

    /// Gives all of it back early.
    pub fn give_back(&self) {
        self.room.0.taken.fetch_sub(self.bytes.swap(0, Relaxed), Relaxed);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_counted_once_and_given_back() {
        let room = HeldBodies::new(100);
        let (mut first, mut second) = (room.hold(), room.hold());
        assert!(first.grow_to(60) && first.grow_to(70) && first.grow_to(10));
        assert!(!second.grow_to(31) && second.grow_to(30));
        drop(first);
        assert!(second.grow_to(100));
        second.give_back();
        assert!(room.hold().grow_to(100) && second.grow_to(100));
        room.set_limit(50);
        assert!(second.grow_to(100), "what is held stays");
        drop(second);
        assert!(!room.hold().grow_to(51) && room.hold().grow_to(50));
    }
}
