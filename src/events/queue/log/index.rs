//! What is derived from a sealed file: where its frames are, and what is in it.

use std::{io, ops::ControlFlow};

use super::{
    chain,
    open::OpenLog,
    scan::{self, Piece, Stretch, WalkError},
    segment::{Segment, file_name},
    status::SegmentInfo,
};
use crate::events::queue::{Offset, codec::Record, storage::File};

/// So often, in bytes, the place of a frame is remembered.
const APART: u64 = 64 << 10;

impl OpenLog {
    /// Places of frames in a sealed segment, some 64 KiB apart.
    #[expect(clippy::unused_self, reason = "it reads what is kept beside the segment")]
    pub(super) fn places(
        &self,
        segment: &Segment,
        file: &dyn File,
    ) -> io::Result<Vec<(Offset, u64)>> {
        let mut places: Vec<(Offset, u64)> = Vec::new();
        let end = scan::walk(file, &Stretch::of(segment), &mut |piece| {
            if let Piece::Frame(position, frame) = piece
                && places.last().is_none_or(|(_, last)| position >= last + APART)
            {
                places.push((frame.base(), position));
            }
            ControlFlow::Continue(())
        });
        match end {
            Ok(_) => Ok(places),
            Err(WalkError::Io(error)) => Err(error),
            Err(WalkError::Newer(message)) => Err(io::Error::other(message)),
        }
    }

    /// Every whole record of a segment, in order.
    pub(super) fn each_record(
        &self,
        segment: &Segment,
        visit: &mut dyn FnMut(&Record<'_>, Offset),
    ) -> io::Result<()> {
        let file = self.place.storage.open_read(&self.place.segment_path(segment.base()))?;
        let end = scan::walk(&*file, &Stretch::of(segment), &mut |piece| {
            if let Piece::Frame(_, frame) = piece {
                for (offset, record) in frame.records() {
                    if let Ok(record) = record {
                        visit(&record, offset);
                    }
                }
            }
            ControlFlow::Continue(())
        });
        match end {
            Ok(_) => Ok(()),
            Err(WalkError::Io(error)) => Err(error),
            Err(WalkError::Newer(message)) => Err(io::Error::other(message)),
        }
    }

    /// What is kept beside a sealed segment.
    pub(super) fn read_derived(&self, segment: &Segment, ending: &str) -> Option<Vec<u8>> {
        let name = file_name(segment.base(), ending);
        chain::read_whole(&self.place, &name, u64::MAX).ok().flatten()
    }

    /// Keeps something beside a sealed segment. A failure is no harm: it can be derived again.
    pub(super) fn keep_derived(&self, segment: &Segment, ending: &str, bytes: &[u8]) {
        let name = file_name(segment.base(), ending);
        if let Err(error) = self.place.replace(&name, bytes) {
            tracing::warn!(log = %self.place.id, %error, name, "it cannot be kept");
        }
    }

    /// Keeps what is derived from a segment that is sealed now.
    pub(super) fn write_derived(&self, segment: &Segment, keys: Option<&[u8]>) {
        if let Some(keys) = keys {
            self.keep_derived(segment, "keys", keys);
        }
    }

    /// Looks up when the newest frame of a sealed segment was written.
    pub(super) fn learn_newest_wall(&self, segment: &Segment) {
        let path = self.place.segment_path(segment.base());
        let Ok(file) = self.place.storage.open_read(&path) else { return };
        let end = scan::walk(&*file, &Stretch::of(segment), &mut |_| ControlFlow::Continue(()));
        let last = end.ok().and_then(|end| end.last);
        let extent = segment.extent();
        let newest_wall = last.map_or(0, |head| head.closing.wall);
        segment.publish(extent.end, extent.position, newest_wall);
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: &std::sync::Arc<Segment>| {
            let extent = segment.extent();
            SegmentInfo {
                base: segment.base(),
                end: extent.end,
                bytes: extent.position,
                newest_wall: extent.newest_wall,
                is_sealed: extent.is_sealed,
                partitions: Vec::new(),
            }
        };
        self.view.all().iter().map(info).collect()
    }
}
