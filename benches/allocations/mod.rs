//! An allocator that counts, so that a bench can say "none" and fail when that is no longer so.
//!
//! Counting is one relaxed addition: it does not show in the times. The count is the process's, so a
//! measured closure runs while no other thread works.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicU64, Ordering},
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

/// How often `measured` allocates or reallocates.
pub(crate) fn during<T>(measured: impl FnOnce() -> T) -> u64 {
    // Relaxed: one thread writes and reads.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    std::hint::black_box(measured());
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Stops the bench if `measured` allocates more than `most` times.
pub(crate) fn assert_at_most<T>(most: u64, name: &str, measured: impl FnOnce() -> T) {
    let count = during(measured);
    assert!(count <= most, "{name}: {count} allocations, at most {most} are allowed");
}

// === impl Counting ===

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; each call goes to std's own")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
