//! Tests of several parts of the queue together, on faulty disks.

mod bytes;
mod damage;
mod duplicates;
mod killed;

use std::{path::PathBuf, sync::Arc};

use ::bytes::Bytes;
use uuid::Uuid;

use crate::events::queue::{
    LogId, Offset, StoreId,
    codec::{Draft, Fields, Kind},
    log::{
        DiskSettings, DiskWatch, Log, OpenError, Opened, Place, Plain, Sequencer, Settings, Writer,
    },
    storage::{Storage, model::Model},
    time::{ManualClock, Now},
};

/// The directory of the log under test.
const DIR: &str = "log";

fn place(storage: Arc<dyn Storage>) -> Place {
    let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
    Place {
        disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
        storage,
        dir: PathBuf::from(DIR),
        store: StoreId(Uuid::from_u128(7)),
        id: LogId(Uuid::from_u128(8)),
    }
}

fn writer() -> Writer {
    let now = Now { wall: 1_700_000_000_000, mono: 5_000 };
    Writer::spawn("test", Arc::new(ManualClock::at(now))).unwrap()
}

fn open(writer: &Writer, model: &Model, settings: &Settings) -> Result<(Log, Opened), OpenError> {
    open_with(writer, model, settings, Box::new(Plain))
}

fn open_with(
    writer: &Writer,
    model: &Model,
    settings: &Settings,
    sequencer: Box<dyn Sequencer>,
) -> Result<(Log, Opened), OpenError> {
    let place = place(Arc::new(model.clone()));
    Log::open(writer, place, settings, Offset::ZERO, sequencer)
}

/// The event with this number.
fn draft(n: u64) -> Draft {
    let mut body = n.to_le_bytes().to_vec();
    body.resize(8 + usize::try_from(n * 31 % 90).unwrap(), n.to_le_bytes()[0]);
    let fields = Fields::builder().id(&format!("event-{n}")).source("/test").build();
    Draft::new(Kind::Event, fields, Bytes::from(body))
}

/// Appends events in one frame and waits until they are on disk.
fn append(log: &Log, numbers: std::ops::Range<u64>) {
    let drafts: Vec<Draft> = numbers.map(draft).collect();
    let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
    log.append(log.permit(bytes).unwrap(), drafts).wait().unwrap();
}
