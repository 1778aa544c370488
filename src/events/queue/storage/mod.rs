//! The queue's file system interface: every operation it needs, and nothing more.
//!
//! It is a trait so that tests can inject whatever a disk may do. All calls block; none is made on
//! a thread that serves requests. Paths are relative to the data directory.

#[cfg(any(test, debug_assertions))]
mod lossy;
#[cfg(test)]
pub(crate) mod model;
mod real;
#[cfg(test)]
mod tests;

use std::{fmt, io, path::Path, sync::Arc};

#[cfg(any(test, debug_assertions))]
pub use self::lossy::Lossy;
pub use self::real::Real;

/// The directory at `root` as this process is to see it, made where it is missing. Debug builds heed
/// `SLUICE_TEST_STORAGE=lossy`.
pub fn open(root: &Path) -> io::Result<Arc<dyn Storage>> {
    #[cfg(any(test, debug_assertions))]
    if lossy::is_asked_for() {
        return Ok(Arc::new(Lossy::open(root)?));
    }
    Ok(Arc::new(Real::open(root)?))
}

/// Whether there is no room for it: nothing else is wrong with the disk.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory of files.
pub trait Storage: fmt::Debug + Send + Sync {
    /// A new file, to read and write. `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// An existing file, to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// An existing file, to read.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Gives a file another name, in place of what had it. Lasting only after [`Storage::sync_dir`]
    /// of both directories.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away; open handles stay good.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes a directory; its parent is there. An existing one is left as it is.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// The names in a directory are on disk when this returns; a file is there for certain only
    /// after its own sync and this.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Room on the disk, as far as this process may use it.
    fn space(&self) -> io::Result<Space>;

    /// Locks the file at `path`, making it if needed, until the guard is dropped or the process ends.
    /// `None`: another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// An open file. Reads and writes name their position: there is no cursor to share.
pub trait File: fmt::Debug + Send + Sync {
    /// Reads into `buffer`; less than its length only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of `bytes`, or fails having written any part of them.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// What was written through this handle is on disk when this returns `Ok`. After an error nothing
    /// is known about it, and a second call proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file `length` bytes long with room on disk for each, the new ones zero. Costs 1 ms per
    /// MiB, and the next sync writes them: to go ahead in steps of a few MiB spares a long one.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Cuts the file to `length` bytes.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Bytes in the file.
    fn length(&self) -> io::Result<u64>;
}

/// Holds a lock for as long as it lives.
pub trait Lock: fmt::Debug + Send + Sync {
    /// Whether the file that is locked still has a name. Without one the directory was removed: what is
    /// written there lasts no longer than the handles do, and another process may begin anew in its place.
    fn is_there(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Room on a disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What may still be written.
    pub free: u64,
    /// All of it.
    pub total: u64,
}
