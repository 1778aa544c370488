//! An event as programs see it: the attributes of CloudEvents 1.0, and those that the queue uses.
//!
//! Plain data. `api` makes events from messages with a [`Builder`], which checks the rules of
//! CloudEvents and the [`limits`]; the store makes them from records.

mod builder;
mod id;
pub mod timestamp;

pub use self::{
    builder::{Builder, Invalid, limits, new_id},
    id::{derived_id, id_text},
};

use bytes::Bytes;

/// An event, before and after it is stored. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id`: the same in every delivery; with `source` it identifies a publish.
    pub id: String,
    /// `source`.
    pub source: String,
    /// `type`.
    pub kind: String,
    /// `subject`.
    pub subject: Option<String>,
    /// `time`, as it was written.
    pub time: Option<String>,
    /// `datacontenttype`.
    pub content_type: Option<String>,
    /// The ordering key: events of one key are in one partition, in order. Without one: no order.
    pub key: Option<Bytes>,
    /// Identifies duplicates, in place of `source` and `id`.
    pub dedup_key: Option<Bytes>,
    /// Not delivered before this.
    pub not_before: Option<u64>,
    /// Not delivered from this time on.
    pub expiry: Option<u64>,
    /// `correlationid`: the same in a whole saga.
    pub correlation: Option<String>,
    /// `causationid`: the event that caused this one.
    pub causation: Option<String>,
    /// Its depth in a saga.
    pub depth: u8,
    /// Who published it.
    pub principal: Option<String>,
    /// `traceparent`.
    pub trace_context: Option<String>,
    /// The other attributes, in order of arrival, without duplicates.
    pub attributes: Vec<(String, Attribute)>,
    /// The payload, unchanged.
    pub data: Bytes,
}

/// An [`Event`] that borrows its texts, so that it can be encoded without copying them.
#[derive(Clone, Debug, Default)]
pub struct EventRef<'a> {
    /// `id`.
    pub id: &'a str,
    /// `source`.
    pub source: &'a str,
    /// `type`.
    pub kind: &'a str,
    /// `subject`.
    pub subject: Option<&'a str>,
    /// `time`.
    pub time: Option<&'a str>,
    /// `datacontenttype`.
    pub content_type: Option<&'a str>,
    /// The ordering key.
    pub key: Option<Bytes>,
    /// Identifies duplicates.
    pub dedup_key: Option<Bytes>,
    /// Not delivered before this.
    pub not_before: Option<u64>,
    /// Not delivered from this time on.
    pub expiry: Option<u64>,
    /// `correlationid`.
    pub correlation: Option<&'a str>,
    /// `causationid`.
    pub causation: Option<&'a str>,
    /// Its depth in a saga.
    pub depth: u8,
    /// Who published it.
    pub principal: Option<&'a str>,
    /// `traceparent`.
    pub trace_context: Option<&'a str>,
    /// The other attributes.
    pub attributes: &'a [(String, Attribute)],
    /// The payload.
    pub data: Bytes,
}

/// The value of an attribute, in one of the types that JSON distinguishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `true` or `false`.
    Boolean(bool),
    /// An integer.
    Integer(i32),
    /// Everything else.
    Text(String),
}

/// The extensions that the queue uses, on publishing or delivery; these are not in
/// [`Event::attributes`] but have their own fields.
pub mod names {
    /// The ordering key, unless it is the subject.
    pub const KEY: &str = "partitionkey";
    /// [`super::Event::dedup_key`].
    pub const DEDUP: &str = "sluicededup";
    /// [`super::Event::not_before`], RFC 3339.
    pub const NOT_BEFORE: &str = "sluicenotbefore";
    /// [`super::Event::expiry`], RFC 3339.
    pub const EXPIRY: &str = "sluiceexpiry";
    /// [`super::Event::correlation`].
    pub const CORRELATION: &str = "correlationid";
    /// [`super::Event::causation`].
    pub const CAUSATION: &str = "causationid";
    /// [`super::Event::trace_context`].
    pub const TRACE: &str = "traceparent";
}

// === impl Event ===

impl Event {
    /// Total size in bytes.
    pub fn bytes(&self) -> usize {
        self.borrowed().bytes()
    }

    /// This event with borrowed texts.
    pub fn borrowed(&self) -> EventRef<'_> {
        EventRef {
            id: &self.id,
            source: &self.source,
            kind: &self.kind,
            subject: self.subject.as_deref(),
            time: self.time.as_deref(),
            content_type: self.content_type.as_deref(),
            key: self.key.clone(),
            dedup_key: self.dedup_key.clone(),
            not_before: self.not_before,
            expiry: self.expiry,
            correlation: self.correlation.as_deref(),
            causation: self.causation.as_deref(),
            depth: self.depth,
            principal: self.principal.as_deref(),
            trace_context: self.trace_context.as_deref(),
            attributes: &self.attributes,
            data: self.data.clone(),
        }
    }
}

// === impl EventRef ===

impl EventRef<'_> {
    /// Total size in bytes.
    pub fn bytes(&self) -> usize {
        let optional = [
            self.subject,
            self.time,
            self.content_type,
            self.correlation,
            self.causation,
            self.principal,
            self.trace_context,
        ];
        let optional = optional.into_iter().flatten().map(str::len);
        let keys = [&self.key, &self.dedup_key].into_iter().flatten().map(Bytes::len);
        let attributes = self.attributes.iter().map(|(name, value)| name.len() + value.bytes());
        let required = self.id.len() + self.source.len() + self.kind.len() + self.data.len();
        required + optional.chain(keys).chain(attributes).sum::<usize>()
    }
}

// === impl Attribute ===

impl Attribute {
    fn bytes(&self) -> usize {
        match self {
            Self::Boolean(_) | Self::Integer(_) => size_of::<i32>(),
            Self::Text(text) => text.len(),
        }
    }
}

impl From<&str> for Attribute {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}
