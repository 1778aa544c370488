//! Binary mode: attributes in `ce-` header fields, `Content-Type` of the data, data as the body.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_TYPE};

use super::attributes::{self, Shown};
use crate::events::event::{Attribute, Builder, Event, Invalid};

/// Prefix of header fields with attributes.
pub const PREFIX: &str = "ce-";

/// The event in these header fields, with this data.
pub fn event(
    headers: &HeaderMap,
    data: Bytes,
    new_id: impl FnOnce() -> String,
) -> Result<Event, Vec<Invalid>> {
    let mut builder = Builder::new();
    for (name, value) in headers {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else { continue };
        if attribute == "datacontenttype" {
            let help = "in binary mode it is `Content-Type`";
            builder.reject(Invalid::new("ce-datacontenttype", "is not read").help(help));
            continue;
        }
        match decode(value) {
            Some(text) => builder.set(attribute, Attribute::Text(text)),
            None => builder.reject(Invalid::new(attribute, "is not UTF-8 once it is decoded")),
        }
    }
    for value in headers.get_all(CONTENT_TYPE) {
        match value.to_str() {
            Ok(text) => builder.set("datacontenttype", Attribute::from(text)),
            Err(_) => {
                builder.reject(Invalid::new("datacontenttype", "has characters beyond ASCII"));
            }
        }
    }
    builder.finish(data, new_id)
}

/// The header fields of an event; its data is the body.
pub fn fields(event: &Event) -> HeaderMap {
    let mut fields = HeaderMap::with_capacity(16);
    fields.insert("ce-specversion", HeaderValue::from_static("1.0"));
    if let Some(value) = event.content_type.as_deref().and_then(|it| it.parse().ok()) {
        fields.insert(CONTENT_TYPE, value);
    }
    attributes::each(event, |name, value| {
        let Ok(field) = HeaderName::try_from(format!("{PREFIX}{name}")) else { return };
        let value = match value {
            Shown::Text(_) if name == "datacontenttype" => return,
            Shown::Text(text) => encode(text.as_bytes()),
            Shown::Boolean(is) => HeaderValue::from_static(if is { "true" } else { "false" }),
            Shown::Integer(number) => number.into(),
            Shown::Time(millis) => {
                let mut text = Vec::with_capacity(24);
                attributes::push_time(millis, &mut text);
                encode(&text)
            }
        };
        fields.insert(field, value);
    });
    fields
}

/// Encodes text as a field value (HTTP binding, 3.1.3.2): quotes, `%` and every byte that is not
/// visible ASCII are percent-encoded.
pub fn encode(text: &[u8]) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = Vec::with_capacity(text.len());
    for &byte in text {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 0xf));
            out.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
        }
    }
    // Visible ASCII is a field value.
    HeaderValue::try_from(out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Decodes the text in a field value (HTTP binding, 3.1.3.2): removes quotes, then decodes
/// percent-encoding once. A `%` without two hexadecimal digits stays as it is.
fn decode(value: &HeaderValue) -> Option<String> {
    let bytes = value.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'"' | b'%')) {
        return str::from_utf8(bytes).ok().map(str::to_owned);
    }
    let inner = bytes.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = inner.unwrap_or(bytes);
    while let Some((&byte, after)) = rest.split_first() {
        let (byte, after) = match (byte, after) {
            (b'\\', [escaped, after @ ..]) if inner.is_some() => (*escaped, after),
            _ => (byte, after),
        };
        out.push(byte);
        rest = after;
    }
    String::from_utf8(percent_decoded(&out)).ok()
}

fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, after) {
            (b'%', [high, low, after @ ..])
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                out.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The value of a hexadecimal digit.
fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        _ => byte.to_ascii_lowercase().wrapping_sub(b'a').wrapping_add(10),
    }
}
