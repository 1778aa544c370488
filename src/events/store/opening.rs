//! Opening a store.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use super::{
    Inner, Keyed, Reading, Store, TopicMap,
    error::StoreError,
    held_clock::HeldClock,
    layout::{INGRESS, JOURNAL, LETTERS, PARKED, RESERVE, STATE},
    mending::letters_end,
    reloading::configure,
    requests::requests,
    snapshots::Snapshots,
    state::{Base, read_state},
    tailing::MAX_TAILS,
    topic::{Ground, Topic, base},
    topics::topics,
};
use crate::events::{
    delivery::{
        lease::Tokens,
        runner::{Restored, Subscription, Surroundings},
        side_log::SideLog,
        subscription::{LaneId, Machine, Seek},
    },
    facade::Refusal,
    ingress::{self, Ingress},
    queue::{
        LogId, Offset, StoreId,
        codec::{SubscriptionMeta, TopicMeta},
        log::{
            self, DiskSettings, DiskWatch, Log, Offline, Opened, Place, Plain,
            Settings as LogSettings, State, Writer,
        },
        pool::Pool,
        reserve::Reserve,
        storage::Storage,
        time::Clock,
        topic::{clock_guard::GuardedClock, registry::Registry},
    },
    settings::{Settings, StartAt, Subscription as SubscriptionSettings, Topic as TopicSettings},
};
use crate::http::sink::Sink;

/// Threads that read segments, for the whole store.
const READERS: usize = 4;
/// Threads that move delayed events, for the whole store.
const MOVERS: usize = 2;

/// Everything opened before the store exists.
struct Ready {
    inner: Inner,
    machines: HashMap<Uuid, Machine>,
}

// === impl Store ===

impl Store {
    /// Opens or creates the store in `storage`, and starts its subscriptions on the current
    /// runtime; `sink` sends their pushes.
    ///
    /// A topic that cannot be opened is offline; the store opens nevertheless.
    pub async fn open(
        storage: Arc<dyn Storage>,
        settings: Settings,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn Sink>,
    ) -> Result<Self, StoreError> {
        let pool = Pool::new(READERS)?;
        let opening = pool.clone();
        let work = move || prepare(storage, settings, (clock, sink), opening);
        let ready = pool.run(work).await.map_err(io::Error::other)??;
        let Ready { inner, mut machines } = ready;
        let store = Self(Arc::new(inner));
        let metas = store.0.registry.lock().subscriptions().to_vec();
        for meta in metas {
            let machine = machines.remove(&meta.id.0);
            store.start(&meta, machine).await?;
        }
        for topic in store.all_topics() {
            store.move_delayed(&topic);
            store.pins(&topic, &store.readers(&topic)).await?;
            store.inherit(&topic).await?;
        }
        store.first_snapshot().await?;
        store.note_begun().await;
        if let Err(error) = store.tend_requests().await {
            tracing::warn!(%error, "events owed by requests cannot be appended yet; it is tried again");
        }
        store.look_after();
        Ok(store)
    }

    /// Starts a subscription. Without a machine it is new, and its starting position is set.
    pub(super) async fn start(
        &self,
        meta: &SubscriptionMeta,
        machine: Option<Machine>,
    ) -> Result<(), StoreError> {
        let inner = &self.0;
        let Some(topic) = self.all_topics().into_iter().find(|topic| topic.id() == meta.topic)
        else {
            return Err(Refusal::internal("a subscription of a topic that is not there").into());
        };
        let settings = self.subscription_settings(meta, &topic);
        let hash_key = inner.registry.lock().hash_key();
        let id = meta.id.0;
        let all = base(&inner.settings.read());
        let side = |dir: &str| {
            let place = self.place(Path::new(dir).join(id.to_string()), meta.id);
            Arc::new(SideLog::new(place, &all, inner.letters_writer.clone()))
        };
        let (letters, parked) = (side(LETTERS), side(PARKED));
        let floor = machine.as_ref().map_or(Offset::ZERO, letters_end);
        for (log, floor) in [(&letters, floor), (&parked, Offset::ZERO)] {
            let log = log.clone();
            if let Err(error) = self.block(move || log.open(floor)).await? {
                let subscription = &settings.name;
                tracing::error!(%subscription, %error, "this subscription's dead letters or parked events are offline");
            }
        }
        let is_new = machine.is_none();
        let machine = machine
            .unwrap_or_else(|| Restored::default().machine(&settings, topic.partitions().len()));
        let surroundings = Surroundings {
            id,
            clock: inner.guard.clone(),
            pool: inner.pool.clone(),
            journal: inner.journal.clone(),
            tokens: Tokens::new(&hash_key.0, id),
            topic: topic.shelf().clone(),
            letters,
            parked,
            instance: self.instance(),
            topics: inner.topics.clone(),
            hash: Arc::new(Keyed(hash_key)),
            sink: inner.sink.clone(),
            ingress: inner.ingress.clone(),
            ids: inner.requests.ids().clone(),
        };
        let subscription = Subscription::start(surroundings, settings.clone(), machine);
        if is_new {
            let start = self.beginning(&topic, settings.from).await?;
            subscription.seek(Seek::All(start)).await?;
        }
        let name = settings.name.clone();
        let is_orphaned = meta.is_orphaned;
        let reading = Reading { subscription, settings: Arc::new(settings), topic, is_orphaned };
        inner.subscriptions.write().insert(name, reading);
        Ok(())
    }

