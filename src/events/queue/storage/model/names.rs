//! The directories: what each name refers to, on disk and in the cache.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::{self, ErrorKind},
    path::{Component, Path},
};

use super::survival::Lots;

/// What a name refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Entry {
    File(u64),
    Dir(u64),
}

const ROOT: u64 = 0;

#[derive(Clone, Debug)]
pub(super) struct Names {
    dirs: HashMap<u64, Dir>,
    /// In order, with their numbers.
    unsynced: Vec<(u64, Vec<Half>)>,
}

#[derive(Clone, Debug, Default)]
struct Dir {
    durable: BTreeMap<String, Entry>,
    cached: BTreeMap<String, Entry>,
}

/// A change to one name. Both halves of a change survive together.
#[derive(Clone, Debug)]
struct Half {
    dir: u64,
    name: String,
    /// None if the name is free.
    entry: Option<Entry>,
}

// === impl Names ===

impl Names {
    pub(super) fn new() -> Self {
        Self { dirs: HashMap::from([(ROOT, Dir::default())]), unsynced: Vec::new() }
    }

    /// Numbers of the first and the last unsynced change.
    pub(super) fn unsynced(&self) -> Option<(u64, u64)> {
        Some((self.unsynced.first()?.0, self.unsynced.last()?.0))
    }

