//! The only wall clock: an anchor plus tokio's elapsed time, so that a paused test pauses it too
//! and a step of the system clock never makes time go back.

use std::{
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

struct Anchor {
    wall: SystemTime,
    instant: Instant,
}

static ANCHOR: OnceLock<Anchor> = OnceLock::new();

/// Now, as an operator's watch shows it.
pub fn now() -> SystemTime {
    at(Instant::now())
}

/// The wall time of `instant`.
pub fn at(instant: Instant) -> SystemTime {
    let anchor = anchor();
    match instant.checked_duration_since(anchor.instant) {
        Some(after) => anchor.wall + after,
        None => anchor.wall - (anchor.instant - instant),
    }
}

/// Since 1970-01-01T00:00:00Z, leap seconds not counted.
pub fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
fn anchor() -> &'static Anchor {
    ANCHOR.get_or_init(|| Anchor { wall: SystemTime::now(), instant: Instant::now() })
}
