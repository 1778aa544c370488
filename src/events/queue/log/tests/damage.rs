//! Bytes on disk change: it is detected, and costs no more than it must.
//!
//! Test 4 of the specification.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
};

use super::{
    super::{
        scan::{self, Piece, Stretch},
        *,
    },
    machine::{Driven, Ledger, settings},
    number,
};
use crate::events::queue::{
    Offset,
    codec::{FRAME_HEADER_BYTES, FRAME_TRAILER_BYTES, RECORD_HEADER_BYTES},
    storage::{Storage, model::Model},
};

/// A log with a few files, all on disk and noted in CHECKPOINT.
struct Fixture {
    model: Model,
    stored: BTreeMap<u64, u64>,
    files: Vec<File>,
}

/// The layout of a log file.
struct File {
    path: PathBuf,
    frames: Vec<FrameAt>,
}

struct FrameAt {
    bytes: Range<u64>,
    /// Offset, and the bytes of the checksum and those it covers.
    records: Vec<(u64, Range<u64>)>,
}

/// Damage to a file.
#[derive(Clone, Debug)]
enum Harm {
    Flip(u64, u8),
    Zero(Range<u64>),
    Cut(u64),
}

fn fixture() -> Fixture {
    let model = Model::new();
    let mut ledger = Ledger::default();
    let settings = Settings { segment_bytes: 6 << 10, ..settings() };
    let driven = Driven::open(&model, &settings).unwrap();
    for n in 0..14 {
        driven.append(&mut ledger, &[1 + n % 4, n % 2], true);
    }
    driven.append(&mut ledger, &[3], true);
    driven.shared.look_after(true, false);
    driven.check(&mut ledger);
    let files: Vec<File> = driven.shared.view.all().iter().map(|it| layout(&model, it)).collect();
    assert!(files.len() >= 3, "{} files", files.len());
    Fixture { model, stored: ledger.promised, files }
}

fn layout(model: &Model, segment: &segment::Segment) -> File {
    let path = PathBuf::from("log").join(segment::file_name(segment.base(), "log"));
    let file = model.open_read(&path).unwrap();
    let mut frames = Vec::new();
    let walked = scan::walk(&*file, &Stretch::of(segment), &mut |piece| {
        let Piece::Frame(position, frame) = piece else { panic!("a whole file") };
        let mut at = position + FRAME_HEADER_BYTES as u64;
        let mut records = Vec::new();
        for (offset, record) in frame.records() {
            let record = record.unwrap();
            let fields: usize = 0;
            let covered = (RECORD_HEADER_BYTES + fields + record.body().len()) as u64;
            records.push((offset.0, at..at + covered));
            at += record.encoded_bytes() as u64;
        }
        frames.push(FrameAt { bytes: position..position + frame.length() as u64, records });
        ControlFlow::Continue(())
    });
    walked.unwrap();
    File { path, frames }
}

