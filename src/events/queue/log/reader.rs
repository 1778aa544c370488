//! Reads a log, up to what is on disk.
//!
//! A block is read with one read, and verified with its records before it is returned. Damage is
//! reported by offset, once to the log's counters and to every reader: an error with
//! [`super::Recovery::Strict`], a gap with [`super::Recovery::Quarantine`]. Lost offsets are gaps
//! too.

use std::{
    io,
    ops::{ControlFlow, Range},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    block::{Block, OwnedRecord},
    error::ReadError,
    open::OpenLog,
    opening::{self, Damage},
    scan::{self, Piece, Stretch, WalkError},
    segment::{Extent, FIRST_FRAME, Segment},
};
use crate::events::queue::{
    Offset,
    codec::{self, FrameError, MAX_FRAME_BYTES, RecordError},
    storage::File,
};

/// A block has at least this many bytes, if there are as many, ...
const MIN_BLOCK: usize = 64 << 10;
/// ... and at most this many, unless a single frame has more.
const MAX_BLOCK: usize = 1 << 20;

/// Reads one log. Keeps one file open and its position, so that sequential reads are cheap.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<OpenLog>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    segment: Arc<Segment>,
    file: Box<dyn File>,
    /// Positions of frames in a sealed segment, in order, once one was looked up.
    places: Vec<(Offset, u64)>,
    /// Where the last block ended.
    hint: (Offset, u64),
}

/// What was taken from a buffer.
struct Taken {
    frames: Vec<(usize, Offset)>,
    /// After the last frame that was taken or skipped.
    at: (Offset, u64),
    then: Then,
}

/// Why no more was taken.
enum Then {
    /// The end of the buffer or the segment.
    End,
    /// A frame is longer than the rest of the buffer: this many bytes.
    Needs(usize),
    /// There is no valid frame.
    Bad,
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(shared: Arc<OpenLog>) -> Self {
        Self { shared, open: None }
    }

    /// Records from `from` on: about `max_bytes`, at least one frame if there is one. Empty if
    /// `from` is not on disk yet. Blocks.
    pub fn read(&mut self, from: Offset, max_bytes: usize) -> Result<Block, ReadError> {
        let start = self.shared.view.start();
        if from < start {
            return Err(ReadError::Retired { start });
        }
        let durable = self.shared.view.durable();
        if from >= durable {
            return Ok(Block::empty(from));
        }
        let Some((segment, next)) = self.shared.view.find(from) else {
            return Ok(Block::empty(from));
        };
        let extent = segment.extent();
        if from < segment.base() {
            return Ok(Block::gap(from, segment.base()));
        }
        if from >= extent.end {
            return Ok(Block::gap(from, next.unwrap_or(durable)));
        }
        self.open(&segment)?;
        self.read_in(&segment, &extent, from, max_bytes)
    }

    /// A copy of the record at `offset`; none if it is not on disk yet, or lost. Blocks.
    pub fn get(&mut self, offset: Offset) -> Result<Option<OwnedRecord>, ReadError> {
        let block = self.read(offset, MIN_BLOCK)?;
        let first = block.records().next().filter(|(at, _)| *at == offset);
        Ok(first.and_then(|(at, record)| OwnedRecord::copy(&record, at)))
    }

    /// The first offset from `from` on, approximately, at which one of these partitions has a record:
    /// none of theirs are skipped. The end if there is none. Blocks.
    pub fn skip_to(&mut self, from: Offset, partitions: &[u16]) -> Result<Offset, ReadError> {
        let durable = self.shared.view.durable();
        let mut from = from.max(self.shared.view.start());
        while from < durable {
            let Some((segment, next)) = self.shared.view.find(from) else { break };
            self.open(&segment)?;
            let Some(open) = &self.open else { break };
            let index = self.shared.index(&segment, &*open.file)?;
            let after = index.blocks().partition_point(|block| block.base <= from);
            let blocks = index.blocks().iter().skip(after.saturating_sub(1));
            let has = |block: &&codec::Block| partitions.iter().any(|it| block.has(*it));
            if let Some(block) = blocks.into_iter().find(has) {
                return Ok(block.base.max(from).min(durable));
            }
            from = next.unwrap_or(durable).max(from.plus(1));
        }
        Ok(from.min(durable))
    }

