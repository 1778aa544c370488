//! One topic of a store: whether it is open, its settings, and its writer.

use std::{
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

use super::{
    delays::{self, Delays},
    tailing::Shared,
};
use crate::events::{
    delivery::{runner::Shelf, subscription::Partition},
    facade::{OfflineRange, Refusal, TopicState},
    queue::{
        LogId, Offset,
        codec::{Generation, HashKey, TopicMeta},
        log::{
            self, Durability, OpenError, Opened, Place, Recovery, Settings as LogSettings, State,
            Writer,
        },
        time::Clock,
        topic::{
            Topic as Handle, TopicSettings,
            clock_guard::GuardedClock,
            dedup::DedupSettings,
            retention::{Keep, OnFull},
        },
    },
    settings::{self, Settings},
};

/// A topic of an open store.
pub(super) struct Topic {
    id: LogId,
    place: Place,
    writer: Writer,
    hash_key: HashKey,
    guard: GuardedClock,
    /// Empty until it could be opened.
    handle: OnceLock<Handle>,
    /// Held while it is opened: two that open one log would each believe to be its only writer.
    opening: Mutex<()>,
    /// Its delayed events.
    delays: Delays,
    /// The log and readers that its subscriptions use.
    shelf: Shelf,
    /// State shared by its live tails, while there are any.
    tails: Mutex<Weak<Shared>>,
    /// Dead letters of its readers that were removed by age, since start. Relaxed.
    aged_letters: AtomicU64,
    /// Everything below that goes to an upstream is settled. Relaxed: an old value does no harm.
    settled: AtomicU64,
    about: RwLock<About>,
    /// A copy of `max_event_bytes`. Relaxed: a late value does no harm.
    largest_event: AtomicU64,
    /// Why it could not be opened.
    error: RwLock<Option<String>>,
    /// Whether lack of disk space is the only reason why it is not open. Relaxed.
    lacks_room: AtomicBool,
    /// How far its readers have certainly read. Used only when it is opened.
    floor: AtomicU64,
}

/// The part of a topic that may change.
#[derive(Clone, Debug)]
pub(super) struct About {
    pub(super) meta: TopicMeta,
    pub(super) settings: settings::Topic,
    /// Settings of its logs; an open log keeps its own until a restart.
    pub(super) log: LogSettings,
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
        let writer = Writer::spawn(format!("topic-{}", meta.name), ground.clock.clone())?;
        Ok(Self {
            id: meta.id,
            delays: Delays::new(place.clone(), writer.clone()),
            place,
            writer,
            hash_key: ground.hash_key,
            guard: ground.guard.clone(),
            handle: OnceLock::new(),
            opening: Mutex::new(()),
            shelf: Shelf::new(meta.id, None),
            tails: Mutex::default(),
            aged_letters: AtomicU64::new(0),
            settled: AtomicU64::new(0),
            largest_event: AtomicU64::new(settings.max_event_bytes),
            about: RwLock::new(About::new(meta, settings, ground.settings)),
            error: RwLock::new(None),
            lacks_room: AtomicBool::new(false),
            floor: AtomicU64::new(0),
        })
    }

    /// Opens its logs, or recovers those that are offline, and returns when anything was last
    /// written to it. `floor`: how far its readers have read. Blocks.
    pub(super) fn open(&self, floor: Offset) -> Result<Option<u64>, OpenError> {
        let _one_at_a_time = self.opening.lock();
        let floor = Offset(self.floor.fetch_max(floor.0, Relaxed)).max(floor);
        let opened = match self.handle.get() {
            Some(handle) if !handle.log().is_offline() => Ok(Opened::default()),
            Some(handle) => handle.log().reopen(),
            None => self.open_first(floor),
        };
        let lacks_room = opened.as_ref().is_err_and(OpenError::is_full);
        self.lacks_room.store(lacks_room, Relaxed);
        *self.error.write() = opened.as_ref().err().map(ToString::to_string);
        let last = opened?.last.map(|last| last.wall);
        if let TopicState::Offline { reason, range: Some(OfflineRange { from, to }) } = self.state()
        {
            tracing::error!(
                topic = %self.name(), %reason, from, to,
                "the topic is offline: with the gateway stopped, `sluice queue verify` says what is lost, and \
                 `--repair` accepts that"
            );
        }
        // After the topic's own log, in which events that may have been moved are looked up.
        if let Err(error) = self.delays.open(&self.delay_settings()) {
            tracing::error!(topic = %self.name(), %error, "delayed events are offline");
        }
        Ok(last)
    }

    /// Whether published events should outlive the process.
    pub(super) fn is_lasting(&self) -> bool {
        self.about.read().log.durability != Durability::Memory
    }

    fn open_first(&self, floor: Offset) -> Result<Opened, OpenError> {
        let about = self.about();
        let is_expected = about.meta.is_begun && self.is_lasting();
        let floor = log::floor_of(&self.place, floor, is_expected)?;
        let (handle, opened) = Handle::open(
            &self.writer,
            self.place.clone(),
            &about.meta,
            &about.settings(),
            self.hash_key,
            self.guard.clone(),
            floor,
        )?;
        let handle = self.handle.get_or_init(|| handle);
        // The settings may have changed meanwhile.
        let about = self.about();
        handle.set(&about.meta, &about.settings());
        self.shelf.put(handle.log().clone());
        Ok(opened)
    }

    /// Changes the settings.
    pub(super) fn set(&self, meta: &TopicMeta, settings: settings::Topic, all: &Settings) {
        let about = About::new(meta, settings, all);
        *self.about.write() = about.clone();
        self.largest_event.store(about.settings.max_event_bytes, Relaxed);
        if let Some(handle) = self.handle.get() {
            handle.set(meta, &about.settings());
        }
    }

    /// The registry knows that all events of generations before `number` are below `opened`.
    pub(super) fn generation_opened(&self, number: u16, opened: Offset) {
        let mut about = self.about.write();
        let mut generations = about.meta.generations.iter_mut();
        if let Some(generation) = generations.find(|it| it.number == number) {
            generation.opened = opened;
        }
    }

    /// Syncs what is in flight, and ends its writer. Blocks.
    pub(super) fn close(&self) {
        self.delays.close();
        if let Some(handle) = self.handle.get() {
            handle.log().close();
        }
        self.writer.stop();
    }

    pub(super) fn id(&self) -> LogId {
        self.id
    }

    pub(super) fn name(&self) -> Arc<str> {
        self.about.read().settings.name.clone()
    }

    /// Its `max_event_bytes`, without a lock for each request.
    pub(super) fn largest_event(&self) -> u64 {
        self.largest_event.load(Relaxed)
    }

    /// How many events may wait, and how many bytes of them.
    pub(super) fn most_delayed(&self) -> (u64, u64) {
        let about = self.about.read();
        (about.settings.max_delayed, about.settings.max_bytes)
    }

    pub(super) fn about(&self) -> About {
        self.about.read().clone()
    }

    pub(super) fn shelf(&self) -> &Shelf {
        &self.shelf
    }

    /// The state shared by its live tails.
    pub(super) fn shared_tails(&self) -> Arc<Shared> {
        let mut tails = self.tails.lock();
        tails.upgrade().unwrap_or_else(|| {
            let shared = Arc::default();
            *tails = Arc::downgrade(&shared);
            shared
        })
    }

    /// Dead letters of its readers that were removed by age, since start.
    pub(super) fn aged_letters(&self) -> u64 {
        self.aged_letters.load(Relaxed)
    }

    /// Counts more of those.
    pub(super) fn count_aged_letters(&self, count: u64) {
        self.aged_letters.fetch_add(count, Relaxed);
    }

    /// Everything below that goes to an upstream was settled at the last check.
    pub(super) fn settled(&self) -> Offset {
        Offset(self.settled.load(Relaxed))
    }

    /// Sets that offset.
    pub(super) fn note_settled(&self, below: Offset) {
        self.settled.store(below.0, Relaxed);
    }

    pub(super) fn delays(&self) -> &Delays {
        &self.delays
    }

    /// Settings of the log of delayed events.
    pub(super) fn delay_settings(&self) -> LogSettings {
        let about = self.about.read();
        delays::settings(&about.log, about.settings.max_bytes)
    }

    /// The open topic, even if it is offline.
    pub(super) fn handle(&self) -> Option<&Handle> {
        self.handle.get()
    }

    /// The open topic; an error if it was never opened.
    pub(super) fn opened(&self) -> Result<&Handle, Refusal> {
        self.handle().ok_or_else(|| {
            let error = self.why_not_open();
            Refusal::unavailable(format!("topic `{}` is offline: {error}", self.name()))
        })
    }

    fn why_not_open(&self) -> String {
        self.error.read().clone().unwrap_or_else(|| "it is not open yet".into())
    }

    /// Whether it only waits for disk space to be opened.
    pub(super) fn lacks_room(&self) -> bool {
        self.lacks_room.load(Relaxed)
    }

    /// Whether it refuses all events, or delayed ones.
    pub(super) fn is_offline(&self) -> bool {
        self.handle().is_none_or(|handle| handle.log().is_offline()) || self.delays.is_offline()
    }

    /// Whether it serves, and if not, why.
    pub(super) fn state(&self) -> TopicState {
        let Some(handle) = self.handle() else {
            return TopicState::Offline { reason: self.why_not_open(), range: None };
        };
        match handle.log().status().state {
            State::Serving | State::Full if self.delays.is_offline() => TopicState::Offline {
                reason: "its log of delayed events; others are taken".into(),
                range: None,
            },
            State::Serving if handle.is_full() => TopicState::Full,
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

    /// Every partition, in all generations.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        let about = self.about.read();
        let of = |generation: &Generation| {
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

// === impl About ===

impl About {
    fn new(meta: &TopicMeta, settings: settings::Topic, all: &Settings) -> Self {
        let log = LogSettings { durability: durability(settings.durability), ..base(all) };
        Self { meta: meta.clone(), settings, log }
    }

    /// As the settings of an open topic.
    fn settings(&self) -> TopicSettings {
        let settings::Topic { max_age, max_bytes, max_oldest_age, dedup, .. } = self.settings;
        let on_full = match self.settings.on_full {
            settings::OnFull::Reject => OnFull::Reject,
            settings::OnFull::DropOldest => OnFull::DropOldest,
        };
        TopicSettings {
            keep: Keep { max_age, max_bytes, on_full },
            dedup: DedupSettings { window: dedup.window, max_entries: dedup.max_entries },
            max_oldest_age,
            log: self.log.clone(),
        }
    }
}

/// Settings that all logs of a store share.
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
