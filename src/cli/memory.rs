//! The program's allocator: mimalloc, called on its fast path, and memory returned after a burst.
//!
//! Almost every allocation of a proxied request needs no more than the 16 bytes of alignment that
//! `mi_malloc` always gives, in a third of the instructions of `mi_malloc_aligned`, which the usual
//! binding calls for all of them (buffers of 8 KiB even take its slowest path).
//!
//! By itself the allocator returns empty pages some time after they became empty, when the thread
//! frees something again. A worker whose connections have just gone idle frees nothing more: 5,000
//! parked connections kept 17 KiB each resident, and keep 6 KiB if told to return memory
//! (benches/compare, row idle). Returning it at once is no solution: under load every third request
//! then paid for a page fault, a microsecond of 23 (row h1). So pages are kept under load, and a
//! worker returns them after connections went idle.
//!
//! The allocator asks for huge pages. A process that has just started then had 12 MiB of heap, of
//! which it used one; with 64 connections or 1,000 a request cost as much with them as without. So
//! they are declined, unless the environment says `MIMALLOC_ALLOW_THP`. The processes that a process
//! starts inherit this; this program starts none. With thousands of routes they are taken: each
//! request then finds its route on pages whose addresses the processor has forgotten, and with
//! 10,000 routes it costs a seventh less on huge ones (row scale).

use std::{
    alloc::{GlobalAlloc, Layout},
    env,
    ffi::c_long,
};

use libmimalloc_sys::{
    mi_collect, mi_free, mi_malloc, mi_malloc_aligned, mi_option_get, mi_option_set, mi_option_t,
    mi_realloc, mi_realloc_aligned, mi_zalloc, mi_zalloc_aligned,
};
use rustix::thread::disable_transparent_huge_pages;

/// mimalloc as the global allocator.
#[derive(Clone, Copy, Debug)]
pub struct Allocator;

/// `mi_option_purge_delay`, for which the binding has no name; in milliseconds.
const PURGE_DELAY: mi_option_t = 15;
/// Its default, which also confirms that 15 is still its number.
const DEFAULT_DELAY: c_long = 1000;
/// Longer than a page stays empty in a worker under load.
const DELAY_UNDER_LOAD: c_long = 10_000;

/// How many routes take more memory than processors remember the small pages of: 8 MiB, in 2,000
/// entries.
const MANY_ROUTES: usize = 1_000;

/// Declines huge pages for all memory that is touched from now on.
pub(super) fn use_small_pages() {
    if env::var_os("MIMALLOC_ALLOW_THP").is_none() {
        // A kernel that knows no such switch may have huge pages: a few MiB more, nothing worse.
        disable_transparent_huge_pages(true).unwrap_or_default();
    }
}

/// Takes huge pages from now on if there are many routes, unless the environment says otherwise.
pub(super) fn suit(routes: usize) {
    if routes >= MANY_ROUTES && env::var_os("MIMALLOC_ALLOW_THP").is_none() {
        disable_transparent_huge_pages(false).unwrap_or_default();
    }
}

/// Keeps pages that will soon be used again, unless `MIMALLOC_PURGE_DELAY` says otherwise.
#[expect(unsafe_code, reason = "the allocator's own switch; it takes no pointer")]
pub(super) fn keep_under_load() {
    // SAFETY: both may be called at any time, from any thread; an unknown option is ignored.
    unsafe {
        if mi_option_get(PURGE_DELAY) == DEFAULT_DELAY {
            mi_option_set(PURGE_DELAY, DELAY_UNDER_LOAD);
        }
    }
}

/// Returns empty pages to the system: this thread's, and those without a thread.
#[expect(unsafe_code, reason = "the allocator's own call; it takes no pointer")]
pub(super) fn give_back() {
    // SAFETY: may be called at any time, from any thread.
    unsafe { mi_collect(true) };
}

/// Whether every block of this size has this alignment anyway: 8 for any size, 16
/// (`MI_MAX_ALIGN_SIZE`) from 16 bytes on.
const fn is_natural(size: usize, align: usize) -> bool {
    align <= 8 || (align <= 16 && size >= 16)
}

// === impl Allocator ===

#[expect(unsafe_code, reason = "a global allocator is an unsafe trait")]
// SAFETY: mimalloc keeps the contract of `GlobalAlloc` in each of these functions; its blocks may
// be freed and reallocated by either kind of call, whichever they came from.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: any size and any power of two is allowed.
        let block = unsafe {
            if is_natural(size, align) { mi_malloc(size) } else { mi_malloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as in `alloc`.
        let block = unsafe {
            if is_natural(size, align) { mi_zalloc(size) } else { mi_zalloc_aligned(size, align) }
        };
        block.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _layout: Layout) {
        // SAFETY: the caller got it from one of the other functions.
        unsafe { mi_free(block.cast()) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as in `dealloc` and `alloc`.
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
