//! Tests of the log, on the real file system and on the modelled one.

mod crash;
mod damage;
mod following;
mod full;
mod interleaving;
mod machine;
mod modes;
mod serving;
mod verifying;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Draft, Fields, Kind},
    storage::{Real, Storage},
    time::{ManualClock, Now},
};

/// A log in its own directory.
pub(super) struct Home {
    pub(super) place: Place,
    pub(super) writer: Writer,
    pub(super) settings: Settings,
    _dir: Option<TempDir>,
}

impl Home {
    pub(super) fn real() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Real::open(dir.path()).unwrap());
        Self { _dir: Some(dir), ..Self::on(storage) }
    }

    pub(super) fn on(storage: Arc<dyn Storage>) -> Self {
        let settings = Settings { segment_bytes: 256 << 10, ..Settings::default() };
        Self { place: place(storage), writer: writer(), settings, _dir: None }
    }

    pub(super) fn open(&self) -> (Log, Opened) {
        self.open_at(Offset::ZERO)
    }

    pub(super) fn open_at(&self, floor: Offset) -> (Log, Opened) {
        let place = self.place.clone();
        Log::open(&self.writer, place, &self.settings, floor, Box::new(Plain)).unwrap()
    }
}

pub(super) fn writer() -> Writer {
    let clock = ManualClock::at(Now { wall: 1_700_000_000_000, mono: 5_000 });
    Writer::spawn("test", Arc::new(clock)).unwrap()
}

pub(super) fn place(storage: Arc<dyn Storage>) -> Place {
    let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
    Place {
        disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
        storage,
        dir: PathBuf::from("log"),
        store: StoreId(Uuid::from_u128(1)),
        id: LogId(Uuid::from_u128(2)),
    }
}

/// The event with this number, which its body contains with some padding.
pub(super) fn draft(n: u64) -> Draft {
    let mut body = n.to_le_bytes().to_vec();
    body.resize(8 + usize::try_from(n % 97).unwrap(), b'x');
    Draft::new(Kind::Event, Fields::default(), Bytes::from(body))
}

/// The number of an event.
pub(super) fn number(body: &[u8]) -> u64 {
    u64::from_le_bytes(body[..8].try_into().unwrap())
}

pub(super) fn append(log: &Log, numbers: impl IntoIterator<Item = u64>) -> Commit {
    let drafts: Vec<Draft> = numbers.into_iter().map(draft).collect();
    let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
    log.append(log.permit(bytes).unwrap(), drafts)
}

/// Everything that can be read: offset and number.
pub(super) fn all(log: &Log) -> Vec<(u64, u64)> {
    let mut reader = log.reader();
    let mut from = log.start();
    let mut found = Vec::new();
    loop {
        let block = reader.read(from, 100_000).unwrap();
        if block.is_empty() {
            return found;
        }
        found.extend(block.records().map(|(offset, record)| (offset.0, number(record.body()))));
        assert!(block.next() > from);
        from = block.next();
    }
}
