//! Counts the bytes that pass a connection.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that passed a connection. Written by whoever drives it; on h2 others read it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    written: AtomicU64,
    read: AtomicU64,
}

/// The counts of a [`Meter`] at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) written: u64,
    pub(crate) read: u64,
}

// === impl Meter ===

// Relaxed: on one worker task switches order everything. One task at a time writes, so the sums need
// no atomic addition.
impl Meter {
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            written: self.written.load(Ordering::Relaxed),
            read: self.read.load(Ordering::Relaxed),
        }
    }

    pub(super) fn add_written(&self, bytes: usize) {
        add(&self.written, bytes);
    }

    pub(super) fn add_read(&self, bytes: usize) {
        add(&self.read, bytes);
    }
}

fn add(sum: &AtomicU64, bytes: usize) {
    sum.store(sum.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
}
