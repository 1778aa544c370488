//! META: the identity of a store, and the names of its logs.

use uuid::Uuid;

use super::{
    envelope::{Envelope, FileError},
    fields::{self, FieldsIter, Tag, put_field},
    hash::HashKey,
    reading::Reading,
};
use crate::events::queue::{LogId, Offset, StoreId};

const ENVELOPE: Envelope = Envelope { magic: *b"SLUICE\x01M", version: 1 };

const STORE: Tag = Tag(1);
const HASH_KEY: Tag = Tag(2);
const TOPIC: Tag = Tag(3);
const SUBSCRIPTION: Tag = Tag(4);
const FORMAT: Tag = Tag(5);
const IS_USED: Tag = Tag(6);

const ID: Tag = Tag(1);
const NAME: Tag = Tag(2);
const IS_ORPHANED: Tag = Tag(3);
const GENERATION: Tag = Tag(4);
const OF_TOPIC: Tag = Tag(5);
const IS_BEGUN: Tag = Tag(6);

/// A store. Unknown additions of later versions are kept, entry by entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Its ID.
    pub store: StoreId,
    /// The version of its log files; new ones have it until the store is upgraded.
    pub format: u16,
    /// The secret key of its hashes.
    pub hash_key: HashKey,
    /// Whether it was open before: if so, its journal and its log of requests exist or were lost.
    pub is_used: bool,
    /// Every topic with data in the store.
    pub topics: Vec<TopicMeta>,
    /// Every subscription with data in the store.
    pub subscriptions: Vec<SubscriptionMeta>,
    /// Fields that this version does not know.
    pub(super) unknown: Vec<u8>,
}

/// A topic that a store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMeta {
    /// The ID of its log, and the name of its directory.
    pub id: LogId,
    /// Its current name.
    pub name: String,
    /// Whether it is no longer configured.
    pub is_orphaned: bool,
    /// Whether its log was created: if so, it exists or was lost.
    pub is_begun: bool,
    /// Its generations of partitions, oldest first; at least one.
    pub generations: Vec<Generation>,
    pub(super) unknown: Vec<u8>,
}

/// The number of partitions that keys are hashed to, from one growth to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation {
    /// Its number, counted from 0.
    pub number: u16,
    /// Number of partitions.
    pub partitions: u16,
    /// All records of earlier generations are below this.
    pub opened: Offset,
}

/// A subscription that a store has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionMeta {
    /// Its ID, also of its dead letters.
    pub id: LogId,
    /// Its current name.
    pub name: String,
    /// The topic it reads.
    pub topic: LogId,
    /// Whether it is no longer configured.
    pub is_orphaned: bool,
    /// Whether its state was in a snapshot: if so, it is known or was lost.
    pub is_begun: bool,
    pub(super) unknown: Vec<u8>,
}

// === impl Meta ===

impl Meta {
    /// For a store without topics.
    pub fn new(store: StoreId, hash_key: HashKey) -> Self {
        let (topics, subscriptions, unknown) = Default::default();
        let format = super::FORMAT_VERSION;
        Self { store, format, hash_key, is_used: false, topics, subscriptions, unknown }
    }

    /// The whole file.
    pub fn encode(&self) -> Vec<u8> {
        ENVELOPE.encode(|out| {
            put_field(out, STORE, self.store.0.as_bytes());
            put_field(out, HASH_KEY, &self.hash_key.0);
            put_field(out, FORMAT, &self.format.to_le_bytes());
            put_flag(out, IS_USED, self.is_used);
            for topic in &self.topics {
                put_field(out, TOPIC, &topic.encode());
            }
            for subscription in &self.subscriptions {
                put_field(out, SUBSCRIPTION, &subscription.encode());
            }
            out.extend_from_slice(&self.unknown);
        })
    }

    /// From the whole file. A newer format is read as far as possible: whoever opens the store
    /// decides whether to go on.
    pub fn decode(bytes: &[u8]) -> Result<Self, FileError> {
        let reading = ENVELOPE.decode(bytes)?;
        Self::decode_payload(reading).ok_or(FileError::Contradiction)
    }

