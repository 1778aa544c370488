//! An event as a program sees it: the attributes of CloudEvents 1.0, and what the queue does by them.
//!
//! Plain data. What is on the wire becomes one of these in `api` by way of a [`Builder`], which holds
//! it to the rules of CloudEvents and to [`limits`]; what is on disk in the store.

mod builder;
mod id;
pub mod timestamp;

pub use self::{
    builder::{Builder, Invalid, limits, new_id},
    id::derived_id,
};

use bytes::Bytes;

/// One fact, before it is stored and after. Times are milliseconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `id`: constant over every delivery of it, and with `source` what tells two publishes apart.
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
    /// The order domain: one key's events are in one partition, in order. Without one: no order.
    pub key: Option<Bytes>,
    /// What makes a second publish a duplicate, in place of `source` and `id`.
    pub dedup_key: Option<Bytes>,
    /// Not delivered before then.
    pub not_before: Option<u64>,
    /// Not delivered from then on.
    pub expiry: Option<u64>,
    /// `correlationid`: constant through a saga.
    pub correlation: Option<String>,
    /// `causationid`: the event that caused this one.
    pub causation: Option<String>,
    /// How many events deep in a saga.
    pub depth: u8,
    /// Who published it.
    pub principal: Option<String>,
    /// `traceparent`.
    pub trace_context: Option<String>,
    /// The other attributes, in the order they came, no name twice.
    pub attributes: Vec<(String, Attribute)>,
    /// The payload, as it came.
    pub data: Bytes,
}

/// An [`Event`] whose texts are somebody else's: what it takes to write one down, without a copy of each.
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
    /// The order domain.
    pub key: Option<Bytes>,
    /// What makes a second publish a duplicate.
    pub dedup_key: Option<Bytes>,
    /// Not delivered before then.
    pub not_before: Option<u64>,
    /// Not delivered from then on.
    pub expiry: Option<u64>,
    /// `correlationid`.
    pub correlation: Option<&'a str>,
    /// `causationid`.
    pub causation: Option<&'a str>,
    /// How many events deep in a saga.
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

/// The value of an attribute, of the types that JSON can tell apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number.
    Integer(i32),
    /// Everything else.
    Text(String),
}

/// The extensions that an event says to the queue with, and the queue to consumers; one of them is
/// not in [`Event::attributes`] but in its field.
pub mod names {
    /// The order domain, where it is not the subject.
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
    /// Bytes of everything in it.
    pub fn bytes(&self) -> usize {
        self.borrowed().bytes()
    }

    /// Its texts as they are here.
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
    /// Bytes of everything in it.
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
