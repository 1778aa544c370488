//! One record, as a reader sees it.
//!
//! A record's checksum is seeded with the epoch of its file and its own offset: one read at the
//! wrong place, or left over from an earlier use of the file, fails like a flipped bit.

use bytes::Bytes;

use super::{
    draft::{Coding, Draft, Flags, Kind, Stamp},
    fields::{self, Attribute, Field, Fields, FieldsIter, Tag, put_field},
    reading::Reading,
};
use crate::events::queue::{
    Offset,
    mutation::{self, Mutation},
};

/// Size of a record's header, before its fields.
pub const RECORD_HEADER_BYTES: usize = 40;
/// The version of the record format, stored in each.
const VERSION: u8 = 1;
/// Each record begins at a multiple of this within its frame.
pub(super) const ALIGNMENT: usize = 8;

/// A record on disk.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    kind: Kind,
    flags: Flags,
    coding: Coding,
    generation: u16,
    partition: u16,
    published: u64,
    fields: &'a [u8],
    body: &'a [u8],
}

/// Why a record is unreadable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Its bytes have changed. The other records of its frame are not affected.
    #[error("the record is damaged")]
    Damaged,
    /// Written by a later version of the program.
    #[error(
        "the record has version {found}, and this program knows up to {VERSION}: use a newer one"
    )]
    Newer {
        /// Its version.
        found: u8,
    },
    /// It has a critical flag, a kind or a body encoding that this program does not know.
    #[error("the record has {what} {value:#x} that this program does not know: use a newer one")]
    Unknown {
        /// Which of these.
        what: &'static str,
        /// The value on disk.
        value: u32,
    },
}

/// The part of a record's checksum that depends on its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed(u32);

// === impl Record ===

impl<'a> Record<'a> {
    /// Decodes the record at the beginning of `bytes`, which end with the last record of its frame.
    /// Returns the bytes it takes too, padding included.
    pub(super) fn decode(
        bytes: &'a [u8],
        seed: Seed,
        offset: Offset,
    ) -> Result<(Self, usize), RecordError> {
        let whole = Self::verified(bytes, seed, offset).ok_or(RecordError::Damaged)?;
        let record = Self::understood(whole)?;
        Ok((record, whole.len().next_multiple_of(ALIGNMENT)))
    }

