//! One file: what is on disk, what the cache shows, and the changes between them.

use std::{collections::BTreeMap, io, ops::Range};

use super::{faults::Fault, survival::Lots};

/// The disk writes pieces of this size atomically.
pub(super) const SECTOR: usize = 512;
/// The unit of write-back and of disk allocation.
pub(super) const PAGE: usize = 4096;

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    durable: Vec<u8>,
    cached: Vec<u8>,
    /// In order, with their numbers.
    unsynced: Vec<(u64, Change)>,
    /// The cache shows clean bytes that are not on disk.
    has_lost: bool,
    errors: Errors,
    /// Ranges that cannot be read.
    bad: Vec<Range<u64>>,
    pub(super) handles: usize,
}

#[derive(Clone, Debug)]
enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Length(usize),
}

/// Failed write-backs, as Linux counts them (`errseq_t`).
#[derive(Clone, Copy, Debug, Default)]
struct Errors {
    count: u64,
    /// Whether the last error was reported to anybody.
    is_seen: bool,
    fault: Option<Fault>,
}

// === impl Inode ===

impl Inode {
    pub(super) fn cached(&self) -> &[u8] {
        &self.cached
    }

    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// Numbers of the first and the last unsynced change.
    pub(super) fn unsynced(&self) -> Option<(u64, u64)> {
        Some((self.unsynced.first()?.0, self.unsynced.last()?.0))
    }

    /// Bytes of disk that a file of `length` takes.
    pub(super) fn room(length: usize) -> u64 {
        (length.div_ceil(PAGE) * PAGE) as u64
    }

    pub(super) fn read(&self, buffer: &mut [u8], position: usize) -> io::Result<usize> {
        let end = self.cached.len().min(position.saturating_add(buffer.len()));
        let count = end.saturating_sub(position);
        let range = position as u64..(position + count) as u64;
        if self.bad.iter().any(|bad| bad.start < range.end && range.start < bad.end) {
            return Err(Fault::Io.error());
        }
        if count > 0 {
            buffer[..count].copy_from_slice(&self.cached[position..end]);
        }
        Ok(count)
    }

    pub(super) fn write(&mut self, number: u64, bytes: &[u8], position: usize) {
        if bytes.is_empty() {
            return;
        }
        put(&mut self.cached, bytes, position);
        let mut range = position..position + bytes.len();
        if self.has_lost {
            // A page is written whole, including lost bytes in it.
            range.start -= range.start % PAGE;
            range.end = (range.end.div_ceil(PAGE) * PAGE).min(self.cached.len());
        }
        let bytes = self.cached[range.clone()].to_vec();
        self.unsynced.push((number, Change::Write { position: range.start, bytes }));
    }

    pub(super) fn set_length(&mut self, number: u64, length: usize) {
        self.cached.resize(length, 0);
        self.unsynced.push((number, Change::Length(length)));
    }

    /// How many errors a handle opened now counts as reported. An unreported one is still to come.
    pub(super) fn heard(&self) -> u64 {
        let Errors { count, is_seen, .. } = self.errors;
        if is_seen { count } else { count.saturating_sub(1) }
    }

    /// Writes all unsynced changes to disk, then reports an error to the handle unless it is among
    /// the `heard` ones it knows.
    pub(super) fn sync(&mut self, heard: &mut u64) -> io::Result<()> {
        for (_, change) in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
        self.tell(heard)
    }

    /// Fails a write-back: some or all of its data never reaches the disk, but counts as written.
    pub(super) fn fail_writeback(&mut self, fault: Fault, lots: &mut Lots) {
        self.durable = self.survive(lots, &[]);
        self.unsynced.clear();
        self.has_lost = true;
        self.errors = Errors { count: self.errors.count + 1, is_seen: false, fault: Some(fault) };
    }

    pub(super) fn tell(&mut self, heard: &mut u64) -> io::Result<()> {
        if *heard == self.errors.count {
            return Ok(());
        }
        *heard = self.errors.count;
        self.errors.is_seen = true;
        Err(self.errors.fault.unwrap_or(Fault::Io).error())
    }

    /// Drops the clean pages from the cache.
    pub(super) fn evict(&mut self) {
        self.cached.clone_from(&self.durable);
        for (_, change) in &self.unsynced {
            change.apply(&mut self.cached);
        }
        self.has_lost = false;
    }

