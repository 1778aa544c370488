//! Turns the newest file into a log that takes appends.

use std::{
    io::{self, ErrorKind},
    ops::ControlFlow,
    sync::Arc,
};

use super::{
    chain::{Found, Known},
    core::Tail,
    error::OpenError,
    judge::{self, Point, Stretched, Verdict},
    open::OpenLog,
    opening::{self, Damage},
    scan::{self, Piece, Stretch, WalkError},
    segment::{self, CreateError, Extent, FIRST_FRAME, Segment},
    sequencer::Sequencer,
    status::{Offline, Opened},
};
use crate::events::queue::{
    Offset,
    codec::{Closing, Frame, FrameHead, FrameWriter, Predecessor, SegmentHeader},
    mutation::{self, Mutation},
    storage::{self, File},
};

/// The result for the newest file.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) segments: Vec<Arc<Segment>>,
    /// Where the log grows; none if it is offline.
    pub(super) tail: Option<Tail>,
    pub(super) offline: Option<Offline>,
    pub(super) is_full: bool,
}

/// Copies frames into a new file, under its epoch.
struct Copy<'a> {
    target: &'a Segment,
    writer: FrameWriter,
    position: u64,
    end: Offset,
    last_crc: u32,
    newest_wall: u64,
}

/// Begins a log without files: its first file starts at the first offset that was never assigned.
pub(super) fn begin(
    shared: &OpenLog,
    checkpoint: &Known,
    floor: Offset,
    opened: &mut Opened,
) -> Result<Outcome, OpenError> {
    let base = checkpoint.durable.max(floor).max(checkpoint.start);
    let header = SegmentHeader {
        store: shared.place.store,
        log: shared.place.id,
        base,
        epoch: segment::random_epoch(),
        predecessor: None,
        gap: base.since(checkpoint.start),
    };
    let room = shared.settings.room(0);
    let file = segment::create(&shared.place, &header, room, |_| Ok(()))
        .map_err(|error| OpenError::io("the first file is made")(error.into_io()))?;
    let segment = Arc::new(Segment::empty(header));
    opened.end = base;
    Ok(Outcome::serving(vec![segment.clone()], Copy::new(&segment).tail(segment.clone(), file)))
}

/// Judges the newest file, and continues in it or after it.
pub(super) fn recover(
    shared: &OpenLog,
    sequencer: &mut dyn Sequencer,
    checkpoint: &Known,
    found: &Found,
    floor: Offset,
    opened: &mut Opened,
) -> Result<Outcome, OpenError> {
    let base = found.header.base;
    let known = checkpoint.durable.max(floor);
    let mut verdict =
        judge::judge(found, known, sequencer).map_err(|error| error.into_open(base))?;
    if checkpoint.is_bad && verdict.is_cut && verdict.damage.is_empty() {
        // The cut bytes may have been on disk: the evidence, CHECKPOINT, is damaged.
        let end = verdict.copy.map_or(verdict.proven, |copy| copy.to);
        verdict.damage.push(Damage {
            range: end.offset..end.offset.plus(1),
            bytes: Some((base, end.position..found.length)),
            what: "CHECKPOINT is damaged, and the log does not end as it should".into(),
            is_lost: false,
        });
    }
    for damage in &verdict.damage {
        opening::note(shared, damage);
    }
    opened.last = verdict.copy.map_or(verdict.proven, |copy| copy.to).at;
    if let Some(first) = verdict.damage.iter().find(|it| shared.stops_at(&it.range)) {
        return Ok(stopped_before(found, first, opened));
    }
    for damage in &verdict.damage {
        damage.quarantine(&shared.place, &*found.file);
        if damage.is_lost {
            opened.gaps.push(damage.range.clone());
        }
    }
    opened.end = verdict.next;
    opened.copied = verdict.copy.map_or(0, |copy| copy.to.offset.since(copy.from.1));
    if verdict.is_cut {
        let end = verdict.copy.map_or(verdict.proven, |copy| copy.to);
        opened.cut_bytes = found.length.saturating_sub(end.position);
    }
    go_on(shared, sequencer, found, &verdict)
}