    /// The bytes of a record, if its checksum is right.
    fn verified(bytes: &'a [u8], seed: Seed, offset: Offset) -> Option<&'a [u8]> {
        let mut reading = Reading(bytes);
        let length = usize::try_from(reading.u32()?).ok()?;
        let crc = reading.u32()?;
        let whole = bytes.get(..length).filter(|_| length >= RECORD_HEADER_BYTES)?;
        let is_sound = seed.checksum(offset, &whole[8..], whole.len()) == crc;
        (is_sound || mutation::is(Mutation::AcceptABadCrc)).then_some(whole)
    }

    fn understood(whole: &'a [u8]) -> Result<Self, RecordError> {
        let mut reading = Reading(&whole[8..]);
        let version = reading.u8().ok_or(RecordError::Damaged)?;
        if version > VERSION {
            return Err(RecordError::Newer { found: version });
        }
        Self::fixed_part(&mut reading).ok_or(RecordError::Damaged)?
    }

    /// `None` if the numbers contradict each other, although the checksum is right.
    fn fixed_part(reading: &mut Reading<'a>) -> Option<Result<Self, RecordError>> {
        let unknown = |what, value: u32| Some(Err(RecordError::Unknown { what, value }));
        let kind = reading.u8()?;
        let flags = Flags(reading.u16()?);
        let codec = reading.u8()?;
        reading.u8()?;
        let generation = reading.u16()?;
        let key_id = reading.u32()?;
        let partition = reading.u16()?;
        reading.u16()?;
        let published = reading.u64()?;
        let fields_length = usize::try_from(reading.u32()?).ok()?;
        reading.u32()?;
        if flags.0 & Flags::CRITICAL.0 != 0 {
            return unknown("flags", u32::from(flags.0));
        }
        let Some(kind) = Kind::from_number(kind) else {
            return unknown("a kind", u32::from(kind));
        };
        if codec != 0 {
            return unknown("a compression", u32::from(codec));
        }
        if key_id != 0 {
            return unknown("an encryption key", key_id);
        }
        let fields = reading.take(fields_length)?;
        if !fields::is_well_formed(fields) {
            return None;
        }
        let coding = Coding { codec, key_id };
        let body = reading.0;
        Some(Ok(Self { kind, flags, coding, generation, partition, published, fields, body }))
    }

    /// A draft, with its encoded fields given here.
    pub(super) fn from_draft(draft: &'a Draft, stamp: Stamp, fields: &'a [u8]) -> Self {
        Self {
            kind: draft.kind,
            flags: draft.flags,
            coding: draft.coding,
            generation: stamp.generation,
            partition: stamp.partition,
            published: draft.published.unwrap_or(stamp.published),
            fields,
            body: &draft.body,
        }
    }

    /// Encodes it unchanged as the record at `offset`.
    pub(super) fn encode(&self, out: &mut Vec<u8>, seed: Seed, offset: Offset) {
        self.put(out, seed, offset, |out| out.extend_from_slice(self.fields));
    }

    /// Appends header, fields as `put_fields` writes them, and body.
    pub(super) fn put(
        &self,
        out: &mut Vec<u8>,
        seed: Seed,
        offset: Offset,
        put_fields: impl FnOnce(&mut Vec<u8>),
    ) {
        let start = out.len();
        let mut header = [0; RECORD_HEADER_BYTES];
        header[8] = VERSION;
        header[9] = self.kind.number();
        header[10..12].copy_from_slice(&self.flags.0.to_le_bytes());
        header[12] = self.coding.codec;
        header[14..16].copy_from_slice(&self.generation.to_le_bytes());
        header[16..20].copy_from_slice(&self.coding.key_id.to_le_bytes());
        header[20..22].copy_from_slice(&self.partition.to_le_bytes());
        header[24..32].copy_from_slice(&self.published.to_le_bytes());
        header[36..40].copy_from_slice(&low_half(offset).to_le_bytes());
        out.extend_from_slice(&header);
        put_fields(out);
        let fields = length(out.len() - start - RECORD_HEADER_BYTES);
        out[start + 32..start + 36].copy_from_slice(&fields.to_le_bytes());
        out.extend_from_slice(self.body);
        let whole = out.len() - start;
        let crc = seed.checksum(offset, &out[start + 8..], whole);
        out[start..start + 4].copy_from_slice(&length(whole).to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
        out.resize(start + whole.next_multiple_of(ALIGNMENT), 0);
    }

    /// A copy of everything, to be appended elsewhere.
    pub fn to_draft(&self) -> Draft {
        let own = [Tag::KEY, Tag::DEDUP, Tag::NOT_BEFORE];
        let mut rest = Vec::with_capacity(self.fields.len());
        for field in self.fields().filter(|field| !own.contains(&field.tag)) {
            put_field(&mut rest, field.tag, field.value);
        }
        Draft {
            kind: self.kind,
            flags: self.flags,
            coding: self.coding,
            generation: self.generation,
            partition: self.partition,
            published: Some(self.published),
            key: self.key().map(Bytes::copy_from_slice),
            dedup: self.dedup_key().map(Bytes::copy_from_slice),
            not_before: self.not_before(),
            fields: Fields::from_encoded(rest.into()).unwrap_or_default(),
            body: Bytes::copy_from_slice(self.body),
        }
    }

    /// What it is about.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its flags.
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// How its body is encoded.
    pub fn coding(&self) -> Coding {
        self.coding
    }

    /// The generation of the topic's partitions.
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The partition.
    pub fn partition(&self) -> u16 {
        self.partition
    }

    /// When it was published: milliseconds since 1970.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// The bytes it takes in its frame, padding included.
    pub fn encoded_bytes(&self) -> usize {
        let bytes = RECORD_HEADER_BYTES + self.fields.len() + self.body.len();
        bytes.next_multiple_of(ALIGNMENT)
    }

    /// The payload.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }

    /// All fields, including unknown ones.
    pub fn fields(&self) -> FieldsIter<'a> {
        FieldsIter::new(self.fields)
    }

    /// The first field of this type.
    pub fn field(&self, tag: Tag) -> Option<&'a [u8]> {
        self.fields().find(|field| field.tag == tag).map(|field| field.value)
    }

