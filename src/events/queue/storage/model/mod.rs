//! A file system in memory that does what a real one may do to a program that dies.
//!
//! - A write is in the page cache until its file's sync. A crash keeps of it what it likes, sector by
//!   sector, and of the file's length any it has had since.
//! - A name is in the cache until its directory's sync. A crash keeps what it likes of the changes to
//!   names; one that touches two names is kept whole, until one of two directories is synced.
//! - A sync that fails has lost what it should have written. Every handle that was open then hears of
//!   it once, one opened later never; the cache shows the bytes for as long as the machine runs.
//! - The disk is full when it is full, and then a part of a write may be in the file.
//!
//! Operations that change something are counted, so that a test can let any of them fail, or let the
//! machine die in it. All chance comes from seeds.

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

/// How often a test repeats what is drawn by lot: `SLUICE_CAMPAIGN`, or `usual` times.
pub(crate) fn campaign(usual: u64) -> u64 {
    std::env::var("SLUICE_CAMPAIGN").ok().and_then(|times| times.parse().ok()).unwrap_or(usual)
}