/// The log is offline; what precedes the damage is readable.
fn stopped_before(found: &Found, damage: &Damage, opened: &mut Opened) -> Outcome {
    let mut extent =
        Extent { end: found.header.base, position: FIRST_FRAME, newest_wall: 0, is_sealed: true };
    let seen = scan::walk(&*found.file, &found.stretch(), &mut |piece| match piece {
        Piece::Frame(position, frame) if frame.end() <= damage.range.start => {
            extent.end = frame.end();
            extent.position = position + frame.length() as u64;
            extent.newest_wall = frame.head().closing.wall;
            ControlFlow::Continue(())
        }
        _ => ControlFlow::Break(()),
    });
    drop(seen);
    opened.end = extent.end;
    Outcome {
        segments: vec![Arc::new(Segment::new(found.header, extent))],
        tail: None,
        offline: Some(damage.offline()),
        is_full: false,
    }
}

fn go_on(
    shared: &OpenLog,
    sequencer: &mut dyn Sequencer,
    found: &Found,
    verdict: &Verdict,
) -> Result<Outcome, OpenError> {
    let is_whole = !verdict.is_cut && verdict.damage.is_empty() && !found.is_mended;
    let is_copied = verdict.copy.is_some() && !mutation::is(Mutation::NoCopyForward);
    if is_whole && !is_copied {
        return in_place(shared, found, verdict);
    }
    in_new_file(shared, sequencer, found, verdict)
}

/// Keeps the file as the newest: it contains only what is proven.
fn in_place(shared: &OpenLog, found: &Found, verdict: &Verdict) -> Result<Outcome, OpenError> {
    let end = verdict.copy.map_or(verdict.proven, |copy| copy.to);
    let extent = Extent { is_sealed: false, ..end.sealed() };
    let segment = Arc::new(Segment::with_index(found.header, extent, verdict.index.clone()));
    let path = shared.place.segment_path(found.header.base);
    let file = shared.place.storage.open(&path).map_err(OpenError::io("a log file is opened"))?;
    let tail = Tail {
        segment: segment.clone(),
        file: Some(file),
        position: end.position,
        end: end.offset,
        last_crc: end.crc,
        newest_wall: end.at.map_or(0, |at| at.wall),
    };
    Ok(Outcome::serving(vec![segment], tail))
}

fn in_new_file(
    shared: &OpenLog,
    sequencer: &mut dyn Sequencer,
    found: &Found,
    verdict: &Verdict,
) -> Result<Outcome, OpenError> {
    let header = successor(&found.header, verdict);
    let proven = &verdict.proven;
    let old = Arc::new(Segment::with_index(found.header, proven.sealed(), verdict.index.clone()));
    let is_replaced = header.base == found.header.base;
    let bytes = verdict.copy.map_or(0, |copy| copy.to.position - copy.from.0);
    // Records and frames keep their sizes, so the copy takes as many bytes.
    let room = shared.settings.room(FIRST_FRAME + bytes);
    let segment = Arc::new(Segment::empty(header));
    let mut copy = Copy::new(&segment);
    let fill = |file: &dyn File| {
        verdict.copy.map_or(Ok(()), |it| copy.run(&*found.file, found.header.epoch, &it, file))
    };
    let file = match segment::create(&shared.place, &header, room, fill) {
        Ok(file) => file,
        Err(CreateError::Failed(error)) if verdict.copy.is_none() && storage::is_full(&error) => {
            return Ok(full(old, proven));
        }
        Err(error) => return Err(OpenError::io("a new file is made")(error.into_io())),
    };
    let tail = copy.tail(segment.clone(), file);
    segment.publish(tail.end, tail.position, tail.newest_wall);
    if !is_replaced {
        let keys = sequencer.sealed(found.header.epoch, found.header.base..proven.offset);
        shared.write_derived(&old, keys.as_deref());
    }
    shared
        .each_record(&segment, &mut |record, offset| sequencer.learn(record, offset))
        .map_err(OpenError::io("copied records are read"))?;
    if is_replaced {
        return Ok(Outcome::serving(vec![segment], tail));
    }
    // The successor says where the old file ends: this only frees space.
    if let Err(error) = found.file.truncate(proven.position) {
        tracing::warn!(log = %shared.place.id, %error, "a sealed log file could not be truncated: it keeps its unused space");
    }
    Ok(Outcome::serving(vec![old, segment], tail))
}

