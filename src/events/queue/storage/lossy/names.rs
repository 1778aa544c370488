//! The unsynced names.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::file::Inode;
use crate::events::queue::storage::{File, Real, Storage};

/// One change in this many is synced by itself.
const LEAKS: u32 = 8;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Dir,
}

#[derive(Debug)]
pub(super) struct Names {
    real: Arc<Real>,
    /// New files are here until their name is synced; others have an additional name here.
    hidden: PathBuf,
    next: u64,
    /// Named files that are open or have unsynced bytes.
    files: HashMap<PathBuf, Node>,
    dirs: HashMap<PathBuf, Dir>,
}

/// A file, shared with the changes to its names.
#[derive(Clone, Debug)]
struct Node {
    inode: Arc<Inode>,
    handle: Arc<Handle>,
}

/// A file's name in the hidden directory, which it keeps whatever happens to its others.
#[derive(Debug)]
struct Handle {
    real: Arc<Real>,
    path: PathBuf,
}

/// The differences of a directory to the real one.
#[derive(Debug, Default)]
struct Dir {
    /// None if the name is free.
    names: BTreeMap<String, Option<Kind>>,
    /// In order of the changes.
    unsynced: Vec<Change>,
    /// How many of them are synced but wait for the directory itself.
    synced: usize,
}

#[derive(Debug)]
enum Change {
    /// From no name, or from a name in another directory.
    Add {
        name: String,
        node: Node,
    },
    /// Within the directory.
    Move {
        from: String,
        to: String,
        _node: Node,
    },
    Remove {
        name: String,
    },
    AddDir {
        name: String,
    },
    RemoveDir {
        name: String,
    },
}

// === impl Names ===

impl Names {
    pub(super) fn new(real: Arc<Real>, hidden: PathBuf) -> Self {
        Self { real, hidden, next: 0, files: HashMap::new(), dirs: HashMap::new() }
    }

    pub(super) fn hidden(&self) -> &Path {
        &self.hidden
    }

