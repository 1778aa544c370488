//! The end of a log, where it grows. Synchronous: each step of a commit is one call that returns
//! when the disk has answered, so tests can crash between any two.
//!
//! The order of steps is what makes it safe. A frame is written with one write, and its records
//! count as stored only after a sync through the same handle. A failed sync is never retried: it is
//! unknown what reached the disk, so the log takes nothing until it was recovered from there. A
//! failed write is different: everything before it is whole, so the file ends there and the log
//! goes on in a new one when there is room.

use std::{io, sync::Arc};

use tokio::time::Instant;

use super::{
    batch::{Item, fitting, place},
    commit::Outcome,
    error::{AppendError, Reason},
    live::Frames,
    open::OpenLog,
    segment::{self, CreateError, FIRST_FRAME, Segment},
    sequencer::Sequencer,
    settings::Durability,
    status::{Offline, State},
};
use crate::events::queue::{
    Offset,
    codec::{
        Closing, FRAME_HEADER_BYTES, FRAME_TRAILER_BYTES, FrameHead, FrameWriter, Predecessor,
        SegmentHeader,
    },
    mutation::{self, Mutation},
    storage::File,
    time::Now,
};

/// Where a log grows. Used by one thread at a time.
#[derive(Debug)]
pub(super) struct Core {
    shared: Arc<OpenLog>,
    sequencer: Box<dyn Sequencer>,
    frames: FrameWriter,
    /// The partitions of the frame's records.
    partitions: Vec<u16>,
    /// Frames for followers, written but not yet synced.
    unshown: Frames,
    tail: Tail,
    /// The offset of the next record.
    next: Offset,
    /// Everything below is known to be on disk.
    synced: Offset,
    /// When the oldest unsynced frame was written.
    dirty_since: Option<Instant>,
    /// Whether the next sync should come sooner.
    is_hurried: bool,
    is_poisoned: bool,
    /// Differs for each opening.
    life: u64,
}

/// The newest file of a log.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) segment: Arc<Segment>,
    /// The handle that writes and syncs; none once the file has ended.
    pub(super) file: Option<Box<dyn File>>,
    /// Where its last frame ends, ...
    pub(super) position: u64,
    /// ... and the offset after its last record.
    pub(super) end: Offset,
    pub(super) last_crc: u32,
    pub(super) newest_wall: u64,
}

/// The log takes nothing until it is reopened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Poisoned;

/// Why a frame was not written.
enum Failure {
    /// There is no room. Nothing of it is or will be on disk.
    NoRoom,
    /// A sync failed before. Nothing of it is or will be on disk.
    Poisoned,
    /// Some of it may be on disk.
    Unknown,
}

// === impl Core ===

impl Core {
    /// Continues where opening ended: everything below `next` is on disk.
    pub(super) fn new(
        shared: Arc<OpenLog>,
        sequencer: Box<dyn Sequencer>,
        tail: Tail,
        next: Offset,
    ) -> Self {
        Self {
            shared,
            sequencer,
            frames: FrameWriter::new(),
            partitions: Vec::new(),
            unshown: Frames::default(),
            tail,
            next,
            synced: next,
            dirty_since: None,
            is_hurried: false,
            is_poisoned: false,
            life: fastrand::u64(..),
        }
    }

    /// For opening the log anew.
    pub(super) fn into_sequencer(self) -> Box<dyn Sequencer> {
        self.sequencer
    }

    /// Differs for each opening of the log.
    pub(super) fn life(&self) -> u64 {
        self.life
    }

    /// When unsynced frames that nobody waits for are to be synced.
    pub(super) fn sync_due(&self) -> Option<Instant> {
        Some(self.dirty_since? + self.shared.settings.sync_after(self.is_hurried)?)
    }

    /// Asks for a sync sooner, because work depends on what was just written.
    pub(super) fn hurry(&mut self) {
        self.is_hurried = self.dirty_since.is_some();
    }

    /// Everything below is known to be on disk.
    pub(super) fn synced(&self) -> Offset {
        self.synced
    }

    /// Whether a sync failed; nothing is written any more.
    pub(super) fn is_poisoned(&self) -> bool {
        self.is_poisoned
    }

    /// Writes the items in as few frames as possible, and sets each item's outcome. Outcomes count
    /// only after [`Core::sync`], or [`Core::settle`] where the mode asks for no sync.
    pub(super) fn write(&mut self, items: &mut [Item], now: Now) {
        let mut rest = items;
        while !rest.is_empty() {
            let count = fitting(rest);
            let (batch, after) = rest.split_at_mut(count);
            if let Err(failure) = self.write_frame(batch, now) {
                for item in batch.iter_mut() {
                    match failure {
                        Failure::NoRoom => item.refuse(Reason::DiskLow, &self.shared),
                        Failure::Poisoned => item.refuse(Reason::Offline, &self.shared),
                        Failure::Unknown => item.outcome = Some(Err(AppendError::Unknown)),
                    }
                }
            }
            rest = after;
        }
        if self.shared.settings.durability == Durability::Memory && !self.is_poisoned {
            self.publish();
        }
    }

