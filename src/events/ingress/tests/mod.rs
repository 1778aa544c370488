//! Exchanges on a modelled disk, with a crash at every operation.

mod attempts;
mod waiting;

use std::{path::PathBuf, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::events::{
    event::Event,
    queue::{
        LogId, Offset, StoreId,
        codec::HashKey,
        log::{
            AppendError, DiskSettings, DiskWatch, Log, Permit, Place, Plain, Purpose, Reason,
            Refused, Settings, Writer,
        },
        pool::Pool,
        storage::{
            Storage,
            model::{Crash, Fault, Model, Op, Survivors},
        },
        time::{ManualClock, Now},
        topic::clock_guard::GuardedClock,
    },
};

const KIB: u64 = 1 << 10;
const TOPIC: LogId = LogId(Uuid::from_u128(2));
const ABOUT: About<'static> = About { method: "POST", target: "/orders", digest: None };

/// A topic that is only a log.
#[derive(Clone, Debug)]
struct Simple(Log);

impl Target for Simple {
    fn id(&self) -> LogId {
        TOPIC
    }

    fn max_event_bytes(&self) -> u64 {
        64 * KIB
    }

    fn permit(&self, purpose: Purpose, bytes: u64) -> Result<Permit, Refused> {
        self.0.permit_for(purpose, bytes)
    }

    fn open_log(&self) -> Result<&Log, Refused> {
        Ok(&self.0)
    }
}

impl Topics for Simple {
    fn named(&self, _: &str) -> Option<Arc<dyn Target>> {
        Some(Arc::new(self.clone()))
    }

    fn find(&self, is_it: &dyn Fn(LogId) -> bool) -> Option<Arc<dyn Target>> {
        is_it(TOPIC).then(|| Arc::new(self.clone()) as Arc<dyn Target>)
    }

    fn delayed(&self, _: LogId) -> Option<Arc<dyn Target>> {
        None
    }
}

struct World {
    ingress: Ingress,
    topic: Simple,
    place: Place,
    writer: Writer,
}

/// The intended result of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Event,
    Nothing,
    Uncertain,
}

impl World {
    /// `None` if the disk is dead.
    fn open(model: &Model, max_entries: u64) -> Option<Self> {
        Self::open_at(model, max_entries, &ManualClock::at(Now { wall: 1_000, mono: 1_000 }))
    }

    fn open_at(model: &Model, max_entries: u64, clock: &ManualClock) -> Option<Self> {
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        let settings = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let disk = Arc::new(DiskWatch::new(storage.clone(), settings));
        let writer = Writer::spawn("test", Arc::new(clock.clone())).unwrap();
        let settings = Settings { segment_bytes: 64 * KIB, ..Settings::default() };
        let place = |dir: &str, id| Place {
            storage: storage.clone(),
            dir: PathBuf::from(dir),
            store: StoreId(Uuid::from_u128(1)),
            id,
            disk: disk.clone(),
        };
        let open = |place| {
            let opened = Log::open(&writer, place, &settings, Offset::ZERO, Box::new(Plain));
            opened.ok().map(|(log, _)| log)
        };
        let topic = Simple(open(place("topic", TOPIC))?);
        let log = open(place("ingress", LogId(Uuid::from_u128(3))))?;
        let around = Around {
            hash_key: HashKey([7; 16]),
            pool: Pool::new(1).unwrap(),
            clock: GuardedClock::new(Arc::new(clock.clone()), None),
        };
        let ingress = Ingress::open(log, max_entries, around).ok()?;
        let place = place("topic", TOPIC);
        Some(Self { ingress, topic, place, writer })
    }

    fn owed(&self, id: Uuid) -> Owed {
        let event = Event {
            id: id.to_string(),
            source: "/sluice/test/a".into(),
            kind: "order.created".into(),
            data: Bytes::from(vec![b'x'; 4 << 10]),
            ..Event::default()
        };
        Owed::new(TOPIC, self.topic.end(), None, event.borrowed())
    }

    fn reserve(&self, owed: &Owed) -> Result<Room, Refused> {
        let bytes = owed.bytes(Some(ABOUT));
        self.ingress.reserve(bytes, 2 * bytes, None)
    }

