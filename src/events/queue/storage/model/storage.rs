//! The model as a [`Storage`], and how a test controls it.

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{
    faults::{Fault, Op, Verdict},
    state::State,
    survival::Crash,
};
use crate::events::queue::storage::{File, Lock, Space, Storage};

/// A machine with a disk. A clone is the same machine.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct ModelFile {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    id: u64,
    /// Number of write-back errors it was told of.
    heard: Mutex<u64>,
    is_read_only: bool,
}

#[derive(Debug)]
struct ModelLock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
}

// === impl Model ===

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// An empty disk.
    pub(crate) fn new() -> Self {
        Self::from(State::new())
    }

    fn from(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)) }
    }

    // What happens to the machine

    /// Cuts the power: this machine is dead, and the returned one has its disk.
    pub(crate) fn crash(&self, crash: Crash) -> Self {
        let mut state = self.state.lock();
        state.faults.stop();
        Self::from(state.crash(crash))
    }

    /// Kills the program while the machine runs on: handles and locks are gone, the cache is not.
    pub(crate) fn restart(&self) -> Self {
        let mut state = self.state.lock();
        let new = Self::from(state.restart());
        state.faults.stop();
        new
    }

    /// An independent machine in the same state, without open handles.
    pub(crate) fn fork(&self) -> Self {
        Self::from(self.state.lock().restart())
    }

    /// Drops everything from the cache but unsynced changes.
    pub(crate) fn evict(&self) {
        self.state.lock().files.values_mut().for_each(super::inode::Inode::evict);
    }

    /// Fails a background write-back of a file.
    pub(crate) fn fail_writeback(&self, path: &Path) {
        let mut state = self.state.lock();
        let mut lots = state.failure();
        let id = state.names.file(path).expect("the file is there");
        state.file(id).fail_writeback(Fault::Io, &mut lots);
    }

    /// Advances the random generator, so that failed syncs leave something else from then on.
    pub(crate) fn reshuffle(&self) {
        self.state.lock().failure();
    }

    /// Sets the disk's capacity.
    pub(crate) fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// Sets the free space.
    pub(crate) fn set_free(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.capacity = state.used() + bytes;
    }

    // What fails

    /// Number of operations so far that change something.
    pub(crate) fn operations(&self) -> u64 {
        self.state.lock().faults.trace().len() as u64
    }

    /// Those operations, in order.
    pub(crate) fn trace(&self) -> Vec<(Op, PathBuf)> {
        self.state.lock().faults.trace().to_vec()
    }

    /// The machine dies in the operation of that number, counted from 0: it begins and does not
    /// return. Everything after it fails.
    pub(crate) fn stop_at(&self, number: u64) {
        self.state.lock().faults.stop_at(number);
    }

    /// Whether it died.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state.lock().faults.is_stopped()
    }

    /// Fails the operation of that number, counted from 0.
    pub(crate) fn fail_at(&self, number: u64, fault: Fault) {
        self.state.lock().faults.fail_at(number, fault);
    }

    /// Skips `nth` operations of a kind, and fails the next.
    pub(crate) fn fail_nth(&self, op: Op, nth: u64, fault: Fault) {
        self.state.lock().faults.fail_nth(op, nth, fault);
    }

    /// Fails all operations of a kind.
    pub(crate) fn fail_every(&self, op: Op, fault: Fault) {
        self.state.lock().faults.fail_every(op, fault);
    }

    /// Cancels all planned faults.
    pub(crate) fn heal(&self) {
        self.state.lock().faults.heal();
    }

    // Contents and damage. A file that does not exist is a bug of the test.

    /// The paths of all files.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.state.lock().names.paths()
    }

    /// The bytes of a file on disk.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.with(path, |file| file.durable().to_vec())
    }

    /// Flips the bits of `mask` in a byte.
    pub(crate) fn flip(&self, path: &Path, position: u64, mask: u8) {
        let at = usize::try_from(position).expect("a position in memory");
        self.with(path, |file| file.damage(|bytes| bytes[at] ^= mask));
    }

    /// Zeros a range.
    pub(crate) fn zero(&self, path: &Path, range: Range<u64>) {
        let end = usize::try_from(range.end).expect("a position in memory");
        let start = usize::try_from(range.start).expect("a position in memory");
        self.with(path, |file| file.damage(|bytes| bytes[start..end].fill(0)));
    }

    /// Truncates a file.
    pub(crate) fn cut(&self, path: &Path, length: u64) {
        let length = usize::try_from(length).expect("a length in memory");
        self.with(path, |file| file.damage(|bytes| bytes.truncate(length)));
    }

    /// Replaces a file's bytes.
    pub(crate) fn overwrite(&self, path: &Path, bytes: &[u8]) {
        self.with(path, |file| file.damage(|old| bytes.clone_into(old)));
    }

    /// Makes the sectors of a range unreadable.
    pub(crate) fn spoil(&self, path: &Path, range: Range<u64>) {
        self.with(path, |file| file.spoil(range.clone()));
    }

    fn with<T>(&self, path: &Path, work: impl FnOnce(&mut super::inode::Inode) -> T) -> T {
        let mut state = self.state.lock();
        let id = state.names.file(path).expect("the file is there");
        work(state.file(id))
    }

    fn handle(&self, path: &Path, id: u64, heard: u64, is_read_only: bool) -> Box<dyn File> {
        let state = Arc::clone(&self.state);
        let heard = Mutex::new(heard);
        Box::new(ModelFile { state, path: path.to_owned(), id, heard, is_read_only })
    }
}