    /// The first field of this type, if it is text.
    pub fn text(&self, tag: Tag) -> Option<&'a str> {
        self.field(tag).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, tag: Tag) -> Option<u64> {
        self.field(tag).and_then(|value| value.try_into().ok()).map(u64::from_le_bytes)
    }

    /// The ordering key: records with the same key stay in order.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.field(Tag::KEY)
    }

    /// CloudEvents `id`.
    pub fn id(&self) -> Option<&'a str> {
        self.text(Tag::ID)
    }

    /// CloudEvents `source`.
    pub fn source(&self) -> Option<&'a str> {
        self.text(Tag::SOURCE)
    }

    /// CloudEvents `type`.
    pub fn event_type(&self) -> Option<&'a str> {
        self.text(Tag::TYPE)
    }

    /// CloudEvents `subject`.
    pub fn subject(&self) -> Option<&'a str> {
        self.text(Tag::SUBJECT)
    }

    /// CloudEvents `time`, as it was written.
    pub fn time(&self) -> Option<&'a str> {
        self.text(Tag::TIME)
    }

    /// CloudEvents `dataschema`.
    pub fn data_schema(&self) -> Option<&'a str> {
        self.text(Tag::DATA_SCHEMA)
    }

    /// CloudEvents `datacontenttype`.
    pub fn content_type(&self) -> Option<&'a str> {
        self.text(Tag::CONTENT_TYPE)
    }

    /// What identifies it, if not its source and ID.
    pub fn dedup_key(&self) -> Option<&'a [u8]> {
        self.field(Tag::DEDUP)
    }

    /// Milliseconds since 1970 before which it is not delivered.
    pub fn not_before(&self) -> Option<u64> {
        self.number(Tag::NOT_BEFORE)
    }

    /// Milliseconds since 1970 after which it is not delivered.
    pub fn expiry(&self) -> Option<u64> {
        self.number(Tag::EXPIRY)
    }

    /// The same for events that belong together.
    pub fn correlation(&self) -> Option<&'a str> {
        self.text(Tag::CORRELATION)
    }

    /// The ID of the event that it follows from.
    pub fn causation(&self) -> Option<&'a str> {
        self.text(Tag::CAUSATION)
    }

    /// Length of the chain of events that led to it.
    pub fn depth(&self) -> Option<u32> {
        self.field(Tag::DEPTH).and_then(|value| value.try_into().ok()).map(u32::from_le_bytes)
    }

    /// Who published it.
    pub fn principal(&self) -> Option<&'a str> {
        self.text(Tag::PRINCIPAL)
    }

    /// The offset of what caused it.
    pub fn cause(&self) -> Option<Offset> {
        self.number(Tag::CAUSE).map(Offset)
    }

    /// W3C `traceparent`.
    pub fn trace_context(&self) -> Option<&'a str> {
        self.text(Tag::TRACE_PARENT)
    }

    /// W3C `tracestate`.
    pub fn trace_state(&self) -> Option<&'a str> {
        self.text(Tag::TRACE_STATE)
    }

    /// The extension attributes, in order.
    pub fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let is_attribute = |field: &Field<'_>| field.tag == Tag::ATTRIBUTE;
        self.fields().filter(is_attribute).filter_map(|field| Attribute::decode(field.value))
    }
}

// === impl Seed ===

impl Seed {
    /// The seed for the records of a file.
    pub(super) fn new(epoch: u64) -> Self {
        Self(crc32c::crc32c(&epoch.to_le_bytes()))
    }

    /// Covers offset, length, and `rest`: everything after length and checksum.
    fn checksum(self, offset: Offset, rest: &[u8], whole: usize) -> u32 {
        let mut head = [0; 12];
        head[..8].copy_from_slice(&offset.0.to_le_bytes());
        head[8..].copy_from_slice(&length(whole).to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &head), rest)
    }
}

/// Whether a record at `offset` may begin here: a cheap check for searches.
pub(super) fn may_begin(bytes: &[u8], offset: Offset) -> bool {
    bytes.get(36..40) == Some(&low_half(offset).to_le_bytes())
        && Reading(bytes).u32().is_some_and(|it| it as usize >= RECORD_HEADER_BYTES)
}

/// Values that were checked against the limits are below 2^32.
fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "half of it is meant")]
fn low_half(offset: Offset) -> u32 {
    offset.0 as u32
}