    /// What is at `path`.
    pub(super) fn find(&self, path: &Path) -> io::Result<Entry> {
        let mut entry = Entry::Dir(ROOT);
        for part in path.components() {
            let name = match part {
                Component::CurDir => continue,
                Component::Normal(name) => name.to_str().ok_or(ErrorKind::InvalidInput)?,
                _ => return Err(ErrorKind::InvalidInput.into()),
            };
            let Entry::Dir(dir) = entry else { return Err(ErrorKind::NotADirectory.into()) };
            entry = *self.dirs[&dir].cached.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(entry)
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Entry::File(file) => Ok(file),
            Entry::Dir(_) => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn dir(&self, path: &Path) -> io::Result<u64> {
        match self.find(path)? {
            Entry::Dir(dir) => Ok(dir),
            Entry::File(_) => Err(ErrorKind::NotADirectory.into()),
        }
    }

    /// The directory and the last name of a path.
    fn split<'a>(&self, path: &'a Path) -> io::Result<(u64, &'a str)> {
        let name =
            path.file_name().and_then(|name| name.to_str()).ok_or(ErrorKind::InvalidInput)?;
        Ok((self.dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.dirs[&self.dir(path)?].cached.keys().cloned().collect())
    }

    /// Adds a name for a new entry.
    pub(super) fn add(&mut self, number: u64, path: &Path, entry: Entry) -> io::Result<()> {
        let (dir, name) = self.split(path)?;
        if self.dirs[&dir].cached.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        if let Entry::Dir(new) = entry {
            self.dirs.insert(new, Dir::default());
        }
        self.change(number, vec![Half { dir, name: name.to_owned(), entry: Some(entry) }]);
        Ok(())
    }

    /// Removes the name of a file.
    pub(super) fn remove(&mut self, number: u64, path: &Path) -> io::Result<()> {
        self.file(path)?;
        let (dir, name) = self.split(path)?;
        self.change(number, vec![Half { dir, name: name.to_owned(), entry: None }]);
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&mut self, number: u64, path: &Path) -> io::Result<()> {
        if !self.dirs[&self.dir(path)?].cached.is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        let (dir, name) = self.split(path)?;
        self.change(number, vec![Half { dir, name: name.to_owned(), entry: None }]);
        Ok(())
    }

    pub(super) fn rename(&mut self, number: u64, from: &Path, to: &Path) -> io::Result<()> {
        let entry = self.find(from)?;
        if let Ok(target) = self.find(to) {
            match (entry, target) {
                _ if entry == target => return Ok(()),
                (Entry::File(_), Entry::File(_)) => {}
                (Entry::File(_), Entry::Dir(_)) => return Err(ErrorKind::IsADirectory.into()),
                (Entry::Dir(_), Entry::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                (Entry::Dir(_), Entry::Dir(dir)) if self.dirs[&dir].cached.is_empty() => {}
                (Entry::Dir(_), Entry::Dir(_)) => return Err(ErrorKind::DirectoryNotEmpty.into()),
            }
        }
        let (to_dir, to_name) = self.split(to)?;
        let (from_dir, from_name) = self.split(from)?;
        self.change(
            number,
            vec![
                Half { dir: to_dir, name: to_name.to_owned(), entry: Some(entry) },
                Half { dir: from_dir, name: from_name.to_owned(), entry: None },
            ],
        );
        Ok(())
    }

    fn change(&mut self, number: u64, halves: Vec<Half>) {
        for half in &halves {
            half.apply(&mut self.dirs.entry(half.dir).or_default().cached);
        }
        self.unsynced.push((number, halves));
    }

    /// Writes the names of a directory to disk.
    pub(super) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let synced = self.dir(path)?;
        let dir = self.dirs.entry(synced).or_default();
        for (_, halves) in &mut self.unsynced {
            halves.retain(|half| {
                if half.dir == synced {
                    half.apply(&mut dir.durable);
                }
                half.dir != synced
            });
        }
        self.unsynced.retain(|(_, halves)| !halves.is_empty());
        Ok(())
    }

    /// Fails a sync of a directory: some or all of its changes never reach the disk.
    pub(super) fn fail_sync(&mut self, path: &Path, lots: &mut Lots) -> io::Result<()> {
        let synced = self.dir(path)?;
        let (lost, left) = std::mem::take(&mut self.unsynced)
            .into_iter()
            .partition(|(_, halves)| halves.iter().any(|half| half.dir == synced));
        self.unsynced = left;
        self.land(lost, lots);
        Ok(())
    }

    /// The names after a crash, and the files that still have one.
    pub(super) fn survive(mut self, lots: &mut Lots) -> (Self, HashSet<u64>) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.land(unsynced, lots);
        for dir in self.dirs.values_mut() {
            dir.cached = dir.durable.clone();
        }
        let (dirs, files) = self.reachable(|dir| &dir.durable);
        self.dirs.retain(|dir, _| dirs.contains(dir));
        (self, files)
    }

    fn land(&mut self, changes: Vec<(u64, Vec<Half>)>, lots: &mut Lots) {
        for (number, halves) in changes {
            if lots.keeps_name(number) {
                for half in halves {
                    half.apply(&mut self.dirs.entry(half.dir).or_default().durable);
                }
            }
        }
    }

    /// Files that have a name, on disk or in the cache, or may have one after a crash.
    pub(super) fn in_use(&self) -> HashSet<u64> {
        let mut files = self.reachable(|dir| &dir.cached).1;
        files.extend(self.reachable(|dir| &dir.durable).1);
        for half in self.unsynced.iter().flat_map(|(_, halves)| halves) {
            if let Some(Entry::File(file)) = half.entry {
                files.insert(file);
            }
        }
        files
    }

    /// The paths of all files in the cache.
    pub(super) fn paths(&self) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![(std::path::PathBuf::new(), ROOT)];
        while let Some((path, dir)) = open.pop() {
            for (name, entry) in &self.dirs[&dir].cached {
                match entry {
                    Entry::File(_) => found.push(path.join(name)),
                    Entry::Dir(dir) => open.push((path.join(name), *dir)),
                }
            }
        }
        found.sort();
        found
    }

    fn reachable(
        &self,
        names: impl Fn(&Dir) -> &BTreeMap<String, Entry>,
    ) -> (HashSet<u64>, HashSet<u64>) {
        let (mut dirs, mut files, mut open) = (HashSet::from([ROOT]), HashSet::new(), vec![ROOT]);
        while let Some(dir) = open.pop() {
            for entry in self.dirs.get(&dir).map(&names).into_iter().flat_map(BTreeMap::values) {
                match entry {
                    Entry::File(file) => {
                        files.insert(*file);
                    }
                    Entry::Dir(dir) if dirs.insert(*dir) => open.push(*dir),
                    Entry::Dir(_) => {}
                }
            }
        }
        (dirs, files)
    }
}

// === impl Half ===

impl Half {
    fn apply(&self, names: &mut BTreeMap<String, Entry>) {
        match self.entry {
            Some(entry) => names.insert(self.name.clone(), entry),
            None => names.remove(&self.name),
        };
    }
}
