//! Checks attributes of an incoming event: names, types, rules of CloudEvents 1.0, and limits.
//!
//! All problems are collected, so that a publisher sees them at once. Extensions for the queue (see
//! [`super::names`]) become fields of their own.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use uuid::Uuid;

use super::{Attribute, Event, names, timestamp};

/// A problem with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The attribute; empty for the event as a whole.
    pub attribute: String,
    /// What is wrong.
    pub message: Cow<'static, str>,
    /// What would be right.
    pub help: Option<Cow<'static, str>>,
}

/// Makes an [`Event`] from incoming attributes.
#[derive(Debug, Default)]
pub struct Builder {
    version: Option<String>,
    id: Option<String>,
    source: Option<String>,
    kind: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    data_content_type: Option<String>,
    data_schema: Option<String>,
    extensions: Vec<(String, Attribute)>,
    problems: Vec<Invalid>,
}

/// Limits of an event.
pub mod limits {
    /// Bytes of `id`, `type` and `datacontenttype`.
    pub const NAME_BYTES: usize = 256;
    /// Bytes of `source`, `subject` and `dataschema`.
    pub const TEXT_BYTES: usize = 1024;
    /// Bytes of an extension's value.
    pub const EXTENSION_BYTES: usize = 4096;
    /// Bytes of an extension's name.
    pub const EXTENSION_NAME_BYTES: usize = 64;
    /// Extensions of one event.
    pub const EXTENSIONS: usize = 64;
    /// Bytes of all names and values together, without data.
    pub const ATTRIBUTE_BYTES: usize = 48 * 1024;
    /// Maximum number of problems reported for an event.
    pub const PROBLEMS: usize = 20;
}

/// The known `sluice..` names.
const OWN_EXTENSIONS: [&str; 5] =
    [names::DEDUP, names::EXPIRY, names::NOT_BEFORE, "sluicereplay", "sluicetruncated"];
/// Names of the payload in the JSON format.
const DATA_NAMES: [&str; 2] = ["data", "data_base64"];

// === impl Invalid ===

impl Invalid {
    /// This problem with this attribute; an empty name is the event as a whole.
    pub fn new(attribute: impl Into<String>, message: impl Into<Cow<'static, str>>) -> Self {
        Self { attribute: attribute.into(), message: message.into(), help: None }
    }

    /// Adds what would be right.
    #[must_use]
    pub fn help(mut self, help: impl Into<Cow<'static, str>>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attribute.as_str() {
            "" => f.write_str(&self.message)?,
            attribute => write!(f, "`{attribute}` {}", self.message)?,
        }
        self.help.as_ref().map_or(Ok(()), |help| write!(f, ": {help}"))
    }
}

// === impl Builder ===

impl Builder {
    /// An empty event.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an attribute; a second value for a name is a problem.
    pub fn set(&mut self, name: &str, value: Attribute) {
        let slot = match name {
            "specversion" => &mut self.version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "time" => &mut self.time,
            "subject" => &mut self.subject,
            "datacontenttype" => &mut self.data_content_type,
            "dataschema" => &mut self.data_schema,
            _ => return self.extension(name, value),
        };
        match (slot.is_some(), value) {
            (true, _) => self.reject(Invalid::new(name, "is given twice")),
            (false, Attribute::Text(text)) => *slot = Some(text),
            (false, _) => self.reject(Invalid::new(name, "must be a string")),
        }
    }

    /// The `datacontenttype` that was set.
    pub fn content_type(&self) -> Option<&str> {
        self.data_content_type.as_deref()
    }

    /// Adds a problem.
    pub fn reject(&mut self, invalid: Invalid) {
        if self.problems.len() < limits::PROBLEMS {
            self.problems.push(invalid);
        }
    }

