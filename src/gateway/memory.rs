//! Memory that a burst left behind goes back to the system.
//!
//! The allocator gives pages back when a thread frees something some time after they became empty.
//! A worker whose connections have just gone idle frees nothing any more: thousands of parked
//! connections would keep the buffers of their last request resident (benches/compare, row idle). So
//! each worker asks for it now and then; with nothing to give back that is a look at a few lists.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often a worker gives memory back.
const EVERY: Duration = Duration::from_secs(2);

/// Gives memory back until it is dropped. For each worker one, on its own thread: the allocator's
/// pages are a thread's.
pub(super) async fn give_back() {
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        collect();
    }
}

#[expect(
    unsafe_code,
    reason = "the allocator's own function; it takes no pointer and may be called at any time"
)]
fn collect() {
    // SAFETY: see the reason above.
    unsafe { libmimalloc_sys::mi_collect(true) }
}
