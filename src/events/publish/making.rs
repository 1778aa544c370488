//! Makes events from a request and its answer. Pure: the time and the ID are arguments.

use std::{borrow::Cow, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE, request};
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use uuid::Uuid;

use super::{
    redact::{NotJson, redact},
    settings::{Data, Settings},
};
use crate::{
    events::event::{Attribute, Event, EventRef, id_text, limits},
    http::{
        Context,
        selector::{Input, Selector},
    },
    telemetry::{clock, tracing::propagation::TraceParent},
};

/// Marks an event that carries less than configured, because the answer is over the limit.
const TRUNCATED: &str = "sluicetruncated";
/// The longest key; a longer one in an answer counts as none.
pub(super) const LATE_KEY_BYTES: usize = 1024;

/// Bodies up to this size are copied. A slice would keep the connection's whole read buffer alive
/// until the event is written, and the connection would need a new one.
const COPIED_BYTES: usize = 4096;

/// A body as an event carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Its bytes.
    pub(super) bytes: Bytes,
    /// Its media type as written; visible characters only.
    media_type: Option<HeaderValue>,
}

/// An event's data, and the type of that data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Payload<'a> {
    bytes: Bytes,
    media_type: Option<&'a str>,
}

/// The keys by which an event is ordered and deduplicated.
#[derive(Clone, Debug, Default)]
pub(super) struct Keys<'a> {
    /// The order domain.
    pub(super) key: Option<Cow<'a, str>>,
    dedup_key: Option<Cow<'a, str>>,
}

/// Texts made for one event.
#[derive(Clone, Debug)]
pub(super) struct Texts {
    id: [u8; 36],
    time: [u8; 24],
    trace: Option<HeaderValue>,
}

/// What an answer adds to an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer<'a> {
    /// Its fields.
    pub(super) headers: &'a HeaderMap,
    /// Its body; `None` if it is over the limit.
    pub(super) body: Option<&'a Bytes>,
}

/// What the route contributes to its events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin<'a> {
    /// CloudEvents `source`.
    pub(super) source: &'a str,
    /// When the request was whole, since 1970.
    pub(super) now: Duration,
    /// The index among the route's events.
    pub(super) number: usize,
}

/// The event, as far as the request determines it.
pub(super) fn of_request<'a>(
    settings: &'a Settings,
    origin: Origin<'a>,
    texts: &'a Texts,
    cx: &'a Context,
    keys: &'a Keys<'_>,
    payload: Payload<'a>,
) -> EventRef<'a> {
    let now = millis(origin.now);
    let after =
        |span: Duration| now.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    EventRef {
        id: text(&texts.id),
        source: origin.source,
        kind: &settings.kind,
        subject: keys.subject(),
        time: Some(text(&texts.time)),
        content_type: payload.media_type,
        key: keys.key(),
        dedup_key: keys.dedup_key(),
        not_before: (!settings.delay.is_zero()).then(|| after(settings.delay)),
        expiry: settings.expires.map(after),
        principal: cx.principal().map(|it| &*it.name).filter(|it| !it.is_empty()),
        trace_context: texts.trace.as_ref().and_then(|trace| trace.to_str().ok()),
        data: payload.bytes,
        ..EventRef::default()
    }
}

/// Sets the keys of `event` from `input`.
pub(super) fn set_keys(event: &mut Event, settings: &Settings, input: &Input<'_>, most: usize) {
    let keys = Keys::of(settings, input, most);
    if let Some(key) = keys.key() {
        event.subject = keys.subject().map(str::to_owned);
        event.key = Some(key);
    }
    event.dedup_key = keys.dedup_key();
}

/// The body of a request with these fields as the only data, redacted by `settings`. An error: it
/// cannot be parsed.
pub(super) fn request_payload<'a>(
    bytes: &Bytes,
    headers: &'a HeaderMap,
    settings: &Settings,
) -> Result<Payload<'a>, NotJson> {
    let media_type = headers.get(CONTENT_TYPE).and_then(media_type);
    Ok(Payload { bytes: stored_bytes(bytes, settings)?, media_type })
}

/// The data known before there is an answer, if the answer's is added to it.
pub(super) fn early_payload(data: Data, request: Option<&Content>) -> Payload<'_> {
    payload(data, request, None)
}

