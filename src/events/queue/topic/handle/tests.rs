//! A topic on a modelled machine: what it refuses, deletes and finds.

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::*;
use crate::events::queue::{
    codec::{Fields, Generation, KeysBuilder, Kind, Lookup, Tag},
    log::{AppendError, Appended, DiskSettings, DiskWatch, OwnedRecord},
    storage::model::{Crash, Model, Survivors},
    time::{Clock, ManualClock, Now},
};

const START: Now = Now { wall: 1_785_000_000_000, mono: 3_600_000 };
const MIB: u64 = 1 << 20;

struct Test {
    model: Model,
    clock: ManualClock,
    meta: TopicMeta,
    topic: Topic,
    _writer: Writer,
}

fn settings() -> TopicSettings {
    TopicSettings {
        keep: Keep {
            max_age: Duration::from_hours(1),
            max_bytes: 4 * MIB,
            on_full: OnFull::Reject,
        },
        dedup: DedupSettings { window: Duration::from_mins(1), max_entries: 1_000 },
        max_oldest_age: None,
        log: log::Settings { first_bytes: None, ..log::Settings::default() },
    }
}

impl Test {
    fn open(model: &Model, at: Now, settings: &TopicSettings) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let place = Place {
            disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
            storage,
            dir: "topic".into(),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(2)),
        };
        let clock = ManualClock::at(at);
        let writer = Writer::spawn("topic", Arc::new(clock.clone())).unwrap();
        let guarded = GuardedClock::new(Arc::new(clock.clone()), None);
        let meta = TopicMeta::new(place.id, "orders".into(), 4);
        let key = HashKey([3; 16]);
        let (topic, _) =
            Topic::open(&writer, place, &meta, settings, key, guarded, Offset::ZERO).unwrap();
        Self { model: model.clone(), clock, meta, topic, _writer: writer }
    }

    fn first(settings: &TopicSettings) -> Self {
        Self::open(&Model::new(), START, settings)
    }

    fn publish_for(
        &self,
        purpose: Purpose,
        id: u64,
        bytes: usize,
    ) -> Result<Appended, AppendError> {
        let fields = Fields::builder()
            .id(&id.to_string())
            .source("/shop")
            .field(Tag::CORRELATION, b"saga")
            .build();
        let draft = Draft::new(Kind::Event, fields, Bytes::from(vec![b'x'; bytes]));
        self.topic.publish(purpose, vec![draft])?.wait().map(|all| all[0])
    }

    fn publish(&self, id: u64) -> Result<Appended, AppendError> {
        self.publish_for(Purpose::Publish, id, 100 << 10)
    }

    /// Publishes events of 100 KiB until one is refused; returns how many.
    fn fill(&self, from: u64) -> u64 {
        (from..from + 1_000).take_while(|id| self.publish(*id).is_ok()).count() as u64
    }

    fn look(&self, pins: &[Pin]) -> Decision {
        self.topic.look(&Readers { pins, oldest: None }).unwrap()
    }
}

fn pin(from: u64) -> Pin {
    Pin { from: Offset(from), pins: true }
}

const FULL: AppendError = AppendError::Refused(Refused::new(Reason::Full));

#[test]
fn a_topic_that_is_full_of_pins_refuses_and_drains() {
    let test = Test::first(&settings());
    let count = test.fill(0);
    assert!((36..=40).contains(&count), "{count} of 100 KiB in 4 MiB");
    assert_eq!(test.publish(count), Err(FULL));
    let decision = test.look(&[pin(0)]);
    assert_eq!((decision.retire, decision.lost), (None, 0));
    assert_eq!(test.publish(count), Err(FULL), "what is pinned stays");
    // On behalf of accepted events there is a tenth more, but no more.
    let more = (0..1_000)
        .take_while(|id| test.publish_for(Purpose::Accepted, 5_000 + id, 100 << 10).is_ok())
        .count();
    assert!((2..=4).contains(&more), "{more} of 100 KiB in a tenth of 4 MiB");
    let read = test.topic.log().reader().read(Offset::ZERO, 1 << 20).unwrap();
    assert!(read.records().next().is_some(), "it drains");
    // The reader has caught up: there is room without a restart.
    let decision = test.look(&[pin(count)]);
    assert!(decision.retire.is_some());
    assert_eq!(decision.lost, 0);
    assert!(test.publish(count).is_ok());
    assert!(test.topic.log().start() > Offset::ZERO);
}

#[test]
fn with_drop_oldest_the_oldest_goes_and_is_counted() {
    let mut settings = settings();
    settings.keep.on_full = OnFull::DropOldest;
    let test = Test::first(&settings);
    for id in 0..200 {
        test.publish(id).unwrap();
        test.look(&[pin(0)]);
    }
    let dropped = test.topic.dropped();
    assert!(dropped.oldest > 100 && dropped.unpinned == 0, "{dropped:?}");
    assert!(test.topic.log().gauges().bytes.get() <= 4 * MIB);
}

#[test]
fn what_nobody_needs_never_fills_it() {
    let test = Test::first(&settings());
    for id in 0..200 {
        test.publish(id).unwrap();
        test.look(&[]);
    }
    assert_eq!(test.topic.dropped(), Dropped::default());
}

#[test]
fn what_was_refused_has_room_after_a_look_if_anything_may_go() {
    let test = Test::first(&settings());
    for id in 0..20 {
        let publish = || test.publish_for(Purpose::Publish, id, 900 << 10);
        if publish().is_err() {
            test.look(&[]);
            publish().unwrap();
        }
    }
}

