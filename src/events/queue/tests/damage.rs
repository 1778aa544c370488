//! Test 4 of the specification: a bit flip, a zeroed sector or a cut in every class of byte at or
//! below the watermark, in every file of a log.
//!
//! Whatever is damaged: no record is read that differs from what was appended, and none is missing
//! silently. `strict` names the range. `quarantine` loses exactly the record or frame that the byte
//! belongs to, and continues.

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{append, draft, open, writer};
use crate::events::queue::{
    Offset,
    codec::{self, FRAME_HEADER_BYTES, FRAME_TRAILER_BYTES, SEGMENT_HEADER_BYTES, SegmentHeader},
    log::{Log, ReadError, Recovery, Settings, State, Writer},
    storage::model::{Crash, Model, Survivors, campaign},
};

/// A log of several files that was closed, so that all of it is below the watermark.
struct Fixture {
    model: Model,
    end: u64,
    frames: Vec<Placed>,
    files: Vec<PathBuf>,
}

/// Where a frame is.
struct Placed {
    file: PathBuf,
    bytes: Range<u64>,
    base: u64,
    /// Where its records are.
    records: Vec<Range<u64>>,
}

/// Damage to a file.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip(u64, u8),
    Zero(u64),
    Cut(u64),
    Remove,
}

/// What a program sees of the log after that.
#[derive(Debug, Default)]
struct Seen {
    offline: Option<Range<u64>>,
    damaged: Vec<Range<u64>>,
    gaps: BTreeSet<u64>,
    read: BTreeSet<u64>,
    corruption: u64,
    lost: u64,
    start: u64,
    end: u64,
}

const SECTOR: u64 = 512;

fn settings(recovery: Recovery) -> Settings {
    Settings { segment_bytes: 12 << 10, recovery, ..Settings::default() }
}

impl Fixture {
    /// A model of a log that was closed if `is_closed`; otherwise its machine died.
    fn new(writer: &Writer, is_closed: bool) -> Self {
        let model = Model::new();
        let (log, _) = open(writer, &model, &settings(Recovery::Strict)).unwrap();
        let mut end = 0;
        for n in 0..45 {
            let count = 1 + n % 5;
            append(&log, end..end + count);
            end += count;
        }
        if is_closed {
            log.close();
        }
        drop(log);
        let model = model.crash(Crash::new(Survivors::None, 0));
        let files = model.files();
        let logs = files.iter().filter(|file| file.extension().is_some_and(|it| it == "log"));
        let frames = logs.flat_map(|file| frames(&model, file)).collect();
        Self { model, end, frames, files }
    }

    /// The base of the frame with this offset.
    fn frame_of(&self, offset: u64) -> u64 {
        let after = self.frames.partition_point(|frame| frame.base <= offset);
        after.checked_sub(1).map_or(0, |last| self.frames[last].base)
    }

    /// What remains of the newest file proves that everything below this was on disk.
    fn known_after(&self, file: &Path, harm: Harm) -> u64 {
        let Some(newest) = self.frames.last().map(|it| &it.file) else { return 0 };
        let touched = self.touched(file, harm);
        let mut of_newest = self.frames.iter().filter(|it| it.file == *newest);
        let base = of_newest.clone().next().map_or(0, |it| it.base);
        let is_told = |it: &&Placed| {
            let head = it.bytes.start..it.bytes.start + FRAME_HEADER_BYTES as u64;
            it.file != file || head.end <= touched.start || touched.end <= head.start
        };
        of_newest.rfind(is_told).map_or(base, |it| it.base)
    }

    fn touched(&self, file: &Path, harm: Harm) -> Range<u64> {
        let length = self.model.bytes(file).len() as u64;
        match harm {
            Harm::Flip(at, _) => at..at + 1,
            Harm::Zero(at) => at..(at + SECTOR).min(length),
            Harm::Cut(at) => at..length,
            Harm::Remove => 0..length,
        }
    }

    /// What the damage may cost: each offset with an affected byte.
    fn costs(&self, file: &Path, harm: Harm) -> BTreeSet<u64> {
        let touched = self.touched(file, harm);
        let hit = |bytes: &Range<u64>| bytes.start < touched.end && touched.start < bytes.end;
        let frames = self.frames.iter().filter(|it| it.file == file && hit(&it.bytes));
        let mut costs = BTreeSet::new();
        for frame in frames {
            let records = frame.records.iter().zip(frame.base..);
            let lost: Vec<u64> =
                records.filter(|(it, _)| hit(it)).map(|(_, offset)| offset).collect();
            let head = frame.bytes.start..frame.bytes.start + FRAME_HEADER_BYTES as u64;
            let trailer = frame.bytes.end - FRAME_TRAILER_BYTES as u64..frame.bytes.end;
            if hit(&head) || hit(&trailer) {
                costs.extend(frame.base..frame.base + frame.records.len() as u64);
            }
            costs.extend(lost);
        }
        costs
    }
}

