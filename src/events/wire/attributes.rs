//! The attributes of an event in the order in which every format writes them.

use std::time::Duration;

use crate::{
    events::event::{Attribute, Event, names},
    telemetry::clock,
};

/// The value of an attribute to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    Text(&'a str),
    /// Milliseconds since 1970.
    Time(u64),
    Boolean(bool),
    Integer(i32),
}

/// Visits each attribute but `specversion`. A key or dedup key that is not text is left out.
pub(super) fn each<'a>(event: &'a Event, mut tell: impl FnMut(&'a str, Shown<'a>)) {
    let required = [("id", &event.id), ("source", &event.source), ("type", &event.kind)];
    let optional = [
        ("time", &event.time),
        ("subject", &event.subject),
        ("datacontenttype", &event.content_type),
        (names::CORRELATION, &event.correlation),
        (names::CAUSATION, &event.causation),
        (names::TRACE, &event.trace_context),
    ];
    let optional = optional.iter().filter_map(|(name, text)| Some((*name, text.as_ref()?)));
    for (name, text) in required.into_iter().chain(optional) {
        tell(name, Shown::Text(text));
    }
    let subject = event.subject.as_ref().map(String::as_bytes);
    let key = event.key.as_deref().filter(|key| Some(*key) != subject);
    for (name, bytes) in [(names::KEY, key), (names::DEDUP, event.dedup_key.as_deref())] {
        if let Some(text) = bytes.and_then(|bytes| std::str::from_utf8(bytes).ok()) {
            tell(name, Shown::Text(text));
        }
    }
    for (name, millis) in [(names::NOT_BEFORE, event.not_before), (names::EXPIRY, event.expiry)] {
        if let Some(millis) = millis {
            tell(name, Shown::Time(millis));
        }
    }
    for (name, value) in &event.attributes {
        let value = match value {
            Attribute::Boolean(is) => Shown::Boolean(*is),
            Attribute::Integer(number) => Shown::Integer(*number),
            Attribute::Text(text) => Shown::Text(text),
        };
        tell(name, value);
    }
}

/// Appends this time, in milliseconds since 1970, as RFC 3339 with a four-digit year.
pub(super) fn push_time(millis: u64, out: &mut Vec<u8>) {
    /// 9999-12-31T23:59:59.999Z
    const LAST: u64 = 253_402_300_799_999;
    clock::push_rfc3339(Duration::from_millis(millis.min(LAST)), out);
}
