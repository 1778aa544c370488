//! What was written last, in memory, for those who follow a log.
//!
//! The writer fills it, only while somebody follows and only with what is on disk, so that who follows
//! reads no file. It holds the frames that were written last, without a hole between them, and forgets
//! the oldest as new ones come: nobody who follows is waited for. Who finds that its place is gone reads
//! the file ([`super::Reader`]) or goes without.

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

/// Frames are forgotten from here on; the newest stays, whatever it has.
const MAX_BYTES: usize = 4 << 20;

/// The last frames of one log.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Relaxed: who has just come finds in the file what the writer did not keep for it.
    followers: AtomicUsize,
    frames: Mutex<Frames>,
}

/// Frames without a hole between them, oldest first.
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

/// Somebody follows a log. The last that is dropped lets its frames go.
#[derive(Debug)]
pub struct Following(Arc<OpenLog>);

// === impl Live ===

impl Live {
    /// Whether anybody would read what is kept.
    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::Relaxed) > 0
    }

    /// Shows what was written, once it is on disk. Before that is told to anybody: who is woken looks here.
    pub(super) fn show(&self, written: &mut Frames) {
        let written = mem::take(written);
        if written.frames.is_empty() {
            return;
        }
        let mut frames = self.frames.lock();
        // The last follower has left, and would find nobody who lets go of these.
        if self.is_followed() {
            written.frames.into_iter().for_each(|frame| frames.push(frame));
        }
    }
}

// === impl Frames ===

impl Frames {
    /// Keeps a frame that was written. Copies it.
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

    /// The frame that `offset` is in.
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
        // Under the lock, under which the writer looks at the count before it adds any.
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
