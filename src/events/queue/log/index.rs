//! What is derived from a sealed file: the positions of its frames, and what it contains.

use std::{io, ops::ControlFlow, sync::Arc};

use super::{
    chain,
    error::ReadError,
    open::OpenLog,
    scan::{self, Piece, Stretch, WalkError},
    segment::{FIRST_FRAME, Segment, Summary, file_name},
    status::SegmentInfo,
};
use crate::events::queue::{
    Offset,
    codec::{Frame, Index, Record},
    storage::File,
};

impl OpenLog {
    /// The index of a segment: the stored one, or a new one if that is missing or not its own.
    pub(super) fn index(&self, segment: &Segment, file: &dyn File) -> io::Result<Index> {
        if let Some(index) = segment.own_index() {
            return Ok(index);
        }
        let extent = segment.extent();
        let kept = self.read_derived(segment, "idx");
        let kept = kept.and_then(|bytes| Index::decode(&bytes).ok());
        let is_own = |index: &Index| {
            index.epoch == segment.header.epoch && index.end_position == extent.position
        };
        if let Some(index) = kept.filter(is_own) {
            return Ok(index);
        }
        let index = build(segment, file)?;
        if extent.is_sealed {
            self.keep_derived(segment, "idx", &index.encode());
        }
        Ok(index)
    }

    /// What a segment contains; looked up once.
    fn summary(&self, segment: &Segment) -> Summary {
        let opened = self.place.storage.open_read(&self.place.segment_path(segment.base()));
        let index = opened.and_then(|file| self.index(segment, &*file));
        match index {
            Ok(index) => {
                let summary = Summary::of(&index);
                segment.set_summary(&summary);
                summary
            }
            Err(error) => {
                tracing::warn!(log = %self.place.id, %error, base = %segment.base(), "no index");
                Summary::default()
            }
        }
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let info = |segment: &Arc<Segment>| {
            let extent = segment.extent();
            let summary = segment.summary().unwrap_or_else(|| self.summary(segment));
            SegmentInfo {
                epoch: segment.header.epoch,
                base: segment.base(),
                end: extent.end,
                bytes: extent.position,
                newest_wall: summary.newest_wall,
                is_sealed: extent.is_sealed,
                partitions: summary.partitions,
            }
        };
        self.view.all().iter().map(info).collect()
    }

    /// Looks up when the newest frame of a sealed segment was written.
    pub(super) fn learn_newest_wall(&self, segment: &Segment) {
        let extent = segment.extent();
        segment.publish(extent.end, extent.position, self.summary(segment).newest_wall);
    }

    /// The first offset written at `wall` or later, as far as clocks can be trusted.
    pub(super) fn offset_at(&self, wall: u64) -> Result<Offset, ReadError> {
        for segment in self.view.all() {
            let path = self.place.segment_path(segment.base());
            let newest = segment.summary().unwrap_or_else(|| self.summary(&segment)).newest_wall;
            if newest < wall {
                continue;
            }
            let file = self.place.storage.open_read(&path)?;
            let index = self.index(&segment, &*file)?;
            let Some(block) = index.block_at(wall) else { continue };
            let mut stretch = Stretch::of(&segment);
            (stretch.position, stretch.offset) = (block.position, block.base);
            stretch.previous_crc = None;
            let mut found = None;
            let walked = scan::walk(&*file, &stretch, &mut |piece| match piece {
                Piece::Frame(_, frame) if frame.head().closing.wall >= wall => {
                    found = Some(frame.base());
                    ControlFlow::Break(())
                }
                _ => ControlFlow::Continue(()),
            });
            walked.map_err(WalkError::into_read)?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        Ok(self.view.durable())
    }

    /// Stores what is derived from a segment that was just sealed, and drops its in-memory index.
    pub(super) fn write_derived(&self, segment: &Segment, keys: Option<&[u8]>) {
        if let Some(index) = segment.own_index() {
            segment.set_summary(&Summary::of(&index));
            self.keep_derived(segment, "idx", &index.encode());
        }
        if let Some(keys) = keys {
            self.keep_derived(segment, "keys", keys);
        }
        segment.seal();
    }

    /// Visits every whole record of a segment, in order.
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
        end.map(|_| ()).map_err(WalkError::into_io)
    }

    /// Reads a derived file of a sealed segment.
    pub(super) fn read_derived(&self, segment: &Segment, ending: &str) -> Option<Vec<u8>> {
        let name = file_name(segment.base(), ending);
        chain::read_whole(&self.place, &name, u64::MAX).ok().flatten()
    }

    /// Stores a derived file of a sealed segment. A failure does no harm: it can be derived again.
    pub(super) fn keep_derived(&self, segment: &Segment, ending: &str, bytes: &[u8]) {
        let name = file_name(segment.base(), ending);
        if let Err(error) = self.place.replace(&name, bytes) {
            tracing::warn!(log = %self.place.id, %error, name, "cannot write a derived file; it is made again when it is needed");
        }
    }
}

/// Builds the index from the file itself.
fn build(segment: &Segment, file: &dyn File) -> io::Result<Index> {
    let extent = segment.extent();
    let mut index = Index::new(segment.header.epoch, segment.base(), FIRST_FRAME);
    let end = scan::walk(file, &Stretch::of(segment), &mut |piece| {
        if let Piece::Frame(position, frame) = piece {
            add(&mut index, position, &frame);
        }
        ControlFlow::Continue(())
    });
    end.map_err(WalkError::into_io)?;
    // Damage at the end is not part of the index.
    index.skip_to(extent.position, extent.end);
    Ok(index)
}

/// Adds a frame.
fn add(index: &mut Index, position: u64, frame: &Frame<'_>) {
    let head = frame.head();
    // A damaged record's partition is unknown; it counts for partition 0.
    let partition = |record: Result<Record<'_>, _>| record.map_or(0, |it| it.partition());
    let partitions = frame.records().map(|(_, record)| partition(record));
    index.add_frame(position, head.length as u64, head.base, head.closing.wall, partitions);
}

impl Summary {
    fn of(index: &Index) -> Self {
        let counts = index.counts().iter().zip(0..=u16::MAX);
        let partitions = counts
            .filter(|(count, _)| **count > 0)
            .map(|(count, partition)| (partition, u64::from(*count)))
            .collect();
        Self { newest_wall: index.newest().unwrap_or(0), partitions }
    }
}