    /// The file on disk after a crash. `stale`: what its new blocks held before.
    pub(super) fn survive(&self, lots: &mut Lots, stale: &[u8]) -> Vec<u8> {
        if self.unsynced.is_empty() {
            return self.durable.clone();
        }
        let numbers: Vec<_> = self.unsynced.iter().map(|(number, _)| *number).collect();
        let kept = lots.lengths(&numbers);
        let mut length = self.durable.len();
        for (_, change) in &self.unsynced[..kept] {
            let before = length;
            length = change.length(before);
            if length > before && lots.tears_length() {
                length = (before + lots.rng.usize(0..=length - before))
                    .next_multiple_of(SECTOR)
                    .min(length);
            }
        }
        let mut disk = self.durable.clone();
        for (_, change) in &self.unsynced[..kept] {
            if let Change::Length(cut) = change {
                // What is cut off reads as zero when the file grows again.
                disk.truncate(*cut);
            }
        }
        disk.resize(length, 0);
        for (sector, writes) in self.sectors() {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(length);
            if range.is_empty() {
                continue;
            }
            let visible: Vec<_> = writes
                .iter()
                .copied()
                .filter(|write| self.is_visible(*write, kept, &range))
                .collect();
            let numbers: Vec<_> = visible.iter().map(|write| numbers[*write]).collect();
            let count = lots.writes(&numbers);
            if count == 0 && range.start >= self.durable.len() && lots.is_stale && lots.rng.bool() {
                let end = range.end.min(stale.len());
                if range.start < end {
                    disk[range.start..end].copy_from_slice(&stale[range.start..end]);
                }
            }
            for write in &visible[..count] {
                self.unsynced[*write].1.apply_within(&mut disk, &range);
            }
        }
        disk
    }

    /// The sectors that unsynced writes touch, and the writes for each.
    fn sectors(&self) -> BTreeMap<usize, Vec<usize>> {
        let mut sectors: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, (_, change)) in self.unsynced.iter().enumerate() {
            if let Change::Write { position, bytes } = change {
                for sector in position / SECTOR..(position + bytes.len()).div_ceil(SECTOR) {
                    sectors.entry(sector).or_default().push(index);
                }
            }
        }
        sectors
    }

    /// Whether a write can show in a range if `kept` changes reached the length. Not if a later cut
    /// that was kept removed it, nor if it went to new blocks after a cut that was not kept.
    fn is_visible(&self, write: usize, kept: usize, range: &Range<usize>) -> bool {
        !self.unsynced.iter().enumerate().any(|(index, (_, change))| match change {
            Change::Length(length) if *length <= range.start => {
                (index > write && index < kept) || (index < write && index >= kept)
            }
            _ => false,
        })
    }

    // Damage to the disk, and to the cache as if read from there.

    pub(super) fn damage(&mut self, work: impl Fn(&mut Vec<u8>)) {
        work(&mut self.durable);
        work(&mut self.cached);
    }

    pub(super) fn spoil(&mut self, range: Range<u64>) {
        self.bad.push(range);
    }

    /// A file with `bytes` on disk.
    pub(super) fn with(bytes: Vec<u8>, bad: &[Range<u64>]) -> Self {
        Self { cached: bytes.clone(), durable: bytes, bad: bad.to_vec(), ..Self::default() }
    }

    pub(super) fn bad(&self) -> &[Range<u64>] {
        &self.bad
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { position, bytes } => put(file, bytes, *position),
            Self::Length(length) => file.resize(*length, 0),
        }
    }

    fn apply_within(&self, file: &mut [u8], range: &Range<usize>) {
        if let Self::Write { position, bytes } = self {
            let start = range.start.max(*position);
            let end = range.end.min(position + bytes.len());
            if start < end {
                file[start..end].copy_from_slice(&bytes[start - position..end - position]);
            }
        }
    }

    /// The length after this change of a file that had `length`.
    fn length(&self, length: usize) -> usize {
        match self {
            Self::Write { position, bytes } => length.max(position + bytes.len()),
            Self::Length(length) => *length,
        }
    }
}

fn put(file: &mut Vec<u8>, bytes: &[u8], position: usize) {
    let end = position + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[position..end].copy_from_slice(bytes);
}
