//! One file of a log: its names, how it is created and sealed, and how far it may be read.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::settings::{MIN_SEGMENT_BYTES, Place};
use crate::events::queue::{
    Offset,
    codec::{FrameHead, Index, SEGMENT_HEADER_BYTES, SegmentHeader},
    mutation::{self, Mutation},
    storage::{self, File, Storage},
};

/// Where the first frame of a file begins.
pub(super) const FIRST_FRAME: u64 = SEGMENT_HEADER_BYTES as u64;

/// Names of files in a log's directory.
pub(super) const CHECKPOINT: &str = "CHECKPOINT";
pub(super) const QUARANTINE: &str = "quarantine";
/// Suffix of unfinished files, which are removed when the log is opened.
pub(super) const UNFINISHED: &str = ".new";

/// What is known of one file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    extent: Mutex<Extent>,
    /// The positions of its frames; only while it grows.
    index: Mutex<Option<Index>>,
    summary: Mutex<Option<Summary>>,
}

/// What is in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    /// When its newest frame was written, in milliseconds since 1970; 0 if it has none.
    pub(super) newest_wall: u64,
    /// Number of records by partition, without empty ones.
    pub(super) partitions: Vec<(u16, u64)>,
}

/// How far a file may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The offset after its last record.
    pub(super) end: Offset,
    /// Where its last frame ends.
    pub(super) position: u64,
    /// Wall time of its newest frame; 0 if it has none or it is unknown.
    pub(super) newest_wall: u64,
    /// Whether nothing more is added.
    pub(super) is_sealed: bool,
}

/// A new file could not be created.
#[derive(Debug)]
pub(super) enum CreateError {
    /// No room or no permission; a retry may succeed.
    Failed(io::Error),
    /// A sync failed after the file got its name: its state is unknown.
    Sync(io::Error),
}

// === impl Segment ===

impl Segment {
    pub(super) fn new(header: SegmentHeader, extent: Extent) -> Self {
        Self {
            header,
            extent: Mutex::new(extent),
            index: Mutex::default(),
            summary: Mutex::default(),
        }
    }

    /// A segment without frames.
    pub(super) fn empty(header: SegmentHeader) -> Self {
        let extent =
            Extent { end: header.base, position: FIRST_FRAME, newest_wall: 0, is_sealed: false };
        Self::with_index(header, extent, Index::new(header.epoch, header.base, FIRST_FRAME))
    }

    /// A segment that grows, or is about to be sealed.
    pub(super) fn with_index(header: SegmentHeader, extent: Extent, index: Index) -> Self {
        Self { index: Mutex::new(Some(index)), ..Self::new(header, extent) }
    }

    pub(super) fn base(&self) -> Offset {
        self.header.base
    }

    pub(super) fn extent(&self) -> Extent {
        *self.extent.lock()
    }

    /// Lets readers go this far.
    pub(super) fn publish(&self, end: Offset, position: u64, newest_wall: u64) {
        let mut extent = self.extent.lock();
        (extent.end, extent.position, extent.newest_wall) = (end, position, newest_wall);
    }

    /// Marks that nothing more is added.
    pub(super) fn seal(&self) {
        self.extent.lock().is_sealed = true;
        *self.index.lock() = None;
    }

    /// Remembers a new frame, with the partition of each of its records.
    pub(super) fn note(
        &self,
        head: &FrameHead,
        position: u64,
        partitions: impl IntoIterator<Item = u16>,
    ) {
        if let Some(index) = &mut *self.index.lock() {
            let wall = head.closing.wall;
            index.add_frame(position, head.length as u64, head.base, wall, partitions);
        }
    }

    /// Its index, while it grows.
    pub(super) fn own_index(&self) -> Option<Index> {
        self.index.lock().clone()
    }

    /// The last known frame that does not begin after `offset`; only while it grows.
    pub(super) fn place_of(&self, offset: Offset) -> Option<(Offset, u64)> {
        let index = self.index.lock();
        index.as_ref()?.block_of(offset).map(|block| (block.base, block.position))
    }

    /// What it contains, if it is sealed and was looked up.
    pub(super) fn summary(&self) -> Option<Summary> {
        self.summary.lock().clone()
    }

    /// For a file that does not grow.
    pub(super) fn set_summary(&self, summary: &Summary) {
        if self.extent().is_sealed {
            *self.summary.lock() = Some(summary.clone());
        }
    }
}

impl CreateError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Failed(error) | Self::Sync(error) => error,
        }
    }
}

impl fmt::Display for CreateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) | Self::Sync(error) => error.fmt(f),
        }
    }
}

/// `00000000000000000042.log`.
pub(super) fn file_name(base: Offset, ending: &str) -> String {
    format!("{:020}.{ending}", base.0)
}

/// No log reaches such an offset.
const MAX_BASE: u64 = u64::MAX >> 1;

