//! The fields of a record: type, length, value, one after the other.
//!
//! Type and length are LEB128. A reader skips types it does not know, and they are kept when the
//! record is copied. If a type that occurs once is repeated, the first counts.

use bytes::Bytes;

use super::reading::{Reading, put_varint, varint_bytes};

/// The type of a field. The numbers are on disk and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(pub u16);

/// One field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its type.
    pub tag: Tag,
    /// Its bytes.
    pub value: &'a [u8],
}

/// An extension attribute of a CloudEvent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: Value<'a>,
}

/// The types of an extension attribute. Times, URIs and bytes are strings in every encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string.
    String(&'a str),
    /// An integer.
    Integer(i32),
    /// A truth value.
    Boolean(bool),
}

/// Fields, encoded. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Bytes);

/// Encodes fields one by one, in call order.
#[derive(Clone, Debug, Default)]
pub struct FieldsBuilder(Vec<u8>);

/// Iterates over encoded fields; ends early where they are malformed.
#[derive(Clone, Debug)]
pub struct FieldsIter<'a>(Reading<'a>);

// === impl Tag ===

impl Tag {
    /// The ordering key: bytes.
    pub const KEY: Self = Self(1);
    /// CloudEvents `id`.
    pub const ID: Self = Self(2);
    /// CloudEvents `source`.
    pub const SOURCE: Self = Self(3);
    /// The dedup key, if it is not `source` and `id`: bytes.
    pub const DEDUP: Self = Self(4);
    /// Not to be delivered before: milliseconds since 1970, u64.
    pub const NOT_BEFORE: Self = Self(5);
    /// Not to be delivered after: milliseconds since 1970, u64.
    pub const EXPIRY: Self = Self(6);
    /// The same for events that belong together.
    pub const CORRELATION: Self = Self(7);
    /// The ID of the event that this one follows from.
    pub const CAUSATION: Self = Self(8);
    /// Length of the chain of events that led to it: u32.
    pub const DEPTH: Self = Self(9);
    /// Who published it.
    pub const PRINCIPAL: Self = Self(10);
    /// The offset of what caused it, in the log that its kind implies: u64.
    pub const CAUSE: Self = Self(11);
    /// CloudEvents `datacontenttype`.
    pub const CONTENT_TYPE: Self = Self(12);
    /// W3C `traceparent`.
    pub const TRACE_PARENT: Self = Self(13);
    /// W3C `tracestate`.
    pub const TRACE_STATE: Self = Self(14);
    /// CloudEvents `type`.
    pub const TYPE: Self = Self(15);
    /// CloudEvents `subject`.
    pub const SUBJECT: Self = Self(16);
    /// CloudEvents `time`, as it was written.
    pub const TIME: Self = Self(17);
    /// CloudEvents `dataschema`.
    pub const DATA_SCHEMA: Self = Self(18);
    /// One extension attribute; may repeat: length of the name (u8), name, type of the value (u8: 0
    /// string, 1 integer, 2 boolean), value.
    pub const ATTRIBUTE: Self = Self(19);
    /// From here on, numbers are free for each kind of record to define.
    pub const FIRST_FREE: Self = Self(1024);
}

// === impl Fields ===

impl Fields {
    /// No fields yet.
    pub fn builder() -> FieldsBuilder {
        FieldsBuilder::default()
    }

    /// The bytes of a field with one of [`Tag`]'s own numbers and a value of `length` bytes.
    pub const fn bytes_of(length: usize) -> usize {
        field_bytes(Tag::KEY, length)
    }

    /// No fields yet, with room for this many bytes: see [`Fields::bytes_of`].
    pub fn with_room(bytes: usize) -> FieldsBuilder {
        FieldsBuilder(Vec::with_capacity(bytes))
    }

    /// These fields, with room for this many more bytes.
    pub fn extend(&self, bytes: usize) -> FieldsBuilder {
        let mut all = Vec::with_capacity(self.0.len() + bytes);
        all.extend_from_slice(&self.0);
        FieldsBuilder(all)
    }

