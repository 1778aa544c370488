//! Which attributes of an event are written, in their order: the same in every form.

use std::time::{Duration, SystemTime};

use crate::{
    events::event::{Attribute, Event, names},
    telemetry::clock,
};

/// The value of an attribute that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown<'a> {
    Text(&'a str),
    /// Milliseconds since 1970.
    Time(u64),
    Boolean(bool),
    Integer(i32),
}

/// Tells each attribute but `specversion`. A key or a dedup key that is no text is left out.
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

/// RFC 3339 of this moment, milliseconds since 1970; the year has four digits.
pub(super) fn push_time(millis: u64, out: &mut Vec<u8>) {
    /// 9999-12-31T23:59:59.999Z
    const LAST: u64 = 253_402_300_799_999;
    clock::push_rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(millis.min(LAST)), out);
}
