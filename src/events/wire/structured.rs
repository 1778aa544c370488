//! Structured mode: encodes and decodes an event as one JSON object.

use std::{borrow::Cow, fmt, marker::PhantomData};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    MAX_BATCH,
    attributes::{self, Shown},
    json,
};
use crate::events::event::{Attribute, Builder, Event, Invalid};

/// The members of an object in order, with their values as written.
#[derive(Debug)]
pub struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

/// The items of a list. Those that no batch has room for are counted and not kept: each takes many
/// times the memory that it takes to write it.
struct Items<T> {
    kept: Vec<T>,
    count: usize,
}

/// The name of a member: a part of the text, unless it has escapes.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of the object in `body`.
pub fn members(body: &[u8]) -> Result<Members<'_>, String> {
    serde_json::from_slice(body).map_err(|error| told(&error))
}

/// The objects of the list in `body`, which has at most [`MAX_BATCH`] items. An item that is not an
/// object is an error in its place.
pub fn items(body: &[u8]) -> Result<Vec<Result<Members<'_>, String>>, String> {
    // Mostly one pass is enough. What fails is read again, to tell which items are wrong.
    if let Ok(items) = serde_json::from_slice::<Items<_>>(body) {
        return Ok(items.all()?.into_iter().map(Ok).collect());
    }
    let items: Items<&RawValue> = serde_json::from_slice(body).map_err(|error| told(&error))?;
    Ok(items
        .all()?
        .into_iter()
        .map(|item| serde_json::from_str(item.get()).map_err(|error| told(&error)))
        .collect())
}

/// The event with these members, which were read from `body`; its data is a part of `body`.
pub fn event(
    members: Members<'_>,
    body: &Bytes,
    new_id: impl FnOnce() -> String,
) -> Result<Event, Vec<Invalid>> {
    let mut builder = Builder::new();
    let (mut data, mut base64) = (None, None);
    for (Name(name), raw) in members.0 {
        let slot = match &*name {
            "data" => &mut data,
            "data_base64" => &mut base64,
            _ => {
                match attribute(&name, raw.get()) {
                    Ok(Some(value)) => builder.set(&name, value),
                    // An attribute that is null is absent (JSON format, 2.2).
                    Ok(None) => {}
                    Err(invalid) => builder.reject(invalid),
                }
                continue;
            }
        };
        if slot.replace(raw).is_some() {
            builder.reject(Invalid::new(name, "is given twice"));
        }
    }
    let data = match (data, base64) {
        (None, None) => Ok(Bytes::new()),
        (Some(_), Some(_)) => {
            Err(Invalid::new("data_base64", "is there beside `data`").help("write one of them"))
        }
        (Some(raw), None) => payload(raw, body, builder.content_type()),
        (None, Some(raw)) => from_base64(raw.get()),
    };
    let data = data.unwrap_or_else(|invalid| {
        builder.reject(invalid);
        Bytes::new()
    });
    builder.finish(data, new_id)
}

/// Appends the event as a JSON object. Data that is JSON, or of unknown type but valid JSON, is
/// inserted unchanged; text becomes a string, anything else base64.
pub fn write(event: &Event, out: &mut Vec<u8>) {
    out.reserve(event.bytes() + 256);
    out.extend_from_slice(b"{\"specversion\":\"1.0\"");
    attributes::each(event, |name, value| {
        push_name(name, out);
        match value {
            Shown::Text(text) => push_string(text, out),
            Shown::Time(millis) => push_time(millis, out),
            Shown::Boolean(is) => {
                out.extend_from_slice(if is { b"true" } else { b"false" });
            }
            Shown::Integer(number) => {
                out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
            }
        }
    });
    push_data(&event.data, event.content_type.as_deref(), out);
    out.push(b'}');
}

fn push_data(data: &[u8], content_type: Option<&str>, out: &mut Vec<u8>) {
    let kind = Kind::of(content_type);
    if data.is_empty() {
        return;
    }
    if kind == Kind::Json && json::is_value(data) {
        push_name("data", out);
        out.extend_from_slice(data);
        return;
    }
    match std::str::from_utf8(data) {
        Ok(text) if kind == Kind::Text => {
            push_name("data", out);
            push_string(text, out);
        }
        _ => {
            push_name("data_base64", out);
            out.push(b'"');
            let mut encoded = vec![0; data.len().div_ceil(3) * 4];
            // It fits: four characters for each three bytes or part of them.
            let length = STANDARD.encode_slice(data, &mut encoded).unwrap_or_default();
            out.extend_from_slice(&encoded[..length]);
            out.push(b'"');
        }
    }
}