/// There is no room for a new file, and none is needed to serve existing records.
fn full(old: Arc<Segment>, proven: &Point) -> Outcome {
    let tail = Tail {
        segment: old.clone(),
        file: None,
        position: proven.position,
        end: proven.offset,
        last_crc: proven.crc,
        newest_wall: proven.at.map_or(0, |at| at.wall),
    };
    Outcome { segments: vec![old], tail: Some(tail), offline: None, is_full: true }
}

/// The header of the file that continues the proven part of `old`.
fn successor(old: &SegmentHeader, verdict: &Verdict) -> SegmentHeader {
    let base = verdict.copy.map_or(verdict.next, |copy| copy.from.1);
    let proven = &verdict.proven;
    let predecessor = Predecessor {
        epoch: old.epoch,
        end_position: proven.position,
        end_offset: proven.offset,
        last_crc: proven.crc,
    };
    let is_replaced = base == old.base;
    SegmentHeader {
        base,
        epoch: segment::random_epoch(),
        predecessor: if is_replaced { old.predecessor } else { Some(predecessor) },
        gap: if is_replaced { old.gap } else { base.since(proven.offset) },
        ..*old
    }
}

// === impl Copy ===

impl<'a> Copy<'a> {
    fn new(target: &'a Segment) -> Self {
        Self {
            target,
            writer: FrameWriter::new(),
            position: FIRST_FRAME,
            end: target.base(),
            last_crc: 0,
            newest_wall: 0,
        }
    }

    fn run(
        &mut self,
        from: &dyn File,
        epoch: u64,
        frames: &Stretched,
        to: &dyn File,
    ) -> io::Result<()> {
        let stretch = Stretch {
            epoch,
            position: frames.from.0,
            offset: frames.from.1,
            limit: frames.to.position,
            previous_crc: None,
        };
        let mut failed = None;
        let end = scan::walk(from, &stretch, &mut |piece| {
            let Piece::Frame(_, frame) = piece else { return ControlFlow::Break(()) };
            match self.frame(&frame, to) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            }
        });
        match (failed, end) {
            (Some(error), _) | (None, Err(WalkError::Io(error))) => Err(error),
            (None, Ok(end)) if end.offset == frames.to.offset => Ok(()),
            // It was whole a moment ago.
            (None, _) => Err(ErrorKind::InvalidData.into()),
        }
    }

    fn frame(&mut self, frame: &Frame<'_>, to: &dyn File) -> io::Result<()> {
        let invalid = |_| io::Error::from(ErrorKind::InvalidData);
        self.writer.begin(self.target.header.epoch, frame.base());
        for (_, record) in frame.records() {
            let record = record.map_err(|_| io::Error::from(ErrorKind::InvalidData))?;
            self.writer.push_record(&record).map_err(invalid)?;
        }
        let told = frame.head().closing;
        let durable = self.target.base();
        let closing = Closing { previous_crc: self.last_crc, durable, ..told };
        let encoded = self.writer.finish(&closing);
        to.write_at(encoded.bytes, self.position)?;
        let (crc, length, count) = (encoded.crc, encoded.bytes.len(), encoded.count);
        let head = FrameHead { crc, length, base: frame.base(), count, closing };
        let partitions =
            frame.records().map(|(_, record)| record.map_or(0, |record| record.partition()));
        self.target.note(&head, self.position, partitions);
        self.position += length as u64;
        (self.end, self.last_crc, self.newest_wall) = (frame.end(), crc, told.wall);
        Ok(())
    }

    fn tail(&self, segment: Arc<Segment>, file: Box<dyn File>) -> Tail {
        Tail {
            segment,
            file: Some(file),
            position: self.position,
            end: self.end,
            last_crc: self.last_crc,
            newest_wall: self.newest_wall,
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn serving(segments: Vec<Arc<Segment>>, tail: Tail) -> Self {
        Self { segments, tail: Some(tail), offline: None, is_full: false }
    }
}