    /// The event with this data, or all of its problems. `new_id` is called if it has no `id`.
    pub fn finish(
        mut self,
        data: Bytes,
        new_id: impl FnOnce() -> String,
    ) -> Result<Event, Vec<Invalid>> {
        self.check_required();
        self.check_texts();
        let (not_before, expiry) = (self.moment(names::NOT_BEFORE), self.moment(names::EXPIRY));
        if let (Some(from), Some(until)) = (not_before, expiry)
            && until <= from
        {
            let message = "is not after `sluicenotbefore`";
            let help = "it would never be delivered";
            self.reject(Invalid::new(names::EXPIRY, message).help(help));
        }
        let key = self.text(names::KEY, limits::TEXT_BYTES).or_else(|| self.subject.clone());
        let dedup_key = self.text(names::DEDUP, limits::TEXT_BYTES);
        let mut event = Event {
            key: key.map(Bytes::from),
            dedup_key: dedup_key.map(Bytes::from),
            not_before,
            expiry,
            correlation: self.text(names::CORRELATION, limits::EXTENSION_BYTES),
            causation: self.text(names::CAUSATION, limits::EXTENSION_BYTES),
            trace_context: self.text(names::TRACE, limits::EXTENSION_BYTES),
            subject: self.subject.take(),
            time: self.time.take(),
            content_type: self.data_content_type.take(),
            attributes: self.attributes(),
            ..Event::default()
        };
        event.source = self.source.take().unwrap_or_default();
        event.kind = self.kind.take().unwrap_or_default();
        if event.bytes() > limits::ATTRIBUTE_BYTES {
            let kib = limits::ATTRIBUTE_BYTES / 1024;
            self.reject(Invalid::new("", format!("has more than {kib} KiB of attributes")));
        }
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        event.id = self.id.take().unwrap_or_else(new_id);
        event.data = data;
        Ok(event)
    }

    fn check_required(&mut self) {
        match self.version.as_deref() {
            Some("1.0") => {}
            Some(_) => self.reject(
                Invalid::new("specversion", "is not supported").help("this is CloudEvents 1.0"),
            ),
            None => self.missing("specversion", "write \"1.0\""),
        }
        if self.source.is_none() {
            self.missing("source", "say where it happened, as a URI reference such as `/orders`");
        }
        if self.kind.is_none() {
            self.missing("type", "say what happened, such as `order.created`");
        }
    }

    /// A value of the wrong type was already reported.
    fn missing(&mut self, name: &str, help: &'static str) {
        if self.problems.iter().all(|problem| problem.attribute != name) {
            self.reject(Invalid::new(name, "is missing").help(help));
        }
    }

    fn check_texts(&mut self) {
        let texts = [
            ("id", &self.id, limits::NAME_BYTES),
            ("source", &self.source, limits::TEXT_BYTES),
            ("type", &self.kind, limits::NAME_BYTES),
            ("time", &self.time, limits::NAME_BYTES),
            ("subject", &self.subject, limits::TEXT_BYTES),
            ("datacontenttype", &self.data_content_type, limits::NAME_BYTES),
            ("dataschema", &self.data_schema, limits::TEXT_BYTES),
        ];
        let mut wrong = Vec::new();
        for (name, text, most) in texts {
            let Some(text) = text else { continue };
            wrong.extend(match name {
                "source" | "type" if text.is_empty() => {
                    Some(Invalid::new(name, "is empty").help("it is required: say something"))
                }
                _ if text.is_empty() => {
                    Some(Invalid::new(name, "is empty").help("leave it out, or say something"))
                }
                _ if let Err(message) = is_text(text, most) => Some(Invalid::new(name, message)),
                "source" if !is_uri_reference(text) => Some(
                    Invalid::new(name, "is not a URI reference")
                        .help("such as `/orders` or `urn:shop:1`"),
                ),
                "dataschema" if !is_absolute(text) => {
                    Some(Invalid::new(name, "is not an absolute URI"))
                }
                "time" if timestamp::parse(text).is_none() => Some(not_a_moment(name)),
                "datacontenttype" if !is_media_type(text) => Some(
                    Invalid::new(name, "is not a media type").help("such as `application/json`"),
                ),
                _ => None,
            });
        }
        let extensions = self.extensions.iter().filter_map(|(name, value)| {
            let Attribute::Text(text) = value else { return None };
            let message = is_text(text, limits::EXTENSION_BYTES).err()?;
            Some(Invalid::new(name, message))
        });
        wrong.extend(extensions);
        for invalid in wrong {
            self.reject(invalid);
        }
    }

    fn extension(&mut self, name: &str, value: Attribute) {
        if let Err(invalid) = extension_name(name) {
            return self.reject(invalid);
        }
        if self.extensions.iter().any(|(known, _)| known == name) {
            return self.reject(Invalid::new(name, "is given twice"));
        }
        if self.extensions.len() >= limits::EXTENSIONS {
            let message = format!("has more than {} extensions", limits::EXTENSIONS);
            if self.problems.iter().all(|problem| problem.message != message) {
                self.reject(Invalid::new("", message));
            }
            return;
        }
        self.extensions.push((name.to_owned(), value));
    }