    fn open(&mut self, segment: &Arc<Segment>) -> Result<(), ReadError> {
        let is_same = |open: &Open| open.segment.header.epoch == segment.header.epoch;
        if let Some(open) = self.open.as_mut().filter(|open| is_same(open)) {
            open.segment = segment.clone();
            return Ok(());
        }
        let path = self.shared.place.segment_path(segment.base());
        let file = match self.shared.place.storage.open_read(&path) {
            Ok(file) => file,
            // It was retired after the lookup.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let start = self.shared.view.start();
                let is_gone = start > segment.base();
                return Err(if is_gone { ReadError::Retired { start } } else { error.into() });
            }
            Err(error) => return Err(error.into()),
        };
        let hint = (segment.base(), FIRST_FRAME);
        self.open = Some(Open { segment: segment.clone(), file, places: Vec::new(), hint });
        Ok(())
    }

    fn read_in(
        &mut self,
        segment: &Segment,
        extent: &Extent,
        from: Offset,
        max_bytes: usize,
    ) -> Result<Block, ReadError> {
        let Some(open) = &mut self.open else { return Ok(Block::empty(from)) };
        let mut place = open.locate(&self.shared, from)?;
        let wanted = max_bytes.clamp(MIN_BLOCK, MAX_BLOCK);
        let mut length = wanted;
        loop {
            let left =
                usize::try_from(extent.position.saturating_sub(place.1)).unwrap_or(usize::MAX);
            let asked = length.min(left);
            let mut buffer = vec![0; asked];
            let read = open.file.read_at(&mut buffer, place.1)?;
            buffer.truncate(read);
            let taken = take(&buffer, segment.header.epoch, place, from)?;
            if !taken.frames.is_empty() {
                open.hint = taken.at;
                let start = place.1;
                return block(&self.shared, open, start, buffer.into(), from, &taken);
            }
            place = taken.at;
            length = wanted;
            match taken.then {
                // A short read: the file was cut, and there is no more.
                Then::Needs(bytes) if bytes <= left && read == asked => length = length.max(bytes),
                Then::End if place.1 < extent.position && read > 0 => {}
                Then::End | Then::Needs(_) | Then::Bad => {
                    let next = open.pass(segment, extent, place)?;
                    open.hint = next;
                    if next.0 > from {
                        let lost = Lost { from: place.0.max(from), to: next.0, place: place.1 };
                        return lost.tell(&self.shared, segment, &*open.file, from, next.1);
                    }
                    place = next;
                }
            }
        }
    }
}

/// Offsets that cannot be read.
struct Lost {
    from: Offset,
    to: Offset,
    /// Position of the bad bytes.
    place: u64,
}

impl Lost {
    fn tell(
        &self,
        shared: &OpenLog,
        segment: &Segment,
        file: &dyn File,
        from: Offset,
        to_place: u64,
    ) -> Result<Block, ReadError> {
        report(shared, segment, self.from..self.to, self.place..to_place, file);
        let range = self.from..self.to;
        if shared.stops_at(&range) {
            return Err(ReadError::Damaged { range });
        }
        Ok(Block::gap(from, self.to))
    }
}

/// Counts and logs damage that was not known.
fn report(
    shared: &OpenLog,
    segment: &Segment,
    range: Range<Offset>,
    bytes: Range<u64>,
    file: &dyn File,
) {
    let damage = Damage {
        range,
        bytes: Some((segment.base(), bytes)),
        what: "bytes that were on disk have changed".into(),
        is_lost: true,
    };
    if opening::note(shared, &damage) && !shared.stops_at(&damage.range) {
        damage.quarantine(&shared.place, file);
    }
}

/// Takes the frames of a buffer that begins with one.
fn take(buffer: &[u8], epoch: u64, place: (Offset, u64), from: Offset) -> Result<Taken, ReadError> {
    let mut taken = Taken { frames: Vec::new(), at: place, then: Then::End };
    let mut at = 0;
    while let Some(rest) = buffer.get(at..).filter(|rest| !rest.is_empty()) {
        match codec::parse_frame(rest, epoch, taken.at.0) {
            Ok(frame) => {
                if frame.end() > from {
                    taken.frames.push((at, frame.base()));
                }
                at += frame.length();
                taken.at = (frame.end(), place.1 + at as u64);
            }
            Err(FrameError::Short { needed }) if needed <= MAX_FRAME_BYTES => {
                taken.then = Then::Needs(needed);
                break;
            }
            Err(error @ (FrameError::Newer { .. } | FrameError::UnknownFlags { .. })) => {
                return Err(ReadError::Newer(error.to_string()));
            }
            Err(_) => {
                taken.then = Then::Bad;
                break;
            }
        }
    }
    Ok(taken)
}

