//! The keys of a log file: sorted hashes of dedup keys, IDs and correlation IDs, each with its offset.
//!
//! Derived: created when the file is sealed, rebuilt if missing or invalid, never evidence. In
//! pages of 4 KiB, each with its own checksum, so that an ID is found with a few reads.

use std::io;

use super::{envelope::FileError, pieces::Pieces, reading::Reading};
use crate::events::queue::{
    Offset,
    mutation::{self, Mutation},
};

/// Size of a page.
pub const PAGE_BYTES: usize = 4096;
/// Bytes of a page before its checksum.
const PAGE_USED: usize = PAGE_BYTES - 4;

const MAGIC: [u8; 8] = *b"SLUICE\x01K";
const VERSION: u16 = 1;
const DEDUP_BYTES: usize = 32;
const ID_BYTES: usize = 12;

/// What a dedup table needs to know of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DedupEntry {
    /// The keyed hash of its dedup key.
    pub hash: u128,
    /// Distinguishes its body from others.
    pub digest: u32,
    /// Its offset.
    pub offset: Offset,
    /// When it was appended: milliseconds since 1970.
    pub wall: u64,
    /// Its partition.
    pub partition: u16,
}

/// What an event can be found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Its ID.
    Id,
    /// Its correlation ID.
    Correlation,
}

/// Collects the keys of one log file. Takes 48 bytes per record.
#[derive(Clone, Debug)]
pub struct KeysBuilder {
    base: Offset,
    /// Times are stored as milliseconds after this.
    origin: u64,
    dedup: Pieces<Collected>,
    ids: Pieces<(u64, u32)>,
    correlations: Pieces<(u64, u32)>,
}

/// A dedup key as it is stored: offset and time are relative to those of the file.
#[derive(Clone, Copy, Debug)]
struct Collected {
    /// The upper and the lower half.
    hash: [u64; 2],
    delta: u32,
    digest: u32,
    age: u32,
    partition: u16,
}

/// The first page of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysHead {
    /// The epoch of the log file.
    pub epoch: u64,
    /// Offsets are relative to this.
    pub base: Offset,
    /// The offset after the last it covers.
    pub end: Offset,
    origin: u64,
    dedup: u32,
    ids: u32,
    correlations: u32,
}

/// Why a lookup has no result.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The file could not be read.
    #[error("the keys cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The file is invalid and must be rebuilt.
    #[error("the keys are not sound: {0}")]
    File(#[from] FileError),
}

// === impl KeysBuilder ===

impl KeysBuilder {
    /// For a log file: nothing below `base` or older than `wall` is added.
    pub fn new(base: Offset, wall: u64) -> Self {
        let (dedup, ids, correlations) = Default::default();
        Self { base, origin: wall, dedup, ids, correlations }
    }

    /// Adds a dedup key.
    pub fn add_dedup(&mut self, entry: DedupEntry) {
        let DedupEntry { hash, digest, offset, wall, partition } = entry;
        let age = u32::try_from(wall.saturating_sub(self.origin)).unwrap_or(u32::MAX);
        let (hash, delta) = ([upper_half(hash), lower_half(hash)], self.delta(offset));
        self.dedup.push(Collected { hash, delta, digest, age, partition });
    }

    /// Adds an ID or a correlation ID.
    pub fn add(&mut self, lookup: Lookup, hash: u128, offset: Offset) {
        let entry = (upper_half(hash), self.delta(offset));
        match lookup {
            Lookup::Id => self.ids.push(entry),
            Lookup::Correlation => self.correlations.push(entry),
        }
    }

    /// Offsets of a hash among what was added so far.
    pub fn find(&self, lookup: Lookup, hash: u128) -> impl Iterator<Item = Offset> {
        let all = match lookup {
            Lookup::Id => &self.ids,
            Lookup::Correlation => &self.correlations,
        };
        let found = all.iter().filter(move |(upper, _)| *upper == upper_half(hash));
        found.map(|(_, delta)| self.base.plus(u64::from(*delta)))
    }

    /// Removes everything at `end` or above, which was not written.
    pub fn truncate(&mut self, end: Offset) {
        let delta = self.delta(end);
        self.ids.pop_while(|(_, it)| *it >= delta);
        self.correlations.pop_while(|(_, it)| *it >= delta);
        self.dedup.pop_while(|it| it.delta >= delta);
    }

    /// A log file has fewer than 2^32 records.
    fn delta(&self, offset: Offset) -> u32 {
        u32::try_from(offset.since(self.base)).unwrap_or(u32::MAX)
    }

