//! The records of a request in the ingress log. Pure.
//!
//! A request has two frames. The first has an intent for each event that may follow; its first
//! offset names the exchange. The second has the answer and after it the events to append to their
//! topics. A control record says below which offset nothing is owed any more.

use std::borrow::Borrow;

use bytes::Bytes;
use uuid::Uuid;

use super::{
    key_record::{self, Claim, KeyEnd, Said},
    result_record,
    results::Recorded,
};
use crate::events::{
    event::{Event, EventRef, derived_id},
    queue::{
        LogId, Offset,
        codec::{Draft, Fields, FieldsBuilder, Kind, Record, Tag},
    },
    request::Place,
    stored::{self, Preset},
};

/// The topic an event is for.
const TOPIC: Tag = Tag(1024);
/// Where that topic ended when the exchange began: its event is at or above this.
const END: Tag = Tag(1025);
/// The index of an intent in its frame.
const INDEX: Tag = Tag(1026);
/// Method and target of the request, and the SHA-256 of its body if that was read whole.
const METHOD: Tag = Tag(1027);
const TARGET: Tag = Tag(1028);
const DIGEST: Tag = Tag(1029);
/// Nothing below is owed.
const SETTLED: Tag = Tag(1030);
/// Marks an answer whose outcome is unknown.
const UNCERTAIN: Tag = Tag(1031);
/// Where the topic's log of delayed events ended; absent if the event does not wait.
const WAITS: Tag = Tag(1032);
/// The most bytes these fields take in a record, without method and target.
const OVERHEAD: usize = 256;
/// The most bytes of a control record, or of an answer without events.
pub(super) const SMALL: u64 = 256;
/// Suffix of the type of an event that may not have happened.
const UNCERTAIN_SUFFIX: &str = ".uncertain";

/// An event on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// The topic.
    pub topic: LogId,
    /// Where the topic ended before: the event is at or above this.
    pub end: Offset,
    /// Where the log of delayed events ended, if the event waits there until it is due.
    pub waits: Option<Offset>,
    /// The event's record in its topic. Made once: its other records add a few fields.
    record: Draft,
}

/// The request, for whoever has to find out its outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// Its method.
    pub method: &'a str,
    /// Its normalised target.
    pub target: &'a str,
    /// The SHA-256 of its body, if that was read whole.
    pub digest: Option<[u8; 32]>,
}

/// The content of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// An exchange begins; this is its intent with this index.
    Intent { index: u16 },
    /// An exchange begins with a key.
    Claim { claim: Claim, wall: u64 },
    /// The exchange that began at this offset has ended, with this result for its key.
    Answer { exchange: Offset, key: Option<Said> },
    /// An operator decided the result of a key.
    Resolved(Said),
    /// The exchange that began at this offset owes this event.
    Owed { exchange: Offset },
    /// Nothing below is owed.
    Settled { below: Offset },
    /// The state of a stored request.
    Request { place: Place, recorded: Recorded, wall: u64 },
}

/// An event read from a record.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) topic: LogId,
    pub(super) end: Offset,
    pub(super) waits: Option<Offset>,
    pub(super) event: Event,
}

// === impl Owed ===

impl Owed {
    /// This event, which is not in its logs below these offsets.
    pub fn new(topic: LogId, end: Offset, waits: Option<Offset>, event: EventRef<'_>) -> Self {
        Self { topic, end, waits, record: stored::draft(event) }
    }

