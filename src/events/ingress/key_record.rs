//! Idempotency keys in the ingress log: claims and results. Pure.
//!
//! A claim is the first record of its exchange's first frame. The result is in the answer, or in a
//! control record of an operator. Both repeat the key's hash, fingerprint and expiry, so that the
//! key is remembered if its claim was lost to damage.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{
    keys::{KeyHash, Mark},
    record::{About, put_about},
};
use crate::{
    events::queue::codec::{Draft, Fields, FieldsBuilder, Kind, Record, Tag},
    http::idempotency::{Keyed, StoredAnswer},
};

const HASH: Tag = Tag(1040);
const FINGERPRINT: Tag = Tag(1041);
/// Milliseconds since 1970, u64.
const EXPIRES: Tag = Tag(1042);
const ROUTE: Tag = Tag(1043);
const KEY: Tag = Tag(1044);
/// 0 free, 1 done, 2 uncertain.
const MARK: Tag = Tag(1045);
/// u16.
const STATUS: Tag = Tag(1046);
/// Name, 0, value; may repeat.
const FIELD: Tag = Tag(1047);
/// The body was too long to be stored.
const NO_BODY: Tag = Tag(1048);
/// The most bytes these take in a record, without texts.
pub(super) const OVERHEAD: u64 = 256;

/// The result of a key's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEnd {
    /// Nothing was done: the key may be used again.
    Free,
    /// It was answered with this.
    Done(StoredAnswer),
    /// The outcome is unknown.
    Uncertain,
}

/// A claim that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) hash: KeyHash,
    pub(super) fingerprint: u64,
    pub(super) expires: u64,
}

/// A result that was read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) hash: KeyHash,
    pub(super) mark: Mark,
    /// The repeated claim; `None` if the key is free or an earlier version wrote the record.
    pub(super) claim: Option<Claim>,
    /// When it was written.
    pub(super) wall: u64,
}

/// The request of a key, for an operator; only the expiry if it cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claimed {
    /// The route.
    pub route: String,
    /// The principal that sent it.
    pub principal: String,
    /// The key.
    pub key: String,
    /// Its method.
    pub method: String,
    /// Its target.
    pub target: String,
    /// When it arrived, in milliseconds since 1970.
    pub since: u64,
    /// When the key is forgotten, in milliseconds since 1970.
    pub expires: u64,
}

// === impl KeyEnd ===

impl KeyEnd {
    pub(super) fn mark(&self) -> Mark {
        match self {
            Self::Free => Mark::Free,
            Self::Done(_) => Mark::Done,
            Self::Uncertain => Mark::Uncertain,
        }
    }

    /// Adds the result to the fields of an answer, and returns the body for that record.
    pub(super) fn put(&self, fields: FieldsBuilder, claim: Claim) -> (FieldsBuilder, Bytes) {
        let fields = put_mark(fields, claim, self.mark());
        match self {
            Self::Done(answer) => put_answer(fields, answer),
            Self::Free | Self::Uncertain => (fields, Bytes::new()),
        }
    }
}

/// Adds an answer to the fields of a record, and returns the body for that record.
pub(super) fn put_answer(fields: FieldsBuilder, answer: &StoredAnswer) -> (FieldsBuilder, Bytes) {
    let mut fields = fields.field(STATUS, &answer.status.as_u16().to_le_bytes());
    for (name, value) in &answer.headers {
        let field = [name.as_str().as_bytes(), b"\0", value.as_bytes()].concat();
        fields = fields.field(FIELD, &field);
    }
    match &answer.body {
        Some(body) => (fields, body.clone()),
        None => (fields.field(NO_BODY, &[]), Bytes::new()),
    }
}

/// Whether a record has an answer.
pub(super) fn has_answer(record: &Record<'_>) -> bool {
    record.field(STATUS).is_some()
}

/// The most bytes a claim takes.
pub(super) fn claim_bytes(keyed: &Keyed, about: About<'_>) -> u64 {
    let texts = keyed.route.len() + keyed.principal.len() + keyed.key.len();
    (texts + about.method.len() + about.target.len()) as u64 + 2 * OVERHEAD
}

