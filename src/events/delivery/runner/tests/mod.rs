//! One subscription with its logs, on the real file system and on the modelled one.

mod crash;
mod hostile;
mod pull;
mod push;
mod requests;
mod saga;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::events::{
    delivery::{
        journal,
        subscription::{LaneId, Seek},
    },
    event::Event,
    facade::{self, Leased, Receive, Refusal, TokenItem, TokenStatus, Verb},
    ingress::Around,
    queue::{
        LogId, Offset, StoreId,
        codec::HashKey,
        log::{
            DiskSettings, DiskWatch, Log, Permit, Place as Where, Plain, Purpose, Recovery,
            Refused, Settings as LogSettings, Writer,
        },
        storage::{Real, Storage},
        time::{Clock, ManualClock, Now},
        topic::clock_guard::GuardedClock,
    },
    stored,
};

const START: Now = Now { wall: 1_700_000_000_000, mono: 5_000 };

/// Everything a subscription needs, whether it runs or not.
pub(super) struct Home {
    pub(super) storage: Arc<dyn Storage>,
    /// The storage of the ingress log.
    pub(super) records: Arc<dyn Storage>,
    pub(super) clock: ManualClock,
    pub(super) settings: Settings,
    pub(super) recovery: Recovery,
    pub(super) sink: Arc<dyn Sink>,
    /// Followers find no topic.
    pub(super) is_shut: Arc<AtomicBool>,
    _dir: Option<TempDir>,
}

/// A running subscription with everything around it.
pub(super) struct Running {
    pub(super) subscription: Subscription,
    pub(super) topic: Log,
    pub(super) ingress: Ingress,
    writer: Writer,
}

#[derive(Debug)]
struct OneTopic {
    log: Log,
    is_shut: Arc<AtomicBool>,
}

#[derive(Debug)]
struct PlainHash;

impl KeyHash for PlainHash {
    fn hash(&self, key: &[u8]) -> u64 {
        crc32c::crc32c(key).into()
    }
}

impl Topics for OneTopic {
    fn log(&self, _: &str) -> Option<Log> {
        (!self.is_shut.load(Ordering::SeqCst)).then(|| self.log.clone())
    }

    fn permit(&self, _: &str, bytes: u64) -> Result<Permit, Refused> {
        self.log.permit_for(Purpose::Accepted, bytes)
    }

    fn partitions(&self, _: &str) -> Vec<Partition> {
        (0..4).map(|number| Partition { generation: 0, number }).collect()
    }
}

impl Home {
    pub(super) fn real() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(Real::open(dir.path()).unwrap());
        Self { _dir: Some(dir), ..Self::on(storage) }
    }

    pub(super) fn on(storage: Arc<dyn Storage>) -> Self {
        let mut settings = Settings::new("billing", "orders");
        settings.retry.schedule = vec![Duration::ZERO, Duration::from_secs(10)];
        let sink: Arc<dyn Sink> = Arc::new(Arc::new(push::Script::default()));
        Self {
            records: storage.clone(),
            storage,
            clock: ManualClock::at(START),
            settings,
            sink,
            is_shut: Arc::default(),
            recovery: Recovery::Strict,
            _dir: None,
        }
    }

    fn place(&self, dir: &str, id: u128) -> Where {
        let storage = if dir == "ingress" { &self.records } else { &self.storage };
        let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
        Where {
            disk: Arc::new(DiskWatch::new(storage.clone(), disk)),
            storage: storage.clone(),
            dir: PathBuf::from(dir),
            store: StoreId(Uuid::from_u128(1)),
            id: LogId(Uuid::from_u128(id)),
        }
    }

    /// Opens the logs, reads the journal, and starts the subscription. `None` if the machine died.
    pub(super) fn try_open(&self) -> Option<Running> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let writer = Writer::spawn("test", clock.clone()).unwrap();
        let settings = LogSettings {
            segment_bytes: 256 << 10,
            recovery: self.recovery,
            ..LogSettings::default()
        };
        let log = |dir, id| {
            let place = self.place(dir, id);
            Log::open(&writer, place, &settings, Offset::ZERO, Box::new(Plain)).map(|(log, _)| log)
        };
        let journal = log("journal", 10).ok()?;
        let topic = log("topic", 11).ok()?;
        let side = |dir, id| SideLog::new(self.place(dir, id), &settings, writer.clone());
        let (letters, parked) = (side("letters", 12), side("parked", 13));
        parked.open(Offset::ZERO).ok()?;
        letters.open(Offset::ZERO).ok()?;
        let id = Uuid::from_u128(12);
        let (clock, pool) = (GuardedClock::new(clock, None), Pool::new(1).unwrap());
        let around =
            Around { hash_key: HashKey([7; 16]), pool: pool.clone(), clock: clock.clone() };
        let ingress = Ingress::open(log("ingress", 14).ok()?, 1_000, around).ok()?;
        let surroundings = Surroundings {
            id,
            clock,
            pool,
            journal: journal.clone(),
            tokens: Tokens::new(b"secret", id),
            topic: Shelf::new(LogId(Uuid::from_u128(11)), Some(topic.clone())),
            letters: Arc::new(letters),
            parked: Arc::new(parked),
            instance: "test".into(),
            topics: Arc::new(OneTopic { log: topic.clone(), is_shut: self.is_shut.clone() }),
            hash: Arc::new(PlainHash),
            sink: self.sink.clone(),
            ingress: ingress.clone(),
            ids: RequestIds::new(StoreId(Uuid::from_u128(1)), b"secret"),
        };
        let restored = Restored { state: State::default(), entries: entries(&journal)? };
        let machine = restored.machine(&self.settings, 4);
        let subscription = Subscription::start(surroundings, self.settings.clone(), machine);
        Some(Running { subscription, topic, ingress, writer })
    }

    pub(super) fn open(&self) -> Running {
        self.try_open().expect("it opens")
    }

    /// Lets time pass until the subscription has seen it.
    pub(super) async fn pass(&self, running: &Running, seconds: u64) {
        self.clock.advance(seconds * 1_000);
        running.subscription.status(false).await.unwrap();
    }
}