/// Sets the data of `event` from `request` and `answer`; `None` is a body that cannot be stored. If
/// the event exceeds `limit` bytes, or the answer is not whole, it is marked as truncated and goes
/// without the answer's body; if that is not enough, without data.
pub(super) fn set_data(
    event: &mut Event,
    data: Data,
    request: Option<&Content>,
    answer: Option<&Content>,
    is_whole: bool,
    limit: u64,
) {
    put(event, data, request, answer);
    if is_whole && event.bytes() as u64 <= limit {
        return;
    }
    let without = if data == Data::Both { request } else { None };
    put(event, data, without, None);
    event.attributes.push((TRUNCATED.to_owned(), Attribute::Boolean(true)));
    if event.bytes() as u64 > limit {
        put(event, Data::None, None, None);
    }
}

fn put(event: &mut Event, data: Data, request: Option<&Content>, answer: Option<&Content>) {
    let payload = payload(data, request, answer);
    event.data = payload.bytes;
    event.content_type = payload.media_type.map(str::to_owned);
}

fn payload<'a>(
    data: Data,
    request: Option<&'a Content>,
    answer: Option<&'a Content>,
) -> Payload<'a> {
    let only = match data {
        Data::None => None,
        Data::Request => request,
        Data::Response => answer,
        Data::Both => {
            return Payload { bytes: both(request, answer), media_type: Some("application/json") };
        }
    };
    only.map_or_else(Payload::default, |content| Payload {
        bytes: content.bytes.clone(),
        media_type: content.media_type(),
    })
}

/// One JSON object with `request` and `response`; a body that is not JSON goes into `.._base64`.
fn both(request: Option<&Content>, answer: Option<&Content>) -> Bytes {
    let mut members: Vec<(String, Box<RawValue>)> = Vec::new();
    for (name, content) in [("request", request), ("response", answer)] {
        let Some(content) = content.filter(|content| !content.bytes.is_empty()) else { continue };
        let raw = serde_json::from_slice::<Box<RawValue>>(&content.bytes).ok();
        let raw = raw.filter(|_| content.is_json()).map(|raw| (name.to_owned(), raw));
        members.extend(raw.or_else(|| {
            let text = STANDARD.encode(&content.bytes);
            Some((format!("{name}_base64"), to_raw_value(&text).ok()?))
        }));
    }
    let members = members.iter().map(|(name, raw)| format!("{}:{raw}", json!(name)));
    format!("{{{}}}", members.collect::<Vec<_>>().join(",")).into()
}

// === impl Content ===

impl Content {
    /// The body of a message with these fields, redacted by `settings`. An error: it cannot be
    /// parsed.
    pub(super) fn of(
        bytes: &Bytes,
        headers: &HeaderMap,
        settings: &Settings,
    ) -> Result<Self, NotJson> {
        let is_media_type = |value: &&HeaderValue| media_type(value).is_some();
        let media_type = headers.get(CONTENT_TYPE).filter(is_media_type).cloned();
        Ok(Self { bytes: stored_bytes(bytes, settings)?, media_type })
    }

    fn media_type(&self) -> Option<&str> {
        self.media_type.as_ref().and_then(|value| value.to_str().ok())
    }

    /// `application/json`, or a `+json` type.
    fn is_json(&self) -> bool {
        let essence = self.media_type().unwrap_or("application/json");
        let essence = essence.split(';').next().unwrap_or(essence).trim().to_ascii_lowercase();
        essence.ends_with("/json") || essence.ends_with("+json")
    }
}

// === impl Keys ===

impl<'a> Keys<'a> {
    /// The keys in `input`, of at most `most` bytes.
    pub(super) fn of(settings: &'a Settings, input: &Input<'a>, most: usize) -> Self {
        let value = |selector: &'a Option<Selector>| {
            let value = selector.as_ref().and_then(|it| it.extract(input));
            value.filter(|value| value.len() <= most)
        };
        Self { key: value(&settings.key), dedup_key: value(&settings.dedup_key) }
    }

    fn key(&self) -> Option<Bytes> {
        self.key.as_deref().map(|key| Bytes::copy_from_slice(key.as_bytes()))
    }

    fn dedup_key(&self) -> Option<Bytes> {
        self.dedup_key.as_deref().map(|key| Bytes::copy_from_slice(key.as_bytes()))
    }

    /// The key as `subject`, if CloudEvents allows the string.
    fn subject(&self) -> Option<&str> {
        self.key.as_deref().filter(|key| is_text(key, limits::TEXT_BYTES))
    }
}