    /// What is at `path`.
    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        let Some((dir, name)) = split(path) else { return Ok(Some(Kind::Dir)) };
        if let Some(kind) = self.dirs.get(dir).and_then(|dir| dir.names.get(name)) {
            return Ok(*kind);
        }
        match self.real.list(path) {
            Ok(_) => Ok(Some(Kind::Dir)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::NotADirectory => {
                // It is a file, or something above it is one.
                match self.real.open_read(path) {
                    Ok(_) => Ok(Some(Kind::File)),
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The directory and the name in a path. The directory must exist.
    fn place<'a>(&self, path: &'a Path) -> io::Result<(&'a Path, &'a str)> {
        let (dir, name) = split(path).ok_or(ErrorKind::InvalidInput)?;
        match self.kind(dir)? {
            Some(Kind::Dir) => Ok((dir, name)),
            Some(Kind::File) => Err(ErrorKind::NotADirectory.into()),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    fn node(&mut self, path: &Path) -> io::Result<Node> {
        if let Some(node) = self.files.get(path) {
            return Ok(node.clone());
        }
        match self.kind(path)? {
            Some(Kind::File) => {}
            Some(Kind::Dir) => return Err(ErrorKind::IsADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        }
        let hidden = self.hide();
        self.real.link(path, &hidden)?;
        self.track(path, self.real.open(path)?, hidden)
    }

    fn hide(&mut self) -> PathBuf {
        self.next += 1;
        self.hidden.join(self.next.to_string())
    }

    fn track(&mut self, path: &Path, file: Box<dyn File>, hidden: PathBuf) -> io::Result<Node> {
        let handle = Arc::new(Handle { real: Arc::clone(&self.real), path: hidden });
        let node = Node { inode: Arc::new(Inode::new(file)?), handle };
        self.files.insert(path.to_owned(), node.clone());
        Ok(node)
    }

    pub(super) fn open(&mut self, path: &Path) -> io::Result<Arc<Inode>> {
        Ok(self.node(path)?.inode)
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<Arc<Inode>> {
        let (dir, name) = self.place(path)?;
        if self.kind(path)?.is_some() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let hidden = self.hide();
        let node = self.track(path, self.real.create(&hidden)?, hidden)?;
        let inode = Arc::clone(&node.inode);
        self.change(dir, name, Some(Kind::File), Change::Add { name: name.to_owned(), node })?;
        Ok(inode)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = self.node(from)?;
        let (from_dir, from_name) = self.place(from)?;
        let (to_dir, to_name) = self.place(to)?;
        if self.kind(to)? == Some(Kind::Dir) {
            return Err(ErrorKind::IsADirectory.into());
        }
        if from == to {
            return Ok(());
        }
        self.files.remove(from);
        self.files.insert(to.to_owned(), node.clone());
        let (from, to) = (from_name.to_owned(), to_name.to_owned());
        if from_dir == to_dir {
            self.dirs.entry(to_dir.to_owned()).or_default().names.insert(from.clone(), None);
            return self.change(
                to_dir,
                to_name,
                Some(Kind::File),
                Change::Move { from, to, _node: node },
            );
        }
        self.change(to_dir, to_name, Some(Kind::File), Change::Add { name: to, node })?;
        self.change(from_dir, from_name, None, Change::Remove { name: from })
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.node(path)?;
        let (dir, name) = self.place(path)?;
        self.files.remove(path);
        self.change(dir, name, None, Change::Remove { name: name.to_owned() })
    }

    pub(super) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        match self.kind(path)? {
            Some(Kind::Dir) => return Ok(()),
            Some(Kind::File) => return Err(ErrorKind::AlreadyExists.into()),
            None => {}
        }
        let (dir, name) = self.place(path)?;
        self.change(dir, name, Some(Kind::Dir), Change::AddDir { name: name.to_owned() })
    }

    pub(super) fn remove_dir(&mut self, path: &Path) -> io::Result<()> {
        if !self.list(path)?.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = self.place(path)?;
        self.change(dir, name, None, Change::RemoveDir { name: name.to_owned() })?;
        // At once, because a new directory of that name is a different one.
        self.sync(dir)
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        match self.kind(path)? {
            Some(Kind::Dir) => {}
            Some(Kind::File) => return Err(ErrorKind::NotADirectory.into()),
            None => return Err(ErrorKind::NotFound.into()),
        }
        let mut names: BTreeSet<String> = match self.real.list(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeSet::new(),
            names => names?.into_iter().collect(),
        };
        for (name, kind) in self.dirs.get(path).into_iter().flat_map(|dir| &dir.names) {
            if kind.is_some() {
                names.insert(name.clone());
            } else {
                names.remove(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    fn change(
        &mut self,
        path: &Path,
        name: &str,
        kind: Option<Kind>,
        change: Change,
    ) -> io::Result<()> {
        let dir = self.dirs.entry(path.to_owned()).or_default();
        dir.names.insert(name.to_owned(), kind);
        dir.unsynced.push(change);
        if fastrand::u32(..LEAKS) == 0 { self.sync(path) } else { Ok(()) }
    }

    /// Writes a directory's names to the real one, if that exists.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        if self.kind(path)? != Some(Kind::Dir) {
            return Err(ErrorKind::NotFound.into());
        }
        let is_real = self.real.list(path).is_ok();
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.synced = dir.unsynced.len();
        }
        if is_real {
            self.flush(path)?;
        }
        self.files.retain(|_, node| Arc::strong_count(&node.inode) > 1 || !node.inode.is_clean());
        Ok(())
    }

    fn flush(&mut self, path: &Path) -> io::Result<()> {
        let mut made = Vec::new();
        while let Some(change) = self.dirs.get_mut(path).and_then(Dir::next) {
            match &change {
                Change::AddDir { name } => made.push(path.join(name)),
                Change::RemoveDir { name } => self.empty(&path.join(name))?,
                Change::Add { .. } | Change::Move { .. } | Change::Remove { .. } => {}
            }
            change.apply(&self.real, path)?;
        }
        self.real.sync_dir(path)?;
        if self.dirs.get(path).is_some_and(|dir| dir.unsynced.is_empty()) {
            self.dirs.remove(path);
        }
        for path in made {
            if self.dirs.contains_key(&path) && self.real.list(&path).is_ok() {
                self.flush(&path)?;
            }
        }
        Ok(())
    }

    /// Empties a directory that is to be removed, on disk too.
    fn empty(&mut self, path: &Path) -> io::Result<()> {
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.synced = dir.unsynced.len();
            self.flush(path)?;
        }
        Ok(())
    }
}

// === impl Dir ===

impl Dir {
    /// The next synced change to apply.
    fn next(&mut self) -> Option<Change> {
        self.synced = self.synced.checked_sub(1)?;
        Some(self.unsynced.remove(0))
    }
}

// === impl Handle ===

impl Drop for Handle {
    fn drop(&mut self) {
        // If this fails, removing the directory removes it.
        self.real.remove(&self.path).ok();
    }
}

// === impl Change ===

impl Change {
    fn apply(self, real: &Real, dir: &Path) -> io::Result<()> {
        match self {
            Self::Add { name, node } => {
                let link = node.handle.path.with_extension("link");
                real.link(&node.handle.path, &link)?;
                real.rename(&link, &dir.join(name))?;
                // The link remains if the new name already belonged to the file.
                match real.remove(&link) {
                    Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                }
            }
            Self::Move { from, to, .. } => real.rename(&dir.join(from), &dir.join(to)),
            Self::Remove { name } => real.remove(&dir.join(name)),
            Self::AddDir { name } => real.create_dir(&dir.join(name)),
            Self::RemoveDir { name } => real.remove_dir(&dir.join(name)),
        }
    }
}

/// The directory and the name in a path; none for the root.
fn split(path: &Path) -> Option<(&Path, &str)> {
    Some((path.parent()?, path.file_name()?.to_str()?))
}