impl Storage for Model {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let id = self.state.lock().create(path)?;
        Ok(self.handle(path, id, 0, false))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let (id, heard) = self.state.lock().open(path)?;
        Ok(self.handle(path, id, heard, false))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let (id, heard) = self.state.lock().open(path)?;
        Ok(self.handle(path, id, heard, true))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state.lock().rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.state.lock().create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.state.lock().remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state.lock();
        if let Verdict::Fail(fault) = state.faults.judge(Op::Open, path)? {
            return Err(fault.error());
        }
        state.names.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.state.lock().sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.state.lock();
        if state.faults.is_stopped() {
            return Err(super::faults::off());
        }
        let total = state.capacity;
        Ok(Space { free: total.saturating_sub(state.used()), total })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        match self.create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !self.state.lock().locks.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(ModelLock { state: Arc::clone(&self.state), path: path.to_owned() })))
    }
}

// === impl ModelFile ===

impl ModelFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.is_read_only { Err(rustix::io::Errno::BADF.into()) } else { Ok(()) }
    }
}

impl File for ModelFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut state = self.state.lock();
        if let Verdict::Fail(fault) = state.faults.judge(Op::Read, &self.path)? {
            return Err(fault.error());
        }
        state.file(self.id).read(buffer, usize::try_from(position).unwrap_or(usize::MAX))
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.check_writable()?;
        self.state.lock().write(self.id, &self.path, bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.state.lock().sync(self.id, &self.path, &mut self.heard.lock())
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        if length > self.length()? {
            self.check_writable()?;
        }
        self.state.lock().allocate(self.id, &self.path, length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.check_writable()?;
        self.state.lock().truncate(self.id, &self.path, length)
    }

    fn length(&self) -> io::Result<u64> {
        let mut state = self.state.lock();
        if let Verdict::Fail(fault) = state.faults.judge(Op::Open, &self.path)? {
            return Err(fault.error());
        }
        Ok(state.file(self.id).cached().len() as u64)
    }
}

impl Drop for ModelFile {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        let file = state.file(self.id);
        file.handles = file.handles.saturating_sub(1);
    }
}

// === impl ModelLock ===

impl Lock for ModelLock {}

impl Drop for ModelLock {
    fn drop(&mut self) {
        self.state.lock().locks.remove(&self.path);
    }
}
