//! No delayed event is lost or moved twice, even if the topic does not deduplicate.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use uuid::Uuid;

use super::*;
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Draft, Fields, Kind, Record},
    log::{
        AppendError, DiskSettings, DiskWatch, Log, Permit, Place, Plain, Purpose, Recovery,
        Refused, Writer,
    },
    storage::model::{Crash, Fault, Model, Op, Survivors, campaign},
    time::{ManualClock, Now},
    topic::clock_guard::Judged,
};

const SETTINGS: Settings = Settings { max_delayed: 100, max_age: Duration::from_secs(1_000) };

struct World {
    topic: Log,
    delayed: DelayedLog,
    mover: Mover,
    _writer: Writer,
}

/// What was promised, and what may exist.
#[derive(Default)]
struct Ledger {
    promised: BTreeSet<u64>,
    possible: BTreeSet<u64>,
}

fn at(wall: u64) -> Judged {
    Judged { wall, is_frozen: false, thaws: 0, change: None }
}

fn event(number: u64, due: u64, bytes: usize) -> Draft {
    let fields = Fields::builder().source("/test").id(&number.to_string()).build();
    let mut draft = Draft::new(Kind::Event, fields, Bytes::from(vec![b'x'; bytes]));
    draft.not_before = Some(due);
    draft
}

fn number(record: &Record<'_>) -> u64 {
    record.id().unwrap().parse().unwrap()
}

impl Target for Log {
    fn log(&self) -> &Log {
        self
    }

    fn permit(&self, bytes: u64) -> Result<Permit, Refused> {
        self.permit_for(Purpose::Accepted, bytes)
    }
}

impl World {
    fn open(model: &Model, recovery: Recovery) -> Option<Self> {
        let clock = ManualClock::at(Now { wall: 1_000, mono: 1_000 });
        let writer = Writer::spawn("test", Arc::new(clock)).unwrap();
        let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let place = Place {
            disk: Arc::new(DiskWatch::new(Arc::new(model.clone()), disk)),
            storage: Arc::new(model.clone()),
            dir: PathBuf::from("topic"),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(2)),
        };
        let settings = crate::events::queue::log::Settings {
            segment_bytes: 64 << 10,
            recovery,
            ..Default::default()
        };
        let (topic, _) =
            Log::open(&writer, place.clone(), &settings, Offset::ZERO, Box::new(Plain)).ok()?;
        let (delayed, mover, _) = DelayedLog::open(&writer, &place, &settings).ok()?;
        Some(Self { topic, delayed, mover, _writer: writer })
    }

    fn append(&self, ledger: &mut Ledger, events: Vec<(u64, u64, usize)>) {
        let numbers: Vec<u64> = events.iter().map(|it| it.0).collect();
        ledger.possible.extend(&numbers);
        let drafts = events.into_iter().map(|(number, due, bytes)| event(number, due, bytes));
        let Ok(commit) = self.delayed.append(drafts.collect()) else { return };
        if commit.wait().is_ok() {
            ledger.promised.extend(numbers);
        }
    }

    fn run(&mut self, wall: u64) -> Moved {
        self.mover.run(&self.topic, &at(wall), 0)
    }

    /// Moves everything.
    fn finish(&mut self) {
        for _ in 0..1_000 {
            let moved = self.run(u64::MAX);
            assert!(moved.trouble.is_none(), "{:?}", moved.trouble);
            if moved.again.is_none() {
                return;
            }
        }
        panic!("it does not end");
    }

    /// The events of the topic, in order.
    fn events(&self) -> Vec<u64> {
        let mut reader = self.topic.reader();
        let (mut from, mut found) = (self.topic.start(), Vec::new());
        loop {
            let block = reader.read(from, 1 << 20).unwrap();
            if block.is_empty() {
                return found;
            }
            found.extend(block.records().map(|(_, record)| number(&record)));
            from = block.next();
        }
    }

    fn check(&self, ledger: &Ledger) {
        let mut counts = BTreeMap::new();
        self.events().into_iter().for_each(|it| *counts.entry(it).or_insert(0) += 1);
        for number in &ledger.promised {
            assert_eq!(counts.get(number), Some(&1), "event {number} of {counts:?}");
        }
        for (number, count) in counts {
            assert!(ledger.possible.contains(&number), "event {number} was never there");
            assert_eq!(count, 1, "event {number}");
        }
    }
}

/// A run with moves, events that arrive while others wait, and files that are given up.
fn live(model: &Model, ledger: &mut Ledger, base: u64) {
    let Some(mut world) = World::open(model, Recovery::Strict) else { return };
    world.append(ledger, vec![(base, 300, 10), (base + 1, 100, 30_000), (base + 2, 200, 10)]);
    world.run(150);
    world.append(ledger, vec![(base + 3, 120, 30_000), (base + 4, 10_000, 10)]);
    world.run(250);
    world.append(ledger, vec![(base + 5, 20_000, 30_000)]);
    world.run(9_000);
}

