//! An allocator that counts, and on demand remembers who asked.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static IS_TRACING: AtomicBool = AtomicBool::new(false);
static TRACES: Mutex<Vec<(usize, Backtrace)>> = Mutex::new(Vec::new());

/// Frames of a site that are shown.
const FRAMES: usize = 6;

thread_local! {
    /// What a trace itself allocates is not traced.
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

/// How often the process allocates or reallocates while this runs.
pub(crate) fn during(measured: impl FnOnce()) -> u64 {
    // Relaxed, here and below: the socket between the threads orders more than enough.
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    measured();
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// Who allocates while this runs, size and frames, and how often; most often first.
pub(crate) fn traced(measured: impl FnOnce()) -> Vec<(String, usize)> {
    IS_TRACING.store(true, Ordering::Relaxed);
    measured();
    IS_TRACING.store(false, Ordering::Relaxed);
    let mut sites = BTreeMap::new();
    for (size, trace) in std::mem::take(&mut *TRACES.lock()) {
        *sites.entry(site(size, &trace.to_string())).or_default() += 1;
    }
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    sites
}

/// What was allocated, and the innermost frames that are neither the allocator's nor the standard
/// library's, each with its place in the source.
fn site(size: usize, trace: &str) -> String {
    let lines: Vec<&str> = trace.lines().map(str::trim).collect();
    let named = lines.windows(2).filter_map(|pair| {
        let name = pair[0].split_once(": ")?.1;
        Some((name, pair[1].strip_prefix("at ")?))
    });
    let named = named.skip_while(|(_, place)| !place.starts_with("/rustc/"));
    // `new<T>`, or whatever else the standard library was asked for last.
    let mut asked = "";
    let mut frames = Vec::new();
    for (name, place) in named {
        if !place.starts_with("/rustc/") {
            let place = place.split_once("/registry/src/").map_or(place, |(_, place)| {
                // Past the registry's own name.
                place.split_once('/').map_or(place, |(_, place)| place)
            });
            // Without the types that it is generic over: they are the whole stack.
            let name =
                name.split_once('<').filter(|(name, _)| !name.is_empty()).map_or(name, |it| it.0);
            frames.push(format!("{name} at {place}"));
        } else if frames.is_empty() {
            asked = name;
        }
        if frames.len() == FRAMES {
            break;
        }
    }
    format!("{size} bytes, {asked}\n    {}", frames.join("\n    "))
}

fn note(size: usize) {
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    if !IS_TRACING.load(Ordering::Relaxed) || IS_INSIDE.replace(true) {
        return;
    }
    let trace = black_box(Backtrace::force_capture());
    TRACES.lock().push((size, trace));
    IS_INSIDE.set(false);
}

// === impl Counting ===

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; each call goes to std's own")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise is the one asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
