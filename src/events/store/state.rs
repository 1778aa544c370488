//! Loads delivery state: the snapshot, and the journal after it.
//!
//! Lost state is never mistaken for state that never existed: the registry knows which
//! subscriptions had one.

use std::{collections::HashMap, fmt, ops::Range, path::Path};

use uuid::Uuid;

use super::{error::StoreError, layout::STATE, mending::floor_of_journal, rebuilding, topic::base};
use crate::events::{
    delivery::{
        Malformed,
        replay::{Replay, Replayed},
        runner::Restored,
        snapshot::Snapshot,
    },
    queue::{
        codec::SubscriptionMeta,
        log::{Log, Place, Plain, ReadError, Recovery, Settings as LogSettings, State, Writer},
        topic::registry::Registry,
    },
    settings::Settings,
};

/// Maximum segment size of the journal: the reserve must last for several.
const SEGMENT: u64 = 8 << 20;
/// Minimum segment size.
const MIN_SEGMENT: u64 = 64 << 10;
/// The number of segments for which the reserve must last.
const SEGMENTS: u64 = 4;

/// The delivery state of a store.
pub(super) struct Base {
    /// The open journal.
    pub(super) journal: Log,
    /// State by subscription.
    pub(super) restored: HashMap<Uuid, Restored>,
    /// When anything was last written.
    pub(super) last: Option<u64>,
}

/// The lost delivery state, by name of the subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Subscriptions whose whole state is lost.
    pub lost: Vec<String>,
    /// Subscriptions whose state is known only up to a gap in the journal.
    pub behind: Vec<String>,
}

/// Reads the snapshot, and the journal after it.
pub(super) fn read_state(
    writer: &Writer,
    place: &Place,
    registry: &Registry,
    (settings, now): (&Settings, u64),
) -> Result<Base, StoreError> {
    let storage = place.storage.clone();
    let dir = Path::new(STATE);
    let loaded = Snapshot::load(&*storage, dir, place.store)?;
    for name in &loaded.damaged {
        tracing::error!(%name, "a snapshot of the delivery state is damaged: an older one steps in");
    }
    let floor = floor_of_journal(place, &loaded.snapshot, registry)?;
    let own = journal_settings(settings);
    let (journal, opened) = Log::open(writer, place.clone(), &own, floor, Box::new(Plain))?;
    if let State::Offline(offline) = journal.status().state {
        return Err(StoreError::Damaged(offline.reason));
    }
    let snapshot = loaded.settle(&*storage, dir)?;
    let mut replayed = replay(&journal, &snapshot)?;
    let forgotten = Forgotten::of(&replayed, registry);
    if !forgotten.is_nothing() {
        if own.recovery == Recovery::Strict {
            return Err(StoreError::Forgotten(forgotten));
        }
        tracing::error!("{forgotten}: they begin anew, and events are delivered again");
        let lost: Vec<_> = lost(&replayed, registry).collect();
        for meta in lost {
            let rebuilt = rebuilding::rebuild(place, meta, now)?;
            tracing::error!(subscription = %meta.name, "{rebuilt}");
            let restored = Restored { state: rebuilt.state, entries: Vec::new() };
            replayed.restored.insert(meta.id.0, restored);
        }
    }
    let restored = replayed.restored;
    Ok(Base { journal, restored, last: opened.last.map(|last| last.wall) })
}

/// The subscriptions whose state is lost.
pub(super) fn lost<'a>(
    replayed: &Replayed,
    registry: &'a Registry,
) -> impl Iterator<Item = &'a SubscriptionMeta> {
    let is_lost = |it: &&SubscriptionMeta| it.is_begun && !replayed.restored.contains_key(&it.id.0);
    registry.subscriptions().iter().filter(is_lost)
}

fn journal_settings(settings: &Settings) -> LogSettings {
    let share = settings.disk.reserve / SEGMENTS;
    let segment_bytes = if share == 0 { SEGMENT } else { share.clamp(MIN_SEGMENT, SEGMENT) };
    LogSettings { segment_bytes, ..base(settings) }
}

fn replay(journal: &Log, snapshot: &Snapshot) -> Result<Replayed, StoreError> {
    let broken = |what: &dyn fmt::Display| StoreError::Journal(what.to_string());
    let of_snapshot = |error: Malformed| broken(&error);
    let mut replay = Replay::new(snapshot).map_err(of_snapshot)?;
    let mut reader = journal.reader();
    loop {
        let block = match reader.read(replay.next(), 1 << 20) {
            Ok(block) if block.is_empty() => return Ok(replay.finish(journal.durable())),
            Ok(block) => block,
            Err(
                ReadError::Retired { start: to }
                | ReadError::Damaged { range: Range { end: to, .. } },
            ) => {
                replay.skip(to);
                continue;
            }
            Err(error) => return Err(broken(&error)),
        };
        for (offset, record) in block.records() {
            replay.take(offset, record.body()).map_err(|error| broken(&error))?;
        }
        replay.skip(block.next());
    }
}

// === impl Forgotten ===

impl Forgotten {
    pub(super) fn of(replayed: &Replayed, registry: &Registry) -> Self {
        let behind =
            registry.subscriptions().iter().filter(|it| replayed.behind.contains(&it.id.0));
        Self {
            lost: lost(replayed, registry).map(|it| it.name.clone()).collect(),
            behind: behind.map(|it| it.name.clone()).collect(),
        }
    }

    /// Whether nothing is lost.
    pub fn is_nothing(&self) -> bool {
        self.lost.is_empty() && self.behind.is_empty()
    }
}

impl fmt::Display for Forgotten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = (!self.lost.is_empty()).then(|| format!("all of {}", self.lost.join(", ")));
        let latest =
            (!self.behind.is_empty()).then(|| format!("the latest of {}", self.behind.join(", ")));
        let what: Vec<_> = all.into_iter().chain(latest).collect();
        write!(f, "delivery state is lost: {}", what.join("; "))
    }
}
