//! What a log reports of itself.

use std::{ops::Range, time::Duration};

use crate::events::queue::{Offset, time::Now};

/// State and extent of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes appends.
    pub state: State,
    /// The first offset.
    pub start: Offset,
    /// Everything below is on disk and may be read.
    pub durable: Offset,
    /// Bytes used by its segments.
    pub bytes: u64,
    /// Events between start and durable: an upper bound, because lost ones count too.
    pub events: u64,
}

/// Whether a log takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Serving,
    /// The disk had no room for more. It resumes as soon as there is some.
    Full,
    /// It takes none until it is reopened. Reads below `durable` work.
    Offline(Offline),
}

/// Why a log takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// For an operator.
    pub reason: String,
    /// The damaged offsets, end excluded; none if it is not about offsets.
    pub range: Option<Range<Offset>>,
}

/// The result of opening a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The first offset.
    pub start: Offset,
    /// The offset after the last.
    pub end: Offset,
    /// Records that were written but not proven to be on disk, and so were copied forward.
    pub copied: u64,
    /// Bytes after them that were incomplete, and were cut.
    pub cut_bytes: u64,
    /// Offsets that are lost, with [`super::Recovery::Quarantine`].
    pub gaps: Vec<Range<Offset>>,
    /// When the last frame was written.
    pub last: Option<Now>,
    /// How long it took.
    pub took: Duration,
}

/// One file of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Identifies the file: the files kept beside it repeat it.
    pub epoch: u64,
    /// Its first offset.
    pub base: Offset,
    /// The offset after its last.
    pub end: Offset,
    /// Bytes used.
    pub bytes: u64,
    /// When its newest frame was written, in milliseconds since 1970; 0 if it has none.
    pub newest_wall: u64,
    /// Whether nothing more is added.
    pub is_sealed: bool,
    /// Number of records by partition, without empty ones.
    pub partitions: Vec<(u16, u64)>,
}