/// The record that claims this key for a request.
pub(super) fn claim(keyed: &Keyed, hash: KeyHash, expires: u64, about: About<'_>) -> Draft {
    let fields = put_about(Fields::builder(), 0, about)
        .field(HASH, &hash.to_le_bytes())
        .field(FINGERPRINT, &keyed.fingerprint)
        .field(EXPIRES, &expires.to_le_bytes())
        .field(ROUTE, keyed.route.as_bytes())
        .field(KEY, keyed.key.as_bytes())
        .principal(&keyed.principal);
    Draft::new(Kind::Intent, fields.build(), Bytes::new())
}

/// The record of an operator's decision about a key.
pub(super) fn resolution(claim: Claim, mark: Mark) -> Draft {
    let fields = put_mark(Fields::builder(), claim, mark).field(NO_BODY, &[]);
    Draft::new(Kind::Control, fields.build(), Bytes::new())
}

fn put_mark(fields: FieldsBuilder, claim: Claim, mark: Mark) -> FieldsBuilder {
    let number = match mark {
        Mark::Free => 0,
        Mark::Done => 1,
        Mark::Uncertain => 2,
    };
    let fields = fields.field(HASH, &claim.hash.to_le_bytes()).field(MARK, &[number]);
    if mark == Mark::Free {
        return fields;
    }
    fields
        .field(FINGERPRINT, &claim.fingerprint.to_le_bytes())
        .field(EXPIRES, &claim.expires.to_le_bytes())
}

/// The result of a key in an answer or a control record.
pub(super) fn said(record: &Record<'_>) -> Option<Said> {
    let mark = match record.field(MARK)? {
        [0] => Mark::Free,
        [1] => Mark::Done,
        // Written by a later version: what is not understood counts as unknown.
        _ => Mark::Uncertain,
    };
    let (hash, wall) = (hash(record)?, record.published());
    Some(Said { hash, mark, claim: read_claim(record), wall })
}

/// The claim in an intent, if it has one, or repeated in a result.
pub(super) fn read_claim(record: &Record<'_>) -> Option<Claim> {
    let expires = record.field(EXPIRES)?.try_into().ok().map(u64::from_le_bytes)?;
    let fingerprint = short(record.field(FINGERPRINT)?)?;
    Some(Claim { hash: hash(record)?, fingerprint, expires })
}

/// The prefix of a fingerprint.
pub(super) fn short(fingerprint: &[u8]) -> Option<u64> {
    fingerprint.first_chunk().copied().map(u64::from_le_bytes)
}

/// The request in a claim of this key.
pub(super) fn claimed_as(record: &Record<'_>, key: KeyHash) -> Option<Claimed> {
    claimed(record).filter(|_| hash(record) == Some(key))
}

/// The request in a claim.
pub(super) fn claimed(record: &Record<'_>) -> Option<Claimed> {
    let text = |tag| record.text(tag).unwrap_or_default().to_owned();
    let (method, target) = super::record::request(record);
    Some(Claimed {
        route: text(ROUTE),
        principal: record.principal().unwrap_or_default().to_owned(),
        key: text(KEY),
        method: method.to_owned(),
        target: target.to_owned(),
        since: record.published(),
        expires: read_claim(record)?.expires,
    })
}

/// The answer in a record. An operator's decision that it was done has none: 200.
pub(super) fn stored_answer(record: &Record<'_>, own: impl Fn(&[u8]) -> Bytes) -> StoredAnswer {
    let status = record.field(STATUS).and_then(|it| it.try_into().ok()).map(u16::from_le_bytes);
    let status = status.and_then(|it| StatusCode::from_u16(it).ok()).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    for field in record.fields().filter(|field| field.tag == FIELD) {
        let Some(at) = field.value.iter().position(|byte| *byte == 0) else { continue };
        let name = HeaderName::from_bytes(&field.value[..at]);
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(&field.value[at + 1..])) {
            headers.append(name, value);
        }
    }
    let body = record.field(NO_BODY).is_none().then(|| own(record.body()));
    StoredAnswer { status, headers, body }
}

fn hash(record: &Record<'_>) -> Option<KeyHash> {
    record.field(HASH)?.try_into().ok().map(KeyHash::from_le_bytes)
}