    fn write_frame(&mut self, batch: &mut [Item], now: Now) -> Result<(), Failure> {
        if self.is_poisoned {
            return Err(Failure::Poisoned);
        }
        let bytes: usize = batch.iter().map(|item| item.bytes).sum();
        let bytes = (bytes + FRAME_HEADER_BYTES + FRAME_TRAILER_BYTES) as u64;
        let is_over = self.tail.position + bytes > self.shared.settings.segment_bytes;
        if self.tail.file.is_none() || (is_over && self.tail.position > FIRST_FRAME) {
            self.roll(bytes)?;
        }
        match self.try_frame(batch, now) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(log = %self.shared.place.id, %error, "a write failed");
                self.sequencer.rollback();
                self.end_after_failed_write()?;
                self.roll(bytes)?;
                self.try_frame(batch, now).map_err(|error| self.fail_again(&error))
            }
        }
    }

    /// The second write, in a new file, failed too.
    fn fail_again(&mut self, error: &io::Error) -> Failure {
        tracing::warn!(log = %self.shared.place.id, %error, "a write failed again");
        self.sequencer.rollback();
        match self.end_after_failed_write() {
            Ok(()) => {
                self.shared.set_state(State::Full);
                Failure::NoRoom
            }
            Err(failure) => failure,
        }
    }

    /// Encodes and writes a frame. After an error the log is as before; the file must be ended.
    fn try_frame(&mut self, batch: &mut [Item], now: Now) -> io::Result<()> {
        self.frames.begin(self.tail.segment.header.epoch, self.next);
        let partitions = &mut self.partitions;
        place(batch, &mut self.frames, partitions, &mut *self.sequencer, now)?;
        let count = self.frames.count();
        if count > 0 {
            let file = self.tail.file.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let closing = Closing {
                previous_crc: self.tail.last_crc,
                durable: self.synced,
                wall: now.wall,
                mono: now.mono,
            };
            let frame = self.frames.finish(&closing);
            file.write_at(frame.bytes, self.tail.position)?;
            if self.shared.live.is_followed() {
                let (epoch, end) =
                    (self.tail.segment.header.epoch, self.next.plus(u64::from(count)));
                self.unshown.keep(epoch, self.next, end, frame.bytes);
            }
            let (length, crc) = (frame.bytes.len(), frame.crc);
            let head = FrameHead { crc, length, base: self.next, count, closing };
            self.tail.segment.note(&head, self.tail.position, partitions.drain(..));
            self.tail.position += length as u64;
            self.tail.last_crc = crc;
            self.tail.newest_wall = now.wall;
            self.next = self.next.plus(u64::from(count));
            self.tail.end = self.next;
            self.dirty_since.get_or_insert_with(Instant::now);
            self.want_spare();
            self.shared.gauges.appended.add(u64::from(count));
            self.shared.gauges.appended_bytes.add(length as u64);
            self.shared.gauges.commit_events.record(u64::from(count));
        }
        self.sequencer.commit();
        if mutation::is(Mutation::CheckpointAheadOfTheSync) {
            self.shared.write_checkpoint(self.next);
        }
        Ok(())
    }

    /// The next file is prepared once the current one is half full.
    fn want_spare(&self) {
        let settings = &self.shared.settings;
        let is_wanted = settings.first_bytes.is_some()
            && settings.durability == Durability::Durable
            && !self.shared.place.disk.is_low();
        if is_wanted && self.tail.position > settings.segment_bytes / 2 {
            self.shared.spare.want(&self.shared);
        }
    }

    /// Everything written is on disk when this returns. An error poisons the log.
    pub(super) fn sync(&mut self) -> Result<(), Poisoned> {
        if self.is_poisoned {
            return Err(Poisoned);
        }
        if self.dirty_since.is_some() {
            let since = Instant::now();
            if let Some(file) = &self.tail.file
                && !mutation::is(Mutation::DropTheSync)
            {
                file.sync().map_err(|error| self.poison("a sync failed", &error))?;
            }
            self.shared.gauges.sync_micros.record_span(since.elapsed());
            (self.dirty_since, self.is_hurried) = (None, false);
        }
        self.synced = self.next;
        self.publish();
        Ok(())
    }

    /// Lets readers go to the end of what is written.
    fn publish(&mut self) {
        self.shared.live.show(&mut self.unshown);
        let tail = &self.tail;
        tail.segment.publish(tail.end, tail.position, tail.newest_wall);
        self.shared.published(self.next, tail.position);
    }

    /// The final outcome of an item whose `outcome` holds once everything below `needs` is on disk. If
    /// it is awaited and the mode syncs, call [`Core::sync`] first; others count once written.
    pub(super) fn settle(&self, outcome: Outcome, needs: Offset, is_awaited: bool) -> Outcome {
        let is_promised = match self.shared.settings.durability {
            Durability::Durable if is_awaited => needs <= self.synced,
            _ => needs <= self.synced || !self.is_poisoned,
        };
        match outcome {
            Ok(_) if !is_promised && !mutation::is(Mutation::AcknowledgeBeforeTheSync) => {
                Err(AppendError::Unknown)
            }
            outcome => outcome,
        }
    }

    fn poison(&mut self, what: &str, error: &io::Error) -> Poisoned {
        tracing::error!(log = %self.shared.place.id, %error, "{what}: the log is offline");
        self.is_poisoned = true;
        // Whatever the handle reports from now on is worthless.
        self.tail.file = None;
        let range = (self.synced < self.next).then_some(self.synced..self.next);
        let reason = format!("{what}: {error}");
        self.shared.set_state(State::Offline(Offline { reason, range }));
        Poisoned
    }

    /// Ends the file before the failed frame, on disk too: its records are about to be refused, so
    /// the next open must not find any of them.
    fn end_after_failed_write(&mut self) -> Result<(), Failure> {
        let Some(file) = self.tail.file.take() else { return Ok(()) };
        let ended = file.truncate(self.tail.position).and_then(|()| file.sync());
        if let Err(error) = ended {
            self.poison("a file could not be ended after a failed write", &error);
            return Err(Failure::Unknown);
        }
        (self.dirty_since, self.is_hurried) = (None, false);
        self.synced = self.next;
        self.publish();
        Ok(())
    }

    /// Ends the newest file if it has not ended, and begins another with room for `bytes`.
    fn roll(&mut self, bytes: u64) -> Result<(), Failure> {
        if self.tail.file.is_some() {
            self.sync().map_err(|Poisoned| Failure::Poisoned)?;
        }
        if let Some(file) = self.tail.file.take() {
            // The successor's header makes readers ignore the rest: this only frees space.
            if let Err(error) = file.truncate(self.tail.position) {
                tracing::warn!(log = %self.shared.place.id, %error, "a sealed log file could not be truncated: it keeps its unused space");
            }
        }
        let header = self.successor();
        let file = match self.new_file(&header, FIRST_FRAME + bytes) {
            Ok(file) => file,
            Err(CreateError::Failed(error)) => {
                tracing::warn!(log = %self.shared.place.id, %error, "cannot create the next log file: the log is full");
                self.shared.set_state(State::Full);
                return Err(Failure::NoRoom);
            }
            Err(CreateError::Sync(error)) => {
                self.poison("the directory could not be synced", &error);
                return Err(Failure::Poisoned);
            }
        };
        self.seal_replaced_by(&header);
        let segment = Arc::new(Segment::empty(header));
        self.shared.view.push(segment.clone());
        self.tail = Tail {
            segment,
            file: Some(file),
            position: FIRST_FRAME,
            end: self.next,
            last_crc: 0,
            newest_wall: 0,
        };
        self.shared.set_state(State::Serving);
        Ok(())
    }

    /// The file that was prepared ahead, or a new one.
    fn new_file(&self, header: &SegmentHeader, bytes: u64) -> Result<Box<dyn File>, CreateError> {
        let place = &self.shared.place;
        if let Some((path, file)) = self.shared.spare.take(place) {
            return segment::adopt(place, header, &path, file);
        }
        segment::create(place, header, self.shared.settings.room(bytes), |_| Ok(()))
    }

    /// Writes the derived files of the segment that ends, unless it was empty and is replaced.
    fn seal_replaced_by(&mut self, header: &SegmentHeader) {
        let old = &self.tail.segment;
        if old.base() < header.base {
            let keys = self.sequencer.sealed(old.header.epoch, old.base()..self.tail.end);
            self.shared.write_derived(old, keys.as_deref());
        }
    }

    fn successor(&self) -> SegmentHeader {
        let old = &self.tail.segment.header;
        let place = &self.shared.place;
        let is_replaced = old.base == self.next;
        let predecessor = Predecessor {
            epoch: old.epoch,
            end_position: self.tail.position,
            end_offset: self.tail.end,
            last_crc: self.tail.last_crc,
        };
        SegmentHeader {
            store: place.store,
            log: place.id,
            base: self.next,
            epoch: segment::random_epoch(),
            predecessor: if is_replaced { old.predecessor } else { Some(predecessor) },
            gap: if is_replaced { old.gap } else { self.next.since(self.tail.end) },
        }
    }
}
