//! What a caller hands in to be appended.

use bytes::Bytes;

use super::{
    fields::{Fields, Tag, put_field},
    record::{ALIGNMENT, RECORD_HEADER_BYTES, Record, Seed},
};
use crate::events::queue::Offset;

/// The longest body.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// The most that all fields of a record may take.
pub const MAX_FIELDS_BYTES: usize = 1 << 20;
/// What a field takes beside its value, at most.
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
    /// What was answered to a request.
    Answer,
    /// What a delivery came to.
    Outcome,
    /// Delivery state, and what logs say of themselves.
    Control,
}

/// What is said of a record in one bit each. A reader that does not know a critical one refuses the
/// record; the others it keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u16);

/// How a body is packed. Only plain bodies are written by this version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coding {
    /// The compression; 0 is none.
    pub codec: u8,
    /// The key it is encrypted with; 0 is none.
    pub key_id: u32,
}

/// A record that is to be appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// What it is about.
    pub kind: Kind,
    /// What is said of it.
    pub flags: Flags,
    /// How its body is packed.
    pub coding: Coding,
    /// The generation of the topic's partitions, where the log does not decide.
    pub generation: u16,
    /// The partition, where the log does not decide.
    pub partition: u16,
    /// Milliseconds since 1970 at which it was published; none: when it is written.
    pub published: Option<u64>,
    /// Records of one key are in order.
    pub key: Option<Bytes>,
    /// What tells it from others, where that is not its source and ID.
    pub dedup: Option<Bytes>,
    /// Milliseconds since 1970 before which it is not delivered.
    pub not_before: Option<u64>,
    /// Everything else about it.
    pub fields: Fields,
    /// What it carries.
    pub body: Bytes,
}

/// What the log adds to a draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The generation of the topic's partitions.
    pub generation: u16,
    /// The partition.
    pub partition: u16,
    /// Milliseconds since 1970, for drafts that do not say when they were published.
    pub published: u64,
}

/// A draft is over a limit of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} has {bytes} bytes; the limit is {limit}")]
pub struct TooLarge {
    /// Which part.
    pub what: &'static str,
    /// So many bytes it has.
    pub bytes: usize,
    /// So many it may have.
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
    /// Nothing to say.
    pub const NONE: Self = Self(0);
    /// The event has no data at all, rather than data of no bytes.
    pub const NO_DATA: Self = Self(1);
    /// Those that a reader must know. This version knows none of them.
    pub const CRITICAL: Self = Self(0xff00);

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

// === impl Draft ===

impl Draft {
    /// With a body and fields, and nothing else said.
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

    /// The most bytes it takes in a frame: what a permit for it is to cover.
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

    /// Appends it, checked before, as the record at `offset`.
    pub(super) fn encode(&self, out: &mut Vec<u8>, stamp: Stamp, seed: Seed, offset: Offset) {
        Record::from_draft(self, stamp, &[]).put(out, seed, offset, |out| self.put_fields(out));
    }

    /// It as it will be read, with `fields` to write its fields into.
    pub fn as_record<'a>(&'a self, fields: &'a mut Vec<u8>) -> Record<'a> {
        fields.clear();
        self.put_fields(fields);
        let (generation, partition) = (self.generation, self.partition);
        Record::from_draft(self, Stamp { generation, partition, published: 0 }, fields)
    }
}