    /// As [`Owed::new`], with source and type of `preset`.
    pub fn preset(
        topic: LogId,
        end: Offset,
        waits: Option<Offset>,
        (preset, event): (&Preset, EventRef<'_>),
    ) -> Self {
        Self { topic, end, waits, record: preset.draft(event) }
    }

    /// The event's ID.
    pub fn id(&self) -> &str {
        self.record.fields.text(Tag::ID).unwrap_or_default()
    }

    /// The event, decoded from its record.
    pub fn event(&self) -> Event {
        stored::event_of(&self.record)
    }

    /// The record of the event in its topic.
    pub fn record(&self) -> &Draft {
        &self.record
    }

    /// As [`Owed::record`], if it is needed for nothing else.
    pub fn into_record(self) -> Draft {
        self.record
    }

    /// Changes the event.
    pub fn change(&mut self, change: impl FnOnce(&mut Event)) {
        let mut event = self.event();
        change(&mut event);
        self.record = stored::draft(event.borrowed());
    }

    /// The most bytes its records take.
    pub fn bytes(&self, about: Option<About<'_>>) -> u64 {
        let about = about.map_or(0, |about| about.method.len() + about.target.len());
        (self.record.encoded_bytes() + OVERHEAD + about) as u64
    }

    /// The intent, to be written before the request is sent.
    pub(super) fn intent(&self, index: u16, about: About<'_>) -> Draft {
        self.draft(Kind::Intent, &about_fields(&index.to_le_bytes(), &about))
    }

    /// The owed event, to be written with the answer.
    fn owed(&self, exchange: Offset) -> Draft {
        self.draft(Kind::Event, &[(Tag::CAUSE, &exchange.0.to_le_bytes())])
    }

    /// The event's own record, with additional fields.
    fn draft(&self, kind: Kind, more: &[(Tag, &[u8])]) -> Draft {
        let Self { topic, end, waits, record } = self;
        let end = end.0.to_le_bytes();
        let own = [(TOPIC, &topic.0.as_bytes()[..]), (END, &end)];
        let waits = waits.map(|waits| waits.0.to_le_bytes());
        let waits = waits.as_ref().map(|waits| (WAITS, &waits[..]));
        Draft {
            flags: record.flags,
            coding: record.coding,
            generation: record.generation,
            partition: record.partition,
            published: record.published,
            key: record.key.clone(),
            dedup: record.dedup.clone(),
            not_before: record.not_before,
            fields: record.fields.and(&[&own, waits.as_slice(), more]),
            ..Draft::new(kind, Fields::default(), record.body.clone())
        }
    }
}

/// Adds the request, and the index of the intent in its frame.
pub(super) fn put_about(fields: FieldsBuilder, index: u16, about: About<'_>) -> FieldsBuilder {
    let index = index.to_le_bytes();
    let all = about_fields(&index, &about).into_iter();
    all.fold(fields, |fields, (tag, value)| fields.field(tag, value))
}

fn about_fields<'a>(index: &'a [u8; 2], about: &'a About<'_>) -> [(Tag, &'a [u8]); 4] {
    let digest = about.digest.as_ref().map_or(&[][..], |digest| digest);
    [
        (INDEX, index),
        (METHOD, about.method.as_bytes()),
        (TARGET, about.target.as_bytes()),
        (DIGEST, digest),
    ]
}

/// Method and target of an intent's request.
pub(super) fn request<'a>(record: &Record<'a>) -> (&'a str, &'a str) {
    let text = |tag| record.text(tag).unwrap_or_default();
    (text(METHOD), text(TARGET))
}

/// The frame that ends an exchange; `key`: with the result of its key.
pub(super) fn answer(
    exchange: Offset,
    is_uncertain: bool,
    owed: &[impl Borrow<Owed>],
    key: Option<(Claim, &KeyEnd)>,
) -> Vec<Draft> {
    let cause = exchange.0.to_le_bytes();
    let uncertain = is_uncertain.then_some((UNCERTAIN, &[1][..]));
    let fields = Fields::default().and(&[&[(Tag::CAUSE, &cause)], uncertain.as_slice()]);
    let (fields, body) = match key {
        Some((claim, end)) => {
            let (fields, body) = end.put(fields.extend(OVERHEAD), claim);
            (fields.build(), body)
        }
        None => (fields, Bytes::new()),
    };
    let answer = Draft::new(Kind::Answer, fields, body);
    std::iter::once(answer).chain(owed.iter().map(|it| it.borrow().owed(exchange))).collect()
}

/// The record that nothing below is owed.
pub(super) fn settled(below: Offset) -> Draft {
    let fields = Fields::builder().field(SETTLED, &below.0.to_le_bytes());
    Draft::new(Kind::Control, fields.build(), Bytes::new())
}

/// The content of a record; `None` for a kind of a later version.
pub(super) fn entry(record: &Record<'_>) -> Option<Entry> {
    match record.kind() {
        Kind::Intent => {
            if let Some(claim) = key_record::read_claim(record) {
                return Some(Entry::Claim { claim, wall: record.published() });
            }
            let index = record.field(INDEX)?.try_into().ok().map(u16::from_le_bytes)?;
            Some(Entry::Intent { index })
        }
        Kind::Answer => {
            Some(Entry::Answer { exchange: record.cause()?, key: key_record::said(record) })
        }
        Kind::Event => Some(Entry::Owed { exchange: record.cause()? }),
        Kind::Control => match key_record::said(record) {
            Some(said) => Some(Entry::Resolved(said)),
            None => Some(Entry::Settled { below: offset(record, SETTLED)? }),
        },
        Kind::Outcome => {
            let (place, recorded) = result_record::read(record)?;
            Some(Entry::Request { place, recorded, wall: record.published() })
        }
        Kind::Request => None,
    }
}

/// The event in an intent or after an answer.
pub(super) fn found(record: &Record<'_>) -> Option<Found> {
    let topic = LogId(Uuid::from_slice(record.field(TOPIC)?).ok()?);
    let event = stored::event(record, Bytes::copy_from_slice);
    Some(Found { topic, end: offset(record, END)?, waits: offset(record, WAITS), event })
}

fn offset(record: &Record<'_>, tag: Tag) -> Option<Offset> {
    record.field(tag)?.try_into().ok().map(u64::from_le_bytes).map(Offset)
}

