//! The machine: its files, names, disk space and planned faults.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::{
    faults::{Fault, Faults, Op, Verdict, off},
    inode::{Inode, PAGE},
    names::{Entry, Names},
    survival::{Crash, Lots, Survivors},
};

/// Disk capacity, unless a test sets another.
const CAPACITY: u64 = 1 << 40;
/// How many removed files are remembered for the old contents of their blocks.
const RECYCLED: usize = 16;

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) files: BTreeMap<u64, Inode>,
    pub(super) names: Names,
    pub(super) faults: Faults,
    pub(super) capacity: u64,
    /// Paths of the locks held.
    pub(super) locks: HashSet<PathBuf>,
    /// Contents of removed files.
    recycled: Vec<Vec<u8>>,
    next_id: u64,
    next_change: u64,
    rng: Rng,
}

// === impl State ===

impl State {
    pub(super) fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            names: Names::new(),
            faults: Faults::default(),
            capacity: CAPACITY,
            locks: HashSet::new(),
            recycled: Vec::new(),
            next_id: 1,
            next_change: 0,
            rng: Rng::with_seed(0),
        }
    }

    /// The number of the next change.
    fn number(&mut self) -> u64 {
        self.next_change += 1;
        self.next_change
    }

    pub(super) fn used(&self) -> u64 {
        let named: HashSet<_> =
            self.names.paths().iter().filter_map(|path| self.names.file(path).ok()).collect();
        let takes = |(id, file): &(&u64, &Inode)| named.contains(*id) || file.handles > 0;
        self.files.iter().filter(takes).map(|(_, file)| Inode::room(file.cached().len())).sum()
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let verdict = self.faults.judge(Op::Create, path)?;
        if let Verdict::Fail(fault) = verdict {
            return Err(fault.error());
        }
        let id = self.new_id();
        let number = self.number();
        self.names.add(number, path, Entry::File(id))?;
        self.file(id).handles = 1;
        done(verdict).map(|()| id)
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<(u64, u64)> {
        if let Verdict::Fail(fault) = self.faults.judge(Op::Open, path)? {
            return Err(fault.error());
        }
        let id = self.names.file(path)?;
        let file = self.file(id);
        file.handles += 1;
        Ok((id, file.heard()))
    }

    pub(super) fn file(&mut self, id: u64) -> &mut Inode {
        self.files.entry(id).or_default()
    }

    pub(super) fn write(&mut self, id: u64, path: &Path, bytes: &[u8], at: u64) -> io::Result<()> {
        let verdict = self.faults.judge(Op::Write, path)?;
        let position = usize::try_from(at).map_err(|_| Fault::NoSpace.error())?;
        let (part, result) = match verdict {
            Verdict::Fail(fault) => (self.rng.usize(0..=bytes.len()), Err(fault.error())),
            Verdict::Die => (bytes.len(), Err(off())),
            Verdict::Go => (bytes.len(), Ok(())),
        };
        let end = self.room_for(id, position + part);
        let number = self.number();
        let fits = end.saturating_sub(position).min(part);
        self.file(id).write(number, &bytes[..fits], position);
        if fits < part {
            return Err(Fault::NoSpace.error());
        }
        result
    }

    /// The length that a file can reach if it should become `length` bytes long.
    fn room_for(&mut self, id: u64, length: usize) -> usize {
        let has = Inode::room(self.file(id).cached().len());
        if Inode::room(length) <= has || self.capacity == CAPACITY {
            return length;
        }
        let free = self.capacity.saturating_sub(self.used());
        let most = usize::try_from(has + free).unwrap_or(usize::MAX);
        length.min(most - most % PAGE)
    }

    pub(super) fn allocate(&mut self, id: u64, path: &Path, length: u64) -> io::Result<()> {
        let verdict = self.faults.judge(Op::Allocate, path)?;
        let length = usize::try_from(length).map_err(|_| Fault::NoSpace.error())?;
        let before = self.file(id).cached().len();
        if length <= before {
            return done(verdict);
        }
        let reached = match verdict {
            Verdict::Fail(_) => before + self.rng.usize(0..=length - before),
            Verdict::Die | Verdict::Go => length,
        };
        let end = self.room_for(id, reached).max(before);
        let number = self.number();
        self.file(id).set_length(number, end);
        if end < reached {
            return Err(Fault::NoSpace.error());
        }
        done(verdict)
    }

    pub(super) fn truncate(&mut self, id: u64, path: &Path, length: u64) -> io::Result<()> {
        let verdict = self.faults.judge(Op::Truncate, path)?;
        if let Verdict::Fail(fault) = verdict {
            return Err(fault.error());
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > self.file(id).cached().len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let number = self.number();
        self.file(id).set_length(number, length);
        done(verdict)
    }

    pub(super) fn sync(&mut self, id: u64, path: &Path, heard: &mut u64) -> io::Result<()> {
        match self.faults.judge(Op::Sync, path)? {
            Verdict::Die => Err(off()),
            Verdict::Go => self.file(id).sync(heard),
            Verdict::Fail(fault) => {
                let mut lots = self.failure();
                let file = self.file(id);
                file.fail_writeback(fault, &mut lots);
                file.tell(heard)
            }
        }
    }

    /// Decides at random what a failed sync leaves.
    pub(super) fn failure(&mut self) -> Lots {
        Lots::new(Crash::new(Survivors::Random, self.rng.u64(..)), 0, 0)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(Op::Rename, to, |names, number| names.rename(number, from, to))
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.change(Op::Remove, path, |names, number| names.remove(number, path))
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        let id = self.new_id();
        self.change(Op::CreateDir, path, |names, number| match names.find(path) {
            Ok(Entry::Dir(_)) => Ok(()),
            _ => names.add(number, path, Entry::Dir(id)),
        })
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        self.change(Op::RemoveDir, path, |names, number| names.remove_dir(number, path))
    }

    fn change(
        &mut self,
        op: Op,
        path: &Path,
        work: impl FnOnce(&mut Names, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let verdict = self.faults.judge(op, path)?;
        if let Verdict::Fail(fault) = verdict {
            return Err(fault.error());
        }
        let number = self.number();
        work(&mut self.names, number)?;
        done(verdict)
    }

    pub(super) fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.faults.judge(Op::SyncDir, path)? {
            Verdict::Die => Err(off()),
            Verdict::Go => {
                self.names.sync(path)?;
                self.forget();
                Ok(())
            }
            Verdict::Fail(fault) => {
                let mut lots = self.failure();
                self.names.fail_sync(path, &mut lots)?;
                Err(fault.error())
            }
        }
    }

    /// Frees the blocks of files that nothing refers to.
    fn forget(&mut self) {
        let named = self.names.in_use();
        let recycled = &mut self.recycled;
        self.files.retain(|id, file| {
            let stays = file.handles > 0 || named.contains(id);
            if !stays && !file.durable().is_empty() {
                recycled.push(file.durable().to_vec());
            }
            stays
        });
        let excess = self.recycled.len().saturating_sub(RECYCLED);
        self.recycled.drain(..excess);
    }

    /// The disk after a power cut, in a machine that just started.
    pub(super) fn crash(&self, crash: Crash) -> Self {
        let unsynced = self.files.values().filter_map(Inode::unsynced).chain(self.names.unsynced());
        let (first, last) = unsynced
            .reduce(|(first, last), (start, end)| (first.min(start), last.max(end)))
            .unwrap_or((0, 0));
        let mut lots = Lots::new(crash, first, last);
        let (names, kept) = self.names.clone().survive(&mut lots);
        let mut new = Self { names, capacity: self.capacity, ..Self::new() };
        new.recycled.clone_from(&self.recycled);
        new.next_id = self.next_id;
        new.rng = Rng::with_seed(crash.seed);
        for (id, file) in &self.files {
            if kept.contains(id) {
                let stale = lots.rng.choice(&self.recycled).map_or(&[][..], Vec::as_slice);
                new.files.insert(*id, Inode::with(file.survive(&mut lots, stale), file.bad()));
            } else {
                new.recycled.push(file.durable().to_vec());
            }
        }
        new
    }

    /// The same machine after its program was killed: the cache is intact.
    pub(super) fn restart(&self) -> Self {
        let mut new = self.clone();
        new.faults = Faults::default();
        new.locks.clear();
        for file in new.files.values_mut() {
            file.handles = 0;
        }
        new.forget();
        new
    }
}

/// The end of a call that did its work.
fn done(verdict: Verdict) -> io::Result<()> {
    match verdict {
        Verdict::Go => Ok(()),
        Verdict::Fail(fault) => Err(fault.error()),
        Verdict::Die => Err(off()),
    }
}