/// `,"name":`; names need no escapes.
fn push_name(name: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

/// A JSON string with this time, in milliseconds since 1970.
pub(in crate::events) fn push_time(millis: u64, out: &mut Vec<u8>) {
    out.push(b'"');
    attributes::push_time(millis, out);
    out.push(b'"');
}

/// A JSON string. (Writing to memory does not fail.)
pub(in crate::events) fn push_string(text: &str, out: &mut Vec<u8>) {
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"\"\"");
    }
}

/// How data of a content type is represented in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Other,
}

// === impl Kind ===

impl Kind {
    /// Data without a content type is JSON (JSON format, 3.1).
    fn of(content_type: Option<&str>) -> Self {
        let content_type = match content_type {
            None | Some("application/json") => return Self::Json,
            Some(content_type) => content_type,
        };
        let lower = content_type.to_ascii_lowercase();
        let mut parts = lower.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        let subtype = essence.split_once('/').map_or("", |(_, subtype)| subtype);
        let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
        let is_utf8 = charset.is_none_or(|charset| {
            matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii")
        });
        if subtype == "json" || subtype.ends_with("+json") {
            Self::Json
        } else if is_utf8
            && (essence.starts_with("text/") || subtype == "xml" || subtype.ends_with("+xml"))
        {
            Self::Text
        } else {
            Self::Other
        }
    }
}

/// The value of an attribute; `None` for null.
fn attribute(name: &str, raw: &str) -> Result<Option<Attribute>, Invalid> {
    let wrong = |message: &'static str| Invalid::new(name, message);
    Ok(Some(match raw.as_bytes().first() {
        Some(b'"') => {
            Attribute::Text(string(raw).ok_or_else(|| wrong("has half of a surrogate pair"))?)
        }
        Some(b't') => Attribute::Boolean(true),
        Some(b'f') => Attribute::Boolean(false),
        Some(b'n') => return Ok(None),
        Some(b'-' | b'0'..=b'9') => Attribute::Integer(raw.parse().map_err(|_| {
            wrong("is not a whole number of 32 bits").help("write other numbers as strings")
        })?),
        _ => {
            return Err(wrong("must be a string, a whole number or a boolean")
                .help("what has a structure belongs into `data`"));
        }
    }))
}

/// The data in a `data` member.
fn payload(raw: &RawValue, body: &Bytes, content_type: Option<&str>) -> Result<Bytes, Invalid> {
    let text = raw.get();
    if Kind::of(content_type) == Kind::Json {
        json::check(text).map_err(|message| Invalid::new("data", message))?;
        return Ok(body.slice_ref(text.as_bytes()));
    }
    let help = "write a string, `data_base64`, or a JSON `datacontenttype`";
    if !text.starts_with('"') {
        let message = "is JSON, which `datacontenttype` does not say";
        return Err(Invalid::new("data", message).help(help));
    }
    let text = string(text)
        .ok_or_else(|| Invalid::new("data", "has half of a surrogate pair in a string"))?;
    Ok(text.into())
}

/// The text of a valid JSON string; none if an escape in it stands for half of a character.
fn string(raw: &str) -> Option<String> {
    match raw.get(1..raw.len() - 1)? {
        plain if !plain.contains('\\') => Some(plain.to_owned()),
        _ => serde_json::from_str(raw).ok(),
    }
}

fn from_base64(raw: &str) -> Result<Bytes, Invalid> {
    let wrong = || Invalid::new("data_base64", "is not a string of base64");
    let text: std::borrow::Cow<'_, str> = serde_json::from_str(raw).map_err(|_| wrong())?;
    STANDARD.decode(text.as_bytes()).map(Bytes::from).map_err(|_| wrong())
}

/// The error of serde, which names line and column.
fn told(error: &serde_json::Error) -> String {
    format!("the body is not what it says it is: {error}")
}

// === impl Items ===

impl<T> Items<T> {
    fn all(self) -> Result<Vec<T>, String> {
        if self.count > MAX_BATCH {
            let count = self.count;
            return Err(format!("the batch has {count} events; at most {MAX_BATCH} are taken"));
        }
        Ok(self.kept)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Items<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ItemsVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ItemsVisitor<T> {
            type Value = Items<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX_BATCH {
                    let Some(item) = list.next_element()? else { break };
                    kept.push(item);
                }
                let mut count = kept.len();
                while count >= MAX_BATCH && list.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Items { kept, count })
            }
        }

        deserializer.deserialize_seq(ItemsVisitor(PhantomData))
    }
}

// === impl Members ===

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Vec<(Name<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(8);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }

        deserializer.deserialize_map(MembersVisitor).map(Members)
    }
}
