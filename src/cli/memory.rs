//! Memory that a burst left behind goes back to the system at once.
//!
//! The allocator gives pages back some time after they became empty, when the thread frees something
//! again. A worker whose connections have just gone idle frees nothing any more: 5,000 parked
//! connections kept 17 KiB each resident, and keep 6 KiB without the delay (benches/compare, row
//! idle). Under load pages hardly ever become empty, so the delay saves nothing there.

use std::ffi::c_long;

use libmimalloc_sys::{mi_option_get, mi_option_set, mi_option_t};

/// `mi_option_purge_delay`, for which the binding has no name; milliseconds.
const PURGE_DELAY: mi_option_t = 15;
/// What it is when nobody has set it, which also tells that 15 is still its number.
const DEFAULT_DELAY: c_long = 1000;

/// Empty pages are given back at once from now on, unless `MIMALLOC_PURGE_DELAY` says otherwise.
#[expect(unsafe_code, reason = "the allocator's own switch; it takes no pointer")]
pub(super) fn give_back_at_once() {
    // SAFETY: both may be called at any time, from any thread; an unknown option is ignored.
    unsafe {
        if mi_option_get(PURGE_DELAY) == DEFAULT_DELAY {
            mi_option_set(PURGE_DELAY, 0);
        }
    }
}
