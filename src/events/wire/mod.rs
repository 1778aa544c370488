//! Events in HTTP messages: the CloudEvents 1.0 JSON format and HTTP binding. Pure.
//!
//! [`read`] tells three modes apart by content type: [`structured`] (one event as JSON), batch (a
//! JSON array of events) and [`binary`] (attributes in `ce-` fields, data in the body). JSON data
//! is kept byte for byte. Outgoing events are structured JSON; a push uses the mode that its
//! subscription asks for.

mod attributes;
pub mod binary;
pub mod json;
pub mod structured;

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE};

use crate::events::event::{Event, Invalid};

/// Maximum number of events in a batch.
pub const MAX_BATCH: usize = 1000;
/// The media type of an event as JSON.
pub const STRUCTURED: &str = "application/cloudevents+json";
/// The media type of a list of events as JSON.
pub const BATCH: &str = "application/cloudevents-batch+json";

/// Why a message contains no valid events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The content type is none of the three modes.
    MediaType(String),
    /// The body is not JSON of the right shape: what is wrong, and where.
    Malformed(String),
    /// Invalid events: the index in the batch and what is wrong, for each.
    Invalid(Vec<(usize, Invalid)>),
}

enum Mode {
    Structured,
    Batch,
    Binary,
}

/// The events of a message. An event without `id` gets one from `new_id`.
pub fn read(
    headers: &HeaderMap,
    body: &Bytes,
    mut new_id: impl FnMut() -> String,
) -> Result<Vec<Event>, Unreadable> {
    let one = |problems: Vec<Invalid>| {
        Unreadable::Invalid(problems.into_iter().map(|problem| (0, problem)).collect())
    };
    match mode(headers)? {
        Mode::Structured => {
            let members = structured::members(body).map_err(Unreadable::Malformed)?;
            structured::event(members, body, new_id).map(|event| vec![event]).map_err(one)
        }
        Mode::Batch => batch(body, &mut new_id),
        Mode::Binary => {
            binary::event(headers, body.clone(), new_id).map(|event| vec![event]).map_err(one)
        }
    }
}

fn batch(body: &Bytes, new_id: &mut impl FnMut() -> String) -> Result<Vec<Event>, Unreadable> {
    let items = structured::items(body).map_err(Unreadable::Malformed)?;
    let (mut events, mut invalid) = (Vec::with_capacity(items.len()), Vec::new());
    for (index, members) in items.into_iter().enumerate() {
        let event = members
            .map_err(|message| vec![Invalid::new("", message)])
            .and_then(|members| structured::event(members, body, &mut *new_id));
        match event {
            Ok(event) => events.push(event),
            Err(problems) => invalid.extend(problems.into_iter().map(|it| (index, it))),
        }
    }
    if invalid.is_empty() { Ok(events) } else { Err(Unreadable::Invalid(invalid)) }
}

fn mode(headers: &HeaderMap) -> Result<Mode, Unreadable> {
    let content_type = headers.get(CONTENT_TYPE).map_or(&[][..], |value| value.as_bytes());
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    let essence = String::from_utf8_lossy(essence.trim_ascii()).to_ascii_lowercase();
    match essence.as_str() {
        STRUCTURED => Ok(Mode::Structured),
        BATCH => Ok(Mode::Batch),
        other if other.starts_with("application/cloudevents") => {
            Err(Unreadable::MediaType(essence))
        }
        _ if headers.keys().any(|name| name.as_str().starts_with(binary::PREFIX)) => {
            Ok(Mode::Binary)
        }
        _ => Err(Unreadable::MediaType(essence)),
    }
}

#[cfg(test)]
mod tests;