/// Every entry of the journal.
fn entries(journal: &Log) -> Option<Vec<Entry>> {
    let mut reader = journal.reader();
    let mut all = Vec::new();
    let mut at = Offset::ZERO;
    loop {
        let block = reader.read(at, 1 << 20).ok()?;
        if block.is_empty() {
            return Some(all);
        }
        for (_, record) in block.records() {
            all.extend(journal::decode(record.body()).unwrap().entries);
        }
        at = block.next();
    }
}

impl Running {
    /// Publishes events with these IDs; the first letter of an ID is its key.
    pub(super) async fn publish(&self, ids: &[&str]) -> bool {
        let drafts: Vec<_> = ids
            .iter()
            .map(|id| {
                let event = Event {
                    id: (*id).to_owned(),
                    source: "/test".into(),
                    kind: "made".into(),
                    key: Some(bytes::Bytes::copy_from_slice(&id.as_bytes()[..1])),
                    data: bytes::Bytes::from(format!("data of {id}")),
                    ..Event::default()
                };
                let mut draft = stored::draft(event.borrowed());
                draft.partition = u16::from(id.as_bytes()[0] % 4);
                draft
            })
            .collect();
        let bytes = drafts.iter().map(|draft| draft.encoded_bytes() as u64).sum();
        let Ok(permit) = self.topic.permit(bytes) else { return false };
        self.topic.append(permit, drafts).await.is_ok()
    }

    pub(super) async fn try_receive(&self, most: usize) -> Result<Vec<Leased>, Refusal> {
        let receive =
            Receive { max_events: most, max_bytes: 1 << 20, wait: Duration::ZERO, lease: None };
        self.subscription.receive(receive, Duration::from_secs(30)).await
    }

    /// Receives what comes within two seconds.
    pub(super) async fn receive(&self, most: usize) -> Vec<Leased> {
        let wait = Duration::from_secs(2);
        let receive = Receive { max_events: most, max_bytes: 1 << 20, wait, lease: None };
        self.subscription.receive(receive, Duration::from_secs(30)).await.unwrap()
    }

    /// Receives what is ready, once everything published was scanned.
    pub(super) async fn receive_now(&self, most: usize) -> Vec<Leased> {
        self.settled_down().await;
        self.try_receive(most).await.unwrap()
    }

    /// Waits until everything published was scanned.
    pub(super) async fn settled_down(&self) {
        for _ in 0..2_000 {
            let status = self.subscription.status(false).await.unwrap().status;
            if status.partitions.iter().all(|part| part.scan >= self.topic.durable().0) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("the topic is not read");
    }

    pub(super) async fn say(&self, verb: Verb, leased: &Leased) -> TokenStatus {
        let item = TokenItem { token: leased.token.clone(), ..TokenItem::default() };
        let results = self.subscription.settle(verb, vec![item]).await.unwrap();
        results[0].status
    }

    /// Event IDs of the dead letters, once there are `count`.
    pub(super) async fn letters(&self, count: usize) -> Vec<String> {
        for _ in 0..2_000 {
            let status = self.subscription.status(false).await.unwrap().status;
            if status.dead_letters.count >= count as u64 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.letters_now().await
    }

    pub(super) async fn letters_now(&self) -> Vec<String> {
        let filter = facade::DeadLetterFilter::default();
        let letters = self.subscription.letters(None, filter, 1_000).await.unwrap();
        let ids: Vec<Offset> = letters.iter().map(|letter| letter.id).collect();
        let records = self.subscription.surroundings().letters.read(&ids);
        let id = |record: Option<crate::events::queue::log::OwnedRecord>| {
            let record = record.expect("a dead letter that is known is there");
            record.record().unwrap().id().unwrap().to_owned()
        };
        records.into_iter().map(id).collect()
    }

    /// Stops regularly.
    pub(super) async fn close(self) {
        self.subscription.stop(Duration::from_secs(30)).await;
        self.writer.stop();
    }
}

fn ids(leased: &[Leased]) -> Vec<&str> {
    leased.iter().map(|leased| leased.event.id.as_str()).collect()
}