fn recover(model: &Model, ledger: &Ledger) {
    let mut world = World::open(model, Recovery::Strict).expect("opening after a crash");
    world.finish();
    world.check(ledger);
    assert_eq!(world.delayed.waiting(), 0);
}

#[test]
fn what_is_due_comes_in_the_order_in_which_it_is() {
    let model = Model::new();
    let mut ledger = Ledger::default();
    let mut world = World::open(&model, Recovery::Strict).unwrap();
    world.append(&mut ledger, vec![(1, 300, 10), (2, 100, 10), (3, 200, 10), (4, 100, 10)]);
    let moved = world.run(99);
    assert_eq!((moved.events, moved.again), (0, Some(Duration::from_millis(1))));
    assert_eq!(world.run(100).events, 2);
    assert_eq!(world.events(), [2, 4]);
    assert_eq!(world.delayed.waiting(), 2);
    let moved = world.run(5_000);
    assert_eq!((moved.events, moved.again), (2, None));
    assert_eq!(world.events(), [2, 4, 3, 1]);
}

#[test]
fn what_waits_is_there_after_a_restart_and_what_was_moved_is_not() {
    let model = Model::new();
    let mut ledger = Ledger::default();
    live(&model, &mut ledger, 0);
    let mut world = World::open(&model.restart(), Recovery::Strict).unwrap();
    world.run(0);
    assert_eq!(world.delayed.waiting(), 2, "those due at 10 s and at 20 s");
    world.finish();
    assert_eq!(world.events(), [1, 3, 2, 0, 4, 5]);
    world.check(&ledger);
}

#[test]
fn a_crash_at_every_operation_loses_nothing_and_moves_nothing_twice() {
    let model = Model::new();
    live(&model, &mut Ledger::default(), 0);
    let operations = model.operations();
    for stop in 0..operations + 2 {
        for survivors in Survivors::ALL {
            for seed in 0..campaign(1) {
                let (model, mut ledger) = (Model::new(), Ledger::default());
                model.stop_at(stop);
                live(&model, &mut ledger, 0);
                recover(&model.crash(Crash::new(survivors, stop * 31 + seed)), &ledger);
            }
        }
    }
}

#[test]
fn crash_after_crash_loses_nothing_and_moves_nothing_twice() {
    for seed in 0..30 * campaign(1) {
        let mut lots = fastrand::Rng::with_seed(seed);
        let (mut model, mut ledger) = (Model::new(), Ledger::default());
        for life in 0..5 {
            model.stop_at(model.operations() + lots.u64(0..70));
            live(&model, &mut ledger, life * 10);
            model = if lots.u8(0..4) == 0 {
                model.restart()
            } else {
                model.crash(Crash::any(seed * 100 + life))
            };
        }
        recover(&model, &ledger);
    }
}

#[test]
fn a_topic_that_fails_while_it_takes_them_takes_them_once() {
    for nth in 0..6 {
        for seed in 0..4 {
            let (model, mut ledger) = (Model::new(), Ledger::default());
            (0..seed).for_each(|_| model.reshuffle());
            let mut world = World::open(&model, Recovery::Strict).unwrap();
            world.append(&mut ledger, vec![(1, 10, 10), (2, 20, 10), (3, 30, 10)]);
            model.fail_nth(Op::Sync, nth, Fault::Io);
            for wall in [10, 20, 30, 40] {
                world.run(wall);
            }
            for log in [&world.topic, world.delayed.log()] {
                if log.is_offline() {
                    log.reopen().unwrap();
                }
            }
            world.finish();
            world.check(&ledger);
            recover(&model.crash(Crash::any(seed)), &ledger);
        }
    }
}

#[test]
fn a_topic_that_is_offline_is_waited_for() {
    let (model, mut ledger) = (Model::new(), Ledger::default());
    let mut world = World::open(&model, Recovery::Strict).unwrap();
    world.append(&mut ledger, vec![(1, 10, 10)]);
    world.topic.close();
    let moved = world.run(10);
    assert!(matches!(moved.trouble, Some(Trouble::Topic(AppendError::Refused(_)))));
    assert!(moved.again.is_some());
    assert_eq!(world.delayed.waiting(), 1);
}

