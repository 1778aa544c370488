//! Publishers and the writer in every possible order.
//!
//! Test 16 of the specification: no acknowledgement before its sync, no lost wake-up, and a
//! publisher that stops waiting stops nothing. The first test explores all orders of the steps that
//! the queue's lock makes atomic; the second holds the real thread at its sync.

use std::{collections::HashSet, io, path::Path, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};
use tokio::time::Instant;

use super::{
    super::{
        waiting::{Due, Next, Size, Waiting},
        *,
    },
    Home, append, draft,
};
use crate::events::queue::{
    Offset,
    storage::{File, Lock, Real, Space, Storage},
};

/// The publishers, and how many events each publishes in turn, awaiting each; the last awaits none.
const PUBLISHERS: usize = 3;
const ROUNDS: [u8; PUBLISHERS] = [2, 1, 2];
/// The publisher that does not wait.
const UNHURRIED: usize = 2;
/// Ticks until unwaited appends are due, and until the world ends.
const COLLECT: u64 = 2;
const TICKS: u64 = 3;

/// The whole state between two steps.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    waiting: Waiting<(usize, u8)>,
    publishers: [Publisher; PUBLISHERS],
    writer: Thread,
    tick: u64,
    /// Other work for the thread, once.
    also: Option<u64>,
    /// When unwaited appends are due that are submitted but not written.
    due: Vec<((usize, u8), u64)>,
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
    Looking,
    Asleep(Option<u64>),
    Written(Vec<(usize, u8)>),
    Synced(Vec<(usize, u8)>),
    Ended,
}

impl World {
    fn new(may_stop: bool) -> Self {
        Self {
            waiting: Waiting::default(),
            publishers: [Publisher::Before(0); PUBLISHERS],
            writer: Thread::Looking,
            tick: 0,
            also: Some(1),
            due: Vec::new(),
            synced: Vec::new(),
            acknowledged: Vec::new(),
            refused: 0,
            may_stop,
            may_wake: true,
        }
    }

