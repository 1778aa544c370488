//! A file system in memory that does to a dying program whatever a real one may do.
//!
//! - A write is in the page cache until its file is synced. A crash keeps an arbitrary subset of
//!   its sectors, and any length the file has had since.
//! - A name is in the cache until its directory is synced. A crash keeps an arbitrary subset of the
//!   changes to names; a change that touches two names is kept whole, until one of the two
//!   directories is synced.
//! - A failed sync has lost what it should have written. Every handle open at that time reports the
//!   failure once, a handle opened later never does, and the cache shows the bytes for as long as
//!   the machine runs.
//! - A full disk refuses writes, and part of a refused write may be in the file.
//!
//! Operations that change something are counted, so that a test can make any one of them fail, or
//! crash the machine during it. All randomness comes from seeds.

mod faults;
mod inode;
mod names;
mod state;
mod storage;
mod survival;

#[cfg(test)]
mod tests;

pub(crate) use self::{
    faults::{Fault, Op},
    storage::Model,
    survival::{Crash, Survivors},
};

/// How often a test repeats its random runs: `SLUICE_CAMPAIGN`, or `usual` times.
pub(crate) fn campaign(usual: u64) -> u64 {
    std::env::var("SLUICE_CAMPAIGN").ok().and_then(|times| times.parse().ok()).unwrap_or(usual)
}