    /// The whole file, for a log file with this epoch that ends at `end`. Sorts the keys.
    pub fn encode(self, epoch: u64, end: Offset) -> Vec<u8> {
        let mut dedup = self.dedup.into_vec();
        dedup.sort_unstable_by_key(|entry| (entry.hash, entry.delta));
        let [ids, correlations] = [self.ids, self.correlations].map(|entries| {
            let mut entries = entries.into_vec();
            entries.sort_unstable();
            entries
        });
        let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let head = KeysHead {
            epoch,
            base: self.base,
            end,
            origin: self.origin,
            dedup: count(dedup.len()),
            ids: count(ids.len()),
            correlations: count(correlations.len()),
        };
        let mut pages = Pages { epoch, out: Vec::with_capacity(head.file_bytes()) };
        pages.section(std::iter::once(()), PAGE_USED, |out, ()| head.put(out));
        pages.section(&dedup, DEDUP_BYTES, |out, entry| {
            let [upper, lower] = entry.hash;
            out.extend_from_slice(&lower.to_le_bytes());
            out.extend_from_slice(&upper.to_le_bytes());
            let partition = u32::from(entry.partition);
            for number in [entry.digest, entry.delta, entry.age, partition] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        });
        for entries in [&ids, &correlations] {
            pages.section(entries, ID_BYTES, |out, (hash, delta)| {
                out.extend_from_slice(&hash.to_le_bytes());
                out.extend_from_slice(&delta.to_le_bytes());
            });
        }
        pages.out
    }
}

// === impl KeysHead ===

