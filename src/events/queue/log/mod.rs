//! One append-only log: opening after a crash, appends with group commit, reads, and repair.
//!
//! An append takes a permit (`permit`, `room`: the back-pressure), waits in `waiting`, and is
//! written in a frame with others by the log's `writer` thread through `core`, which syncs before
//! the waiter is told (`commit`, `told`). A [`Reader`] reads whole blocks, up to what is on disk
//! and no further; [`Following`] reads the newest frames from memory.
//!
//! `opening` finds the log's end after any crash (`chain` for sealed files, `judge` for the
//! newest); [`Scrubber`] looks for damage in the background; [`fn@verify`] and [`repair`] work on a
//! log that nobody has open.
//!
//! Invariant: a frame counts as stored only after a successful sync, and damage below the watermark
//! is reported, never skipped silently. Promises and format are specified in
//! [`queue`](crate::events::queue).

mod accepted;
mod batch;
mod block;
mod chain;
mod checkpoint;
mod commit;
mod core;
mod disk;
mod error;
mod finding;
mod handle;
mod index;
mod judge;
mod live;
mod open;
mod opening;
mod permit;
mod quarantine;
mod reader;
mod room;
mod scan;
mod scrub;
mod segment;
mod sequencer;
mod settings;
mod spare;
mod status;
mod tail;
mod told;
mod verify;
mod view;
mod waiting;
mod writer;

pub use self::{
    block::{Block, OwnedRecord},
    chain::floor_of,
    commit::{Appended, Commit, Duplicate, Then, Watch},
    disk::{DiskSettings, DiskWatch, GONE},
    error::{AppendError, OpenError, ReadError, Reason, Refused, RetireError},
    handle::{Later, Log},
    live::Following,
    permit::Permit,
    reader::Reader,
    scrub::{Scrub, Scrubbed, Scrubber},
    sequencer::{Learnt, Placement, Plain, Sequencer},
    settings::{Durability, Place, Purpose, Recovery, Settings},
    status::{Offline, Opened, SegmentInfo, State, Status},
    verify::{Finding, Report, look_through, repair, verify},
    writer::Writer,
};

#[cfg(test)]
mod tests;