    /// How many events with this ID are in the topic, by type.
    fn found(&self, id: Uuid) -> (usize, usize) {
        let maybe = uncertain(self.owed(id).event()).id;
        let (mut certain, mut uncertain) = (0, 0);
        let (mut reader, mut next) = (self.topic.0.reader(), self.topic.0.start());
        loop {
            let block = reader.read(next, 1 << 20).unwrap();
            if block.is_empty() {
                return (certain, uncertain);
            }
            for (_, record) in block.records() {
                certain += usize::from(record.id() == Some(&*id.to_string()));
                uncertain += usize::from(record.id() == Some(&*maybe));
            }
            next = block.next();
        }
    }
}

/// Runs an exchange, and returns what an observer saw: whether it was sent, and whether answered.
async fn run(world: &World, id: Uuid, ending: Ending) -> (bool, bool) {
    let mut owed = world.owed(id);
    let Ok(room) = world.reserve(&owed) else { return (false, false) };
    let Ok(permit) = world.topic.permit(Purpose::Publish, 8 * KIB) else { return (false, false) };
    let begun = room.begin(std::slice::from_ref(&owed), ABOUT).await;
    let Ok(mut exchange) = begun else { return (false, false) };
    let owed = match ending {
        Ending::Nothing => {
            exchange.close();
            return (true, true);
        }
        Ending::Event => owed,
        Ending::Uncertain => {
            owed.change(|event| *event = uncertain(std::mem::take(event)));
            owed
        }
    };
    let answered = exchange.answer(says(ending == Ending::Uncertain, &owed)).await;
    if answered.is_err() {
        return (true, false);
    }
    let target: Arc<dyn Target> = Arc::new(world.topic.clone());
    settle(world, exchange, (target, permit, owed));
    world.ingress.tidy().ok();
    (true, true)
}

/// Appends what is owed, and waits until that has ended.
fn settle(
    world: &World,
    exchange: Exchange,
    (target, permit, owed): (Arc<dyn Target>, Permit, Owed),
) {
    let log = target.log().unwrap();
    exchange.settle(vec![(target, permit, owed.into_record())]);
    // Forces a sync now, without waiting for the next one.
    if let Ok(room) = log.permit(0) {
        log.append(room, Vec::new()).wait().ok();
    }
    let since = Instant::now();
    let is_over = || {
        let state = world.ingress.0.state.lock();
        state.orphans(None, usize::MAX).len() == state.len()
    };
    while !is_over() {
        assert!(since.elapsed() < Duration::from_secs(30), "nobody is told");
        thread::yield_now();
    }
}

fn says(is_uncertain: bool, owed: &Owed) -> Answer<'_> {
    Answer { is_uncertain, owed: vec![owed], key: None }
}