/// The frames of a log file.
fn frames(model: &Model, file: &Path) -> Vec<Placed> {
    let bytes = model.bytes(file);
    let header = SegmentHeader::decode(&bytes[..SEGMENT_HEADER_BYTES]).unwrap();
    let (mut at, mut base) = (SEGMENT_HEADER_BYTES, header.base);
    let mut frames = Vec::new();
    while let Ok(frame) = codec::parse_frame(&bytes[at..], header.epoch, base) {
        let mut record = at + FRAME_HEADER_BYTES;
        let records = frame.records().map(|(_, it)| {
            let start = record as u64;
            record += it.unwrap().encoded_bytes();
            start..record as u64
        });
        let records: Vec<_> = records.collect();
        let bytes = at as u64..(at + frame.length()) as u64;
        frames.push(Placed { file: file.to_owned(), bytes, base: base.0, records });
        (at, base) = (at + frame.length(), frame.end());
    }
    frames
}

impl Harm {
    fn apply(self, model: &Model, file: &Path) {
        match self {
            Self::Flip(at, mask) => model.flip(file, at, mask),
            Self::Zero(at) => {
                let length = model.bytes(file).len() as u64;
                model.zero(file, at..(at + SECTOR).min(length));
            }
            Self::Cut(at) => model.cut(file, at),
            Self::Remove => {
                use crate::events::queue::storage::Storage;
                model.remove(file).unwrap();
                model.sync_dir(file.parent().unwrap()).unwrap();
            }
        }
    }

    fn changes(self, model: &Model, file: &Path) -> bool {
        let bytes = model.bytes(file);
        let length = bytes.len() as u64;
        let part = |from: u64, to: u64| {
            &bytes[usize::try_from(from).unwrap()..usize::try_from(to.min(length)).unwrap()]
        };
        match self {
            Self::Zero(at) => part(at, at + SECTOR).iter().any(|byte| *byte != 0),
            Self::Cut(at) => part(at, length).iter().any(|byte| *byte != 0),
            Self::Flip(..) | Self::Remove => true,
        }
    }
}

/// Reads everything, and compares each record with what was appended.
fn look(writer: &Writer, model: &Model, recovery: Recovery, case: &dyn fmt::Display) -> Seen {
    let (log, opened) = match open(writer, model, &settings(recovery)) {
        Ok(opened) => opened,
        Err(error) => panic!("{case}: it does not open: {error}"),
    };
    let mut seen = Seen { start: log.start().0, end: log.durable().0, ..Seen::default() };
    if let State::Offline(offline) = log.status().state {
        seen.offline = Some(offline.range.map_or(0..0, |range| range.start.0..range.end.0));
    }
    for gap in &opened.gaps {
        seen.gaps.extend(gap.start.0..gap.end.0);
    }
    read(&log, &mut seen, case);
    seen.lost = log.gauges().lost.get();
    seen.corruption = log.gauges().corruption.get();
    seen
}

fn read(log: &Log, seen: &mut Seen, case: &dyn fmt::Display) {
    let mut reader = log.reader();
    let mut from = log.start();
    loop {
        match reader.read(from, 4_000) {
            Ok(block) if block.is_empty() => return,
            Ok(block) => {
                for (offset, record) in block.records() {
                    let expected = draft(offset.0);
                    assert_eq!(record.body(), &expected.body[..], "{case}: offset {offset}");
                    assert_eq!(record.id(), Some(&*format!("event-{offset}")), "{case}");
                    assert!(seen.read.insert(offset.0), "{case}: {offset} is read twice");
                }
                for gap in block.gaps() {
                    seen.gaps.extend(gap.start.0..gap.end.0);
                }
                assert!(block.next() > from, "{case}: no way on from {from}");
                from = block.next();
            }
            Err(ReadError::Damaged { range }) => {
                assert!(range.start <= from && from < range.end, "{case}: {range:?} at {from}");
                seen.damaged.push(range.start.0..range.end.0);
                from = range.end;
            }
            Err(error) => panic!("{case}: reading at {from}: {error}"),
        }
    }
}

