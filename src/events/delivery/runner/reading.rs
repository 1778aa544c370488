//! Blocking work: scanning a log for events, and reading a few bodies.

use std::{ops::Range, sync::Arc};

use crate::events::{
    delivery::{
        dead_letter::Death,
        subscription::{Added, Found, Partition, Scan},
    },
    event::Event,
    queue::{
        Offset,
        codec::{Kind, Record},
        log::{Block, ReadError, Reader},
    },
    settings::{Subscription as Settings, Target, TypePattern},
    stored,
};

/// Bytes read at once.
const BLOCK: usize = 256 << 10;
/// A scan ends after this many bytes, so that others get their turn.
const SCAN_BYTES: usize = 8 << 20;

/// What a scan lets through.
#[derive(Clone, Debug)]
pub(super) struct Sieve {
    /// Only these types; all if empty.
    types: Arc<[TypePattern]>,
    /// Only stored requests, no events.
    is_for_requests: bool,
    /// Hashes keys.
    hash: Arc<dyn KeyHash>,
}

/// Hashes keys, the same after every restart of the store.
pub trait KeyHash: std::fmt::Debug + Send + Sync {
    /// The hash of a key.
    fn hash(&self, key: &[u8]) -> u64;
}

/// The result of a scan.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Events, in order.
    pub(super) found: Vec<Found>,
    /// Everything before was scanned.
    pub(super) to: Offset,
    /// Lost offsets on the way.
    pub(super) gaps: Vec<Range<Offset>>,
    /// What stopped it, if anything.
    pub(super) stop: Option<Stop>,
}

/// Why a log cannot be read any further.
#[derive(Clone, Debug)]
pub(super) enum Stop {
    /// Bytes were changed. A repair may restore them or accept their loss.
    Damaged(Range<Offset>),
    /// The event is lost, and the log continues after it.
    Gone,
    /// The log begins at this later offset.
    Retired(Offset),
    /// A retry may help.
    Failed(String),
}

// === impl Sieve ===

impl Sieve {
    /// For a subscription with these settings.
    pub(super) fn new(settings: &Settings, hash: Arc<dyn KeyHash>) -> Self {
        let target = settings.push.as_ref().map(|push| &push.target);
        let is_for_requests = matches!(target, Some(Target::Upstream(_)));
        Self { types: settings.types.clone().into(), is_for_requests, hash }
    }
}

/// The result of reading one event.
pub(super) type Got<T> = Result<T, Stop>;

/// Extracts what is needed from a record.
pub(super) type Keep<T> = fn(&Record<'_>) -> T;

/// The whole event.
pub(super) fn whole(record: &Record<'_>) -> Event {
    stored::event(record, bytes::Bytes::copy_from_slice)
}

/// Scans a log. Blocks.
pub(super) fn scan(reader: &mut Reader, scan: &Scan, sieve: &Sieve) -> Seen {
    let mut seen = Seen { to: scan.from, ..Seen::default() };
    let mut bytes = 0;
    while seen.found.len() < scan.events && bytes < SCAN_BYTES {
        if scan.to.is_some_and(|to| seen.to >= to) {
            break;
        }
        match reader.read(seen.to, BLOCK) {
            Ok(block) if block.is_empty() => break,
            Ok(block) => {
                bytes += block.bytes();
                sift(&block, scan, sieve, &mut seen);
            }
            Err(error) => {
                seen.stop = Some(stop(error));
                break;
            }
        }
    }
    seen
}

/// Takes what a scan wants from a block.
fn sift(block: &Block, scan: &Scan, sieve: &Sieve, seen: &mut Seen) {
    let end = scan.to.map_or(block.next(), |to| block.next().min(to));
    for (offset, record) in block.records() {
        if offset >= end {
            break;
        }
        if seen.found.len() >= scan.events {
            seen.to = offset;
            return;
        }
        let partition = partition(&record);
        let is_meant = scan.only.as_ref().is_none_or(|only| only.contains(&partition));
        if is_meant && matches!(record.kind(), Kind::Event | Kind::Request) {
            let event = added(&record, partition, offset, sieve);
            seen.found.push(Found { event, is_wanted: is_wanted(&record, sieve) });
        }
    }
    let gaps = block.gaps().iter().filter(|gap| gap.start < end).cloned();
    seen.gaps.extend(gaps);
    seen.to = end;
}

fn partition(record: &Record<'_>) -> Partition {
    Partition { generation: record.generation(), number: record.partition() }
}

fn added(record: &Record<'_>, partition: Partition, offset: Offset, sieve: &Sieve) -> Added {
    Added {
        partition,
        offset,
        key: record.key().map(|key| sieve.hash.hash(key)),
        published: record.published(),
        expires: record.expiry(),
        bytes: u32::try_from(record.encoded_bytes()).unwrap_or(u32::MAX),
    }
}

/// Whether a record is wanted. Dead letters always are: they passed before.
fn is_wanted(record: &Record<'_>, sieve: &Sieve) -> bool {
    if sieve.is_for_requests && record.kind() != Kind::Request {
        return false;
    }
    let kind = record.event_type().unwrap_or_default();
    sieve.types.is_empty()
        || sieve.types.iter().any(|pattern| pattern.matches(kind))
        || Death::read(record).is_ok()
}

/// Reads the events at these offsets, in any order; one result for each, in the same order. Blocks.
///
/// Reads along the log, so that neighbouring events are read together.
pub(super) fn fetch<T>(reader: &mut Reader, offsets: &[Offset], keep: Keep<T>) -> Vec<Got<T>> {
    let mut order: Vec<usize> = (0..offsets.len()).collect();
    order.sort_unstable_by_key(|index| offsets[*index]);
    let mut got: Vec<Option<Got<T>>> = offsets.iter().map(|_| None).collect();
    let mut rest = order.iter().copied().peekable();
    while let Some(&first) = rest.peek() {
        match reader.read(offsets[first], BLOCK) {
            Ok(block) if !block.is_empty() => {
                let mut records = block.records().peekable();
                while let Some(index) = rest.next_if(|index| offsets[*index] < block.next()) {
                    let offset = offsets[index];
                    while records.next_if(|(at, _)| *at < offset).is_some() {}
                    let record = records.peek().filter(|(at, _)| *at == offset);
                    got[index] = Some(match record {
                        Some((_, record)) => Ok(keep(record)),
                        None => Err(Stop::Gone),
                    });
                }
            }
            Ok(_) => {
                let failed = Stop::Failed("it is not there yet".into());
                got[first] = Some(Err(failed));
                rest.next();
            }
            Err(error) => {
                got[first] = Some(Err(stop(error)));
                rest.next();
            }
        }
    }
    let missing = || Err(Stop::Failed("it was not looked for".into()));
    got.into_iter().map(|got| got.unwrap_or_else(missing)).collect()
}

pub(super) fn stop(error: ReadError) -> Stop {
    match error {
        ReadError::Retired { start } => Stop::Retired(start),
        ReadError::Damaged { range } => Stop::Damaged(range),
        ReadError::Newer(message) => Stop::Failed(message),
        ReadError::Io(error) => Stop::Failed(error.to_string()),
    }
}
