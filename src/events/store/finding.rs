//! Finding events: by time, by ID, by saga.

use crate::events::queue::{
    Offset,
    codec::Record,
    log::{Log, ReadError},
};

const BLOCK: usize = 256 << 10;

/// The offset of the first event published at `at` or later. Blocks.
pub(super) fn since(log: &Log, at: u64) -> Result<Offset, ReadError> {
    // Segments are in the order of time, but for a clock that was set.
    let segments = log.segments();
    let first = segments.iter().find(|segment| !segment.is_sealed || segment.newest_wall >= at);
    let Some(first) = first else { return Ok(log.durable()) };
    let mut next = first.base.max(log.start());
    let mut reader = log.reader();
    loop {
        let block = reader.read(next, BLOCK)?;
        if block.is_empty() {
            return Ok(log.durable());
        }
        let mut records = block.records();
        if let Some((offset, _)) = records.find(|(_, record)| record.published() >= at) {
            return Ok(offset);
        }
        next = block.next();
    }
}

/// Records that `is_meant` says yes to, from the log's start on, until `is_over` does. `true`: all of the
/// log was looked at. Blocks.
pub(super) fn each<T>(
    log: &Log,
    mut is_meant: impl FnMut(Offset, &Record<'_>) -> Option<T>,
    is_over: impl Fn() -> bool,
) -> (Vec<T>, bool) {
    let (mut found, mut next, mut reader) = (Vec::new(), log.start(), log.reader());
    loop {
        if is_over() {
            return (found, false);
        }
        let block = match reader.read(next, BLOCK) {
            Ok(block) if block.is_empty() => return (found, true),
            Ok(block) => block,
            Err(ReadError::Retired { start }) => {
                next = start;
                continue;
            }
            Err(ReadError::Damaged { range }) => {
                next = range.end;
                continue;
            }
            Err(_) => return (found, false),
        };
        found.extend(block.records().filter_map(|(offset, record)| is_meant(offset, &record)));
        next = block.next();
    }
}