    /// The starting position of a new subscription.
    async fn beginning(&self, topic: &Topic, from: StartAt) -> Result<Offset, Refusal> {
        // If its topic is offline it starts with what is there when the topic is back.
        let Ok(handle) = topic.opened() else { return Ok(Offset::ZERO) };
        let log = handle.log().clone();
        match from {
            StartAt::Earliest => Ok(log.start()),
            StartAt::Latest => Ok(log.durable()),
            StartAt::Time(at) => {
                let found = self.block(move || log.offset_at(at)).await?;
                found.map_err(|error| Refusal::unavailable(error.to_string()))
            }
        }
    }

    /// The name of this gateway.
    pub(super) fn instance(&self) -> Arc<str> {
        let named = self.0.settings.read().instance.clone();
        named.unwrap_or_else(|| self.0.registry.lock().store().to_string().into())
    }

    /// The settings of a subscription; the defaults for an orphan.
    fn subscription_settings(
        &self,
        meta: &SubscriptionMeta,
        topic: &Topic,
    ) -> SubscriptionSettings {
        let settings = self.0.settings.read();
        let known = settings.subscriptions.iter().find(|it| *it.name == *meta.name);
        known
            .filter(|_| !meta.is_orphaned)
            .cloned()
            .unwrap_or_else(|| SubscriptionSettings::new(meta.name.as_str(), topic.name()))
    }

    fn place(&self, dir: PathBuf, id: LogId) -> Place {
        let store = self.0.registry.lock().store();
        place(&self.0.storage, &self.0.disk, store, dir, id)
    }

    /// Adds and opens a topic that does not exist yet. Blocks.
    pub(super) fn start_topic(
        &self,
        meta: &TopicMeta,
        settings: &Settings,
    ) -> Result<Arc<Topic>, StoreError> {
        let hash_key = self.0.registry.lock().hash_key();
        let ground = Ground { settings, clock: &self.0.clock, hash_key, guard: &self.0.guard };
        let place = self.place(Registry::topic_dir(meta.id), meta.id);
        let topic = Topic::new(meta, topic_settings(meta, settings), place, &ground)?;
        open_topic(&topic, Offset::ZERO);
        Ok(Arc::new(topic))
    }
}

fn place(
    storage: &Arc<dyn Storage>,
    disk: &Arc<DiskWatch>,
    store: StoreId,
    dir: PathBuf,
    id: LogId,
) -> Place {
    Place { storage: storage.clone(), dir, store, id, disk: disk.clone() }
}

/// The settings of a topic; the defaults for an orphan.
pub(super) fn topic_settings(meta: &TopicMeta, settings: &Settings) -> TopicSettings {
    let known = settings.topics.iter().find(|it| *it.name == *meta.name);
    let known = known.filter(|_| !meta.is_orphaned).cloned();
    known.unwrap_or_else(|| TopicSettings::new(meta.name.as_str()))
}

/// Opens everything but the subscriptions. Blocks.
fn prepare(
    storage: Arc<dyn Storage>,
    settings: Settings,
    (clock, sink): (Arc<dyn Clock>, Arc<dyn Sink>),
    pool: Pool,
) -> Result<Ready, StoreError> {
    let mut registry = Registry::open(storage.clone(), settings.lock_wait)?;
    configure(&mut registry, &settings)?;
    let disk = Arc::new(DiskWatch::new(storage.clone(), disk_settings(&settings)));
    for dir in [STATE, LETTERS, PARKED] {
        storage.create_dir(Path::new(dir))?;
    }
    storage.sync_dir(Path::new(""))?;
    let (room, path) = (settings.disk.reserve, PathBuf::from(RESERVE));
    let reserve = Reserve::open(storage.clone(), disk.clone(), path, room)?;
    let store = registry.store();
    let state_writer = Writer::spawn("state", clock.clone())?;
    let letters_writer = Writer::spawn("dead-letters", clock.clone())?;
    let at = |dir: &str, id| place(&storage, &disk, store, PathBuf::from(dir), id);
    let places = [JOURNAL, INGRESS].map(|dir| at(dir, LogId(store.0)));
    let now = clock.now().wall;
    let (state, (ingress, opened)) =
        own_logs(&reserve, &state_writer, &places, (&registry, &settings, now))?;
    // With what is known so far, because the expiry of keys depends on it.
    let guard = GuardedClock::new(clock.clone(), state.last);
    let hash_key = registry.hash_key();
    let around = ingress::Around { hash_key, pool: pool.clone(), clock: guard.clone() };
    let ingress = Ingress::open(ingress, settings.ingress.max_entries, around)?;
    let ground = Ground { settings: &settings, clock: &clock, hash_key, guard: &guard };
    let topics = topics(&registry, &ground, |dir, id| place(&storage, &disk, store, dir, id))?;
    let machines = machines(&registry, &settings, &topics, state.restored);
    let mut last = state.last.max(opened.last.map(|last| last.wall));
    for topic in topics.values() {
        last = last.max(open_topic(topic, floor(&registry, topic, &machines)));
    }
    let held_clock = HeldClock::begin(storage.clone(), &guard, last, state.last)?;
    if let Err(error) = ingress.resolve_attempts() {
        tracing::warn!(%error, "cannot record how earlier attempts at stored requests ended; it is tried again");
    }
    let topics = Arc::new(TopicMap(RwLock::new(topics)));
    let requests = requests((store, hash_key), pool.clone(), topics.clone(), &ingress);
    let inner = Inner {
        snapshots: Snapshots::new(state.journal.durable()),
        storage,
        clock,
        pool,
        movers: Pool::named("queue-delay", MOVERS)?,
        settings: RwLock::new(settings),
        registry: Mutex::new(registry),
        disk,
        reserve,
        guard,
        held_clock,
        state_writer,
        letters_writer,
        journal: state.journal,
        sink,
        ingress,
        requests,
        topics,
        subscriptions: RwLock::default(),
        reloading: tokio::sync::Mutex::new(()),
        ending: super::Ending::default(),
        tails: Arc::new(tokio::sync::Semaphore::new(MAX_TAILS)),
    };
    Ok(Ready { inner, machines })
}

