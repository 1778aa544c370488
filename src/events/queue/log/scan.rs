//! Walks the frames of a file, past damage too.

use std::{io, ops::ControlFlow};

use super::{
    error::ReadError,
    segment::{FIRST_FRAME, Segment},
};
use crate::events::queue::{
    Offset,
    codec::{self, FRAME_HEADER_BYTES, Frame, FrameError, FrameHead, MAX_FRAME_BYTES},
    storage::File,
};

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// A stretch of a file to walk from its beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stretch {
    pub(super) epoch: u64,
    /// Position of a frame ...
    pub(super) position: u64,
    /// ... and its base offset.
    pub(super) offset: Offset,
    /// Nothing is read from here on.
    pub(super) limit: u64,
    /// The checksum of the frame before, if it is known.
    pub(super) previous_crc: Option<u32>,
}

/// One step of the walk.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// A whole frame. Its records are not verified.
    Frame(u64, Frame<'a>),
    /// Bytes that are no frame where one was expected.
    Bad(Bad),
}

/// Bytes that are no frame where one was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    /// Where they begin.
    pub(super) position: u64,
    /// The offset that was expected there.
    pub(super) from: Offset,
    /// The next whole frame: its position and base offset.
    pub(super) resumes: Option<(u64, Offset)>,
}

/// Where the walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// After the last whole frame.
    pub(super) position: u64,
    /// The offset after its last record.
    pub(super) offset: Offset,
    /// Its header.
    pub(super) last: Option<FrameHead>,
    /// The highest offset that any header, of a whole frame or not, says to be on disk.
    pub(super) durable: Offset,
    /// Only zeros follow, or nothing.
    pub(super) is_clean: bool,
}

/// The walk cannot go on.
#[derive(Debug)]
pub(super) enum WalkError {
    Io(io::Error),
    /// Written by a later version of the program.
    Newer(String),
}

/// Bytes of a file, read ahead.
struct Window<'a> {
    file: &'a dyn File,
    buffer: Vec<u8>,
    /// Where in the file the buffer begins.
    start: u64,
    limit: u64,
}

impl Stretch {
    /// All frames of a segment that may be read.
    pub(super) fn of(segment: &Segment) -> Self {
        Self {
            epoch: segment.header.epoch,
            position: FIRST_FRAME,
            offset: segment.base(),
            limit: segment.extent().position,
            previous_crc: Some(0),
        }
    }
}

impl WalkError {
    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Newer(message) => io::Error::other(message),
        }
    }

    pub(super) fn into_read(self) -> ReadError {
        match self {
            Self::Io(error) => error.into(),
            Self::Newer(message) => ReadError::Newer(message),
        }
    }
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Passes every piece to `visit`, which may end the walk.
pub(super) fn walk(
    file: &dyn File,
    stretch: &Stretch,
    visit: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>,
) -> Result<End, WalkError> {
    let mut window = Window { file, buffer: Vec::new(), start: 0, limit: stretch.limit };
    let (mut position, mut expected) = (stretch.position, stretch.offset);
    let mut previous = stretch.previous_crc;
    let mut end =
        End { position, offset: expected, last: None, durable: Offset::ZERO, is_clean: true };
    loop {
        match window.frame(position, stretch.epoch, expected, previous)? {
            Ok(frame) => {
                let head = frame.head();
                let flow = visit(Piece::Frame(position, frame));
                position += head.length as u64;
                expected = head.base.plus(head.count.into());
                previous = Some(head.crc);
                end.durable = end.durable.max(head.closing.durable);
                (end.position, end.offset, end.last) = (position, expected, Some(head));
                if flow.is_break() {
                    return Ok(end);
                }
            }
            Err(is_zero) => {
                if is_zero && window.is_zero_from(position)? {
                    return Ok(end);
                }
                end.durable = end.durable.max(window.durable_at(position, stretch.epoch)?);
                let resumes = window.resume(position, expected, stretch.epoch, &mut end.durable)?;
                let bad = Bad { position, from: expected, resumes };
                let flow = visit(Piece::Bad(bad));
                let Some(next) = resumes.filter(|_| flow.is_continue()) else {
                    end.is_clean = false;
                    return Ok(end);
                };
                (position, expected) = next;
                previous = None;
            }
        }
    }
}

