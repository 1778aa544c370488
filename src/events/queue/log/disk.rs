//! How much room the disk has, checked periodically.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::events::queue::storage::{Space, Storage};

/// Reported for a log whose directory is gone.
pub const GONE: &str = "the data directory was removed or replaced while it was open";

/// When a disk counts as low on space.
#[derive(Clone, Copy, Debug)]
pub struct DiskSettings {
    /// This share of the disk, 0 to 1, ...
    pub low_water: f64,
    /// ... or so many bytes, whichever is less, ...
    pub min_free: u64,
    /// ... but at least twice this, which is kept for the journal.
    pub reserve: u64,
}

/// The disk of a store. Relaxed throughout: a late decision does no harm, since writes fail safely.
#[derive(Debug)]
pub struct DiskWatch {
    storage: Arc<dyn Storage>,
    settings: DiskSettings,
    free: AtomicU64,
    is_low: AtomicBool,
    is_reserve_out: AtomicBool,
    is_gone: AtomicBool,
}

// === impl DiskSettings ===

impl Default for DiskSettings {
    fn default() -> Self {
        Self { low_water: 0.05, min_free: 1 << 30, reserve: 32 << 20 }
    }
}

impl DiskSettings {
    /// The bytes that are to stay free on a disk of `total` bytes.
    pub fn bound(&self, total: u64) -> u64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a size is one, and not to the byte"
        )]
        let share = (total as f64 * self.low_water.clamp(0.0, 1.0)) as u64;
        share.min(self.min_free).max(self.reserve.saturating_mul(2))
    }
}

// === impl DiskWatch ===

impl DiskWatch {
    /// Checks the disk once. One that cannot be asked counts as having room: writes will tell.
    pub fn new(storage: Arc<dyn Storage>, settings: DiskSettings) -> Self {
        let watch = Self {
            storage,
            settings,
            free: AtomicU64::new(u64::MAX),
            is_low: AtomicBool::new(false),
            is_reserve_out: AtomicBool::new(false),
            is_gone: AtomicBool::new(false),
        };
        if let Err(error) = watch.refresh() {
            tracing::warn!(%error, "cannot read the free space of the data directory's disk");
        }
        watch
    }

    /// Checks again. Blocks. Call it about once a second.
    pub fn refresh(&self) -> io::Result<Space> {
        let space = self.storage.space()?;
        self.free.store(space.free, Relaxed);
        let bound = self.settings.bound(space.total);
        let is_low = space.free < bound;
        if self.is_low.swap(is_low, Relaxed) != is_low {
            tell(is_low, space.free, bound);
        }
        Ok(space)
    }

    /// Whether new events are to be refused.
    pub fn is_low(&self) -> bool {
        self.is_low.load(Relaxed) || self.is_reserve_out()
    }

    /// Whether the directory is gone: nothing that is written lasts, and every log is offline.
    pub fn is_gone(&self) -> bool {
        self.is_gone.load(Relaxed)
    }

    /// The directory was removed. This is final: another directory of that name has other contents.
    pub fn set_gone(&self) {
        self.is_gone.store(true, Relaxed);
    }

    /// Whether the remaining space belongs to the journal.
    pub fn is_reserve_out(&self) -> bool {
        self.is_reserve_out.load(Relaxed)
    }

    /// The reserve was given to the journal, or taken back.
    pub fn set_reserve_out(&self, is_out: bool) {
        self.is_reserve_out.store(is_out, Relaxed);
    }

    /// The bytes that are to stay free on a disk of `total` bytes.
    pub fn bound(&self, total: u64) -> u64 {
        self.settings.bound(total)
    }

    /// Free bytes at the last check.
    pub fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }
}

/// Clients learn that there is no room; the operator also learns how much is missing.
fn tell(is_low: bool, free: u64, bound: u64) {
    if is_low {
        tracing::warn!(
            free_bytes = free,
            needed_bytes = bound,
            "the disk that has `queue.dir` is low on space: nothing is published until there is room \
             (`queue.disk` says how much is kept free)",
        );
    } else {
        tracing::info!(free_bytes = free, "the disk that has `queue.dir` has room again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_the_lesser_of_share_and_bytes_and_at_least_twice_the_reserve() {
        let settings = DiskSettings { low_water: 0.05, min_free: 1 << 30, reserve: 32 << 20 };
        assert_eq!(settings.bound(1 << 40), 1 << 30);
        assert_eq!(settings.bound(10_000_000_000), 500_000_000);
        assert_eq!(settings.bound(100 << 20), 64 << 20);
    }
}
