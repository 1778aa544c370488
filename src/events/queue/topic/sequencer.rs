//! Decides where an event goes: its partition, and whether it is a duplicate.
//!
//! A new event goes to the newest generation at once, even if older events of its key are unsettled
//! in an older one: the writer need not ask anybody. The reader keeps the order. Events of all
//! partitions are in one log, so a reader meets a key's older events first, and it takes nothing of
//! a newer generation beyond the point where it has stopped in an older one.
//!
//! Duplicates are found in a table that includes events placed a moment ago; the log answers a
//! duplicate when its original is durable, and fails it with the original. Events placed for a
//! frame that could not be written are removed again.

use std::{
    collections::VecDeque,
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    clock_guard::GuardedClock,
    dedup::{DedupSettings, DedupTable, Hashes},
};
use crate::events::queue::{
    Offset,
    codec::{
        DedupEntry, Draft, HashKey, KeysBuilder, KeysHead, Kind, Lookup, Record, Role, Tag, digest,
        partition_of,
    },
    log::{Learnt, Placement, Sequencer},
    time::Now,
};

/// The settings of a topic's sequencer, which may change while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Live {
    /// The newest generation, ...
    pub generation: u16,
    /// ... and its partitions.
    pub partitions: u16,
    /// How duplicates are found.
    pub dedup: DedupSettings,
}

/// What a sequencer shares with the handle of its topic.
#[derive(Debug)]
pub struct Shared {
    live: Mutex<Live>,
    /// Differs for each change of `live`, so that no event needs its lock.
    version: AtomicU64,
    /// Remembered keys. Locked briefly for each event by its writer; others only read.
    table: Mutex<DedupTable>,
    /// The newest generation that has events, and its first offset.
    opened: Mutex<Option<(u16, Offset)>>,
    keys: Mutex<Option<KeysBuilder>>,
    gauges: DedupGauges,
}

/// State of a dedup table. Relaxed: no decision depends on it.
#[derive(Debug, Default)]
struct DedupGauges {
    entries: AtomicU64,
    hits: AtomicU64,
    mismatches: AtomicU64,
    window_millis: AtomicU64,
}

/// State of a topic's deduplication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStatus {
    /// Keys remembered.
    pub entries: u64,
    /// Duplicates found since start.
    pub hits: u64,
    /// Duplicates among them with a different body.
    pub mismatches: u64,
    /// How long a key is certain to be remembered.
    pub window: Duration,
}

/// The sequencer of one topic.
pub struct TopicSequencer {
    shared: Arc<Shared>,
    hash_key: HashKey,
    clock: GuardedClock,
    /// The wall time last used, and when the clock was read for it.
    wall: u64,
    looked: Now,
    live: Live,
    version: u64,
    /// Of the drafts that are placed next.
    prepared: VecDeque<Hashes>,
    /// The first offset placed since the last commit.
    uncommitted: Option<Offset>,
    next_partition: u16,
    /// The newest generation of an event it placed, so that not every event locks the shared state.
    newest: Option<u16>,
}

// === impl Shared ===

impl Shared {
    /// For a topic that starts with these settings.
    pub fn new(live: Live) -> Arc<Self> {
        Arc::new(Self {
            live: Mutex::new(live),
            table: Mutex::new(DedupTable::new(live.dedup)),
            version: AtomicU64::new(0),
            opened: Mutex::new(None),
            keys: Mutex::new(None),
            gauges: DedupGauges::default(),
        })
    }

    /// Changes the settings from the next event on.
    pub fn set(&self, live: Live) {
        *self.live.lock() = live;
        // Release: whoever sees the version sees the settings; the lock alone would suffice.
        self.version.fetch_add(1, std::sync::atomic::Ordering::Release);
    }

    /// The current settings.
    pub fn live(&self) -> Live {
        *self.live.lock()
    }

    /// The newest generation in which an event was placed since the topic was opened, and an offset
    /// above all events of older ones.
    pub fn opened(&self) -> Option<(u16, Offset)> {
        *self.opened.lock()
    }

    fn note_opened(&self, generation: u16, offset: Offset) {
        let mut opened = self.opened.lock();
        if opened.is_none_or(|(newest, _)| newest < generation) {
            *opened = Some((generation, offset));
        }
    }

    /// State of deduplication.
    pub fn dedup(&self) -> DedupStatus {
        let gauges = &self.gauges;
        DedupStatus {
            entries: gauges.entries.load(Relaxed),
            hits: gauges.hits.load(Relaxed),
            mismatches: gauges.mismatches.load(Relaxed),
            window: Duration::from_millis(gauges.window_millis.load(Relaxed)),
        }
    }