/// The base offset in a file's name, if it has this ending.
pub(super) fn base_of(name: &str, ending: &str) -> Option<Offset> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    let is_number = digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit());
    // Larger numbers are not ours; the end offset after one could overflow.
    let base = if is_number { digits.parse().ok()? } else { return None };
    (base <= MAX_BASE).then_some(Offset(base))
}

impl Place {
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Creates the log's directory and those above it, durably.
    pub(super) fn make_dir(&self) -> io::Result<()> {
        let above: Vec<&Path> = self.dir.ancestors().skip(1).collect();
        match self.storage.create_dir(&self.dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                for dir in above.iter().rev().filter(|dir| !dir.as_os_str().is_empty()) {
                    self.storage.create_dir(dir)?;
                    dir.parent().map_or(Ok(()), |parent| self.storage.sync_dir(parent))?;
                }
                self.storage.create_dir(&self.dir)?;
            }
            made => made?,
        }
        above.first().map_or(Ok(()), |parent| self.storage.sync_dir(parent))
    }

    pub(super) fn segment_path(&self, base: Offset) -> PathBuf {
        self.path(&file_name(base, "log"))
    }

    /// Syncs the log's directory, so that its file names last.
    pub(super) fn sync_dir(&self) -> io::Result<()> {
        if mutation::is(Mutation::DropTheDirectorySync) {
            return Ok(());
        }
        self.storage.sync_dir(&self.dir)
    }

    /// Replaces a file atomically: new file, sync, rename. Durable after [`Place::sync_dir`].
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let unfinished = self.path(&format!("{name}{UNFINISHED}"));
        remove_if_there(&*self.storage, &unfinished)?;
        let file = self.storage.create(&unfinished)?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync());
        let named = written.and_then(|()| self.storage.rename(&unfinished, &self.path(name)));
        if named.is_err() {
            // If this fails it is removed when the log is opened.
            drop(remove_if_there(&*self.storage, &unfinished));
        }
        named
    }
}

/// Creates a segment's file with room for `bytes`. `fill` may add frames before the file gets its
/// name and replaces whatever had it.
pub(super) fn create(
    place: &Place,
    header: &SegmentHeader,
    bytes: u64,
    fill: impl FnOnce(&dyn File) -> io::Result<()>,
) -> Result<Box<dyn File>, CreateError> {
    let name = file_name(header.base, "log");
    let unfinished = place.path(&format!("{name}{UNFINISHED}"));
    let made = remove_if_there(&*place.storage, &unfinished)
        .and_then(|()| place.storage.create(&unfinished))
        .and_then(|file| {
            allocate(&*file, bytes)?;
            fill(&*file)?;
            begin(place, header, &unfinished, file)
        });
    let file = made.map_err(|error| {
        drop(remove_if_there(&*place.storage, &unfinished));
        CreateError::Failed(error)
    })?;
    place.sync_dir().map_err(CreateError::Sync)?;
    Ok(file)
}

/// As [`create`], for a file that was prepared ahead under another name.
pub(super) fn adopt(
    place: &Place,
    header: &SegmentHeader,
    unfinished: &Path,
    file: Box<dyn File>,
) -> Result<Box<dyn File>, CreateError> {
    let file = begin(place, header, unfinished, file).map_err(|error| {
        drop(remove_if_there(&*place.storage, unfinished));
        CreateError::Failed(error)
    })?;
    place.sync_dir().map_err(CreateError::Sync)?;
    Ok(file)
}

/// Writes the header of a file that has room, syncs the file, and gives it its name.
fn begin(
    place: &Place,
    header: &SegmentHeader,
    unfinished: &Path,
    file: Box<dyn File>,
) -> io::Result<Box<dyn File>> {
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    place.storage.rename(unfinished, &place.segment_path(header.base))?;
    Ok(file)
}

/// Allocates `bytes`, or half of that and so on while it is worth it.
fn allocate(file: &dyn File, bytes: u64) -> io::Result<()> {
    let mut length = bytes.max(MIN_SEGMENT_BYTES);
    loop {
        match file.allocate(length) {
            Err(error) if storage::is_full(&error) && length > MIN_SEGMENT_BYTES => {
                length = (length / 2).max(MIN_SEGMENT_BYTES);
            }
            result => return result,
        }
    }
}

/// For a new file: unique to it.
pub(super) fn random_epoch() -> u64 {
    fastrand::u64(1..)
}

pub(super) fn remove_if_there(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_sort_as_their_offsets_do() {
        assert_eq!(file_name(Offset(42), "log"), "00000000000000000042.log");
        assert_eq!(base_of("00000000000000000042.log", "log"), Some(Offset(42)));
        let highest = format!("{}.log", u64::MAX);
        for other in
            [&*highest, "42.log", "00000000000000000042.idx", "0000000000000000004x.log", "log", ""]
        {
            assert_eq!(base_of(other, "log"), None, "{other}");
        }
    }
}
