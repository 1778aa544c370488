//! A record as its caller hands it in to be appended.

use bytes::Bytes;

use super::{
    fields::{Fields, Tag, put_field},
    record::{ALIGNMENT, RECORD_HEADER_BYTES, Record, Seed},
};
use crate::events::queue::Offset;

/// The largest body.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// The largest total size of a record's fields.
pub const MAX_FIELDS_BYTES: usize = 1 << 20;
/// The most bytes a field takes besides its value.
const FIELD_OVERHEAD: usize = 8;
/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A published event.
    Event,
    /// A stored request.
    Request,
    /// A request is about to be forwarded.
    Intent,
    /// The answer to a request.
    Answer,
    /// The outcome of a delivery.
    Outcome,
    /// Delivery state, and notes of logs about themselves.
    Control,
}

/// Properties of a record, one bit each. A reader refuses a record with an unknown critical one,
/// and keeps other unknown ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

/// How a body is encoded. This version writes only plain bodies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    /// The compression; 0 is none.
    pub codec: u8,
    /// The key it is encrypted with; 0 is none.
    pub key_id: u32,
}

/// A record to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it is about.
    pub kind: Kind,
    /// Its flags.
    pub flags: Flags,
    /// How its body is encoded.
    pub coding: Coding,
    /// The generation of the topic's partitions, unless the log decides.
    pub generation: u16,
    /// The partition, unless the log decides.
    pub partition: u16,
    /// When it was published, in milliseconds since 1970; none: when it is written.
    pub published: Option<u64>,
    /// The ordering key: records with the same key stay in order.
    pub key: Option<Bytes>,
    /// What identifies it, if not its source and ID.
    pub dedup: Option<Bytes>,
    /// Not delivered before this: milliseconds since 1970.
    pub not_before: Option<u64>,
    /// All other attributes.
    pub fields: Fields,
    /// The payload.
    pub body: Bytes,
}

/// What the log adds to a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The generation of the topic's partitions.
    pub generation: u16,
    /// The partition.
    pub partition: u16,
    /// Milliseconds since 1970, for drafts without a time of publishing.
    pub published: u64,
}

/// A draft exceeds a limit of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {bytes} bytes; the limit is {limit}")]
pub struct TooLarge {
    /// Which part.
    pub what: &'static str,
    /// Its size in bytes.
    pub bytes: usize,
    /// The limit in bytes.
    pub limit: usize,
}

// === impl Kind ===

impl Kind {
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::Event => 1,
            Self::Request => 2,
            Self::Intent => 3,
            Self::Answer => 4,
            Self::Outcome => 5,
            Self::Control => 6,
        }
    }

    pub(super) const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Event,
            2 => Self::Request,
            3 => Self::Intent,
            4 => Self::Answer,
            5 => Self::Outcome,
            6 => Self::Control,
            _ => return None,
        })
    }
}

// === impl Flags ===

impl Flags {
    /// No flags.
    pub const NONE: Self = Self(0);
    /// The event has no data at all, as opposed to empty data.
    pub const NO_DATA: Self = Self(1);
    /// Flags that a reader must know. This version knows none of them.
    pub const CRITICAL: Self = Self(0xff00);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The union.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

// === impl Draft ===

impl Draft {
    /// With fields and a body, and nothing else set.
    pub fn new(kind: Kind, fields: Fields, body: Bytes) -> Self {
        Self {
            kind,
            flags: Flags::NONE,
            coding: Coding::default(),
            generation: 0,
            partition: 0,
            published: None,
            key: None,
            dedup: None,
            not_before: None,
            fields,
            body,
        }
    }

    /// The most bytes it takes in a frame: what its permit has to cover.
    pub fn encoded_bytes(&self) -> usize {
        let length =
            |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, |it| it.len() + FIELD_OVERHEAD);
        let not_before = self.not_before.map_or(0, |_| 8 + FIELD_OVERHEAD);
        let fields = self.fields.as_bytes().len() + length(&self.key) + length(&self.dedup);
        (RECORD_HEADER_BYTES + fields + not_before + self.body.len()).next_multiple_of(ALIGNMENT)
    }

    /// Whether it is within the limits of the format.
    pub fn check(&self) -> Result<(), TooLarge> {
        let bytes = self.body.len();
        if bytes > MAX_BODY_BYTES {
            return Err(TooLarge { what: "the body", bytes, limit: MAX_BODY_BYTES });
        }
        let bytes = self.encoded_bytes() - RECORD_HEADER_BYTES - self.body.len();
        if bytes > MAX_FIELDS_BYTES {
            return Err(TooLarge { what: "all fields", bytes, limit: MAX_FIELDS_BYTES });
        }
        Ok(())
    }

    fn put_fields(&self, out: &mut Vec<u8>) {
        if let Some(key) = &self.key {
            put_field(out, Tag::KEY, key);
        }
        if let Some(dedup) = &self.dedup {
            put_field(out, Tag::DEDUP, dedup);
        }
        if let Some(not_before) = self.not_before {
            put_field(out, Tag::NOT_BEFORE, &not_before.to_le_bytes());
        }
        out.extend_from_slice(self.fields.as_bytes());
    }

    /// Encodes it as the record at `offset`. It was checked before.
    pub(super) fn encode(&self, out: &mut Vec<u8>, stamp: Stamp, seed: Seed, offset: Offset) {
        Record::from_draft(self, stamp, &[]).put(out, seed, offset, |out| self.put_fields(out));
    }

    /// The record as it will be read; `fields` is the buffer for its encoded fields.
    pub fn as_record<'a>(&'a self, fields: &'a mut Vec<u8>) -> Record<'a> {
        fields.clear();
        self.put_fields(fields);
        let (generation, partition) = (self.generation, self.partition);
        Record::from_draft(self, Stamp { generation, partition, published: 0 }, fields)
    }
}