fn check_strict(fixture: &Fixture, writer: &Writer, file: &Path, harm: Harm) {
    let case = format!("strict, {}, {harm:?}", file.display());
    let model = fixture.model.fork();
    harm.apply(&model, file);
    let seen = look(writer, &model, Recovery::Strict, &case);
    let missing: BTreeSet<u64> =
        (0..fixture.end).filter(|offset| !seen.read.contains(offset)).collect();
    if let Some(range) = &seen.offline {
        assert!(seen.corruption > 0, "{case}: not counted");
        assert!(!range.is_empty(), "{case}: no range is named");
        assert!(range.start < fixture.end, "{case}: {range:?} is not in the log");
        // Whole frames before it can be read.
        let frame = fixture.frame_of(range.start);
        let untold = missing.iter().find(|it| **it < frame && !told(&seen, **it));
        assert_eq!(untold, None, "{case}: missing before {range:?}");
    } else {
        let untold: Vec<_> = missing.iter().filter(|it| !told(&seen, **it)).collect();
        assert!(untold.is_empty(), "{case}: {untold:?} are missing, and nobody says so");
        assert_eq!(seen.end, fixture.end, "{case}: the log ends early");
        assert!(missing.is_empty() || seen.corruption > 0, "{case}: not counted");
    }
    let costs = fixture.costs(file, harm);
    let named = seen.damaged.iter().flat_map(Clone::clone).collect::<BTreeSet<_>>();
    assert!(named.is_subset(&costs), "{case}: {named:?} were named, {costs:?} are damaged");
}

fn told(seen: &Seen, offset: u64) -> bool {
    seen.damaged.iter().any(|range| range.contains(&offset)) || seen.gaps.contains(&offset)
}

fn check_quarantine(fixture: &Fixture, writer: &Writer, file: &Path, harm: Harm) {
    let case = format!("quarantine, {}, {harm:?}", file.display());
    let model = fixture.model.fork();
    harm.apply(&model, file);
    let seen = look(writer, &model, Recovery::Quarantine, &case);
    assert_eq!(seen.offline, None, "{case}");
    let costs = fixture.costs(file, harm);
    let missing: BTreeSet<u64> =
        (0..fixture.end).filter(|offset| !seen.read.contains(offset)).collect();
    assert!(missing.is_subset(&costs), "{case}: {missing:?} are lost, {costs:?} were damaged");
    let gone: BTreeSet<u64> = missing.range(seen.start..).copied().collect();
    let gaps: BTreeSet<u64> = seen.gaps.range(..fixture.end).copied().collect();
    assert_eq!(gone, gaps, "{case}: gaps");
    assert!(seen.lost >= missing.len() as u64, "{case}: {} are counted as lost", seen.lost);
    assert!(missing.is_empty() || seen.corruption > 0, "{case}: not counted");
    // It continues without reusing an offset, and loses the same when it is reopened.
    let (log, _) = open(writer, &model, &settings(Recovery::Quarantine)).unwrap();
    let next = log.durable().0;
    assert!(next >= fixture.end, "{case}: offsets from {next} are given again");
    append(&log, next..next + 2);
    let mut again = Seen::default();
    read(&log, &mut again, &case);
    let mut expected = seen.read.clone();
    expected.extend([next, next + 1]);
    assert_eq!(again.read, expected, "{case}: after it was opened again");
}

/// Every class of byte; every byte in a campaign.
fn harms(fixture: &Fixture, file: &Path, share: usize) -> Vec<Harm> {
    let length = fixture.model.bytes(file).len() as u64;
    let mut places = BTreeSet::new();
    let every = if campaign(0) > 0 { 1 } else { 509 };
    places.extend((0..length).step_by(every));
    // The fields of the file's header and of the first frames, and around each edge.
    places.extend((0..120.min(length)).step_by(if every == 1 { 1 } else { 7 }));
    let of_file: Vec<_> = fixture.frames.iter().filter(|frame| frame.file == file).collect();
    let shown = [of_file.first(), of_file.last()];
    for frame in shown.into_iter().flatten() {
        let head = frame.bytes.start..frame.bytes.start + FRAME_HEADER_BYTES as u64;
        places.extend(head.step_by(if every == 1 { 1 } else { 3 }));
        places.extend(frame.bytes.end - 8..frame.bytes.end);
        for record in &frame.records {
            places.extend((record.start..record.end).step_by(if every == 1 { 1 } else { 13 }));
        }
    }
    let end = of_file.last().map_or(length, |frame| frame.bytes.end);
    places.retain(|place| *place < end.min(length));
    let mut harms = Vec::new();
    for place in places {
        harms.push(Harm::Flip(place, 1 << (place % 8)));
        if place % SECTOR < 64 {
            harms.push(Harm::Zero(place - place % SECTOR));
        }
        if place % 16 == 0 {
            harms.push(Harm::Cut(place));
        }
    }
    harms.push(Harm::Remove);
    harms.retain(|harm| harm.changes(&fixture.model, file));
    if every == 1 {
        return harms;
    }
    // Each test takes its share.
    harms.into_iter().skip(share).step_by(3).collect()
}

