//! A topic's sequencer in a log, on a modelled machine: duplicates are detected across restarts.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    clock_guard::GuardedClock,
    dedup::DedupSettings,
    sequencer::{Live, Shared, TopicSequencer},
};
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Closing, Draft, Fields, FrameWriter, HashKey, Kind, Lookup, Role, Stamp, Tag},
    log::{
        AppendError, Appended, Commit, DiskSettings, DiskWatch, Log, Opened, Place, Placement,
        Sequencer, Settings, Writer,
    },
    storage::{
        Storage,
        model::{Crash, Fault, Model, Op, campaign},
    },
    time::{ManualClock, Now},
};

const START: Now = Now { wall: 1_785_000_000_000, mono: 3_600_000 };
const KEY: HashKey = HashKey([9; 16]);
const LIVE: Live = Live {
    generation: 0,
    partitions: 8,
    dedup: DedupSettings { window: Duration::from_mins(1), max_entries: 10_000 },
};

/// A topic's log with its sequencer, in one run of its machine.
struct Topic {
    model: Model,
    clock: ManualClock,
    shared: Arc<Shared>,
    log: Log,
    opened: Opened,
    /// Its thread ends with it.
    _writer: Writer,
}

impl Topic {
    fn open(model: &Model, at: Now, live: Live) -> Self {
        let storage: Arc<dyn Storage> = Arc::new(model.clone());
        let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        let place = Place {
            disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
            storage,
            dir: "topic".into(),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(2)),
        };
        let settings =
            Settings { segment_bytes: 64 << 10, first_bytes: None, ..Settings::default() };
        let clock = ManualClock::at(at);
        let writer = Writer::spawn("topic", Arc::new(clock.clone())).unwrap();
        let shared = Shared::new(live);
        let guarded = GuardedClock::new(Arc::new(clock.clone()), None);
        let sequencer = TopicSequencer::new(shared.clone(), KEY, guarded);
        let (log, opened) =
            Log::open(&writer, place, &settings, Offset::ZERO, Box::new(sequencer)).unwrap();
        Self { model: model.clone(), clock, shared, log, opened, _writer: writer }
    }

    fn first() -> Self {
        Self::open(&Model::new(), START, LIVE)
    }

    /// Cuts the power, and restarts the machine after this many milliseconds.
    fn again(self, crash: Crash, after: u64) -> Self {
        let at = crate::events::queue::time::Clock::now(&self.clock);
        let model = self.model.crash(crash);
        self.log.close();
        Self::open(&model, Now { wall: at.wall + after, mono: START.mono }, self.shared.live())
    }

    fn try_publish(&self, drafts: Vec<Draft>) -> Result<Vec<Appended>, AppendError> {
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        self.log.append(self.log.permit(bytes)?, drafts).wait()
    }

    /// Waits until the full log has found that there is space again.
    fn regain_room(&self) {
        let since = Instant::now();
        while let Err(refused) = self.log.permit(1) {
            assert!(since.elapsed() < Duration::from_mins(1), "{refused:?}");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn publish(&self, draft: Draft) -> Appended {
        self.try_publish(vec![draft]).unwrap()[0]
    }
}

/// With an ID, a source, and a body of a few hundred bytes.
fn event(id: u64) -> Draft {
    let fields = Fields::builder()
        .id(&id.to_string())
        .source("/shop")
        .field(Tag::CORRELATION, (id % 5).to_string().as_bytes())
        .build();
    Draft {
        key: Some(Bytes::from(format!("customer-{}", id % 7))),
        ..Draft::new(Kind::Event, fields, Bytes::from(vec![b'x'; 300]))
    }
}

fn is_duplicate(appended: &Appended) -> bool {
    appended.duplicate.is_some()
}

#[test]
fn an_event_that_is_there_is_told_with_its_place() {
    let topic = Topic::first();
    let first = topic.publish(event(1));
    assert!(!is_duplicate(&first));
    let again = topic.publish(event(1));
    assert_eq!((again.offset, again.partition), (first.offset, first.partition));
    assert!(!again.duplicate.unwrap().mismatch);
    let other = Draft { body: Bytes::from_static(b"other"), ..event(1) };
    assert!(topic.publish(other).duplicate.unwrap().mismatch);
    let fields = Fields::builder().id("1").source("/shop").event_type("other").build();
    assert!(topic.publish(Draft { fields, ..event(1) }).duplicate.unwrap().mismatch);
    // Within one frame too.
    let both = topic.try_publish(vec![event(2), event(2), event(3)]).unwrap();
    assert_eq!(both.iter().map(is_duplicate).collect::<Vec<_>>(), [false, true, false]);
    assert_eq!(both[0].offset, both[1].offset);
    let status = topic.shared.dedup();
    assert_eq!((status.entries, status.hits, status.mismatches), (3, 4, 2));
    assert_eq!(status.window, LIVE.dedup.window);
}

#[test]
fn a_named_key_stands_for_source_and_id() {
    let topic = Topic::first();
    let named =
        |id, key: &'static [u8]| Draft { dedup: Some(Bytes::from_static(key)), ..event(id) };
    assert!(!is_duplicate(&topic.publish(named(1, b"a"))));
    assert!(is_duplicate(&topic.publish(named(2, b"a"))), "whatever its ID");
    assert!(!is_duplicate(&topic.publish(named(1, b"b"))), "the ID does not count then");
    assert!(!is_duplicate(&topic.publish(event(1))));
    let bare = || Draft::new(Kind::Event, Fields::default(), Bytes::new());
    assert!(!is_duplicate(&topic.publish(bare())));
    assert!(!is_duplicate(&topic.publish(bare())), "nothing to tell them by");
}

#[test]
fn a_key_is_in_one_partition_and_others_go_round() {
    let topic = Topic::first();
    let placed: Vec<u16> = (0..21).map(|id| topic.publish(event(id)).partition).collect();
    assert_eq!(placed[..7], placed[7..14]);
    assert_eq!(placed[..7], placed[14..]);
    let keyless = |id| Draft { key: None, ..event(id) };
    let mut round: Vec<u16> = (100..108).map(|id| topic.publish(keyless(id)).partition).collect();
    round.sort_unstable();
    assert_eq!(round, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn growth_takes_new_events_to_the_new_generation() {
    let topic = Topic::first();
    topic.publish(event(1));
    assert_eq!(topic.shared.opened(), Some((0, Offset(0))));
    topic.shared.set(Live { generation: 1, partitions: 64, ..LIVE });
    let placed: Vec<_> = (2..60).map(|id| topic.publish(event(id))).collect();
    assert!(placed.iter().any(|it| it.partition >= 8));
    assert_eq!(topic.shared.opened(), Some((1, Offset(1))));
    assert_eq!(topic.publish(event(1)).offset, Offset(0), "the old ones are known as before");
    let mut reader = topic.log.reader();
    let generation =
        |offset| reader.get(offset).unwrap().unwrap().record().map(|record| record.generation());
    assert_eq!([Offset(0), Offset(1)].map(generation), [Some(0), Some(1)]);
}

/// P7: one key, one event, across any number of restarts and whatever happens to the derived files.
#[test]
fn keys_are_known_across_restarts() {
    for (seed, harm) in ["none", "lost", "damaged", "foreign"].into_iter().enumerate() {
        let topic = Topic::first();
        let mut places = Vec::new();
        for id in 0..600 {
            places.push(topic.publish(event(id)));
        }
        let files = topic.model.files();
        let keys: Vec<_> =
            files.iter().filter(|path| path.extension().is_some_and(|it| it == "keys")).collect();
        assert!(keys.len() > 2, "several segments are sealed");
        match harm {
            "lost" => keys.iter().for_each(|path| Storage::remove(&topic.model, path).unwrap()),
            "damaged" => keys.iter().for_each(|path| topic.model.flip(path, 5_000, 1)),
            "foreign" => {
                let bytes = topic.model.bytes(keys[0]);
                keys[1..].iter().for_each(|path| topic.model.overwrite(path, &bytes));
            }
            _ => {}
        }
        let topic = topic.again(Crash::any(seed as u64), 5_000);
        assert_eq!(topic.shared.dedup().entries, 600, "{harm}");
        for (id, place) in (0..600).zip(&places) {
            let again = topic.publish(event(id));
            assert!(is_duplicate(&again), "{harm}: {id}");
            assert_eq!((again.offset, again.partition), (place.offset, place.partition));
        }
        assert!(!is_duplicate(&topic.publish(event(600))));
        // Derived files that were rebuilt work as well.
        let topic = topic.again(Crash::any(seed as u64 + 10), 5_000);
        assert!((0..=600).all(|id| is_duplicate(&topic.publish(event(id)))), "{harm}");
    }
}

#[test]
fn a_key_is_forgotten_after_the_window() {
    let topic = Topic::first();
    topic.publish(event(1));
    topic.clock.advance(60_000);
    assert!(is_duplicate(&topic.publish(event(1))));
    topic.clock.advance(1_001);
    assert!(!is_duplicate(&topic.publish(event(1))));
    let topic = topic.again(Crash::any(1), 61_001);
    assert!(!is_duplicate(&topic.publish(event(1))));
}

/// Queue 7.17: nothing ages by a clock jump.
#[test]
fn a_jump_of_the_clock_forgets_no_key() {
    let topic = Topic::first();
    topic.publish(event(1));
    let day = 24 * 3_600_000;
    topic.clock.set_wall(START.wall + day);
    assert!(is_duplicate(&topic.publish(event(1))));
    topic.publish(event(2));
    topic.clock.set_wall(START.wall);
    topic.clock.advance(1_000);
    assert!(is_duplicate(&topic.publish(event(1))));
    assert!(is_duplicate(&topic.publish(event(2))));
}

/// P7: an acknowledged duplicate guarantees its original.
/// `SLUICE_TEST_MUTATION=answer-a-duplicate-before-the-originals-sync` makes this fail.
#[test]
fn a_duplicate_fails_with_its_original() {
    for seed in 0..campaign(20) {
        let topic = Topic::first();
        topic.publish(event(0));
        topic.model.fail_nth(Op::Sync, 0, Fault::Io);
        let append = |id| {
            let draft = event(id);
            let permit = topic.log.permit(draft.encoded_bytes() as u64)?;
            Ok::<_, AppendError>(topic.log.append(permit, vec![draft]))
        };
        let (original, duplicate) = (append(1), append(1));
        assert!(original.and_then(Commit::wait).is_err());
        let duplicate = duplicate.and_then(Commit::wait);
        assert!(duplicate.is_err(), "told of an event that may never have been");
        // The same in one frame.
        let topic = topic.again(Crash::any(seed), 0);
        topic.model.fail_nth(Op::Sync, 0, Fault::Io);
        let both = topic.try_publish(vec![event(2), event(2)]);
        assert_eq!(both.unwrap_err(), AppendError::Unknown);
        let topic = topic.again(Crash::any(seed + 1), 0);
        let both = topic.try_publish(vec![event(1), event(2)]).unwrap();
        let again = topic.try_publish(vec![event(1), event(2), event(0)]).unwrap();
        assert!(again.iter().all(is_duplicate));
        assert_eq!(both.iter().map(|it| it.offset).collect::<Vec<_>>(), {
            again[..2].iter().map(|it| it.offset).collect::<Vec<_>>()
        });
    }
}

/// A duplicate alone in its batch, of an original that is written and not synced.
#[test]
fn a_duplicate_of_what_is_not_synced_waits_for_it() {
    let topic = Topic::first();
    topic.publish(event(0));
    topic.model.fail_every(Op::Sync, Fault::Io);
    let draft = event(1);
    let permit = topic.log.permit(draft.encoded_bytes() as u64).unwrap();
    let written = topic.log.append_unwaited(permit, vec![draft]).wait();
    let duplicate = topic.try_publish(vec![event(1)]);
    assert!(duplicate.is_err(), "{written:?}, {duplicate:?}");
}

/// What could not be written is not remembered either.
#[test]
fn a_write_that_failed_leaves_no_key_behind() {
    let topic = Topic::first();
    topic.publish(event(0));
    topic.model.set_free(0);
    topic.model.fail_every(Op::Write, Fault::NoSpace);
    assert!(topic.try_publish(vec![event(1), event(2)]).is_err());
    topic.model.heal();
    topic.model.set_free(100 << 20);
    topic.regain_room();
    let both = topic.try_publish(vec![event(1), event(2), event(0)]).unwrap();
    assert_eq!(both.iter().map(is_duplicate).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(topic.shared.dedup().entries, 3);
    let hash = KEY.hash(Role::Id, &[b"1"]);
    assert_eq!(topic.shared.find(Lookup::Id, hash, 10), [both[0].offset]);
}

/// Random runs: after each crash every acknowledged key is known, and no key has two events.
#[test]
fn no_key_ever_has_two_events() {
    for seed in 0..campaign(12) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut topic = Topic::first();
        let mut told: std::collections::BTreeMap<u64, Offset> = std::collections::BTreeMap::new();
        for life in 0..4 {
            if rng.bool() {
                topic.model.stop_at(topic.model.operations() + rng.u64(5..60));
            }
            for _ in 0..rng.u64(20..80) {
                let ids: Vec<u64> = (0..rng.u64(1..6)).map(|_| rng.u64(0..120)).collect();
                let drafts = ids.iter().map(|id| event(*id)).collect();
                let Ok(appended) = topic.try_publish(drafts) else { break };
                for (id, it) in ids.iter().zip(appended) {
                    let offset = *told.entry(*id).or_insert(it.offset);
                    assert_eq!(offset, it.offset, "seed {seed}, life {life}: {id} is there twice");
                }
            }
            topic = topic.again(Crash::any(seed * 10 + life), 100);
            assert_eq!(topic.opened.gaps, []);
            let mut seen: std::collections::BTreeMap<u64, Offset> =
                std::collections::BTreeMap::new();
            let mut reader = topic.log.reader();
            let mut from = topic.log.start();
            while from < topic.log.durable() {
                let block = reader.read(from, 1 << 20).unwrap();
                for (offset, record) in block.records() {
                    let id = record.id().unwrap().parse().unwrap();
                    let twice = seen.insert(id, offset);
                    assert_eq!(twice, None, "seed {seed}, life {life}: {id} is there twice");
                }
                from = block.next();
            }
            for (id, offset) in &told {
                assert_eq!(seen.get(id), Some(offset), "seed {seed}, life {life}: {id} is lost");
            }
            told.append(&mut seen);
        }
    }
}

#[test]
fn what_is_sealed_is_found_by_its_id() {
    let topic = Topic::first();
    for id in 0..300 {
        topic.publish(event(id));
    }
    let keys = Path::new("topic/00000000000000000000.keys");
    let bytes = topic.model.bytes(keys);
    let head = crate::events::queue::codec::KeysHead::decode(&bytes).unwrap();
    let hash = KEY.hash(Role::Id, &[b"17"]);
    let read = |buffer: &mut [u8], at: u64| {
        let at = usize::try_from(at).unwrap();
        buffer.copy_from_slice(&bytes[at..at + buffer.len()]);
        Ok(buffer.len())
    };
    assert_eq!(head.find(Lookup::Id, hash, 10, read).unwrap(), [Offset(17)]);
}

#[test]
fn what_is_prepared_is_placed_as_if_it_were_not() {
    let placed = |is_prepared: bool| {
        let clock = GuardedClock::new(Arc::new(ManualClock::at(START)), None);
        let mut sequencer = TopicSequencer::new(Shared::new(LIVE), KEY, clock);
        let drafts = [1, 2, 1, 3].map(event);
        let (mut next, mut placed) = (0, Vec::new());
        for _ in 0..2 {
            if is_prepared {
                sequencer.prepare(&mut drafts.iter());
            }
            for draft in &drafts {
                let placement = sequencer.place(draft, Offset(next), START);
                next += u64::from(matches!(placement, Placement::Append { .. }));
                placed.push(placement);
            }
            sequencer.commit();
        }
        placed
    };
    assert_eq!(placed(true), placed(false));
}

/// `SLUICE_CAMPAIGN=n` places n million events; for release builds.
#[test]
fn placing_is_cheap() {
    let Ok(millions) = std::env::var("SLUICE_CAMPAIGN").unwrap_or_default().parse::<u64>() else {
        return;
    };
    let clock = GuardedClock::new(Arc::new(ManualClock::at(START)), None);
    let dedup = DedupSettings { window: Duration::from_mins(1), max_entries: 2_000_000 };
    let shared = Shared::new(Live { dedup, ..LIVE });
    let mut sequencer = TopicSequencer::new(shared, KEY, clock);
    let mut writer = FrameWriter::new();
    let drafts: Vec<_> =
        (0..500).map(|id| Draft { body: Bytes::from(vec![b'x'; 512]), ..event(id) }).collect();
    let closing = Closing { previous_crc: 0, durable: Offset(0), wall: 0, mono: 0 };
    let (mut next, mut sealing, mut longest) = (0, Duration::ZERO, Duration::ZERO);
    let start = tokio::time::Instant::now();
    for round in 0..millions * 2_000 {
        writer.begin(7, Offset(next));
        for draft in &drafts {
            // Each event has its own key.
            let key = Bytes::copy_from_slice(&next.to_le_bytes());
            let draft = Draft { dedup: Some(key), ..draft.clone() };
            let now = Now { wall: START.wall + round, mono: round };
            match sequencer.place(&draft, Offset(next), now) {
                Placement::Append { generation, partition } => {
                    writer.push(&draft, Stamp { generation, partition, published: 1 }).unwrap();
                }
                other @ Placement::Duplicate { .. } => panic!("{other:?}"),
            }
            next += 1;
        }
        writer.finish(&closing);
        sequencer.commit();
        if round % 200 == 199 {
            let since = tokio::time::Instant::now();
            sequencer.sealed(7, Offset(next - 100_000)..Offset(next)).unwrap();
            longest = longest.max(since.elapsed());
            sealing += since.elapsed();
        }
    }
    let each = start.elapsed().saturating_sub(sealing).as_secs_f64() * 1e9 / next as f64;
    println!("{each:.0} ns to place and encode; sealing 100,000 takes {longest:?} at most");
}