/// As a program sees it: the end of a sealed file may not have been synced.
fn contents(model: &Model, path: &Path) -> Vec<u8> {
    let file = model.open_read(path).unwrap();
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

impl Harm {
    fn apply(&self, model: &Model, path: &Path) {
        match self {
            Self::Flip(at, mask) => model.flip(path, *at, *mask),
            Self::Zero(range) => model.zero(path, range.clone()),
            Self::Cut(length) => model.cut(path, *length),
        }
    }

    /// The bytes that it changes.
    fn changed(&self, before: &[u8]) -> BTreeSet<u64> {
        match self {
            Self::Flip(at, _) => BTreeSet::from([*at]),
            Self::Zero(range) => {
                range.clone().filter(|at| before[usize::try_from(*at).unwrap()] != 0).collect()
            }
            Self::Cut(length) => (*length..before.len() as u64).collect(),
        }
    }
}

impl File {
    /// The offsets that are lost if these bytes change.
    fn lost(&self, changed: &BTreeSet<u64>) -> BTreeSet<u64> {
        let is_hit = |range: Range<u64>| changed.range(range).next().is_some();
        let mut lost = BTreeSet::new();
        for frame in &self.frames {
            let Range { start, end } = frame.bytes;
            let is_whole = is_hit(start..start + FRAME_HEADER_BYTES as u64)
                || is_hit(end - FRAME_TRAILER_BYTES as u64..end);
            for (offset, bytes) in &frame.records {
                if is_whole || is_hit(bytes.clone()) {
                    lost.insert(*offset);
                }
            }
        }
        lost
    }

    /// Damage to each kind of byte, in the first, a middle and the last frame.
    fn harms(&self, length: u64, rng: &mut fastrand::Rng) -> Vec<Harm> {
        let mut positions: Vec<u64> = (0..128).step_by(5).collect();
        let chosen = [0, self.frames.len() / 2, self.frames.len().saturating_sub(1)];
        for frame in chosen.iter().filter_map(|index| self.frames.get(*index)) {
            let Range { start, end } = frame.bytes;
            positions.extend((start..start + FRAME_HEADER_BYTES as u64).step_by(3));
            positions.extend(end - FRAME_TRAILER_BYTES as u64..end);
            for (_, bytes) in &frame.records {
                positions.extend((bytes.start..bytes.end.min(bytes.start + 48)).step_by(7));
            }
        }
        let mut harms: Vec<Harm> =
            positions.iter().map(|at| Harm::Flip(*at, 1 << rng.u8(0..8))).collect();
        let pages = length / 4096;
        harms
            .extend((0..=pages).map(|page| {
                Harm::Zero((page * 4096).min(length)..((page + 1) * 4096).min(length))
            }));
        let end = self.frames.last().map_or(4096, |frame| frame.bytes.end);
        harms.extend((0..6).map(|_| Harm::Cut(rng.u64(0..end))));
        harms
    }
}

/// Reads everything past each damage: what was read, and the offsets that could not be.
fn read_over_damage(log: &Log) -> (BTreeMap<u64, u64>, BTreeSet<u64>) {
    let (mut found, mut lost) = (BTreeMap::new(), BTreeSet::new());
    let mut reader = log.reader();
    let mut from = log.start();
    while from < log.durable() {
        match reader.read(from, 1) {
            Ok(block) => {
                let records = block.records();
                found.extend(records.map(|(offset, record)| (offset.0, number(record.body()))));
                lost.extend(block.gaps().iter().flat_map(|gap| gap.start.0..gap.end.0));
                assert!(block.next() > from, "no way on from {from}");
                from = block.next();
            }
            Err(ReadError::Damaged { range }) => {
                assert_eq!(range.start, from);
                lost.extend(range.start.0..range.end.0);
                from = range.end;
            }
            Err(error) => panic!("{error}"),
        }
    }
    (found, lost)
}

#[test]
pub(super) fn t4_damage_is_found_and_named_and_costs_what_it_hit() {
    let fixture = fixture();
    let mut rng = fastrand::Rng::with_seed(4);
    for file in &fixture.files {
        let before = contents(&fixture.model, &file.path);
        for harm in file.harms(before.len() as u64, &mut rng) {
            if std::env::var_os("SLUICE_CAMPAIGN").is_none() && rng.u8(0..3) > 0 {
                continue;
            }
            let lost = file.lost(&harm.changed(&before));
            strict(&fixture, file, &harm, &lost);
            quarantine(&fixture, file, &harm, &lost);
        }
    }
}

fn strict(fixture: &Fixture, file: &File, harm: &Harm, lost: &BTreeSet<u64>) {
    let model = fixture.model.fork();
    harm.apply(&model, &file.path);
    let what = format!("{harm:?} of {}", file.path.display());
    let driven = Driven::open(&model, &settings()).unwrap();
    let state = driven.log.status().state;
    let (found, seen) = read_over_damage(&driven.log);
    for (offset, number) in &found {
        assert_eq!(fixture.stored.get(offset), Some(number), "{what}");
    }
    match state {
        State::Offline(offline) => {
            let range = offline.range.unwrap();
            let first = lost.first().copied().unwrap_or(range.start.0);
            assert_eq!(range.start.0, first, "{what}");
            assert!(driven.log.permit(10).is_err(), "{what}");
        }
        _ => assert_eq!(&seen, lost, "{what}"),
    }
}

fn quarantine(fixture: &Fixture, file: &File, harm: &Harm, lost: &BTreeSet<u64>) {
    let model = fixture.model.fork();
    harm.apply(&model, &file.path);
    let what = format!("{harm:?} of {}", file.path.display());
    let settings = Settings { recovery: Recovery::Quarantine, ..settings() };
    let driven = Driven::open(&model, &settings).unwrap();
    assert_eq!(driven.log.status().state, State::Serving, "{what}");
    let end = *fixture.stored.last_key_value().unwrap().0 + 1;
    for _ in 0..2 {
        assert_eq!(driven.log.durable(), Offset(end), "{what}");
        let (found, seen) = read_over_damage(&driven.log);
        assert_eq!(&seen, lost, "{what}");
        let expected: BTreeMap<u64, u64> = fixture
            .stored
            .iter()
            .filter(|(offset, _)| !lost.contains(offset))
            .map(|(offset, number)| (*offset, *number))
            .collect();
        assert_eq!(found, expected, "{what}");
        let counted = driven.log.gauges().lost.get();
        assert_eq!(counted, lost.len() as u64, "{what}: lost offsets are counted once");
    }
    let mut ledger = Ledger { next: 10_000, ..Ledger::default() };
    driven.append(&mut ledger, &[1], true);
    assert_eq!(ledger.promised.first_key_value(), Some((&end, &10_000)), "{what}");
}

#[test]
fn t4_a_missing_file_is_found_and_named() {
    let fixture = fixture();
    for index in 0..fixture.files.len() {
        let file = &fixture.files[index];
        let lost = file.frames.iter().flat_map(|frame| frame.records.iter().map(|it| it.0));
        let lost: BTreeSet<u64> = lost.collect();
        let model = fixture.model.fork();
        model.remove(&file.path).unwrap();
        let driven = Driven::open(&model, &settings()).unwrap();
        let State::Offline(offline) = driven.log.status().state else { panic!("it serves") };
        let range = offline.range.unwrap();
        assert_eq!(Some(&range.start.0), lost.first(), "file {index}");
        assert_eq!(range.end.0 - range.start.0, lost.len() as u64, "file {index}");

        let settings = Settings { recovery: Recovery::Quarantine, ..settings() };
        let driven = Driven::open(&model, &settings).unwrap();
        let (found, seen) = read_over_damage(&driven.log);
        let start = driven.log.start().0;
        let seen: BTreeSet<u64> = seen.into_iter().chain(0..start).collect();
        assert_eq!(seen, lost, "file {index}");
        assert_eq!(found.len() + lost.len(), fixture.stored.len());
    }
}

#[test]
fn t4_a_damaged_checkpoint_is_seen_and_costs_nothing() {
    let fixture = fixture();
    let path = Path::new("log/CHECKPOINT");
    let length = fixture.model.bytes(path).len() as u64;
    let mut harms: Vec<Harm> = (0..length).map(|at| Harm::Flip(at, 0x10)).collect();
    harms.extend([Harm::Cut(0), Harm::Cut(length - 1), Harm::Zero(0..length)]);
    for harm in harms {
        let model = fixture.model.fork();
        harm.apply(&model, path);
        let driven = Driven::open(&model, &settings()).unwrap();
        assert_eq!(driven.log.gauges().corruption.get(), 1, "{harm:?}");
        let (found, _) = read_over_damage(&driven.log);
        assert_eq!(found, fixture.stored, "{harm:?}");
    }
}

#[test]
fn t4_a_later_frame_tells_damage_from_a_torn_tail_where_checkpoint_is_gone() {
    let fixture = fixture();
    let newest = fixture.files.last().unwrap();
    // Nothing knows of the last frame, and only the last knows of the one before it.
    for (index, frame) in newest.frames.iter().enumerate() {
        let model = fixture.model.fork();
        model.remove(Path::new("log/CHECKPOINT")).unwrap();
        model.flip(&newest.path, frame.bytes.start + 20, 4);
        let driven = Driven::open(&model, &settings()).unwrap();
        let state = driven.log.status().state;
        if index + 1 == newest.frames.len() {
            assert_eq!(state, State::Serving, "what nothing proves is a torn tail");
        } else {
            let State::Offline(offline) = state else { panic!("frame {index} was cut") };
            assert_eq!(offline.range.unwrap().start.0, frame.records[0].0);
        }
    }
}
