//! One topic: its log, open or not, and what is decided about it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::RwLock;

use crate::events::{
    delivery::{runner::Shelf, subscription::Partition},
    facade::{OfflineRange, Refusal, TopicState},
    queue::{
        LogId, Offset,
        codec::{HashKey, TopicMeta},
        log::{
            Durability, Log, OpenError, Place, Recovery, Settings as LogSettings, State, Writer,
        },
        time::Clock,
        topic::{
            clock_guard::GuardedClock,
            dedup::DedupSettings,
            retention,
            sequencer::{Live, Shared, TopicSequencer},
        },
    },
    settings::{self, Settings},
};

/// A topic of an open store.
pub(super) struct Topic {
    id: LogId,
    place: Place,
    writer: Writer,
    shelf: Shelf,
    shared: Arc<Shared>,
    hash_key: HashKey,
    guard: GuardedClock,
    about: RwLock<About>,
    /// Why it could not be opened.
    error: RwLock<Option<String>>,
    /// A subscription is too far behind, or the topic is full of what is pinned.
    is_held: AtomicBool,
}

/// What may change about a topic.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) meta: TopicMeta,
    pub(super) settings: settings::Topic,
    log: LogSettings,
}

/// What all topics of a store share.
pub(super) struct Ground<'a> {
    pub(super) settings: &'a Settings,
    pub(super) clock: &'a Arc<dyn Clock>,
    pub(super) hash_key: HashKey,
    pub(super) guard: &'a GuardedClock,
}

// === impl Topic ===

impl Topic {
    /// A topic that is not open yet. Starts its writer.
    pub(super) fn new(
        meta: &TopicMeta,
        settings: settings::Topic,
        place: Place,
        ground: &Ground<'_>,
    ) -> std::io::Result<Self> {
        let log = log_settings(&settings, ground.settings);
        let shared = Shared::new(live(meta, &settings));
        Ok(Self {
            id: meta.id,
            place,
            writer: Writer::spawn(format!("topic-{}", meta.name), ground.clock.clone())?,
            shelf: Shelf::new(meta.id, None),
            shared,
            hash_key: ground.hash_key,
            guard: ground.guard.clone(),
            about: RwLock::new(About { meta: meta.clone(), settings, log }),
            error: RwLock::new(None),
            is_held: AtomicBool::new(false),
        })
    }

    /// Opens its log, or recovers it. `floor`: what its readers have seen. Blocks.
    pub(super) fn open(&self, floor: Offset) -> Result<(), OpenError> {
        let opened = match self.shelf.log() {
            Some(log) => log.reopen().map(drop),
            None => self.open_first(floor),
        };
        *self.error.write() = opened.as_ref().err().map(ToString::to_string);
        opened
    }

    fn open_first(&self, floor: Offset) -> Result<(), OpenError> {
        let settings = self.about.read().log.clone();
        let guard = self.guard.clone();
        let sequencer = TopicSequencer::new(self.shared.clone(), self.hash_key, guard);
        let place = self.place.clone();
        let (log, _) = Log::open(&self.writer, place, &settings, floor, Box::new(sequencer))?;
        self.shelf.put(log);
        Ok(())
    }

    /// Other settings hold from here on.
    pub(super) fn set(&self, meta: &TopicMeta, settings: settings::Topic, all: &Settings) {
        self.shared.set(live(meta, &settings));
        let log = log_settings(&settings, all);
        *self.about.write() = About { meta: meta.clone(), settings, log };
    }

    /// Syncs what is on its way, and ends its writer. Blocks.
    pub(super) fn close(&self) {
        if let Some(log) = self.shelf.log() {
            log.close();
        }
        self.writer.stop();
    }

    pub(super) fn id(&self) -> LogId {
        self.id
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.about.read().settings.name.clone()
    }

    pub(super) fn about(&self) -> About {
        self.about.read().clone()
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The log, if it is open.
    pub(super) fn log(&self) -> Result<Log, Refusal> {
        self.shelf.log().ok_or_else(|| {
            let error = self.error.read().clone().unwrap_or_else(|| "it is not open yet".into());
            Refusal::unavailable(format!("topic `{}` is offline: {error}", self.name()))
        })
    }

    pub(super) fn is_offline(&self) -> bool {
        self.shelf.log().is_none_or(|log| log.is_offline())
    }

    /// Publishes are refused, or not any more. Relaxed: a publish more or less.
    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Relaxed);
    }

    pub(super) fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    /// Whether it serves, and why not.
    pub(super) fn state(&self) -> TopicState {
        let Some(log) = self.shelf.log() else {
            let reason = self.error.read().clone().unwrap_or_else(|| "it is not open yet".into());
            return TopicState::Offline { reason, range: None };
        };
        match log.status().state {
            State::Serving if self.is_held() => TopicState::Full,
            State::Serving => TopicState::Serving,
            State::Full => TopicState::Full,
            State::Offline(offline) => TopicState::Offline {
                reason: offline.reason,
                range: offline
                    .range
                    .map(|range| OfflineRange { from: range.start.0, to: range.end.0 }),
            },
        }
    }

    /// Every partition, of all generations.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        let about = self.about.read();
        let of = |generation: &crate::events::queue::codec::Generation| {
            let number = generation.number;
            (0..generation.partitions)
                .map(move |partition| Partition { generation: number, number: partition })
        };
        about.meta.generations.iter().flat_map(of).collect()
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic")
            .field("id", &self.id)
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

fn live(meta: &TopicMeta, settings: &settings::Topic) -> Live {
    let newest = meta.generation();
    Live {
        generation: newest.number,
        partitions: newest.partitions,
        dedup: DedupSettings {
            window: settings.dedup.window,
            max_entries: settings.dedup.max_entries,
        },
    }
}

/// How the log of a topic treats what it is given.
fn log_settings(topic: &settings::Topic, all: &Settings) -> LogSettings {
    LogSettings {
        segment_bytes: retention::segment_bytes(topic.max_bytes),
        max_bytes: Some(topic.max_bytes),
        durability: durability(topic.durability),
        ..base(all)
    }
}

/// What all logs of a store have in common.
pub(super) fn base(all: &Settings) -> LogSettings {
    LogSettings {
        durability: Durability::Durable,
        recovery: match all.recovery {
            settings::Recovery::Strict => Recovery::Strict,
            settings::Recovery::Quarantine => Recovery::Quarantine,
        },
        buffer_bytes: all.publish_buffer,
        os_interval: all.os_interval,
        ..LogSettings::default()
    }
}

fn durability(durability: settings::Durability) -> Durability {
    match durability {
        settings::Durability::Durable => Durability::Durable,
        settings::Durability::Os => Durability::Os,
        settings::Durability::Memory => Durability::Memory,
    }
}