fn each(fixture: &Fixture, share: usize, check: impl Fn(&Path, Harm)) {
    for file in &fixture.files {
        for harm in harms(fixture, file, share) {
            check(file, harm);
        }
    }
}

#[test]
fn t4_strict_finds_every_damage_and_names_it() {
    let writer = writer();
    let fixture = Fixture::new(&writer, true);
    assert!(
        fixture.files.iter().filter(|file| file.extension().is_some_and(|it| it == "log")).count()
            > 1
    );
    each(&fixture, 0, |file, harm| check_strict(&fixture, &writer, file, harm));
}

#[test]
fn t4_quarantine_loses_what_is_damaged_and_nothing_else() {
    let writer = writer();
    let fixture = Fixture::new(&writer, true);
    each(&fixture, 1, |file, harm| check_quarantine(&fixture, &writer, file, harm));
}

/// After a crash the last commit is in no watermark, so its bytes may be cut, but not those before
/// it.
#[test]
fn t4_damage_below_the_last_commit_is_found_after_a_crash_too() {
    let writer = writer();
    let fixture = Fixture::new(&writer, false);
    for file in &fixture.files {
        for harm in harms(&fixture, file, 2) {
            if matches!(harm, Harm::Remove) {
                continue;
            }
            let case = format!("{}, {harm:?}", file.display());
            let model = fixture.model.fork();
            harm.apply(&model, file);
            let seen = look(&writer, &model, Recovery::Strict, &case);
            let last = fixture.known_after(file, harm);
            let lost = (0..last).find(|it| !seen.read.contains(it) && !told(&seen, *it));
            if let Some(lost) = lost {
                let range = seen.offline.as_ref();
                assert!(range.is_some(), "{case}: {lost} is missing, and nobody says so");
                assert!(
                    range.is_some_and(|range| fixture.frame_of(range.start) <= lost),
                    "{case}: {range:?}, {lost}"
                );
            }
            let is_told = seen.offline.is_some() || !seen.damaged.is_empty();
            assert!(!is_told || seen.corruption > 0, "{case}: not counted");
        }
    }
}

/// The floor of what readers have seen stays, however often a damaged log is reopened.
#[test]
fn t4_damage_stays_damage_when_the_log_is_reopened_twice() {
    let writer = writer();
    let model = Model::new();
    let (log, _) = open(&writer, &model, &settings(Recovery::Strict)).unwrap();
    for n in 0..5 {
        append(&log, n..n + 1);
    }
    let file = model.files().into_iter().find(|it| it.extension().is_some_and(|it| it == "log"));
    let file = file.unwrap();
    let last = frames(&model, &file).pop().unwrap();
    model.flip(&file, last.bytes.start + 20, 1);
    for _ in 0..3 {
        drop(log.reopen());
        let State::Offline(offline) = log.status().state else { panic!("offset 4 is forgotten") };
        assert_eq!(offline.range, Some(Offset(4)..Offset(5)));
    }
}

/// A file from another history of the log, valid in itself, does not belong there.
#[test]
fn t4_a_file_of_another_epoch_is_not_taken_for_its_own() {
    let writer = writer();
    let fixture = Fixture::new(&writer, true);
    let other = Fixture::new(&writer, true);
    let logs: Vec<_> =
        fixture.files.iter().filter(|it| it.extension().is_some_and(|it| it == "log")).collect();
    for file in &logs[..logs.len() - 1] {
        let model = fixture.model.fork();
        model.overwrite(file, &other.model.bytes(file));
        let case = format!("{} of another life", file.display());
        let seen = look(&writer, &model, Recovery::Strict, &case);
        assert!(seen.offline.is_some(), "{case} is taken");
    }
    // The same for a single frame.
    let (own, foreign) = (&fixture.frames[3], &other.frames[3]);
    assert_eq!(own.bytes, foreign.bytes);
    let (start, end) = (own.bytes.start, own.bytes.end);
    let range = usize::try_from(start).unwrap()..usize::try_from(end).unwrap();
    let mut bytes = fixture.model.bytes(&own.file);
    bytes[range.clone()].copy_from_slice(&other.model.bytes(&own.file)[range]);
    fixture.model.overwrite(&own.file, &bytes);
    let seen = look(&writer, &fixture.model, Recovery::Strict, &"a frame of another life");
    let lost: Vec<u64> = seen.damaged.iter().flat_map(Clone::clone).collect();
    assert_eq!(lost, (own.base..own.base + own.records.len() as u64).collect::<Vec<_>>());
}