    fn decode_payload(reading: Reading<'_>) -> Option<Self> {
        let (mut store, mut hash_key, mut format) = (None, None, None);
        let (mut topics, mut subscriptions, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
        let mut is_used = false;
        for field in whole(reading.0)? {
            match field.tag {
                STORE => store = Some(StoreId(Uuid::from_slice(field.value).ok()?)),
                HASH_KEY => hash_key = Some(HashKey(field.value.try_into().ok()?)),
                // The first format was 1.
                FORMAT => format = Some(Reading(field.value).u16().filter(|it| *it > 0)?),
                IS_USED => is_used = true,
                TOPIC => topics.push(TopicMeta::decode(field.value)?),
                SUBSCRIPTION => subscriptions.push(SubscriptionMeta::decode(field.value)?),
                other => put_field(&mut unknown, other, field.value),
            }
        }
        let (store, hash_key, format) = (store?, hash_key?, format?);
        Some(Self { store, format, hash_key, is_used, topics, subscriptions, unknown })
    }
}

// === impl TopicMeta ===

impl TopicMeta {
    /// A topic that is configured for the first time.
    pub fn new(id: LogId, name: String, partitions: u16) -> Self {
        let first = Generation { number: 0, partitions, opened: Offset::ZERO };
        let (generations, unknown) = (vec![first], Vec::new());
        Self { id, name, is_orphaned: false, is_begun: false, generations, unknown }
    }

    /// The generation that new records belong to.
    pub fn generation(&self) -> Generation {
        let none = Generation { number: 0, partitions: 1, opened: Offset::ZERO };
        self.generations.last().copied().unwrap_or(none)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_field(&mut out, ID, self.id.0.as_bytes());
        put_field(&mut out, NAME, self.name.as_bytes());
        put_field(&mut out, IS_ORPHANED, &[u8::from(self.is_orphaned)]);
        put_flag(&mut out, IS_BEGUN, self.is_begun);
        for generation in &self.generations {
            let mut value = generation.number.to_le_bytes().to_vec();
            value.extend_from_slice(&generation.partitions.to_le_bytes());
            value.extend_from_slice(&generation.opened.0.to_le_bytes());
            put_field(&mut out, GENERATION, &value);
        }
        out.extend_from_slice(&self.unknown);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut id, mut name, mut is_orphaned, mut is_begun) = (None, None, false, false);
        let (mut generations, mut unknown) = (Vec::new(), Vec::new());
        for field in whole(bytes)? {
            match field.tag {
                ID => id = Some(LogId(Uuid::from_slice(field.value).ok()?)),
                NAME => name = Some(String::from_utf8(field.value.to_vec()).ok()?),
                IS_ORPHANED => is_orphaned = field.value != [0],
                IS_BEGUN => is_begun = true,
                GENERATION => {
                    let mut reading = Reading(field.value);
                    let (number, partitions) = (reading.u16()?, reading.u16()?);
                    let opened = Offset(reading.u64()?);
                    generations.push(Generation { number, partitions, opened });
                }
                other => put_field(&mut unknown, other, field.value),
            }
        }
        let is_sound = generations.iter().zip(0..).all(|(it, number)| it.number == number)
            && generations.iter().all(|it| it.partitions > 0)
            && !generations.is_empty();
        let (id, name) = (id?, name?);
        is_sound.then_some(Self { id, name, is_orphaned, is_begun, generations, unknown })
    }
}

// === impl SubscriptionMeta ===

impl SubscriptionMeta {
    /// A subscription that is configured for the first time.
    pub fn new(id: LogId, name: String, topic: LogId) -> Self {
        Self { id, name, topic, is_orphaned: false, is_begun: false, unknown: Vec::new() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_field(&mut out, ID, self.id.0.as_bytes());
        put_field(&mut out, NAME, self.name.as_bytes());
        put_field(&mut out, IS_ORPHANED, &[u8::from(self.is_orphaned)]);
        put_flag(&mut out, IS_BEGUN, self.is_begun);
        put_field(&mut out, OF_TOPIC, self.topic.0.as_bytes());
        out.extend_from_slice(&self.unknown);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut id, mut name, mut topic, mut is_orphaned) = (None, None, None, false);
        let (mut is_begun, mut unknown) = (false, Vec::new());
        for field in whole(bytes)? {
            match field.tag {
                ID => id = Some(LogId(Uuid::from_slice(field.value).ok()?)),
                NAME => name = Some(String::from_utf8(field.value.to_vec()).ok()?),
                IS_ORPHANED => is_orphaned = field.value != [0],
                IS_BEGUN => is_begun = true,
                OF_TOPIC => topic = Some(LogId(Uuid::from_slice(field.value).ok()?)),
                other => put_field(&mut unknown, other, field.value),
            }
        }
        let (id, name, topic) = (id?, name?, topic?);
        Some(Self { id, name, topic, is_orphaned, is_begun, unknown })
    }
}

/// A flag, as a field that exists or not, so that versions that do not know it keep it.
fn put_flag(out: &mut Vec<u8>, tag: Tag, is_set: bool) {
    if is_set {
        put_field(out, tag, &[]);
    }
}

/// The fields, if they end where they should.
fn whole(bytes: &[u8]) -> Option<FieldsIter<'_>> {
    fields::is_well_formed(bytes).then(|| FieldsIter::new(bytes))
}