    /// Every state that is one step away.
    fn steps(&self, base: Instant) -> Vec<Self> {
        let mut next: Vec<Self> =
            (0..PUBLISHERS).filter_map(|who| self.publish(who, base)).collect();
        next.extend(self.write(base));
        if let Thread::Asleep(until) = self.writer {
            let is_over = until.is_some_and(|until| until <= self.tick);
            if is_over || self.may_wake {
                // It wakes in time, or once spuriously: nothing may depend on that.
                let (writer, may_wake) = (Thread::Looking, self.may_wake && is_over);
                next.push(Self { writer, may_wake, ..self.clone() });
            }
        }
        // Time advances, but not while the thread oversleeps: that depends on the machine.
        let is_overdue = matches!(self.writer, Thread::Asleep(Some(until)) if until <= self.tick);
        if self.tick < TICKS && !is_overdue {
            next.push(Self { tick: self.tick + 1, ..self.clone() });
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
        if matches!(self.writer, Thread::Asleep(_)) {
            self.writer = Thread::Looking;
        }
    }

    fn publish(&self, who: usize, base: Instant) -> Option<Self> {
        let mut world = self.clone();
        let is_waited = who != UNHURRIED;
        let after = |round: u8| {
            let is_last = round + 1 >= ROUNDS[who];
            if is_last { Publisher::Done } else { Publisher::Before(round + 1) }
        };
        let handed = |round| if is_waited { Publisher::Waiting(round) } else { after(round) };
        world.publishers[who] = match self.publishers[who] {
            Publisher::Before(round) => {
                let at = if is_waited { self.tick } else { self.tick + COLLECT };
                let due = if is_waited { Due::Now } else { Due::At(at_tick(base, at)) };
                if let Ok(is_to_wake) = world.waiting.push((who, round), ONE, due) {
                    world.due.push(((who, round), at));
                    if is_to_wake { Publisher::Waking(round) } else { handed(round) }
                } else {
                    world.refused += 1;
                    Publisher::Done
                }
            }
            Publisher::Waking(round) => {
                world.wake();
                handed(round)
            }
            Publisher::Waiting(round) if self.acknowledged.contains(&(who, round)) => after(round),
            Publisher::Waiting(_) | Publisher::Done => return None,
        };
        Some(world)
    }

    fn write(&self, base: Instant) -> Option<Self> {
        let mut world = self.clone();
        world.writer = match &self.writer {
            Thread::Looking => {
                let (mut batch, now) = (Vec::new(), at_tick(base, self.tick));
                let also = self.also.map(|tick| at_tick(base, tick));
                match world.waiting.next(&mut batch, now, also, |_| ONE) {
                    Next::Batch => {
                        world.also = self.also.filter(|also| *also > self.tick);
                        world.due.retain(|(it, _)| !batch.contains(it));
                        Thread::Written(batch)
                    }
                    Next::Stop => Thread::Ended,
                    Next::Sleep(until) => Thread::Asleep(until.map(|until| tick_of(base, until))),
                }
            }
            Thread::Written(batch) => {
                world.synced.extend(batch);
                // States that differ only in a past order are the same.
                world.synced.sort_unstable();
                Thread::Synced(batch.clone())
            }
            Thread::Synced(batch) => {
                world.acknowledged.extend(batch);
                world.acknowledged.sort_unstable();
                Thread::Looking
            }
            Thread::Asleep(_) | Thread::Ended => return None,
        };
        Some(world)
    }

    fn check(&self) {
        let is_synced = |it: &(usize, u8)| self.synced.contains(it);
        assert!(self.acknowledged.iter().all(is_synced), "acknowledged before the sync: {self:?}");
        let is_waking = |it: &Publisher| matches!(it, Publisher::Waking(_));
        if let Thread::Asleep(until) = self.writer
            && !self.publishers.iter().any(is_waking)
        {
            let is_in_time = |(_, at): &(_, u64)| until.is_some_and(|until| until <= *at);
            assert!(self.due.iter().all(is_in_time), "it oversleeps: {self:?}");
            let is_put_off = |((who, _), _): &((usize, u8), u64)| *who != UNHURRIED;
            assert!(!self.due.iter().any(is_put_off), "someone waits who is put off: {self:?}");
        }
    }

    /// Nothing more can happen.
    fn check_end(&self) {
        let is_done = |publisher: &Publisher| *publisher == Publisher::Done;
        assert!(self.publishers.iter().all(is_done), "someone waits for ever: {self:?}");
        assert!(self.due.iter().all(|(_, at)| *at > TICKS), "forgotten: {self:?}");
        if self.refused == 0 {
            let all: u8 = ROUNDS.iter().sum();
            assert_eq!(self.acknowledged.len() + self.due.len(), usize::from(all), "{self:?}");
        }
    }
}

const ONE: Size = Size { bytes: 1, records: 1 };

fn at_tick(base: Instant, tick: u64) -> Instant {
    base + Duration::from_millis(tick)
}

fn tick_of(base: Instant, at: Instant) -> u64 {
    u64::try_from((at - base).as_millis()).unwrap()
}

#[test]
fn t16_in_no_order_is_a_wake_up_lost_or_an_acknowledgement_early() {
    let base = Instant::now();
    for may_stop in [false, true] {
        let mut seen = HashSet::new();
        let mut open = vec![World::new(may_stop)];
        let mut ends = 0;
        while let Some(world) = open.pop() {
            world.check();
            let next = world.steps(base);
            if next.is_empty() {
                world.check_end();
                ends += 1;
            }
            open.extend(next.into_iter().filter(|world| seen.insert(world.clone())));
        }
        assert!(ends > 0 && seen.len() > 300, "{} worlds, {ends} ends", seen.len());
    }
}

/// Files whose syncs wait until they are released.
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
        let early = tokio::time::timeout(Duration::from_millis(50), &mut commits[0]);
        assert!(early.await.is_err(), "acknowledged before the sync");
        assert_eq!(log.durable(), Offset::ZERO, "readable before the sync");
        gate.set(true);
        for (n, commit) in (0..).zip(commits) {
            assert_eq!(commit.await.unwrap()[0].offset, Offset(n));
        }
        // Events of publishers that have left are stored as well.
        append(&log, [50]).await.unwrap();
    });
    assert_eq!(super::all(&log), (0..51).map(|n| (n, n)).collect::<Vec<_>>());
    assert!(log.gauges().commit_events.count() <= 3, "what collects is written together");
}

#[test]
fn t16_whoever_does_not_wait_is_told_after_the_sync_and_written_with_others() {
    let dir = tempfile::tempdir().unwrap();
    let real = Arc::new(Real::open(dir.path()).unwrap());
    let gate = Gate { real, open: Arc::new((Mutex::new(true), Condvar::new())) };
    let home = Home::on(Arc::new(gate.clone()));
    let (log, _) = home.open();
    gate.set(false);
    let (tell, told) = std::sync::mpsc::sync_channel(100);
    for n in 0..100 {
        let tell = tell.clone();
        let then: Then = Box::new(move |outcome| tell.send(outcome).unwrap());
        let later = if n % 2 == 0 { Later::GoesOn(then) } else { Later::IsTold(then) };
        log.append_later(log.permit(200).unwrap(), vec![draft(n)], later).unwrap();
    }
    assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "told before the sync");
    assert_eq!(log.durable(), Offset::ZERO, "readable before the sync");
    gate.set(true);
    for n in 0..100 {
        let outcome = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert_eq!(outcome.unwrap()[0].offset, Offset(n));
    }
    assert!(log.gauges().commit_events.count() < 50, "what collects is written together");
}