/// Verifies the records of what was taken, and builds a block.
fn block(
    shared: &OpenLog,
    open: &Open,
    start: u64,
    bytes: Bytes,
    from: Offset,
    taken: &Taken,
) -> Result<Block, ReadError> {
    let epoch = open.segment.header.epoch;
    let mut block = Block {
        bytes,
        epoch,
        frames: taken.frames.clone(),
        from,
        next: taken.at.0,
        gaps: Vec::new(),
    };
    let mut bad: Vec<(Offset, Range<u64>)> = Vec::new();
    for (at, base) in &taken.frames {
        let Ok(frame) = codec::parse_frame(&block.bytes[*at..], epoch, *base) else { continue };
        for (offset, record) in frame.records().skip_while(|(offset, _)| *offset < from) {
            match record {
                Ok(_) => {}
                Err(RecordError::Damaged) => {
                    let position = start + *at as u64;
                    bad.push((offset, position..position + frame.length() as u64));
                }
                Err(error) if offset == from => return Err(ReadError::Newer(error.to_string())),
                Err(_) => {
                    block.next = offset;
                    block.add_gaps(shared, open, bad)?;
                    return Ok(block);
                }
            }
        }
    }
    block.add_gaps(shared, open, bad)?;
    Ok(block)
}

impl Block {
    fn empty(from: Offset) -> Self {
        Self::gap(from, from)
    }

    /// A block without records: everything up to `to` is lost for good.
    fn gap(from: Offset, to: Offset) -> Self {
        let gaps = if from < to { vec![from..to] } else { Vec::new() };
        Self { bytes: Bytes::new(), epoch: 0, frames: Vec::new(), from, next: to, gaps }
    }

    /// Handles damaged records: the block ends before the first, or skips them.
    fn add_gaps(
        &mut self,
        shared: &OpenLog,
        open: &Open,
        bad: Vec<(Offset, Range<u64>)>,
    ) -> Result<(), ReadError> {
        for (offset, bytes) in bad {
            let range = offset..offset.plus(1);
            report(shared, &open.segment, range, bytes, &*open.file);
            match self.gaps.last_mut() {
                Some(last) if last.end == offset => last.end = offset.plus(1),
                _ => self.gaps.push(offset..offset.plus(1)),
            }
        }
        let Some(index) = self.gaps.iter().position(|gap| shared.stops_at(gap)) else {
            return Ok(());
        };
        let stop = self.gaps[index].clone();
        if stop.start == self.from {
            return Err(ReadError::Damaged { range: stop });
        }
        self.gaps.truncate(index);
        self.next = stop.start;
        Ok(())
    }
}

// === impl Open ===

impl Open {
    /// A frame to begin at, not after `from`.
    fn locate(&mut self, shared: &OpenLog, from: Offset) -> Result<(Offset, u64), ReadError> {
        let is_ahead = self.hint.0 > from;
        if !is_ahead && from.since(self.hint.0) == 0 {
            return Ok(self.hint);
        }
        if self.segment.extent().is_sealed && self.places.is_empty() {
            let index = shared.index(&self.segment, &*self.file)?;
            self.places = index.blocks().iter().map(|it| (it.base, it.position)).collect();
        }
        let after = self.places.partition_point(|(base, _)| *base <= from);
        let known = after.checked_sub(1).and_then(|last| self.places.get(last).copied());
        let known = known.or_else(|| self.segment.place_of(from));
        let known = known.unwrap_or((self.segment.base(), FIRST_FRAME));
        Ok(if is_ahead || known.0 > self.hint.0 { known } else { self.hint })
    }

    /// The next frame after bad bytes at `place`, or the end.
    fn pass(
        &self,
        segment: &Segment,
        extent: &Extent,
        place: (Offset, u64),
    ) -> Result<(Offset, u64), ReadError> {
        let stretch = Stretch {
            epoch: segment.header.epoch,
            position: place.1,
            offset: place.0,
            limit: extent.position,
            previous_crc: None,
        };
        let mut resumes = None;
        let walked = scan::walk(&*self.file, &stretch, &mut |piece| {
            match piece {
                Piece::Bad(bad) => resumes = bad.resumes,
                Piece::Frame(position, frame) => resumes = Some((position, frame.base())),
            }
            ControlFlow::Break(())
        });
        walked.map_err(WalkError::into_read)?;
        Ok(resumes.map_or((extent.end, extent.position), |(at, base)| (base, at)))
    }
}
