//! The program's allocator: mimalloc, asked the short way, and what a burst left behind given back.
//!
//! Almost every allocation of a proxied request asks for no more than the 16 bytes of alignment that
//! `mi_malloc` always gives, and it is found in a third of the instructions of `mi_malloc_aligned`,
//! which the usual binding asks for all of them (buffers of 8 KiB even take its longest way).
//!
//! By itself the allocator gives empty pages back a while after they became empty, when the thread frees
//! something again. A worker whose connections have just gone idle frees nothing any more: 5,000 parked
//! connections kept 17 KiB each resident, and keep 6 KiB when it is told to (benches/compare, row idle).
//! Giving back at once is no answer: under load every third request then paid for a page fault, a
//! microsecond of 23 (row h1). So pages are kept under load, and a worker gives them back when
//! connections went idle.

use std::{
    alloc::{GlobalAlloc, Layout},
    ffi::c_long,
};

use libmimalloc_sys::{
    mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_option_get, mi_option_set, mi_option_t,
    mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};

/// mimalloc as the global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// `mi_option_purge_delay`, for which the binding has no name; milliseconds.
const PURGE_DELAY: mi_option_t = 15;
/// What it is when nobody has set it, which also tells that 15 is still its number.
const DEFAULT_DELAY: c_long = 1000;
/// Longer than a worker under load leaves a page empty.
const DELAY_UNDER_LOAD: c_long = 10_000;

/// Pages that are soon used again are kept from now on, unless `MIMALLOC_PURGE_DELAY` says otherwise.
#[expect(unsafe_code, reason = "the allocator's own switch; it takes no pointer")]
pub(super) fn keep_under_load() {
    // SAFETY: both may be called at any time, from any thread; an unknown option is ignored.
    unsafe {
        if mi_option_get(PURGE_DELAY) == DEFAULT_DELAY {
            mi_option_set(PURGE_DELAY, DELAY_UNDER_LOAD);
        }
    }
}

/// Gives empty pages back, this thread's and those of nobody.
#[expect(unsafe_code, reason = "the allocator's own call; it takes no pointer")]
pub(super) fn give_back() {
    // SAFETY: may be called at any time, from any thread.
    unsafe { mi_collect(true) };
}

/// Whether every block of this size has this alignment without being asked: 8 for any, 16
/// (`MI_MAX_ALIGN_SIZE`) from 16 bytes on.
const fn is_natural(size: usize, align: usize) -> bool {
    align <= 8 || (align <= 16 && size >= 16)
}

// === impl Allocator ===

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
// SAFETY: mimalloc keeps the contract of `GlobalAlloc` in each of these functions; what it hands out
// may be freed and reallocated by either way of asking, whichever it came from.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size and any power of two may be asked for.
        let block = unsafe {
            if is_natural(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as for `alloc`.
        let block = unsafe {
            if is_natural(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller has it from one of the others.
        unsafe { mi_free(block.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as for `dealloc` and `alloc`.
        let block = unsafe {
            if is_natural(size, layout.align()) {
                mi_realloc(block.cast(), size)
            } else {
                mi_realloc_aligned(block.cast(), size, layout.align())
            }
        };
        block.cast()
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "an allocator is used through pointers")]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_aligned_and_keeps_its_bytes_when_it_grows() {
        for align in [1, 2, 4, 8, 16, 32, 64, 128, 4096] {
            for size in [1, 7, 8, 9, 15, 16, 17, 24, 100, 1000, 8192, 100_000] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: sizes are not zero; each block is used within its size and freed once.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                    block.write_bytes(7, size);
                    let block = Allocator.realloc(block, layout, size * 3);
                    assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                    assert!((0..size).all(|at| block.add(at).read() == 7), "{layout:?}");
                    let grown = Layout::from_size_align(size * 3, align).unwrap();
                    Allocator.dealloc(block, grown);
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert!(zeroed.addr().is_multiple_of(align), "{layout:?}");
                    assert!((0..size).all(|at| zeroed.add(at).read() == 0), "{layout:?}");
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
