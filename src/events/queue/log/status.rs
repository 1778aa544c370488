//! What a log says of itself.

use std::{ops::Range, time::Duration};

use crate::events::queue::{Offset, time::Now};

/// Where a log stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes appends.
    pub state: State,
    /// The first offset there is.
    pub start: Offset,
    /// Everything below is on disk and may be read.
    pub durable: Offset,
    /// Bytes used by its segments.
    pub bytes: u64,
    /// Events between start and durable: an upper bound, lost ones are counted too.
    pub events: u64,
}

/// Whether a log takes appends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It does.
    Serving,
    /// The disk had no room for more. It goes on as soon as there is some.
    Full,
    /// Not before it is reopened. Reads go on below `durable`.
    Offline(Offline),
}

/// Why a log takes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offline {
    /// In words, for an operator.
    pub reason: String,
    /// The offsets that are damaged, the end not included; none: it is not about offsets.
    pub range: Option<Range<Offset>>,
}

/// What opening a log came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// The first offset there is.
    pub start: Offset,
    /// The offset after the last.
    pub end: Offset,
    /// Records that were written but not proven to be on disk, and were copied forward.
    pub copied: u64,
    /// Bytes behind them that never made it, and were cut.
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
    /// Its first offset.
    pub base: Offset,
    /// The offset after its last.
    pub end: Offset,
    /// Bytes used.
    pub bytes: u64,
    /// When its newest frame was written, in milliseconds since 1970; 0: it has none.
    pub newest_wall: u64,
    /// Whether nothing is added to it any more.
    pub is_sealed: bool,
    /// Records of each partition, those without any left out.
    pub partitions: Vec<(u16, u64)>,
}
