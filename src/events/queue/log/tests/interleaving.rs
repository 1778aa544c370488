//! Publishers and the writer in every order there is.
//!
//! Test 16 of the specification: no acknowledgement before its sync, no wake-up that is lost, and who
//! stops waiting stops nothing. The first test explores all orders of the steps that the queue's lock
//! makes whole; the second holds the real thread at its sync.

use std::{collections::HashSet, io, path::Path, sync::Arc};

use parking_lot::{Condvar, Mutex};

use super::{
    super::{
        writer::{Next, Waiting},
        *,
    },
    Home, append,
};
use crate::events::queue::{
    Offset,
    storage::{File, Lock, Real, Space, Storage},
};

/// What each publisher publishes, one after the other, waiting for each.
const PUBLISHERS: usize = 2;
const ROUNDS: u8 = 3;

/// All there is to know between two steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    waiting: Waiting<(usize, u8)>,
    publishers: [Publisher; PUBLISHERS],
    writer: Thread,
    synced: Vec<(usize, u8)>,
    acknowledged: Vec<(usize, u8)>,
    refused: usize,
    may_stop: bool,
    may_wake: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Publisher {
    Before(u8),
    /// It has pushed, and is about to wake the writer.
    Waking(u8),
    Waiting(u8),
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Thread {
    Looking { is_late: bool },
    Asleep,
    Written(Vec<(usize, u8)>),
    Synced(Vec<(usize, u8)>),
    Ended,
}

impl World {
    fn new(may_stop: bool) -> Self {
        Self {
            waiting: Waiting::default(),
            publishers: [Publisher::Before(0); PUBLISHERS],
            writer: Thread::Looking { is_late: false },
            synced: Vec::new(),
            acknowledged: Vec::new(),
            refused: 0,
            may_stop,
            may_wake: true,
        }
    }

    /// Every world that is one step away.
    fn steps(&self) -> Vec<Self> {
        let mut next: Vec<Self> = (0..PUBLISHERS).filter_map(|who| self.publish(who)).collect();
        next.extend(self.write());
        if self.writer == Thread::Asleep && self.may_wake {
            // Something is due, or it wakes for nothing. Once: nobody may depend on it.
            for is_late in [false, true] {
                let writer = Thread::Looking { is_late };
                next.push(Self { writer, may_wake: false, ..self.clone() });
            }
        }
        if self.may_stop {
            let mut stopped = Self { may_stop: false, ..self.clone() };
            stopped.waiting.stop();
            stopped.wake();
            next.push(stopped);
        }
        next
    }

    fn wake(&mut self) {
        if self.writer == Thread::Asleep {
            self.writer = Thread::Looking { is_late: false };
        }
    }

    fn publish(&self, who: usize) -> Option<Self> {
        let mut world = self.clone();
        world.publishers[who] = match self.publishers[who] {
            Publisher::Before(round) => match world.waiting.push((who, round)) {
                Ok(true) => Publisher::Waking(round),
                Ok(false) => Publisher::Waiting(round),
                Err(_) => {
                    world.refused += 1;
                    Publisher::Done
                }
            },
            Publisher::Waking(round) => {
                world.wake();
                Publisher::Waiting(round)
            }
            Publisher::Waiting(round) if self.acknowledged.contains(&(who, round)) => {
                if round + 1 < ROUNDS { Publisher::Before(round + 1) } else { Publisher::Done }
            }
            Publisher::Waiting(_) | Publisher::Done => return None,
        };
        Some(world)
    }

    fn write(&self) -> Option<Self> {
        let mut world = self.clone();
        world.writer = match &self.writer {
            Thread::Looking { is_late } => {
                let mut batch = Vec::new();
                match world.waiting.next(&mut batch, *is_late, |_| (1, 1)) {
                    Next::Batch => Thread::Written(batch),
                    Next::Stop => Thread::Ended,
                    Next::Sleep => Thread::Asleep,
                }
            }
            Thread::Written(batch) => {
                world.synced.extend(batch);
                Thread::Synced(batch.clone())
            }
            Thread::Synced(batch) => {
                world.acknowledged.extend(batch);
                Thread::Looking { is_late: false }
            }
            Thread::Asleep | Thread::Ended => return None,
        };
        Some(world)
    }

    fn check(&self) {
        let is_synced = |it: &(usize, u8)| self.synced.contains(it);
        assert!(self.acknowledged.iter().all(is_synced), "acknowledged before the sync: {self:?}");
    }

    /// Nothing more can happen.
    fn check_end(&self) {
        let is_done = |publisher: &Publisher| *publisher == Publisher::Done;
        assert!(self.publishers.iter().all(is_done), "someone waits for ever: {self:?}");
        if self.refused == 0 {
            assert_eq!(self.acknowledged.len(), PUBLISHERS * usize::from(ROUNDS), "{self:?}");
        }
    }
}

#[test]
fn t16_in_no_order_is_a_wake_up_lost_or_an_acknowledgement_early() {
    for may_stop in [false, true] {
        let mut seen = HashSet::new();
        let mut open = vec![World::new(may_stop)];
        let mut ends = 0;
        while let Some(world) = open.pop() {
            world.check();
            let next = world.steps();
            if next.is_empty() {
                world.check_end();
                ends += 1;
            }
            open.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
        }
        assert!(ends > 0 && seen.len() > 300, "{} worlds, {ends} ends", seen.len());
    }
}

/// Files whose syncs wait until they are let through.
#[derive(Clone, Debug)]
struct Gate {
    real: Arc<Real>,
    open: Arc<(Mutex<bool>, Condvar)>,
}

#[derive(Debug)]
struct Gated {
    file: Box<dyn File>,
    gate: Option<Gate>,
}

impl Gate {
    fn set(&self, is_open: bool) {
        *self.open.0.lock() = is_open;
        self.open.1.notify_all();
    }

    fn file(&self, file: Box<dyn File>) -> Box<dyn File> {
        Box::new(Gated { file, gate: Some(self.clone()) })
    }
}

impl Storage for Gate {
    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.real.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.real.open(path).map(|file| self.file(file))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.real.open_read(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.real.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.real.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.real.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.real.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.real.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.real.sync_dir(path)
    }

    fn space(&self) -> io::Result<Space> {
        self.real.space()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        self.real.lock(path)
    }
}

impl File for Gated {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file.read_at(buffer, position)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        if let Some(gate) = &self.gate {
            let mut is_open = gate.open.0.lock();
            while !*is_open {
                gate.open.1.wait(&mut is_open);
            }
        }
        self.file.sync()
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.file.truncate(length)
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }
}

#[test]
fn t16_nobody_is_told_before_the_sync_and_who_leaves_cancels_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let real = Arc::new(Real::open(dir.path()).unwrap());
    let gate = Gate { real, open: Arc::new((Mutex::new(true), Condvar::new())) };
    let home = Home::on(Arc::new(gate.clone()));
    let (log, _) = home.open();
    gate.set(false);
    let mut commits: Vec<Commit> = (0..50).map(|n| append(&log, [n])).collect();
    // Half of them leave.
    let left = commits.split_off(25);
    drop(left);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), &mut commits[0]);
        assert!(early.await.is_err(), "acknowledged before the sync");
        assert_eq!(log.durable(), Offset::ZERO, "readable before the sync");
        gate.set(true);
        for (n, commit) in (0..).zip(commits) {
            assert_eq!(commit.await.unwrap()[0].offset, Offset(n));
        }
        // Those whose publishers have left are there as well.
        append(&log, [50]).await.unwrap();
    });
    assert_eq!(super::all(&log), (0..51).map(|n| (n, n)).collect::<Vec<_>>());
    assert!(log.gauges().commit_events.count() <= 3, "what collects is written together");
}