    /// Whether an event is remembered under this hash at this time. It may not be durable yet.
    pub fn knows(&self, hash: u128, wall: u64) -> bool {
        self.table.lock().get(hash, wall).is_some()
    }

    /// Up to `most` offsets in the newest segment that may have this ID or correlation ID. Some may
    /// not be durable yet.
    pub fn find(&self, lookup: Lookup, hash: u128, most: usize) -> Vec<Offset> {
        let keys = self.keys.lock();
        keys.iter().flat_map(|keys| keys.find(lookup, hash)).take(most).collect()
    }
}

// === impl TopicSequencer ===

impl TopicSequencer {
    /// A sequencer that knows nothing yet: it learns from the log.
    pub fn new(shared: Arc<Shared>, hash_key: HashKey, clock: GuardedClock) -> Self {
        let (live, version) = (shared.live(), shared.version.load(Relaxed));
        let wall = clock.judge().wall;
        Self {
            shared,
            hash_key,
            clock,
            wall,
            looked: Now::default(),
            live,
            version,
            prepared: VecDeque::new(),
            uncommitted: None,
            next_partition: 0,
            newest: None,
        }
    }

    /// The time to judge age by. A batch is placed at one time: the clock is checked once for it.
    fn judge(&mut self, now: Now) -> u64 {
        if now != self.looked {
            self.looked = now;
            self.wall = self.clock.judge().wall;
        }
        self.wall
    }

    /// Takes over changed settings.
    fn refresh(&mut self, wall: u64) {
        // Acquire: see `Shared::set`.
        let version = self.shared.version.load(std::sync::atomic::Ordering::Acquire);
        if version != self.version {
            self.version = version;
            self.live = self.shared.live();
            self.shared.table.lock().set(self.live.dedup, wall);
        }
    }

    fn partition(&mut self, key: Option<&[u8]>) -> u16 {
        let partitions = self.live.partitions.max(1);
        if let Some(key) = key {
            return partition_of(key, partitions);
        }
        let partition = self.next_partition % partitions;
        self.next_partition = (partition + 1) % partitions;
        partition
    }

    fn hash(
        &self,
        kind: Kind,
        dedup: Option<&[u8]>,
        source: Option<&[u8]>,
        id: Option<&[u8]>,
    ) -> Option<u128> {
        match (dedup, source, id) {
            (Some(key), ..) => Some(self.hash_key.hash(Role::Dedup, &[key])),
            (None, Some(source), Some(id)) if kind == Kind::Event => {
                Some(self.hash_key.hash(Role::SourceAndId, &[source, id]))
            }
            _ => None,
        }
    }

    fn hashes(&self, draft: &Draft) -> Hashes {
        let tags = [Tag::SOURCE, Tag::ID, Tag::CORRELATION, Tag::TYPE];
        let [source, id, correlation, event_type] = draft.fields.first_of(tags);
        let dedup = self.hash(draft.kind, draft.dedup.as_deref(), source, id);
        let digest = dedup.map(|_| digest(event_type.unwrap_or_default(), &draft.body));
        self.with_lookups(dedup, digest.unwrap_or_default(), id, correlation)
    }

    fn with_lookups(
        &self,
        dedup: Option<u128>,
        digest: u32,
        id: Option<&[u8]>,
        correlation: Option<&[u8]>,
    ) -> Hashes {
        let id = id.map(|id| self.hash_key.hash(Role::Id, &[id]));
        let correlation = correlation.map(|it| self.hash_key.hash(Role::Correlation, &[it]));
        Hashes { dedup, digest, id, correlation }
    }

    fn remember(&mut self, hashes: &Hashes, offset: Offset, wall: u64, partition: u16) {
        let mut keys = self.shared.keys.lock();
        let keys = keys.get_or_insert_with(|| KeysBuilder::new(offset, wall));
        if let Some(hash) = hashes.dedup {
            let entry = DedupEntry { hash, digest: hashes.digest, offset, wall, partition };
            keys.add_dedup(entry);
            self.shared.table.lock().insert(&entry);
        }
        if let Some(hash) = hashes.id {
            keys.add(Lookup::Id, hash, offset);
        }
        if let Some(hash) = hashes.correlation {
            keys.add(Lookup::Correlation, hash, offset);
        }
    }