// === impl Window ===

impl Window<'_> {
    /// At least `wanted` bytes from `position`, if there are as many below the limit.
    fn bytes(&mut self, position: u64, wanted: usize) -> io::Result<&[u8]> {
        let left = usize::try_from(self.limit.saturating_sub(position)).unwrap_or(usize::MAX);
        let wanted = wanted.min(left);
        let has = position
            .checked_sub(self.start)
            .and_then(|at| usize::try_from(at).ok())
            .and_then(|at| self.buffer.len().checked_sub(at))
            .unwrap_or(0);
        if has < wanted {
            self.buffer.resize(wanted.max(WINDOW_BYTES).min(left), 0);
            self.start = position;
            let read = self.file.read_at(&mut self.buffer, position)?;
            self.buffer.truncate(read);
        }
        let at = usize::try_from(position.saturating_sub(self.start)).unwrap_or(usize::MAX);
        Ok(self.buffer.get(at..).unwrap_or_default())
    }

    /// The frame at `position`, or whether it looks like the end.
    fn frame(
        &mut self,
        position: u64,
        epoch: u64,
        expected: Offset,
        previous: Option<u32>,
    ) -> Result<Result<Frame<'_>, bool>, WalkError> {
        let mut wanted = FRAME_HEADER_BYTES;
        loop {
            let bytes = self.bytes(position, wanted)?;
            if bytes.is_empty() {
                return Ok(Err(true));
            }
            match codec::parse_frame(bytes, epoch, expected) {
                Err(FrameError::Short { needed })
                    if needed > bytes.len() && wanted < needed && needed <= MAX_FRAME_BYTES =>
                {
                    wanted = needed;
                }
                Err(error @ (FrameError::Newer { .. } | FrameError::UnknownFlags { .. })) => {
                    return Err(WalkError::Newer(error.to_string()));
                }
                Err(error) => return Ok(Err(error == FrameError::Zero || codec::is_zero(bytes))),
                Ok(_) => break,
            }
        }
        // Again: what was borrowed in the loop cannot leave it.
        let bytes = self.bytes(position, wanted)?;
        let frame = codec::parse_frame(bytes, epoch, expected).map_err(|_| false);
        let follows =
            |frame: &Frame<'_>| previous.is_none_or(|crc| crc == frame.head().closing.previous_crc);
        Ok(frame.and_then(|frame| if follows(&frame) { Ok(frame) } else { Err(false) }))
    }

    fn is_zero_from(&mut self, mut position: u64) -> io::Result<bool> {
        loop {
            let bytes = self.bytes(position, WINDOW_BYTES)?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if !codec::is_zero(bytes) {
                return Ok(false);
            }
            position += bytes.len() as u64;
        }
    }

    /// The durable offset in the header of a damaged frame, if the header is whole: it was true
    /// before the frame was written.
    fn durable_at(&mut self, position: u64, epoch: u64) -> io::Result<Offset> {
        let head = codec::parse_head(self.bytes(position, FRAME_HEADER_BYTES)?, epoch);
        Ok(head.map_or(Offset::ZERO, |head| head.closing.durable))
    }

    /// The next whole frame after bad bytes. Raises `durable` to what headers on the way say.
    fn resume(
        &mut self,
        position: u64,
        least: Offset,
        epoch: u64,
        durable: &mut Offset,
    ) -> Result<Option<(u64, Offset)>, WalkError> {
        let mut position = position + 8;
        loop {
            let bytes = self.bytes(position, WINDOW_BYTES)?;
            if bytes.len() < FRAME_HEADER_BYTES {
                return Ok(None);
            }
            let looked_at = (bytes.len() - FRAME_HEADER_BYTES) / 8 * 8 + 8;
            match codec::find_frame(bytes, epoch, least) {
                None => position += looked_at as u64,
                Some((at, head)) => {
                    position += at as u64;
                    *durable = (*durable).max(head.closing.durable);
                    if self.frame(position, epoch, head.base, None)?.is_ok() {
                        return Ok(Some((position, head.base)));
                    }
                    position += 8;
                }
            }
        }
    }
}
