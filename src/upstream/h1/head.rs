//! Writes the head of a request and reads that of a response. Pure.
//!
//! `httparse` finds the fields and is strict: no folded lines, no space before a colon. How the body
//! is framed follows from the head alone (RFC 9112, 6.3); what is ambiguous is refused later, by
//! [`check_response`](crate::upstream::reframe::check_response).

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, request, response};
use hyper::ext::ReasonPhrase;

use crate::upstream::{
    h1::{Invalid, chunked::Decoder},
    reframe,
};

/// The largest head.
pub(super) const MAX_HEAD_BYTES: usize = 32 * 1024;
/// hyper has a meaning of its own for the two numbers above it.
const MAX_LENGTH: u64 = u64::MAX - 2;
/// The most fields of a response, or of its trailers.
pub(super) const MAX_FIELDS: usize = 100;

/// The head of a response.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) parts: response::Parts,
    pub(super) framing: Framing,
    /// Whether the upstream closes the connection afterwards.
    pub(super) closes: bool,
}

/// How far the body of a response goes.
#[derive(Debug)]
pub(super) enum Framing {
    /// This many bytes; 0 is no body.
    Length(u64),
    /// In chunks.
    Chunked(Decoder),
    /// To the end of the connection.
    UntilClose,
}

/// What was found in the bytes that an upstream has sent.
#[derive(Debug)]
pub(super) enum Read<'a> {
    Head(Found<'a>),
    /// The head is not complete. The first `skipped` bytes are not part of it.
    Partial {
        skipped: usize,
    },
}

/// A head, and what was read behind it.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) head: Head,
    /// The body, if all of it is here.
    pub(super) body: Option<Bytes>,
    /// What else there is.
    pub(super) rest: &'a [u8],
}

/// Appends the head of a request.
pub(super) fn write(parts: &request::Parts, out: &mut Vec<u8>) {
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with('?') {
        out.push(b'/');
    }
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    write_fields(&parts.headers, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a line for each field.
pub(super) fn write_fields(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads the head of the response to a request, skipping interim responses. `is_head`: the request's
/// method is HEAD. `fields` lends its memory.
pub(super) fn read<'a>(
    all: &'a [u8],
    is_head: bool,
    fields: &mut HeaderMap,
) -> Result<Read<'a>, Invalid> {
    let mut bytes = all;
    loop {
        while let Some(behind) = bytes.strip_prefix(b"\r\n").or_else(|| bytes.strip_prefix(b"\n")) {
            bytes = behind;
        }
        let mut room = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let parsed = config.parse_response_with_uninit_headers(&mut response, bytes, &mut room)?;
        let length = match parsed {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial if bytes.len() <= MAX_HEAD_BYTES => {
                return Ok(Read::Partial { skipped: all.len() - bytes.len() });
            }
            httparse::Status::Partial => return Err(Invalid::HeadSize),
        };
        if length > MAX_HEAD_BYTES {
            return Err(Invalid::HeadSize);
        }
        let status = StatusCode::from_u16(response.code.unwrap_or_default())
            .map_err(|_| Invalid::Head(httparse::Error::Status))?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            bytes = &bytes[length..];
            continue;
        }
        return keep(bytes, length, status, &response, is_head, fields).map(Read::Head);
    }
}

/// Makes a head that owns its bytes; the body shares them if it is here.
fn keep<'a>(
    bytes: &'a [u8],
    length: usize,
    status: StatusCode,
    response: &httparse::Response<'_, '_>,
    is_head: bool,
    fields: &mut HeaderMap,
) -> Result<Found<'a>, Invalid> {
    let mut parts = http::Response::new(()).into_parts().0;
    parts.status = status;
    parts.version = if response.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = std::mem::take(fields);
    if let Some(reason) = response.reason
        && Some(reason) != status.canonical_reason()
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        parts.extensions.insert(reason);
    }
    let Said { framing, closes } = Said::by(response.headers, parts.version);
    let is_without_content = is_head || reframe::has_no_content(status);
    let framing = if is_without_content { Framing::Length(0) } else { framing? };
    let closes = closes || matches!(framing, Framing::UntilClose);
    let behind = bytes.len() - length;
    let body = match framing {
        Framing::Length(body) => usize::try_from(body).ok().filter(|&body| body <= behind),
        Framing::Chunked(_) | Framing::UntilClose => None,
    };
    let kept = length + body.unwrap_or(0);
    let mut owned = Bytes::copy_from_slice(&bytes[..kept]);
    parts.headers.reserve(response.headers.len());
    for field in &*response.headers {
        let name = HeaderName::from_bytes(field.name.as_bytes())
            .map_err(|_| Invalid::Head(httparse::Error::HeaderName))?;
        let start = field.value.as_ptr().addr() - bytes.as_ptr().addr();
        let value = owned.slice(start..start + field.value.len());
        let value = HeaderValue::from_maybe_shared(value)
            .map_err(|_| Invalid::Head(httparse::Error::HeaderValue))?;
        parts.headers.append(name, value);
    }
    let body = body.map(|_| {
        owned.advance(length);
        owned
    });
    Ok(Found { head: Head { parts, framing, closes }, body, rest: &bytes[kept..] })
}

/// What the fields say of the body and of the connection.
struct Said {
    framing: Result<Framing, Invalid>,
    closes: bool,
}

// === impl Said ===

impl Said {
    fn by(fields: &[httparse::Header<'_>], version: Version) -> Self {
        let mut length = None;
        let mut coding = None;
        let mut closes = version == Version::HTTP_10;
        for field in fields {
            // Nearly every field is none of them: the length of the name tells.
            match field.name.len() {
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    let is_same = length.is_none_or(|before| before == field.value);
                    length = Some(if is_same { field.value } else { b"" });
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    coding = Some(field.value);
                }
                10 if field.name.eq_ignore_ascii_case("connection") => {
                    closes |= has_close(field.value);
                }
                _ => {}
            }
        }
        let framing = match (coding, length) {
            // Before HTTP/1.1 there were no codings: whoever sends one cannot be trusted.
            (Some(_), _) if version == Version::HTTP_10 => Err(Invalid::Coding),
            (Some(coding), _) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Framing::Chunked(Decoder::default()))
            }
            (Some(_), _) | (None, None) => Ok(Framing::UntilClose),
            (None, Some(digits)) => decimal(digits).map(Framing::Length).ok_or(Invalid::Length),
        };
        Self { framing, closes }
    }
}

fn has_close(value: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

/// Digits and nothing else, as a number that hyper can pass on.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let number = digits.iter().try_fold(0_u64, |number, &digit| {
        let value = char::from(digit).to_digit(10)?;
        number.checked_mul(10)?.checked_add(value.into())
    })?;
    (number <= MAX_LENGTH).then_some(number)
}
