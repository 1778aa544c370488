//! The three storages are equivalent to a program that does not die; the lossy one loses what it should.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use fastrand::Rng;

use super::{
    model::{Model, campaign},
    *,
};

const NAMES: [&str; 7] = ["a", "b", "c", "d/a", "d/b", "e/a", "e/b"];
const DIRS: [&str; 3] = ["", "d", "e"];

/// One storage and what is open in it.
struct Under {
    storage: Box<dyn Storage>,
    open: HashMap<usize, Box<dyn File>>,
}

#[derive(Clone, Debug)]
enum Step {
    Create(usize, &'static str),
    Open(usize, &'static str),
    OpenRead(usize, &'static str),
    Close(usize),
    Write(usize, u64, Vec<u8>),
    Truncate(usize, u64),
    Allocate(usize, u64),
    Sync(usize),
    Read(usize, u64, usize),
    Rename(&'static str, &'static str),
    Remove(&'static str),
    CreateDir(&'static str),
    RemoveDir(&'static str),
    SyncDir(&'static str),
    List(&'static str),
}

impl Step {
    fn any(rng: &mut Rng) -> Self {
        let name = NAMES[rng.usize(..NAMES.len())];
        let other = NAMES[rng.usize(..NAMES.len())];
        let dir = DIRS[rng.usize(..DIRS.len())];
        let file = rng.usize(..4);
        let position = rng.u64(..9000);
        match rng.u8(..24) {
            0 | 1 => Self::Create(file, name),
            2 | 3 => Self::Open(file, name),
            4 => Self::OpenRead(file, name),
            5 => Self::Close(file),
            6..=9 => Self::Write(file, position, vec![rng.u8(..); rng.usize(..6000)]),
            10 => Self::Truncate(file, position),
            11 => Self::Allocate(file, position),
            12 | 13 => Self::Sync(file),
            14..=16 => Self::Read(file, position, rng.usize(..9000)),
            17 | 18 => Self::Rename(name, other),
            19 => Self::Remove(name),
            20 => Self::CreateDir(dir),
            21 => Self::RemoveDir(dir),
            22 => Self::SyncDir(dir),
            _ => Self::List(dir),
        }
    }
}

impl Under {
    fn new(storage: impl Storage + 'static) -> Self {
        Self { storage: Box::new(storage), open: HashMap::new() }
    }

    /// What a program sees of a step: what was read, or that it failed.
    fn take(&mut self, step: &Step) -> Result<Vec<u8>, ()> {
        let keep = |open: &mut HashMap<_, _>, at: usize, file: std::io::Result<Box<dyn File>>| {
            file.map(|file| {
                open.insert(at, file);
                Vec::new()
            })
        };
        let nothing = |result: std::io::Result<()>| result.map(|()| Vec::new());
        let storage = &self.storage;
        let file = |at: &usize| self.open.get(at).ok_or(());
        match step {
            Step::Create(at, name) => keep(&mut self.open, *at, storage.create(Path::new(name))),
            Step::Open(at, name) => keep(&mut self.open, *at, storage.open(Path::new(name))),
            Step::OpenRead(at, name) => {
                keep(&mut self.open, *at, storage.open_read(Path::new(name)))
            }
            Step::Close(at) => {
                self.open.remove(at);
                Ok(Vec::new())
            }
            Step::Write(at, position, bytes) => nothing(file(at)?.write_at(bytes, *position)),
            Step::Truncate(at, length) => nothing(file(at)?.truncate(*length)),
            Step::Allocate(at, length) => nothing(file(at)?.allocate(*length)),
            Step::Sync(at) => nothing(file(at)?.sync()),
            Step::Read(at, position, length) => {
                let mut bytes = vec![0xee; *length];
                file(at)?.read_at(&mut bytes, *position).map(|count| {
                    bytes.truncate(count);
                    bytes
                })
            }
            Step::Rename(from, to) => nothing(storage.rename(Path::new(from), Path::new(to))),
            Step::Remove(name) => nothing(storage.remove(Path::new(name))),
            Step::CreateDir(name) => nothing(storage.create_dir(Path::new(name))),
            Step::RemoveDir("") => Ok(Vec::new()),
            Step::RemoveDir(name) => nothing(storage.remove_dir(Path::new(name))),
            Step::SyncDir(name) => nothing(storage.sync_dir(Path::new(name))),
            Step::List(name) => {
                storage.list(Path::new(name)).map(|names| names.join(" ").into_bytes())
            }
        }
        .map_err(|_| ())
    }
}

#[test]
fn real_model_and_lossy_are_one_to_a_program_that_lives() {
    for seed in 0..campaign(6) {
        let mut rng = Rng::with_seed(seed);
        fastrand::seed(seed);
        let (real, lossy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut all = [
            Under::new(Real::open(real.path()).unwrap()),
            Under::new(Model::new()),
            Under::new(Lossy::open(lossy.path()).unwrap()),
        ];
        for number in 0..300 {
            let step = Step::any(&mut rng);
            let seen: Vec<_> = all.iter_mut().map(|under| under.take(&step)).collect();
            assert!(seen[0] == seen[1], "seed {seed}, step {number}: {step:?}: the model differs");
            assert!(seen[0] == seen[2], "seed {seed}, step {number}: {step:?}: lossy differs");
        }
    }
}

fn content(storage: &dyn Storage, path: &str) -> Option<Vec<u8>> {
    let file = storage.open_read(Path::new(path)).ok()?;
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn lossy_keeps_what_was_synced_and_only_leaks_the_rest() {
    let mut has_lost = [false; 4];
    for seed in 0..campaign(40) {
        fastrand::seed(seed);
        let dir = tempfile::tempdir().unwrap();
        let storage = Lossy::open(dir.path()).unwrap();
        let file = storage.create(Path::new("a")).unwrap();
        file.write_at(b"one", 0).unwrap();
        file.sync().unwrap();
        storage.create_dir(Path::new("d")).unwrap();
        storage.sync_dir(Path::new("")).unwrap();
        file.write_at(b"TWO", 0).unwrap();
        let new = storage.create(Path::new("d/new")).unwrap();
        new.write_at(b"new", 0).unwrap();
        new.sync().unwrap();
        storage.create(Path::new("d/kept")).unwrap();
        storage.sync_dir(Path::new("d")).unwrap();
        storage.remove(Path::new("d/kept")).unwrap();
        let unnamed = storage.create(Path::new("b")).unwrap();
        unnamed.write_at(b"x", 0).unwrap();
        unnamed.sync().unwrap();
        storage.rename(Path::new("d/new"), Path::new("d/moved")).unwrap();
        // The process is killed: its memory is lost.
        let storage = Lossy::open(dir.path()).unwrap();
        let a = content(&storage, "a").unwrap();
        assert!(a == b"one" || a == b"TWO");
        let names = storage.list(Path::new("d")).unwrap();
        let moved = if names.iter().any(|name| name == "new") { "d/new" } else { "d/moved" };
        assert_eq!(content(&storage, moved).unwrap(), b"new");
        has_lost[0] |= a == b"one";
        has_lost[1] |= moved == "d/new";
        has_lost[2] |= content(&storage, "b").is_none();
        has_lost[3] |= content(&storage, "d/kept").is_some();
    }
    assert_eq!(has_lost, [true; 4]);
}

#[test]
fn lossy_loses_a_directory_without_a_name() {
    fastrand::seed(1);
    let mut has_lost = false;
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let storage = Lossy::open(dir.path()).unwrap();
        storage.create_dir(Path::new("d")).unwrap();
        let file = storage.create(Path::new("d/a")).unwrap();
        file.write_at(b"x", 0).unwrap();
        file.sync().unwrap();
        storage.sync_dir(Path::new("d")).unwrap();
        has_lost |=
            !Lossy::open(dir.path()).unwrap().list(Path::new("")).unwrap().contains(&"d".into());
    }
    assert!(has_lost);
}

#[test]
fn lossy_hides_its_own_and_leaves_nothing_of_others() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".lossy-1")).unwrap();
    std::fs::write(dir.path().join(".lossy-1/7"), b"x").unwrap();
    let storage = Lossy::open(dir.path()).unwrap();
    let _lock = storage.lock(Path::new("LOCK")).unwrap().unwrap();
    assert_eq!(storage.list(Path::new("")).unwrap(), ["LOCK"]);
    let left: Vec<PathBuf> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!left.iter().any(|path| path.ends_with(".lossy-1")));
}