/// The event which says that it is unknown whether another happened: that one's type with
/// `.uncertain`, its ID as the cause, and as ID the UUIDv5 of that ID, the same whoever finds out.
pub fn uncertain(mut event: Event) -> Event {
    let name = Uuid::parse_str(&event.id).unwrap_or_default();
    let id = derived_id(name, &["uncertain"]).to_string();
    event.causation = Some(std::mem::replace(&mut event.id, id));
    event.kind.push_str(UNCERTAIN_SUFFIX);
    // It repeats nothing that was published, and should be looked at now.
    event.dedup_key = None;
    event.not_before = None;
    event
}

/// The type of the event that [`uncertain`] makes from one of this type.
pub fn uncertain_kind(kind: &str) -> String {
    format!("{kind}{UNCERTAIN_SUFFIX}")
}

/// The length of that type in bytes.
pub fn uncertain_kind_bytes(kind: &str) -> u64 {
    (kind.len() + UNCERTAIN_SUFFIX.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        ingress::keys::Mark,
        queue::codec::{Closing, FrameWriter, Stamp, parse_frame},
    };

    const NONE: &[Owed] = &[];

    fn owed() -> Owed {
        let event = Event {
            id: "0198c3a0-0000-7000-8000-000000000001".into(),
            source: "/sluice/a/b".into(),
            kind: "order.created".into(),
            key: Some(Bytes::from_static(b"7")),
            dedup_key: Some(Bytes::from_static(b"d")),
            not_before: Some(9),
            expiry: Some(99),
            data: Bytes::from_static(b"{}"),
            ..Event::default()
        };
        let topic = LogId(Uuid::from_u128(3));
        Owed::new(topic, Offset(40), Some(Offset(7)), event.borrowed())
    }

    /// Shows `look` the records of drafts written in one frame.
    fn read(drafts: &[Draft], look: impl Fn(&Record<'_>)) {
        let mut writer = FrameWriter::new();
        writer.begin(9, Offset(4));
        for draft in drafts {
            writer.push(draft, Stamp { generation: 0, partition: 0, published: 3 }).unwrap();
        }
        let closing = Closing { previous_crc: 0, durable: Offset(4), wall: 1, mono: 1 };
        let bytes = writer.finish(&closing).bytes.to_vec();
        let frame = parse_frame(&bytes, 9, Offset(4)).unwrap();
        frame.records().for_each(|(_, record)| look(&record.unwrap()));
    }

    #[test]
    fn an_exchange_is_read_as_it_was_written() {
        let about = About { method: "POST", target: "/orders?a=1", digest: Some([7; 32]) };
        let intent = owed().intent(2, about);
        assert!(intent.encoded_bytes() as u64 <= owed().bytes(Some(about)));
        read(&[intent], |record| {
            assert_eq!(entry(record), Some(Entry::Intent { index: 2 }));
            let found = found(record).unwrap();
            assert_eq!(
                (found.topic, found.end, found.waits, found.event),
                (owed().topic, Offset(40), Some(Offset(7)), owed().event())
            );
            assert_eq!(record.text(METHOD), Some("POST"));
            assert_eq!(record.field(DIGEST), Some(&[7; 32][..]));
        });
        let claim = Claim { hash: 1 << 127, fingerprint: u64::MAX, expires: u64::MAX };
        let keyed = super::answer(Offset(11), true, NONE, Some((claim, &KeyEnd::Uncertain)));
        assert!(keyed[0].encoded_bytes() as u64 <= SMALL);
        read(&keyed, |record| {
            let mark = Mark::Uncertain;
            let said = Said { hash: claim.hash, mark, claim: Some(claim), wall: 3 };
            let expected = Entry::Answer { exchange: Offset(11), key: Some(said) };
            assert_eq!(entry(record), Some(expected));
        });
        let answer = answer(Offset(11), true, &[owed()], None);
        assert!(answer[0].encoded_bytes() as u64 <= SMALL);
        read(&answer[..1], |record| {
            let exchange = Offset(11);
            assert_eq!(entry(record), Some(Entry::Answer { exchange, key: None }));
        });
        read(&answer[1..], |record| {
            assert_eq!(entry(record), Some(Entry::Owed { exchange: Offset(11) }));
            assert_eq!(found(record).unwrap().event, owed().event());
        });
        read(&[settled(Offset(12))], |record| {
            assert_eq!(entry(record), Some(Entry::Settled { below: Offset(12) }));
        });
    }

    #[test]
    fn what_is_uncertain_is_the_same_event_whoever_finds_out() {
        let first = uncertain(owed().event());
        assert_eq!(first, uncertain(owed().event()));
        assert_eq!(first.kind, "order.created.uncertain");
        assert_eq!(first.causation.as_deref(), Some(&*owed().event().id));
        assert_eq!(Uuid::parse_str(&first.id).unwrap().get_version_num(), 5);
        assert_eq!((first.key, first.dedup_key), (owed().event().key, None));
        assert_eq!(first.not_before, None, "it is told at once");
    }
}
