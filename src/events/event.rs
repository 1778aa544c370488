//! An event as a program sees it: the attributes of CloudEvents 1.0, and what the queue does by them.
//!
//! Plain data. What is on the wire becomes one of these in `api`, what is on disk in the store.

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
    /// The other attributes, in the order they came.
    pub attributes: Vec<(String, Attribute)>,
    /// The payload, as it came.
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
