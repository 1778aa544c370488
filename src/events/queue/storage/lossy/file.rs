//! The unsynced bytes of a file.

use std::{io, sync::Arc};

use parking_lot::Mutex;

use crate::events::queue::storage::File;

/// Write-back happens in pieces of this size, in any order.
const PAGE: usize = 4096;
/// One write in this many leaks a page to the real file.
const LEAKS: u32 = 8;

/// A file, independent of its names.
#[derive(Debug)]
pub(super) struct Inode {
    real: Box<dyn File>,
    unsynced: Mutex<Unsynced>,
}

#[derive(Debug)]
struct Unsynced {
    /// The length that the program sees.
    length: u64,
    /// Only this many bytes of the real file are still valid.
    cut: u64,
    /// In order of writing.
    writes: Vec<(u64, Vec<u8>)>,
}

/// An open handle.
#[derive(Debug)]
pub(super) struct LossyFile {
    inode: Arc<Inode>,
    is_read_only: bool,
}

// === impl Inode ===

impl Inode {
    pub(super) fn new(real: Box<dyn File>) -> io::Result<Self> {
        let length = real.length()?;
        let unsynced = Mutex::new(Unsynced { length, cut: u64::MAX, writes: Vec::new() });
        Ok(Self { real, unsynced })
    }

    /// Whether the real file is up to date.
    pub(super) fn is_clean(&self) -> bool {
        let unsynced = self.unsynced.lock();
        unsynced.writes.is_empty()
            && unsynced.cut == u64::MAX
            && self.real.length().is_ok_and(|length| length == unsynced.length)
    }
}

// === impl Unsynced ===

impl Unsynced {
    fn write_back(&self, real: &dyn File) -> io::Result<()> {
        if self.cut < real.length()? {
            real.truncate(self.cut)?;
        }
        real.allocate(self.length)?;
        let mut pages: Vec<_> = self
            .writes
            .iter()
            .flat_map(|(start, bytes)| {
                let place = move |(page, bytes)| (start + (page * PAGE) as u64, bytes);
                bytes.chunks(PAGE).enumerate().map(place)
            })
            .collect();
        if !self.overlaps() {
            fastrand::shuffle(&mut pages);
        }
        pages.into_iter().try_for_each(|(position, bytes)| real.write_at(bytes, position))
    }

    /// Whether two writes touch the same bytes, so that their order matters.
    fn overlaps(&self) -> bool {
        let range = |(start, bytes): &(u64, Vec<u8>)| (*start, start + bytes.len() as u64);
        let mut ranges: Vec<_> = self.writes.iter().map(range).collect();
        ranges.sort_unstable();
        ranges.windows(2).any(|pair| pair[0].1 > pair[1].0)
    }
}

// === impl LossyFile ===

impl LossyFile {
    pub(super) fn new(inode: Arc<Inode>, is_read_only: bool) -> Self {
        Self { inode, is_read_only }
    }

    fn change(&self) -> io::Result<parking_lot::MutexGuard<'_, Unsynced>> {
        if self.is_read_only {
            return Err(rustix::io::Errno::BADF.into());
        }
        Ok(self.inode.unsynced.lock())
    }
}

impl File for LossyFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let unsynced = self.inode.unsynced.lock();
        let count = unsynced.length.saturating_sub(position).min(buffer.len() as u64);
        let buffer = &mut buffer[..index(count)];
        buffer.fill(0);
        let real = index(unsynced.cut.saturating_sub(position).min(count));
        self.inode.real.read_at(&mut buffer[..real], position)?;
        for (start, bytes) in &unsynced.writes {
            let from = position.max(*start);
            let to = (position + count).min(start + bytes.len() as u64);
            if from < to {
                buffer[index(from - position)..index(to - position)]
                    .copy_from_slice(&bytes[index(from - start)..index(to - start)]);
            }
        }
        Ok(buffer.len())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut unsynced = self.change()?;
        unsynced.writes.push((position, bytes.to_vec()));
        unsynced.length = unsynced.length.max(position + bytes.len() as u64);
        if unsynced.cut == u64::MAX && fastrand::u32(..LEAKS) == 0 {
            let pages = bytes.len().div_ceil(PAGE);
            let start = fastrand::usize(..pages.max(1)) * PAGE;
            let end = bytes.len().min(start + PAGE);
            self.inode.real.write_at(&bytes[start..end], position + start as u64)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut unsynced = self.inode.unsynced.lock();
        let result = unsynced.write_back(&*self.inode.real);
        // Not retried, whether it failed or not.
        unsynced.writes.clear();
        unsynced.cut = u64::MAX;
        result.and_then(|()| self.inode.real.sync())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if length > self.length()? {
            self.change()?.length = length;
        }
        Ok(())
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        let mut unsynced = self.change()?;
        if length > unsynced.length {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        unsynced.length = length;
        unsynced.cut = unsynced.cut.min(length);
        unsynced.writes.retain_mut(|(start, bytes)| {
            bytes.truncate(index(length.saturating_sub(*start)));
            !bytes.is_empty()
        });
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.inode.unsynced.lock().length)
    }
}

/// A position inside a buffer.
fn index(position: u64) -> usize {
    usize::try_from(position).unwrap_or(usize::MAX)
}
