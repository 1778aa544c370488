//! Delivery state as it was: the snapshot, and what the journal says after it.

use std::{collections::HashMap, path::Path};

use uuid::Uuid;

use super::{layout::STATE, opening::StoreError, topic::base};
use crate::events::{
    delivery::{journal, runner::Restored, snapshot::Snapshot},
    queue::log::{Log, Place, Plain, Settings as LogSettings, Writer},
    settings::Settings,
};

/// What a segment of the journal has at most: the reserve is to last for several.
const SEGMENT: u64 = 8 << 20;
/// And at least.
const MIN_SEGMENT: u64 = 64 << 10;
/// So many segments the reserve is to last for.
const SEGMENTS: u64 = 4;

/// The delivery state of a store.
pub(super) struct Base {
    /// Open.
    pub(super) journal: Log,
    /// By subscription.
    pub(super) restored: HashMap<Uuid, Restored>,
    /// When anything was last written.
    pub(super) last: Option<u64>,
}

/// The snapshot, and what the journal says after it.
pub(super) fn read_state(
    writer: &Writer,
    place: Place,
    settings: &Settings,
) -> Result<Base, StoreError> {
    let (storage, store) = (place.storage.clone(), place.store);
    let dir = Path::new(STATE);
    let loaded = Snapshot::load(&*storage, dir, store)?;
    for name in &loaded.damaged {
        tracing::error!(%name, "a snapshot of the delivery state is damaged: an older one steps in");
    }
    let floor = loaded.snapshot.floor();
    let own = journal_settings(settings);
    let (journal, opened) = Log::open(writer, place, &own, floor, Box::new(Plain))?;
    let snapshot = loaded.settle(&*storage, dir, journal.start())?;
    let restored = replay(&journal, &snapshot)?;
    Ok(Base { journal, restored, last: opened.last.map(|last| last.wall) })
}

fn journal_settings(settings: &Settings) -> LogSettings {
    let share = settings.disk.reserve / SEGMENTS;
    let segment_bytes = if share == 0 { SEGMENT } else { share.clamp(MIN_SEGMENT, SEGMENT) };
    LogSettings { segment_bytes, ..base(settings) }
}

fn replay(journal: &Log, snapshot: &Snapshot) -> Result<HashMap<Uuid, Restored>, StoreError> {
    let broken = |what: &dyn std::fmt::Display| StoreError::Journal(what.to_string());
    let mut restored: HashMap<Uuid, Restored> = HashMap::new();
    for section in &snapshot.sections {
        let state = journal::decode_state(&section.state).map_err(|error| broken(&error))?;
        restored.insert(section.subscription, Restored { state, entries: Vec::new() });
    }
    let mut reader = journal.reader();
    let mut at = snapshot.start();
    loop {
        let block = match reader.read(at, 1 << 20) {
            Ok(block) if block.is_empty() => return Ok(restored),
            Ok(block) => block,
            Err(error) => return Err(broken(&error)),
        };
        for (offset, record) in block.records() {
            let step = journal::decode(record.body()).map_err(|error| broken(&error))?;
            let position = snapshot.section(step.subscription).map(|section| section.position);
            if position.is_none_or(|position| offset >= position) {
                restored.entry(step.subscription).or_default().entries.extend(step.entries);
            }
        }
        at = block.next();
    }
}