/// The store's own logs: delivery state and records of requests. Blocks.
fn own_logs(
    reserve: &Reserve,
    writer: &Writer,
    [journal, ingress]: &[Place; 2],
    (registry, settings, now): (&Registry, &Settings, u64),
) -> Result<(Base, (Log, Opened)), StoreError> {
    let state = || read_state(writer, journal, registry, (settings, now));
    let state = with_room(reserve, state)?;
    let ingress = || open_ingress(writer, ingress, registry.is_used(), settings);
    Ok((state, with_room(reserve, ingress)?))
}

fn open_ingress(
    writer: &Writer,
    place: &Place,
    is_begun: bool,
    settings: &Settings,
) -> Result<(Log, Opened), StoreError> {
    let own = LogSettings { max_bytes: Some(settings.ingress.max_bytes), ..base(settings) };
    let floor = log::floor_of(place, Offset::ZERO, is_begun)?;
    let (log, opened) = Log::open(writer, place.clone(), &own, floor, Box::new(Plain))?;
    if let State::Offline(Offline { reason, .. }) = log.status().state {
        tracing::error!(
            %reason,
            "the log of requests is offline, and so are routes with keys, intents or stored requests: with the \
             gateway stopped, `sluice queue verify` says what is lost, and `--repair` accepts that"
        );
    }
    Ok((log, opened))
}

/// Opens one of the store's own logs, using the reserve if the disk is full. Blocks.
fn with_room<T>(
    reserve: &Reserve,
    open: impl Fn() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    match open() {
        Err(StoreError::Log(error)) if error.is_full() && reserve.give_up()? => open(),
        opened => opened,
    }
}

/// Opens a topic; returns when anything was last written to it.
fn open_topic(topic: &Topic, floor: Offset) -> Option<u64> {
    topic.open(floor).unwrap_or_else(|error| {
        tracing::error!(topic = %topic.name(), %error, "the topic is offline");
        None
    })
}

fn disk_settings(settings: &Settings) -> DiskSettings {
    let disk = &settings.disk;
    DiskSettings { low_water: disk.low_water, min_free: disk.min_free, reserve: disk.reserve }
}

/// How far the subscriptions of a topic have read.
fn floor(registry: &Registry, topic: &Topic, machines: &HashMap<Uuid, Machine>) -> Offset {
    let readers = registry.subscriptions().iter().filter(|meta| meta.topic == topic.id());
    let seen = readers.filter_map(|meta| machines.get(&meta.id.0)?.position(LaneId::LIVE));
    seen.max().unwrap_or_default()
}

fn machines(
    registry: &Registry,
    settings: &Settings,
    topics: &BTreeMap<Arc<str>, Arc<Topic>>,
    mut restored: HashMap<Uuid, Restored>,
) -> HashMap<Uuid, Machine> {
    let mut machines = HashMap::new();
    for meta in registry.subscriptions() {
        let topic = topics.values().find(|topic| topic.id() == meta.topic);
        let (Some(topic), Some(restored)) = (topic, restored.remove(&meta.id.0)) else { continue };
        let known = settings.subscriptions.iter().find(|it| *it.name == *meta.name);
        let settings = known.filter(|_| !meta.is_orphaned).cloned();
        let settings =
            settings.unwrap_or_else(|| SubscriptionSettings::new(meta.name.as_str(), topic.name()));
        machines.insert(meta.id.0, restored.machine(&settings, topic.partitions().len()));
    }
    machines
}