/// Queue 7.17, for retention: after a clock jump nothing is old.
#[test]
fn age_lets_go_unless_the_clock_jumped() {
    let test = Test::first(&settings());
    test.fill(0);
    test.clock.set_wall(START.wall + 365 * 24 * 3_600_000);
    let decision = test.look(&[pin(1_000)]);
    let by_size = decision.retire;
    assert!(by_size.is_none_or(|end| end.0 < 20), "only what is too much: {by_size:?}");
    test.clock.set_wall(Clock::now(&test.clock).wall - 365 * 24 * 3_600_000);
    test.clock.advance(2 * 3_600_000);
    let decision = test.look(&[pin(1_000)]);
    assert!(decision.retire > by_size);
}

/// Queue 7.17, for retention: what was written under a wrong clock goes at about its real age.
#[test]
fn what_was_written_during_a_jump_goes_with_its_neighbours() {
    const MINUTE: u64 = 60_000;
    const YEAR: u64 = 365 * 24 * 60 * MINUTE;
    for wrong in [START.wall + YEAR, START.wall - YEAR] {
        let keep = Keep { max_bytes: 16 * MIB, ..settings().keep };
        let mut test = Test::first(&TopicSettings { keep, ..settings() });
        // Of 25 events, at least one segment is full.
        let publish = |test: &Test, from: u64| {
            assert!((from..from + 25).all(|id| test.publish(id).is_ok()));
        };
        publish(&test, 0);
        test.clock.set_wall(wrong);
        test.look(&[]);
        publish(&test, 25);
        assert_eq!(test.look(&[]).retire, None, "{wrong}: nobody knows how old anything is");
        test.clock.set_wall(START.wall);
        publish(&test, 50);
        for is_reopened in [false, true] {
            test.clock.advance(30 * MINUTE);
            if is_reopened {
                let now = Clock::now(&test.clock);
                let (model, settings) =
                    (test.model.restart(), TopicSettings { keep, ..settings() });
                drop(test);
                test = Test::open(&model, now, &settings);
            }
            assert_eq!(test.look(&[]).retire, None, "{wrong}: within the hour");
        }
        test.clock.advance(MINUTE);
        let sealed = test.topic.log().segments();
        let sealed = sealed.iter().filter(|it| it.is_sealed).map(|it| it.end).max();
        assert!(sealed > Some(Offset(50)));
        assert_eq!(test.look(&[]).retire, sealed, "{wrong}: all of it is over an hour old");
    }
}

#[test]
fn a_reader_too_far_behind_stops_publishes_until_it_is_not() {
    let mut with = settings();
    with.max_oldest_age = Some(Duration::from_mins(5));
    let test = Test::first(&with);
    test.publish(1).unwrap();
    test.clock.advance(5 * 60_000 + 1);
    let look = |oldest| test.topic.look(&Readers { pins: &[], oldest }).unwrap();
    look(Some(START.wall));
    assert!(test.topic.is_backed_up());
    assert_eq!(test.publish(2), Err(AppendError::Refused(Refused::new(Reason::Behind))));
    assert!(test.publish_for(Purpose::Accepted, 3, 10).is_ok(), "a saga goes on");
    look(None);
    assert!(test.publish(2).is_ok());
    // A reload removes the limit.
    look(Some(START.wall));
    assert!(test.publish(4).is_err());
    test.topic.set(&test.meta, &settings());
    look(Some(START.wall));
    assert!(test.publish(4).is_ok());
}

#[test]
fn settings_change_while_it_runs() {
    let test = Test::first(&settings());
    let count = test.fill(0);
    let mut larger = settings();
    larger.keep.max_bytes = 8 * MIB;
    let mut grown = test.meta.clone();
    grown.generations.push(Generation { number: 1, partitions: 32, opened: Offset(u64::MAX) });
    test.topic.set(&grown, &larger);
    assert!(test.fill(count) > 30);
    assert_eq!(test.topic.generation_opened(), Some((1, Offset(count))));
}

#[test]
fn an_event_is_found_by_its_id_wherever_it_is() {
    let test = Test::first(&settings());
    for id in 0..30 {
        test.publish(id).unwrap();
    }
    let check = |test: &Test, is_partial: bool| {
        let later = Instant::now() + Duration::from_mins(1);
        for id in [0, 7, 29] {
            let found = test.topic.find(Lookup::Id, &id.to_string(), 10, later);
            let offsets: Vec<_> = found.records.iter().map(OwnedRecord::offset).collect();
            assert_eq!((offsets, found.is_partial), (vec![Offset(id)], is_partial));
            assert_eq!(test.topic.id_at(Offset(id)).unwrap(), Some(id.to_string()));
        }
        let found = test.topic.find(Lookup::Correlation, "saga", 100, later);
        assert_eq!((found.records.len(), found.is_partial), (30, is_partial));
        let none = test.topic.find(Lookup::Id, "30", 100, later);
        assert_eq!((none.records.len(), none.is_partial), (0, is_partial));
    };
    check(&test, false);
    let at_once = test.topic.find(Lookup::Id, "0", 10, Instant::now());
    assert!(at_once.is_partial && at_once.records.is_empty(), "no time for what is sealed");
    test.topic.log().close();
    let model = test.model.crash(Crash::new(Survivors::Random, 5));
    let now = Clock::now(&test.clock);
    let test = Test::open(&model, now, &settings());
    check(&test, false);
    // Those of another log that ends there, too, say nothing of this one.
    let sealed = test.topic.log().segments().into_iter().find(|it| it.is_sealed).unwrap();
    let others = KeysBuilder::new(sealed.base, 0).encode(sealed.epoch ^ 1, sealed.end);
    let path = format!("topic/{:020}.keys", sealed.base.0);
    test.model.overwrite(std::path::Path::new(&path), &others);
    let later = Instant::now() + Duration::from_mins(1);
    assert!(test.topic.find(Lookup::Id, &sealed.base.0.to_string(), 10, later).is_partial);
}
