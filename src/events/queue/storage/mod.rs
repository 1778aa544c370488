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

/// The directory at `root`, created if it is missing. In debug builds `SLUICE_TEST_STORAGE=lossy`
/// selects the lossy file system.
pub fn open(root: &Path) -> io::Result<Arc<dyn Storage>> {
    #[cfg(any(test, debug_assertions))]
    if lossy::is_asked_for() {
        return Ok(Arc::new(Lossy::open(root)?));
    }
    Ok(Arc::new(Real::open(root)?))
}

/// Whether a full disk is the only cause.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A directory tree of files.
pub trait Storage: fmt::Debug + Send + Sync {
    /// Creates a file, to read and write. `AlreadyExists` if the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file, to read and write.
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Opens an existing file, to read.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>>;

    /// Renames a file, replacing the target. Durable only after [`Storage::sync_dir`] of both
    /// directories.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; open handles stay valid.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Creates a directory; its parent exists. An existing one is left as it is.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, in order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Syncs the names in a directory. A file is durable only after its own sync and this.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Space on the disk, as far as this process may use it.
    fn space(&self) -> io::Result<Space>;

    /// Locks the file at `path`, created if needed, until the guard is dropped or the process ends.
    /// `None` if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
}

/// An open file. Reads and writes take a position: there is no cursor to share.
pub trait File: fmt::Debug + Send + Sync {
    /// Reads into `buffer`; less than its length only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;

    /// Writes all of `bytes`; after an error any part of them may be written.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;

    /// What was written through this handle is on disk once this returns `Ok`. After an error the
    /// state is unknown, and a second call proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file `length` bytes long, with disk space for each and the new ones zero. Costs 1
    /// ms per MiB, and the next sync writes them: steps of a few MiB avoid a long sync.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Cuts the file to `length` bytes.
    fn truncate(&self, length: u64) -> io::Result<()>;

    /// Length of the file in bytes.
    fn length(&self) -> io::Result<u64>;
}

/// Holds a lock until it is dropped.
pub trait Lock: fmt::Debug + Send + Sync {
    /// Whether the locked file still has a name. Without one the directory was removed: what is
    /// written is lost with the open handles, and another process may start anew in its place.
    fn is_there(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Disk space in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What can still be written.
    pub free: u64,
    /// The whole disk.
    pub total: u64,
}