impl KeysHead {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&u64::from(VERSION).to_le_bytes());
        for number in [self.epoch, self.base.0, self.end.0, self.origin] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for count in [self.dedup, self.ids, self.correlations] {
            out.extend_from_slice(&count.to_le_bytes());
        }
        out.resize(PAGE_USED, 0);
    }

    /// From the first page of the file.
    pub fn decode(page: &[u8]) -> Result<Self, FileError> {
        let page = page.first_chunk::<PAGE_BYTES>().ok_or(FileError::Short)?;
        let mut reading = Reading(page);
        if reading.take(MAGIC.len()) != Some(&MAGIC) {
            return Err(FileError::Foreign);
        }
        let mut decode = || {
            let version = reading.u16()?;
            reading.take(6)?;
            let epoch = reading.u64()?;
            let (base, end) = (Offset(reading.u64()?), Offset(reading.u64()?));
            let origin = reading.u64()?;
            let (dedup, ids) = (reading.u32()?, reading.u32()?);
            let correlations = reading.u32()?;
            Some((version, Self { epoch, base, end, origin, dedup, ids, correlations }))
        };
        let (found, head) = decode().ok_or(FileError::Short)?;
        verify_page(page, head.epoch, 0)?;
        if found > VERSION {
            return Err(FileError::Newer { found, known: VERSION });
        }
        Ok(head)
    }

    /// The length of the whole file.
    pub fn file_bytes(&self) -> usize {
        let (first, pages) = self.section(Some(Lookup::Correlation));
        (first + pages) * PAGE_BYTES
    }

    /// First page and number of pages of the entries for a lookup, or of the dedup keys.
    fn section(&self, lookup: Option<Lookup>) -> (usize, usize) {
        let pages = |count: u32, bytes: usize| (count as usize).div_ceil(PAGE_USED / bytes);
        let dedup = pages(self.dedup, DEDUP_BYTES);
        let ids = pages(self.ids, ID_BYTES);
        match lookup {
            None => (1, dedup),
            Some(Lookup::Id) => (1 + dedup, ids),
            Some(Lookup::Correlation) => (1 + dedup + ids, pages(self.correlations, ID_BYTES)),
        }
    }

    /// The position of the dedup keys in the file.
    pub fn dedup_range(&self) -> std::ops::Range<usize> {
        let (first, pages) = self.section(None);
        first * PAGE_BYTES..(first + pages) * PAGE_BYTES
    }

    /// The dedup keys in offset order, from the bytes of [`KeysHead::dedup_range`].
    pub fn dedup(&self, section: &[u8]) -> Result<Vec<DedupEntry>, FileError> {
        let (pages, _) = section.as_chunks::<PAGE_BYTES>();
        let (first, count) = self.section(None);
        let pages = pages.get(..count).ok_or(FileError::Short)?;
        let mut entries = Vec::with_capacity(self.dedup as usize);
        for (number, page) in (first..).zip(pages) {
            verify_page(page, self.epoch, number)?;
            let left = self.dedup as usize - entries.len();
            let (chunks, _) = page[..PAGE_USED].as_chunks::<DEDUP_BYTES>();
            entries.extend(chunks.iter().take(left).filter_map(|entry| self.dedup_entry(entry)));
        }
        entries.sort_unstable_by_key(|entry| entry.offset);
        Ok(entries)
    }

    fn dedup_entry(&self, bytes: &[u8]) -> Option<DedupEntry> {
        let (hash, rest) = bytes.split_first_chunk::<16>()?;
        let mut reading = Reading(rest);
        let digest = reading.u32()?;
        let offset = self.base.plus(u64::from(reading.u32()?));
        let wall = self.origin.saturating_add(u64::from(reading.u32()?));
        let hash = u128::from_le_bytes(*hash);
        Some(DedupEntry { hash, digest, offset, wall, partition: reading.u16()? })
    }

    /// Up to `most` offsets of records that may have this hash, in order. Only half of it is
    /// stored, so the record has to be checked. `read` fills a buffer from a position of the file.
    pub fn find(
        &self,
        lookup: Lookup,
        hash: u128,
        most: usize,
        mut read: impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<Vec<Offset>, LookupError> {
        let wanted = upper_half(hash);
        let (first, pages) = self.section(Some(lookup));
        let count = match lookup {
            Lookup::Id => self.ids,
            Lookup::Correlation => self.correlations,
        };
        let mut page = |index: usize| self.entries(first + index, index, count, &mut read);
        // Finds the first page whose last entry is not before the wanted one.
        let (mut low, mut high) = (0, pages);
        while low < high {
            let middle = usize::midpoint(low, high);
            let is_before = page(middle)?.last().is_some_and(|(hash, _)| *hash < wanted);
            if is_before { low = middle + 1 } else { high = middle }
        }
        let mut found = Vec::new();
        for index in low..pages {
            let entries = page(index)?;
            let from = entries.partition_point(|(hash, _)| *hash < wanted);
            let same = entries[from..].iter().take_while(|(hash, _)| *hash == wanted);
            let room = most - found.len();
            found.extend(same.take(room).map(|(_, delta)| self.base.plus(u64::from(*delta))));
            if found.len() == most || entries.last().is_some_and(|(hash, _)| *hash > wanted) {
                break;
            }
        }
        Ok(found)
    }

    /// The entries of the page with this index in its section.
    fn entries(
        &self,
        number: usize,
        index: usize,
        count: u32,
        read: &mut impl FnMut(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<Vec<(u64, u32)>, LookupError> {
        let mut page = [0; PAGE_BYTES];
        if read(&mut page, (number * PAGE_BYTES) as u64)? < PAGE_BYTES {
            return Err(FileError::Short.into());
        }
        verify_page(&page, self.epoch, number)?;
        let left = (count as usize).saturating_sub(index * (PAGE_USED / ID_BYTES));
        let (chunks, _) = page[..PAGE_USED].as_chunks::<ID_BYTES>();
        let entry = |bytes: &[u8; ID_BYTES]| {
            let mut reading = Reading(bytes);
            Some((reading.u64()?, reading.u32()?))
        };
        Ok(chunks.iter().take(left).filter_map(entry).collect())
    }
}

/// Pages being written.
struct Pages {
    epoch: u64,
    out: Vec<u8>,
}

// === impl Pages ===

impl Pages {
    /// Adds entries of `bytes` each, in pages of their own.
    fn section<T>(
        &mut self,
        entries: impl IntoIterator<Item = T>,
        bytes: usize,
        mut put: impl FnMut(&mut Vec<u8>, T),
    ) {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let start = self.out.len();
            for entry in entries.by_ref().take(PAGE_USED / bytes) {
                put(&mut self.out, entry);
            }
            self.out.resize(start + PAGE_USED, 0);
            let crc = page_checksum(&self.out[start..], self.epoch, start / PAGE_BYTES);
            self.out.extend_from_slice(&crc.to_le_bytes());
        }
    }
}

/// Proves which file and which page it is.
fn page_checksum(used: &[u8], epoch: u64, number: usize) -> u32 {
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&epoch.to_le_bytes());
    seed[8..].copy_from_slice(&(number as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&seed), used)
}

fn verify_page(page: &[u8; PAGE_BYTES], epoch: u64, number: usize) -> Result<(), FileError> {
    let (used, crc) = page.split_at(PAGE_USED);
    let is_right = Reading(crc).u32() == Some(page_checksum(used, epoch, number))
        || mutation::is(Mutation::AcceptABadCrc);
    is_right.then_some(()).ok_or(FileError::Checksum)
}

fn upper_half(hash: u128) -> u64 {
    (hash >> 64) as u64
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
fn lower_half(hash: u128) -> u64 {
    hash as u64
}