    /// These fields and those of each list after them, in one allocation of exactly their size.
    #[must_use]
    pub fn and(&self, lists: &[&[(Tag, &[u8])]]) -> Self {
        let mut bytes = self.0.len();
        for (tag, value) in lists.iter().copied().flatten() {
            bytes += field_bytes(*tag, value.len());
        }
        let mut all = Vec::with_capacity(bytes);
        all.extend_from_slice(&self.0);
        for (tag, value) in lists.iter().copied().flatten() {
            put_field(&mut all, *tag, value);
        }
        Self(all.into())
    }

    /// Fields that are already encoded, if they are well-formed.
    pub fn from_encoded(encoded: Bytes) -> Option<Self> {
        is_well_formed(&encoded).then_some(Self(encoded))
    }

    /// As they are on disk.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// All fields, in order.
    pub fn iter(&self) -> FieldsIter<'_> {
        FieldsIter::new(&self.0)
    }

    /// The first field of this type.
    pub fn get(&self, tag: Tag) -> Option<&[u8]> {
        self.iter().find(|field| field.tag == tag).map(|field| field.value)
    }

    /// The first field of each of these types, in one pass.
    pub fn first_of<const N: usize>(&self, tags: [Tag; N]) -> [Option<&[u8]>; N] {
        let mut found = [None; N];
        for field in self {
            if let Some(index) = tags.iter().position(|tag| *tag == field.tag) {
                found[index].get_or_insert(field.value);
            }
        }
        found
    }

    /// The first field of this type, if it is text.
    pub fn text(&self, tag: Tag) -> Option<&str> {
        self.get(tag).and_then(|value| std::str::from_utf8(value).ok())
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = Field<'a>;
    type IntoIter = FieldsIter<'a>;

    fn into_iter(self) -> FieldsIter<'a> {
        self.iter()
    }
}

// === impl FieldsBuilder ===

impl FieldsBuilder {
    /// Adds any field but key, dedup key and not-before, for which a draft has its own members.
    #[must_use]
    pub fn field(mut self, tag: Tag, value: &[u8]) -> Self {
        put_field(&mut self.0, tag, value);
        self
    }

    /// Adds fields that are already encoded.
    #[must_use]
    pub fn all(mut self, fields: &Fields) -> Self {
        self.0.extend_from_slice(&fields.0);
        self
    }

    /// Calls `put` with a value, if there is one.
    #[must_use]
    pub fn maybe<T>(self, value: Option<T>, put: impl FnOnce(Self, T) -> Self) -> Self {
        match value {
            Some(value) => put(self, value),
            None => self,
        }
    }

