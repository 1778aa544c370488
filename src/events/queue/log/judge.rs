//! Judges the newest file when a log is opened: what is proven, what to copy forward, what to cut.

use std::ops::ControlFlow;

use super::{
    chain::Found,
    opening::Damage,
    scan::{self, Bad, End, Piece, WalkError},
    segment::{Extent, FIRST_FRAME},
    sequencer::Sequencer,
};
use crate::events::queue::{
    Offset,
    codec::{Frame, Index, RecordError},
    time::Now,
};

/// What the newest file contains.
#[derive(Debug)]
pub(super) struct Verdict {
    /// After the last frame that is known to be on disk.
    pub(super) proven: Point,
    /// Whole frames after that, which may not be on disk.
    pub(super) copy: Option<Stretched>,
    /// The offset of the next record.
    pub(super) next: Offset,
    pub(super) damage: Vec<Damage>,
    /// Bytes follow the last whole frame that are not part of the log.
    pub(super) is_cut: bool,
    /// The index of the proven frames.
    pub(super) index: Index,
}

/// A point between two frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) position: u64,
    pub(super) offset: Offset,
    pub(super) crc: u32,
    /// When the frame before it was written.
    pub(super) at: Option<Now>,
}

/// Consecutive frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretched {
    /// Before the first frame: position and offset.
    pub(super) from: (u64, Offset),
    /// After the last.
    pub(super) to: Point,
}

struct Judge<'a> {
    sequencer: &'a mut dyn Sequencer,
    watermark: Offset,
    base: Offset,
    verdict: Verdict,
    newer: Option<String>,
}

/// Scans the file, and shows the sequencer the records below the watermark. W starts at `known` and
/// is raised to what the file says of itself.
pub(super) fn judge(
    found: &Found,
    known: Offset,
    sequencer: &mut dyn Sequencer,
) -> Result<Verdict, WalkError> {
    let (base, stretch) = (found.header.base, found.stretch());
    // Headers first: one after damage may say that the damaged bytes were on disk.
    let heads = scan::walk(&*found.file, &stretch, &mut |_| ControlFlow::Continue(()))?;
    let start = Point { position: FIRST_FRAME, offset: base, crc: 0, at: None };
    let mut judge = Judge {
        sequencer,
        watermark: known.max(heads.durable).max(base),
        base,
        verdict: Verdict {
            proven: start,
            copy: None,
            next: base,
            damage: Vec::new(),
            is_cut: false,
            index: Index::new(found.header.epoch, base, FIRST_FRAME),
        },
        newer: None,
    };
    let end = scan::walk(&*found.file, &stretch, &mut |piece| judge.look_at(&piece))?;
    judge.finish(&end, found.length)
}

// === impl Judge ===

impl Judge<'_> {
    fn look_at(&mut self, piece: &Piece<'_>) -> ControlFlow<()> {
        match piece {
            Piece::Frame(position, frame) if frame.base() < self.watermark => {
                self.take_proven(*position, frame);
            }
            Piece::Frame(position, frame) => match frame.verify() {
                Ok(()) => self.take_unproven(*position, frame),
                Err((_, RecordError::Damaged)) => {
                    self.verdict.is_cut = true;
                    return ControlFlow::Break(());
                }
                Err((_, error)) => self.newer = Some(error.to_string()),
            },
            Piece::Bad(bad) if bad.from >= self.watermark => {
                self.verdict.is_cut = true;
                return ControlFlow::Break(());
            }
            Piece::Bad(bad) => self.take_damage(bad),
        }
        if self.newer.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The frame was on disk, so bad records in it are damage.
    fn take_proven(&mut self, position: u64, frame: &Frame<'_>) {
        let end = position + frame.length() as u64;
        let mut partitions = Vec::with_capacity(frame.head().count as usize);
        for (offset, record) in frame.records() {
            partitions.push(record.map_or(0, |record| record.partition()));
            match record {
                Ok(record) => self.sequencer.learn(&record, offset),
                Err(RecordError::Damaged) => self.lose(offset..offset.plus(1), position..end),
                Err(error) => self.newer = Some(error.to_string()),
            }
        }
        let (length, wall) = (frame.length() as u64, frame.head().closing.wall);
        self.verdict.index.add_frame(position, length, frame.base(), wall, partitions);
        self.verdict.proven = point(end, frame);
        self.verdict.next = frame.end();
    }

    fn take_unproven(&mut self, position: u64, frame: &Frame<'_>) {
        let to = point(position + frame.length() as u64, frame);
        let from = self.verdict.copy.map_or((position, frame.base()), |it| it.from);
        self.verdict.copy = Some(Stretched { from, to });
        self.verdict.next = frame.end();
    }

    fn take_damage(&mut self, bad: &Bad) {
        let (to_position, to) = bad.resumes.unwrap_or((u64::MAX, self.watermark));
        self.lose(bad.from..to, bad.position..to_position);
        self.verdict.next = to;
    }

    fn lose(&mut self, range: std::ops::Range<Offset>, bytes: std::ops::Range<u64>) {
        // Adjacent damage is one finding.
        if let Some(last) = self.verdict.damage.last_mut()
            && last.range.end == range.start
            && let Some((_, last_bytes)) = &mut last.bytes
        {
            last.range.end = range.end;
            last_bytes.end = bytes.end;
            return;
        }
        self.verdict.damage.push(Damage {
            range,
            bytes: Some((self.base, bytes)),
            what: "bytes that were on disk have changed".into(),
            is_lost: true,
        });
    }

    fn finish(mut self, end: &End, length: u64) -> Result<Verdict, WalkError> {
        if let Some(message) = self.newer {
            return Err(WalkError::Newer(message));
        }
        if self.verdict.next < self.watermark {
            // It ends too early, cleanly or not.
            let next = self.verdict.next;
            self.lose(next..self.watermark, end.position..length);
            self.verdict.next = self.watermark;
        }
        for damage in &mut self.verdict.damage {
            if let Some((_, bytes)) = &mut damage.bytes {
                bytes.end = bytes.end.min(length).max(bytes.start);
            }
        }
        self.verdict.is_cut |= !end.is_clean;
        Ok(self.verdict)
    }
}

impl Point {
    /// The extent of a file that ends here.
    pub(super) fn sealed(&self) -> Extent {
        Extent {
            end: self.offset,
            position: self.position,
            newest_wall: self.at.map_or(0, |at| at.wall),
            is_sealed: true,
        }
    }
}

/// The point after `frame`, which ends at `position`.
fn point(position: u64, frame: &Frame<'_>) -> Point {
    let head = frame.head();
    let at = Now { wall: head.closing.wall, mono: head.closing.mono };
    Point { position, offset: frame.end(), crc: head.crc, at: Some(at) }
}
