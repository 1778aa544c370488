//! The most recent frames, kept in memory for followers of a log.
//!
//! The writer fills it only while somebody follows, and only with what is on disk, so followers
//! read no file. It holds the latest frames without a gap, and drops the oldest as new ones come,
//! without waiting for followers. A follower whose place is gone reads the file ([`super::Reader`])
//! or goes without.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{block::Block, open::OpenLog};
use crate::events::queue::Offset;

/// The oldest frames are dropped above this; the newest always stays.
const MAX_BYTES: usize = 4 << 20;

/// The last frames of one log.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Relaxed: a new follower finds in the file what the writer did not keep.
    followers: AtomicUsize,
    frames: Mutex<Frames>,
}

/// Frames without a gap, oldest first.
#[derive(Debug, Default)]
pub(super) struct Frames {
    frames: VecDeque<Frame>,
    bytes: usize,
}

/// One frame, as it was written.
#[derive(Clone, Debug)]
struct Frame {
    epoch: u64,
    base: Offset,
    end: Offset,
    bytes: Bytes,
}

/// A follower of a log. Dropping the last one drops the frames.
#[derive(Debug)]
pub struct Following(Arc<OpenLog>);

// === impl Live ===

impl Live {
    /// Whether anybody would read what is kept.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    /// Shows frames once they are on disk. Call it before anybody is told, who would look here.
    pub(super) fn show(&self, written: &mut Frames) {
        let written = mem::take(written);
        if written.frames.is_empty() {
            return;
        }
        let mut frames = self.frames.lock();
        // If the last follower has left, nobody would drop these frames.
        if self.is_followed() {
            written.frames.into_iter().for_each(|frame| frames.push(frame));
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Keeps a copy of a written frame.
    pub(super) fn keep(&mut self, epoch: u64, base: Offset, end: Offset, bytes: &[u8]) {
        self.push(Frame { epoch, base, end, bytes: Bytes::copy_from_slice(bytes) });
    }

    fn push(&mut self, frame: Frame) {
        if self.frames.back().is_some_and(|last| last.end != frame.base) {
            *self = Self::default();
        }
        self.bytes += frame.bytes.len();
        self.frames.push_back(frame);
        while self.bytes > MAX_BYTES && self.frames.len() > 1 {
            let gone = self.frames.pop_front();
            self.bytes -= gone.map_or(0, |frame| frame.bytes.len());
        }
    }

    /// The frame that contains `offset`.
    fn find(&self, offset: Offset) -> Option<&Frame> {
        let after = self.frames.partition_point(|frame| frame.base <= offset);
        let frame = self.frames.get(after.checked_sub(1)?)?;
        (offset < frame.end).then_some(frame)
    }
}

// === impl Following ===

impl Following {
    pub(super) fn new(log: Arc<OpenLog>) -> Self {
        log.live.followers.fetch_add(1, Ordering::Relaxed);
        Self(log)
    }

    /// Records from `from` on, if they are on disk and in memory. Reads no file.
    pub fn read(&self, from: Offset) -> Option<Block> {
        let frame = self.0.live.frames.lock().find(from).cloned()?;
        Some(Block {
            bytes: frame.bytes,
            epoch: frame.epoch,
            frames: vec![(0, frame.base)],
            from,
            next: frame.end,
            gaps: Vec::new(),
        })
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let live = &self.0.live;
        // Under the lock: the writer checks the count under it before it adds frames.
        let mut frames = live.frames.lock();
        if live.followers.fetch_sub(1, Ordering::Relaxed) == 1 {
            *frames = Frames::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(spans: &[(u64, u64, usize)]) -> Frames {
        let mut frames = Frames::default();
        for (base, end, bytes) in spans {
            frames.keep(7, Offset(*base), Offset(*end), &vec![0; *bytes]);
        }
        frames
    }

    fn found(frames: &Frames, offset: u64) -> Option<u64> {
        frames.find(Offset(offset)).map(|frame| frame.base.0)
    }

    #[test]
    fn a_frame_is_found_by_any_offset_in_it() {
        let frames = frames(&[(3, 5, 10), (5, 6, 10), (6, 9, 10)]);
        let all: Vec<_> = (2..10).map(|offset| found(&frames, offset)).collect();
        let expected = [None, Some(3), Some(3), Some(5), Some(6), Some(6), Some(6), None];
        assert_eq!(all, expected);
    }

    #[test]
    fn the_oldest_frames_go_and_the_newest_stays() {
        let third = MAX_BYTES / 3;
        let kept = frames(&[(0, 1, third), (1, 2, third), (2, 3, third), (3, 4, third)]);
        assert_eq!((found(&kept, 0), found(&kept, 1)), (None, Some(1)));
        assert!(kept.bytes <= MAX_BYTES);
        let kept = frames(&[(0, 1, third), (1, 2, 2 * MAX_BYTES)]);
        assert_eq!((found(&kept, 0), found(&kept, 1)), (None, Some(1)));
        assert_eq!(kept.bytes, 2 * MAX_BYTES);
    }

    #[test]
    fn there_is_never_a_hole() {
        let kept = frames(&[(0, 2, 10), (3, 4, 10)]);
        assert_eq!((found(&kept, 1), found(&kept, 3)), (None, Some(3)));
        assert_eq!(kept.bytes, 10);
    }
}