    /// CloudEvents `id`.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.field(Tag::ID, id.as_bytes())
    }

    /// CloudEvents `source`.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        self.field(Tag::SOURCE, source.as_bytes())
    }

    /// CloudEvents `type`.
    #[must_use]
    pub fn event_type(self, event_type: &str) -> Self {
        self.field(Tag::TYPE, event_type.as_bytes())
    }

    /// CloudEvents `dataschema`.
    #[must_use]
    pub fn data_schema(self, schema: &str) -> Self {
        self.field(Tag::DATA_SCHEMA, schema.as_bytes())
    }

    /// CloudEvents `datacontenttype`.
    #[must_use]
    pub fn content_type(self, content_type: &str) -> Self {
        self.field(Tag::CONTENT_TYPE, content_type.as_bytes())
    }

    /// Milliseconds since 1970 after which it is no longer delivered.
    #[must_use]
    pub fn expiry(self, millis: u64) -> Self {
        self.field(Tag::EXPIRY, &millis.to_le_bytes())
    }

    /// Length of the chain of events that led to it.
    #[must_use]
    pub fn depth(self, depth: u32) -> Self {
        self.field(Tag::DEPTH, &depth.to_le_bytes())
    }

    /// Who published it.
    #[must_use]
    pub fn principal(self, principal: &str) -> Self {
        self.field(Tag::PRINCIPAL, principal.as_bytes())
    }

    /// The offset of what caused it.
    #[must_use]
    pub fn cause(self, offset: u64) -> Self {
        self.field(Tag::CAUSE, &offset.to_le_bytes())
    }

    /// W3C `traceparent`.
    #[must_use]
    pub fn trace_parent(self, value: &str) -> Self {
        self.field(Tag::TRACE_PARENT, value.as_bytes())
    }

    /// W3C `tracestate`.
    #[must_use]
    pub fn trace_state(self, value: &str) -> Self {
        self.field(Tag::TRACE_STATE, value.as_bytes())
    }

    /// An extension attribute. A name beyond 255 bytes is cut, so the caller must have limited it.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: Value<'_>) -> Self {
        let integer;
        let (kind, bytes): (u8, &[u8]) = match value {
            Value::String(text) => (0, text.as_bytes()),
            Value::Integer(number) => {
                integer = number.to_le_bytes();
                (1, &integer)
            }
            Value::Boolean(false) => (2, &[0]),
            Value::Boolean(true) => (2, &[1]),
        };
        let name = &name[..name.floor_char_boundary(usize::from(u8::MAX))];
        let name_length = u8::try_from(name.len()).unwrap_or(u8::MAX);
        let length = u32::try_from(2 + name.len() + bytes.len()).unwrap_or(u32::MAX);
        put_varint(&mut self.0, u32::from(Tag::ATTRIBUTE.0));
        put_varint(&mut self.0, length);
        self.0.push(name_length);
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(kind);
        self.0.extend_from_slice(bytes);
        self
    }

    /// All fields added.
    pub fn build(self) -> Fields {
        Fields(self.0.into())
    }
}

// === impl FieldsIter ===

impl<'a> FieldsIter<'a> {
    pub(super) fn new(encoded: &'a [u8]) -> Self {
        Self(Reading(encoded))
    }
}

impl<'a> Iterator for FieldsIter<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        let tag = u16::try_from(self.0.varint()?).ok()?;
        let length = usize::try_from(self.0.varint()?).ok()?;
        Some(Field { tag: Tag(tag), value: self.0.take(length)? })
    }
}

// === impl Attribute ===

impl<'a> Attribute<'a> {
    /// From the value of its field.
    pub(super) fn decode(value: &'a [u8]) -> Option<Self> {
        let mut reading = Reading(value);
        let length = reading.u8()?;
        let name = std::str::from_utf8(reading.take(usize::from(length))?).ok()?;
        let value = match (reading.u8()?, reading.0) {
            (0, text) => Value::String(std::str::from_utf8(text).ok()?),
            (1, number) => Value::Integer(i32::from_le_bytes(*number.first_chunk()?)),
            (2, [truth]) => Value::Boolean(*truth != 0),
            _ => return None,
        };
        Some(Self { name, value })
    }
}

/// The bytes of a field.
const fn field_bytes(tag: Tag, length: usize) -> usize {
    varint_bytes(tag.0 as usize) + varint_bytes(length) + length
}

/// Appends one field. The value is below 4 GiB: whoever encodes a record checks that first.
pub(super) fn put_field(out: &mut Vec<u8>, tag: Tag, value: &[u8]) {
    // Most fields are this short: writes both bytes at once, equal to two `put_varint`.
    if let (Ok(tag @ ..0x80), Ok(length @ ..0x80)) =
        (u8::try_from(tag.0), u8::try_from(value.len()))
    {
        out.extend_from_slice(&[tag, length]);
    } else {
        put_varint(out, u32::from(tag.0));
        put_varint(out, u32::try_from(value.len()).unwrap_or(u32::MAX));
    }
    out.extend_from_slice(value);
}

/// Whether the fields end exactly where they should.
pub(super) fn is_well_formed(encoded: &[u8]) -> bool {
    let mut iter = FieldsIter::new(encoded);
    while !iter.0.0.is_empty() {
        if iter.next().is_none() {
            return false;
        }
    }
    true
}