// === impl Texts ===

impl Texts {
    /// For the event with this ID.
    pub(super) fn new(id: Uuid, origin: Origin<'_>, of: (&request::Parts, &Context)) -> Self {
        let (parts, cx) = of;
        // If the publish has a span, the event's descendants follow from that span.
        let own = cx.trace().filter(|trace| trace.is_sampled());
        let own = own.map(|trace| trace.publishing(origin.number));
        let trace = own.or_else(|| TraceParent::of(&parts.headers)).map(|parent| parent.encode());
        Self { id: id_text(id), time: clock::rfc3339_bytes(origin.now), trace }
    }
}

/// These bytes are all ASCII.
fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).unwrap_or_default()
}

/// A body without what is redacted.
fn stored_bytes(bytes: &Bytes, settings: &Settings) -> Result<Bytes, NotJson> {
    Ok(match &*settings.redact {
        _ if bytes.is_empty() => Bytes::new(),
        [] if bytes.len() <= COPIED_BYTES => Bytes::copy_from_slice(bytes),
        [] => bytes.clone(),
        pointers => redact(bytes, pointers)?.into(),
    })
}

/// A `content-type` that an event may carry: visible characters, with a type and a subtype.
fn media_type(value: &HeaderValue) -> Option<&str> {
    let bytes = value.as_bytes();
    // In one pass over all bytes, which takes several at once.
    let (is_visible, has_slash) =
        bytes.iter().fold((true, false), |(is_visible, has_slash), byte| {
            (is_visible & matches!(byte, b' '..=b'~'), has_slash || *byte == b'/')
        });
    let is_one = is_visible && has_slash && bytes.len() <= limits::NAME_BYTES;
    str::from_utf8(bytes).ok().filter(|_| is_one)
}

/// Parses JSON, for selectors.
pub(super) fn parse(bytes: &Bytes) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

/// Whether CloudEvents accepts it as a string.
fn is_text(text: &str, most: usize) -> bool {
    !text.is_empty() && text.len() <= most && !text.chars().any(char::is_control)
}

pub(super) fn millis(time: Duration) -> u64 {
    // Without 128 bits, which `as_millis` takes.
    time.as_secs().saturating_mul(1_000).saturating_add(time.subsec_millis().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(text: &str, media_type: &str) -> Content {
        Content {
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            media_type: HeaderValue::from_str(media_type).ok(),
        }
    }

    fn with(data: Data, is_whole: bool, limit: u64) -> Event {
        let mut event = Event { id: "1".into(), ..Event::default() };
        let request = content(r#"{"a":1.10}"#, "application/json; charset=utf-8");
        let answer = content("<ok/>", "text/xml");
        let answer = is_whole.then_some(&answer);
        set_data(&mut event, data, Some(&request), answer, is_whole, limit);
        event
    }

    #[test]
    fn data_is_what_was_asked_for() {
        let event = with(Data::Request, true, 1_000);
        assert_eq!(
            (&*event.data, event.content_type.as_deref()),
            (&br#"{"a":1.10}"#[..], Some("application/json; charset=utf-8"))
        );
        assert_eq!(&*with(Data::Response, true, 1_000).data, b"<ok/>");
        assert_eq!(
            &*with(Data::Both, true, 1_000).data,
            br#"{"request":{"a":1.10},"response_base64":"PG9rLz4="}"#
        );
        assert_eq!(with(Data::None, true, 1_000).data.len(), 0);
    }

    #[test]
    fn what_is_over_the_limit_is_left_out_and_said_to_be() {
        for (data, expected) in
            [(Data::Response, &b""[..]), (Data::Both, br#"{"request":{"a":1.10}}"#)]
        {
            let event = with(data, false, 1_000);
            assert_eq!(&*event.data, expected);
            assert_eq!(event.attributes, [(TRUNCATED.into(), Attribute::Boolean(true))]);
        }
        assert_eq!(with(Data::Both, true, 60).attributes.len(), 1);
        assert!(with(Data::Both, true, 30).data.is_empty());
    }
}
