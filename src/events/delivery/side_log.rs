//! A log of one subscription that most never need: for its dead letters, or for its parked events.

use std::{path::PathBuf, sync::Arc};

use parking_lot::Mutex;

use crate::events::{
    delivery::runner::Shelf,
    queue::{
        LogId, Offset,
        codec::Draft,
        log::{
            Log, OpenError, OwnedRecord, Place as Where, Plain, Purpose, Reader, Settings, Writer,
        },
        mutation::{self, Mutation},
        pool::Pool,
    },
};

/// Small, so that a segment with few live records is cheap to copy forward.
const SEGMENT: u64 = 4 << 20;

/// A log of one subscription. Created on disk by the first append.
#[derive(Debug)]
pub struct SideLog {
    place: Where,
    settings: Settings,
    writer: Writer,
    shelf: Shelf,
    /// Held while the log is created.
    making: Mutex<()>,
}

/// The position of an appended record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its ID.
    pub offset: Offset,
    /// Its size on disk.
    pub bytes: u32,
}

// === impl SideLog ===

impl SideLog {
    /// For the log at `place`, which need not exist.
    pub fn new(place: Where, settings: &Settings, writer: Writer) -> Self {
        let shelf = Shelf::new(place.id, None);
        let settings = Settings { segment_bytes: SEGMENT, max_bytes: None, ..settings.clone() };
        Self { place, settings, writer, shelf, making: Mutex::new(()) }
    }

    /// Which log it is.
    pub fn id(&self) -> LogId {
        self.place.id
    }

    /// The log, if it exists.
    pub fn log(&self) -> Option<Log> {
        self.shelf.log()
    }

    /// For reading.
    pub fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// Opens it if it exists. `floor`: the offset after the last known one. Blocks.
    pub fn open(&self, floor: Offset) -> Result<(), OpenError> {
        let is_there = self.place.storage.list(&self.dir()).is_ok_and(|names| !names.is_empty());
        if is_there || floor > Offset::ZERO {
            self.make(floor)?;
        }
        Ok(())
    }

    /// The log, created if it does not exist. Blocks.
    fn make(&self, floor: Offset) -> Result<Log, OpenError> {
        let _one_at_a_time = self.making.lock();
        if let Some(log) = self.shelf.log() {
            return Ok(log);
        }
        let place = self.place.clone();
        let (log, _) = Log::open(&self.writer, place, &self.settings, floor, Box::new(Plain))?;
        self.shelf.put(log.clone());
        Ok(log)
    }

    fn dir(&self) -> PathBuf {
        self.place.dir.clone()
    }

    /// Appends a record; on disk when this completes.
    pub async fn append(self: Arc<Self>, pool: &Pool, draft: Draft) -> Result<Appended, String> {
        let log = if let Some(log) = self.shelf.log() {
            log
        } else {
            let made = pool.run(move || self.make(Offset::ZERO)).await;
            made.map_err(|undone| undone.to_string())?.map_err(|error| error.to_string())?
        };
        let bytes = u32::try_from(draft.encoded_bytes()).unwrap_or(u32::MAX);
        let permit = log.permit_for(Purpose::Accepted, bytes.into());
        let permit = permit.map_err(|refused| refused.to_string())?;
        let commit = if mutation::is(Mutation::SettleBeforeTheDeadLettersSync) {
            log.append_unwaited(permit, vec![draft])
        } else {
            log.append(permit, vec![draft])
        };
        let appended = commit.await.map_err(|error| error.to_string())?;
        let offset = appended.first().map(|first| first.offset).ok_or("nothing was appended")?;
        Ok(Appended { offset, bytes })
    }

    /// The readable records at these offsets. Blocks.
    pub fn read(&self, ids: &[Offset]) -> Vec<Option<OwnedRecord>> {
        let read =
            |reader: &mut Reader| ids.iter().map(|id| reader.get(*id).ok().flatten()).collect();
        self.shelf.read(read).unwrap_or_else(|| ids.iter().map(|_| None).collect())
    }
}