#[test]
fn nothing_moves_while_the_clock_is_frozen_and_a_backlog_comes_bit_by_bit() {
    let (model, mut ledger) = (Model::new(), Ledger::default());
    let mut world = World::open(&model, Recovery::Strict).unwrap();
    world.append(&mut ledger, (0..60).map(|number| (number, number, 10)).collect());
    let frozen = Judged { is_frozen: true, ..at(1_000_000) };
    let moved = world.mover.run(&world.topic, &frozen, 0);
    assert_eq!((moved.events, moved.again), (0, Some(Duration::from_secs(1))));
    let thawed = |after: u64| Judged { thaws: 1, ..at(1_000_000 + after) };
    let random = 1_234;
    assert_eq!(world.mover.run(&world.topic, &thawed(0), random).events, 0);
    assert_eq!(world.mover.run(&world.topic, &thawed(1_233), random).events, 0);
    assert_eq!(world.mover.run(&world.topic, &thawed(1_234), random).events, 1);
    assert_eq!(world.mover.run(&world.topic, &thawed(31_234), random).events, 30);
    assert_eq!(world.mover.run(&world.topic, &thawed(61_234), random).events, 29);
    assert_eq!(world.events(), (0..60).collect::<Vec<_>>(), "in their order");
}

#[test]
fn too_long_a_wait_and_too_many_are_not_taken() {
    let (model, mut ledger) = (Model::new(), Ledger::default());
    let mut world = World::open(&model, Recovery::Strict).unwrap();
    let admit =
        |world: &World, due, count| world.delayed.admit(&SETTINGS, due, count, &at(5_000), 5_000);
    assert_eq!(admit(&world, 1_005_000, 100), Ok(()));
    assert_eq!(admit(&world, 1_005_001, 1), Err(NotAdmitted::TooLong));
    assert_eq!(admit(&world, 0, 101), Err(NotAdmitted::Full));
    world.append(&mut ledger, (0..60).map(|number| (number, 10, 10)).collect());
    assert_eq!(admit(&world, 0, 41), Err(NotAdmitted::Full), "before the mover has seen them");
    world.run(0);
    assert_eq!(admit(&world, 0, 41), Err(NotAdmitted::Full));
    assert_eq!(admit(&world, 0, 40), Ok(()));
    world.run(10);
    assert_eq!(admit(&world, 0, 100), Ok(()));
}

#[test]
fn one_that_waits_for_long_does_not_keep_all_that_was_moved_behind_it() {
    let (model, mut ledger) = (Model::new(), Ledger::default());
    let mut world = World::open(&model, Recovery::Strict).unwrap();
    world.append(&mut ledger, vec![(0, 1_000_000, 10)]);
    let mut most = 0;
    for number in 1..60 {
        world.append(&mut ledger, vec![(number, number, 20_000)]);
        world.run(number);
        most = most.max(world.delayed.log().status().bytes);
    }
    assert!(most < 5 * (64 << 10), "{most} bytes");
    let mut world = World::open(&model.restart(), Recovery::Strict).unwrap();
    world.run(0);
    assert_eq!(world.delayed.waiting(), 1);
    world.finish();
    world.check(&ledger);
}

#[test]
fn a_crash_while_files_are_given_up_loses_nothing() {
    let life = |model: &Model, ledger: &mut Ledger| {
        let Some(mut world) = World::open(model, Recovery::Strict) else { return };
        world.append(ledger, vec![(0, 1_000_000, 10)]);
        for number in 1..14 {
            world.append(ledger, vec![(number, number, 30_000)]);
            world.run(number);
        }
    };
    let model = Model::new();
    life(&model, &mut Ledger::default());
    for stop in 20..model.operations() {
        let (model, mut ledger) = (Model::new(), Ledger::default());
        model.stop_at(stop);
        life(&model, &mut ledger);
        recover(&model.crash(Crash::any(stop)), &ledger);
    }
}

#[test]
fn notes_that_are_lost_to_damage_move_nothing_twice() {
    let (model, mut ledger) = (Model::new(), Ledger::default());
    let mut world = World::open(&model, Recovery::Quarantine).unwrap();
    world.append(&mut ledger, vec![(1, 10, 10), (2, 10, 10), (3, 99, 10)]);
    world.run(10);
    world.delayed.log().close();
    drop(world);
    // Both marks of the first two: one byte, the end of the topic, their offsets.
    let path = Path::new("topic/delayed/00000000000000000000.log");
    let bytes = model.bytes(path);
    for kind in [1, 2] {
        let note: Vec<u8> = [&[kind][..], &[0; 16], &1_u64.to_le_bytes()].concat();
        let at = bytes.windows(note.len()).position(|it| it == note).expect("the note");
        model.flip(path, at as u64, 4);
    }
    let mut world = World::open(&model.restart(), Recovery::Quarantine).unwrap();
    assert_eq!(world.delayed.lost(), 2, "the notes");
    world.finish();
    world.check(&ledger);
}