    /// Removes an extension that has its own field.
    fn text(&mut self, name: &str, most: usize) -> Option<String> {
        let index = self.extensions.iter().position(|(known, _)| known == name)?;
        let (_, value) = self.extensions.remove(index);
        match value {
            Attribute::Boolean(_) | Attribute::Integer(_) => {
                self.reject(Invalid::new(name, "must be a string"));
                None
            }
            Attribute::Text(text) if text.is_empty() => {
                self.reject(Invalid::new(name, "is empty").help("leave it out"));
                None
            }
            Attribute::Text(text) if text.len() > most => {
                self.reject(Invalid::new(name, format!("has more than {most} bytes")));
                None
            }
            Attribute::Text(text) => Some(text),
        }
    }

    /// As [`Builder::text`], as a time. Times before 1970 count as 1970, which is long over.
    fn moment(&mut self, name: &str) -> Option<u64> {
        let text = self.text(name, limits::NAME_BYTES)?;
        let Some(millis) = timestamp::parse(&text) else {
            self.reject(not_a_moment(name));
            return None;
        };
        Some(u64::try_from(millis).unwrap_or(0))
    }

    /// Attributes without their own field.
    fn attributes(&mut self) -> Vec<(String, Attribute)> {
        let schema = self.data_schema.take().map(|uri| ("dataschema".to_owned(), uri));
        let schema = schema.map(|(name, uri)| (name, Attribute::Text(uri)));
        schema.into_iter().chain(std::mem::take(&mut self.extensions)).collect()
    }
}

fn not_a_moment(name: &str) -> Invalid {
    Invalid::new(name, "is not a timestamp").help("such as `2027-01-31T12:00:00Z` (RFC 3339)")
}

/// A UUID of version 7 (RFC 9562, 5.7) for an event that arrived at `wall`, milliseconds since
/// 1970. Unique, not secret.
pub fn new_id(wall: u64) -> Uuid {
    let random = fastrand::u128(..).to_le_bytes();
    let mut bytes = [0; 10];
    bytes.copy_from_slice(&random[..10]);
    uuid::Builder::from_unix_timestamp_millis(wall, &bytes).into_uuid()
}

/// CloudEvents 3.1: lower-case letters and digits; `sluice..` names are reserved for the gateway.
fn extension_name(name: &str) -> Result<(), Invalid> {
    let is_word = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if DATA_NAMES.contains(&name) {
        return Err(Invalid::new(name, "is not an attribute"));
    }
    if name.len() > limits::EXTENSION_NAME_BYTES {
        let most = limits::EXTENSION_NAME_BYTES;
        let start: String = name.chars().take(20).collect();
        return Err(Invalid::new(start, format!("..: the name has more than {most} bytes")));
    }
    if !is_word(name) {
        let shown: String = name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let help = "names are lower-case letters and digits";
        return Err(Invalid::new(shown, "is not the name of an attribute").help(help));
    }
    if name.starts_with("sluice") && !OWN_EXTENSIONS.contains(&name) {
        let known = "there are `sluicenotbefore`, `sluiceexpiry`, `sluicededup`";
        return Err(Invalid::new(name, "is unknown").help(known));
    }
    Ok(())
}

/// CloudEvents 3.1, `String`: no control characters and no noncharacters.
fn is_text(text: &str, most: usize) -> Result<(), Cow<'static, str>> {
    let is_refused = |c: char| {
        c.is_control() || matches!(c, '\u{fdd0}'..='\u{fdef}') || (c as u32 & 0xfffe) == 0xfffe
    };
    if text.len() > most {
        return Err(format!("has more than {most} bytes").into());
    }
    // In one pass over all bytes, because nearly every text is plain.
    let is_plain = text.bytes().fold(true, |is, byte| is & matches!(byte, b' '..=b'~'));
    if !is_plain && text.chars().any(is_refused) {
        return Err("has a control character".into());
    }
    Ok(())
}

/// The characters of RFC 3986, with `%` only where two hexadecimal digits follow.
fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(at, byte)| match byte {
        b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
        _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(byte),
    })
}

fn is_absolute(text: &str) -> bool {
    let scheme = text.split_once(':').map_or("", |(scheme, _)| scheme);
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        && is_uri_reference(text)
}

/// `type/subtype`, with any parameters.
fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let essence = text.split(';').next().unwrap_or(text).trim();
    essence.split_once('/').is_some_and(|(kind, subtype)| is_token(kind) && is_token(subtype))
}

#[cfg(test)]
mod tests;
