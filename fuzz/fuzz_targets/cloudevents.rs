//! What a publisher sends, in the three modes: the first byte chooses, and for binary mode a line of
//! text is the value of each header.

#![no_main]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sluicegate::events::wire;

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut headers = HeaderMap::new();
    let mut body = rest;
    match mode % 3 {
        0 => put(&mut headers, "content-type", b"application/cloudevents+json"),
        1 => put(&mut headers, "content-type", b"application/cloudevents-batch+json"),
        _ => {
            for name in ["ce-id", "ce-source", "ce-type", "ce-time", "ce-subject", "ce-x", "content-type"] {
                let end = body.iter().position(|byte| *byte == b'\n').unwrap_or(body.len());
                put(&mut headers, name, &body[..end]);
                body = body.get(end + 1..).unwrap_or_default();
            }
        }
    }
    let body = Bytes::copy_from_slice(body);
    let _ = wire::read(&headers, &body, || "made".into());
});

fn put(headers: &mut HeaderMap, name: &'static str, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
