//! Binary mode: attributes in `ce-` fields, `Content-Type` is the data's, the body is the data.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};

use crate::events::event::{Attribute, Builder, Event, Invalid};

/// What the names of fields with attributes begin with.
pub const PREFIX: &str = "ce-";

/// The event that these fields tell of, with this data.
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

/// The text that a field value stands for (HTTP binding, 3.1.3.2): quotes go, then one round of
/// percent-decoding. A `%` that no two hexadecimal digits follow stands for itself.
fn decode(value: &HeaderValue) -> Option<String> {
    let bytes = value.as_bytes();
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
