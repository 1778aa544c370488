//! One log: a file that grows, readers behind it, and everything that keeps them honest.

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
    commit::{Appended, Commit, Duplicate, Then},
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