    fn publish_gauges(&self, wall: u64) {
        let gauges = &self.shared.gauges;
        let table = self.shared.table.lock();
        gauges.entries.store(table.entries() as u64, Relaxed);
        let window = table.window(wall).as_millis();
        gauges.window_millis.store(u64::try_from(window).unwrap_or(u64::MAX), Relaxed);
    }
}

impl Sequencer for TopicSequencer {
    fn prepare(&mut self, drafts: &mut dyn Iterator<Item = &Draft>) {
        self.prepared.clear();
        for draft in drafts {
            let hashes = self.hashes(draft);
            self.prepared.push_back(hashes);
        }
        if self.prepared.len() > 1 {
            self.shared.table.lock().warm(self.prepared.iter().filter_map(|it| it.dedup));
        }
    }

    fn place(&mut self, draft: &Draft, offset: Offset, now: Now) -> Placement {
        let wall = self.judge(now);
        self.refresh(wall);
        let hashes = self.prepared.pop_front().unwrap_or_else(|| self.hashes(draft));
        if let Some(hash) = hashes.dedup {
            let known = self.shared.table.lock().get(hash, wall);
            if let Some(known) = known {
                let mismatch = known.digest != hashes.digest;
                self.shared.gauges.hits.fetch_add(1, Relaxed);
                self.shared.gauges.mismatches.fetch_add(u64::from(mismatch), Relaxed);
                return Placement::Duplicate {
                    offset: known.offset,
                    partition: known.partition,
                    mismatch,
                };
            }
        }
        let partition = self.partition(draft.key.as_deref());
        self.remember(&hashes, offset, wall, partition);
        self.uncommitted.get_or_insert(offset);
        let generation = self.live.generation;
        if self.newest.is_none_or(|newest| newest < generation) {
            self.newest = Some(generation);
            self.shared.note_opened(generation, offset);
        }
        Placement::Append { generation, partition }
    }

    fn commit(&mut self) {
        self.uncommitted = None;
        self.publish_gauges(self.wall);
    }

    fn rollback(&mut self) {
        self.prepared.clear();
        if let Some(first) = self.uncommitted.take() {
            self.shared.table.lock().truncate(first);
            if let Some(keys) = self.shared.keys.lock().as_mut() {
                keys.truncate(first);
            }
        }
    }

    fn reset(&mut self) {
        *self.shared.table.lock() = DedupTable::new(self.live.dedup);
        self.uncommitted = None;
        *self.shared.keys.lock() = None;
    }

    fn since(&self, _: Now) -> u64 {
        let DedupSettings { window, max_entries } = self.live.dedup;
        if window.is_zero() || max_entries == 0 {
            return u64::MAX;
        }
        let window = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        self.clock.judge().wall.saturating_sub(window)
    }

    fn learn_sealed(&mut self, epoch: u64, range: Range<Offset>, keys: Option<&[u8]>) -> Learnt {
        *self.shared.keys.lock() = None;
        let entries = keys.and_then(|keys| {
            let head = KeysHead::decode(keys).ok()?;
            let is_own = head.epoch == epoch && head.end == range.end;
            head.dedup(keys.get(head.dedup_range())?).ok().filter(|_| is_own)
        });
        let Some(entries) = entries else { return Learnt::Wanting };
        let mut table = self.shared.table.lock();
        for entry in &entries {
            table.insert(entry);
        }
        drop(table);
        self.publish_gauges(self.wall);
        Learnt::Known
    }

    fn learn(&mut self, record: &Record<'_>, offset: Offset) {
        let (source, id) = (record.field(Tag::SOURCE), record.field(Tag::ID));
        let hash = self.hash(record.kind(), record.dedup_key(), source, id);
        let (wall, partition) = (record.published(), record.partition());
        let digest =
            hash.map(|_| digest(record.field(Tag::TYPE).unwrap_or_default(), record.body()));
        let correlation = record.field(Tag::CORRELATION);
        let hashes = self.with_lookups(hash, digest.unwrap_or_default(), id, correlation);
        self.remember(&hashes, offset, wall, partition);
        self.publish_gauges(self.wall);
    }

    fn sealed(&mut self, epoch: u64, range: Range<Offset>) -> Option<Vec<u8>> {
        let keys = self.shared.keys.lock().take();
        let keys = keys.unwrap_or_else(|| KeysBuilder::new(range.start, 0));
        Some(keys.encode(epoch, range.end))
    }
}

impl fmt::Debug for TopicSequencer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TopicSequencer").field("live", &self.live).finish_non_exhaustive()
    }
}
