//! The delivery state of a store that nobody has open: what is known of it, and how to go on from
//! there.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use uuid::Uuid;

use super::{
    error::StoreError,
    layout::STATE,
    rebuilding,
    state::{Forgotten, lost},
};
use crate::events::{
    delivery::{
        journal::encode_state,
        replay::{Replay, Replayed},
        runner::Restored,
        snapshot::{Section, Snapshot},
        subscription::{LaneId, Machine},
    },
    queue::{
        LogId, Offset,
        codec::SubscriptionMeta,
        log::{self, OpenError, Place},
        topic::registry::Registry,
    },
    settings::Subscription as Settings,
};

/// The known part of the delivery state.
#[derive(Debug)]
pub struct KnownState {
    machines: HashMap<Uuid, Machine>,
    lost: Vec<SubscriptionMeta>,
    forgotten: Forgotten,
    /// The journal's end.
    end: Offset,
}

/// How subscriptions with lost state begin again: by name, in words.
pub type Begun = BTreeMap<String, String>;

/// Reads delivery state from the snapshot and the journal at `place`. Changes nothing. Blocks.
pub fn examine_state(
    place: &Place,
    snapshot: &Snapshot,
    registry: &Registry,
) -> Result<KnownState, StoreError> {
    let broken = |error: &dyn std::fmt::Display| StoreError::Journal(error.to_string());
    let mut replay = Replay::new(snapshot).map_err(|error| broken(&error))?;
    let (mut outcome, floor) = (Ok(()), floor_of_journal(place, snapshot, registry)?);
    let report = log::look_through(place, floor, &mut |offset, record| {
        if outcome.is_ok() {
            outcome = replay.take(offset, record.body());
        }
    })?;
    outcome.map_err(|error| broken(&error))?;
    let replayed = replay.finish(report.range.end);
    Ok(KnownState::new(replayed, report.range.end, registry))
}

/// Everything below was certainly in the journal.
pub fn floor_of_journal(
    place: &Place,
    snapshot: &Snapshot,
    registry: &Registry,
) -> Result<Offset, OpenError> {
    log::floor_of(place, snapshot.floor(), registry.is_used())
}

// === impl KnownState ===

impl KnownState {
    fn new(replayed: Replayed, end: Offset, registry: &Registry) -> Self {
        let lost = lost(&replayed, registry).cloned().collect();
        let forgotten = Forgotten::of(&replayed, registry);
        let machine = |(id, restored): (Uuid, Restored)| {
            // Applying entries does not depend on settings.
            (id, restored.machine(&Settings::new("", ""), 1))
        };
        let machines = replayed.restored.into_iter().map(machine).collect();
        Self { machines, lost, forgotten, end }
    }

    /// What is lost.
    pub fn forgotten(&self) -> &Forgotten {
        &self.forgotten
    }

    /// Number of subscriptions with known state.
    pub fn count(&self) -> usize {
        self.machines.len()
    }

    /// How far the readers of a topic have read.
    pub fn floor_of_topic(&self, registry: &Registry, topic: LogId) -> Offset {
        let readers = registry.subscriptions().iter().filter(|it| it.topic == topic);
        let seen = readers.filter_map(|it| self.machines.get(&it.id.0)?.position(LaneId::LIVE));
        seen.max().unwrap_or_default()
    }

    /// The end of the dead letters that a subscription knows.
    pub fn floor_of_letters(&self, subscription: LogId) -> Offset {
        let machine = self.machines.get(&subscription.0);
        machine.map_or(Offset::ZERO, letters_end)
    }

    /// Repairs the state: writes a snapshot after the whole journal, in which lost subscriptions
    /// begin again. Blocks.
    ///
    /// Atomic: the snapshot gets its name when all of it is on disk.
    pub fn mend(self, place: &Place, now: u64) -> Result<Begun, StoreError> {
        let mut begun = Begun::new();
        let mut states: Vec<_> =
            self.machines.iter().map(|(id, machine)| (*id, machine.snapshot())).collect();
        for meta in &self.lost {
            let rebuilt = rebuilding::rebuild(place, meta, now)?;
            begun.insert(meta.name.clone(), rebuilt.to_string());
            states.push((meta.id.0, rebuilt.state));
        }
        for name in self.forgotten.behind {
            begun.insert(name, "goes on from before what is lost of the journal".to_owned());
        }
        let section = |(subscription, state)| Section {
            subscription,
            position: self.end,
            state: encode_state(&state),
        };
        let snapshot = Snapshot { sections: states.into_iter().map(section).collect() };
        snapshot.write(&*place.storage, Path::new(STATE), place.store)?;
        Ok(begun)
    }
}

/// The offset after the last dead letter that a subscription knows.
pub(super) fn letters_end(machine: &Machine) -> Offset {
    let last = machine.dead_letters(Offset::ZERO).last();
    last.map_or(Offset::ZERO, |(last, _)| last.plus(1))
}