fn fail_the_next_sync(model: &Model) {
    model.fail_nth(Op::Sync, 0, Fault::Io);
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[test]
fn whatever_a_crash_cuts_off_each_intent_ends_as_exactly_one_thing() {
    let endings = [Ending::Event, Ending::Uncertain, Ending::Nothing, Ending::Event];
    let ids: Vec<_> = (10..14).map(Uuid::from_u128).collect();
    let mut stopped = 0;
    for (stop, survivors) in (0..400).flat_map(|stop| Survivors::ALL.map(|it| (stop, it))) {
        let model = Model::new();
        model.stop_at(stop);
        let mut saw = vec![(false, false); ids.len()];
        if let Some(world) = World::open(&model, 100) {
            for (at, (id, ending)) in ids.iter().zip(endings).enumerate() {
                saw[at] = block_on(run(&world, *id, ending));
            }
        }
        if !model.is_stopped() {
            break;
        }
        stopped += 1;
        let model = model.crash(Crash::new(survivors, stop));
        let world = World::open(&model, 100).expect("it opens after any crash");
        world.ingress.resolve(&world.topic).unwrap();
        for ((id, ending), (was_sent, was_answered)) in ids.iter().zip(endings).zip(&saw) {
            let found = world.found(*id);
            let case = format!("{ending:?} at {stop} {survivors:?}: {found:?}, {saw:?}");
            assert!(found.0 + found.1 <= 1, "{case}");
            match ending {
                Ending::Event if *was_answered => assert_eq!(found, (1, 0), "{case}"),
                Ending::Uncertain if *was_answered => assert_eq!(found, (0, 1), "{case}"),
                Ending::Event | Ending::Uncertain if *was_sent => {
                    assert_eq!(found.0 + found.1, 1, "{case}");
                }
                // Not awaited: if lost in a power failure it is uncertain.
                Ending::Nothing => assert_eq!(found.0, 0, "{case}"),
                _ => {}
            }
        }
        // The second run finds nothing more to do.
        world.ingress.resolve(&world.topic).unwrap();
        assert_eq!(world.ingress.status().entries, 0);
    }
    assert!(stopped > 50, "{stopped}");
}

#[test]
fn what_is_dropped_on_the_way_is_uncertain_without_a_crash() {
    let world = World::open(&Model::new(), 100).unwrap();
    let id = Uuid::from_u128(7);
    let owed = world.owed(id);
    let room = world.reserve(&owed).unwrap();
    drop(block_on(room.begin(&[owed], ABOUT)).unwrap());
    assert_eq!(
        world.ingress.status(),
        Status { entries: 1, uncertain: 0, ..world.ingress.status() }
    );
    world.ingress.resolve(&world.topic).unwrap();
    assert_eq!(world.found(id), (0, 1));
    assert_eq!(
        world.ingress.status(),
        Status { entries: 0, uncertain: 1, ..world.ingress.status() }
    );
}

#[test]
fn room_that_is_not_used_leaves_nothing_and_a_full_table_refuses() {
    let world = World::open(&Model::new(), 1).unwrap();
    let owed = world.owed(Uuid::from_u128(7));
    let room = world.reserve(&owed).unwrap();
    assert_eq!(world.reserve(&owed).unwrap_err().reason, Reason::Full);
    drop(room);
    assert_eq!(world.ingress.status().entries, 0);
    let room = world.reserve(&owed).unwrap();
    // More than was reserved: refused without a trace.
    let many = vec![owed.clone(), owed.clone()];
    let error = block_on(room.begin(&many, ABOUT)).unwrap_err();
    assert!(matches!(error, AppendError::Refused(Refused { reason: Reason::TooLarge, .. })));
    assert_eq!(world.ingress.status().entries, 0);
}

#[test]
fn what_a_topic_does_not_take_waits_for_it_and_is_appended_once() {
    let model = Model::new();
    let world = World::open(&model, 100).unwrap();
    let id = Uuid::from_u128(7);
    let owed = world.owed(id);
    let room = world.reserve(&owed).unwrap();
    let permit = world.topic.permit(Purpose::Publish, 8 * KIB).unwrap();
    let mut exchange = block_on(room.begin(std::slice::from_ref(&owed), ABOUT)).unwrap();
    block_on(exchange.answer(says(false, &owed))).unwrap();
    fail_the_next_sync(&model);
    let target: Arc<dyn Target> = Arc::new(world.topic.clone());
    settle(&world, exchange, (target, permit, owed));
    assert!(world.topic.0.is_offline(), "nobody knows whether it has the event");
    assert!(world.ingress.resolve(&world.topic).is_err());
    assert_eq!(world.ingress.status().entries, 1);
    world.topic.0.reopen().unwrap();
    world.ingress.resolve(&world.topic).unwrap();
    assert_eq!((world.found(id), world.ingress.status().entries), ((1, 0), 0));
}

#[test]
fn an_answer_that_may_be_written_is_looked_for_before_anything_is_called_uncertain() {
    let model = Model::new();
    let world = World::open(&model, 100).unwrap();
    let id = Uuid::from_u128(7);
    let owed = world.owed(id);
    let room = world.reserve(&owed).unwrap();
    let mut exchange = block_on(room.begin(std::slice::from_ref(&owed), ABOUT)).unwrap();
    fail_the_next_sync(&model);
    let answered = block_on(exchange.answer(says(false, &owed)));
    assert_eq!(answered, Err(AppendError::Unknown));
    drop(exchange);
    world.ingress.resolve(&world.topic).unwrap();
    assert_eq!(world.found(id), (0, 0), "an offline log says nothing yet");
    world.ingress.log().reopen().unwrap();
    world.ingress.resolve(&world.topic).unwrap();
    let (certain, uncertain) = world.found(id);
    assert_eq!(certain + uncertain, 1);
}

#[test]
fn what_is_settled_is_unlinked() {
    let world = World::open(&Model::new(), 100).unwrap();
    let first = world.ingress.log().start();
    for id in 0..60 {
        let seen = block_on(run(&world, Uuid::from_u128(100 + id), Ending::Event));
        assert_eq!(seen, (true, true));
    }
    world.ingress.resolve(&world.topic).unwrap();
    world.ingress.tidy().unwrap();
    assert!(world.ingress.log().start() > first);
    assert_eq!(world.ingress.status().entries, 0);
}
