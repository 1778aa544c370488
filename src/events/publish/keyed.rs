//! Decides the result of a request's idempotency key. Pure, except for a switch for tests.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING},
};

use super::plan::Kept;
use crate::{
    events::{
        ingress::{KeyEnd, MAX_STORED_BYTES},
        queue::mutation::{self, Mutation},
    },
    http::{Outcome, Response, idempotency::StoredAnswer, is_repeatable, names::SLUICE_EVENT_ID},
};

/// The result of a request's key: it follows from what the upstream may know (semantics 9). A
/// refusal that says when to retry is not a result.
pub(super) fn end(
    outcome: Outcome,
    response: Option<&Response>,
    body: Option<Bytes>,
    kept: &Kept,
) -> KeyEnd {
    let is_free = match (outcome, response) {
        (Outcome::NotSent | Outcome::Answered(StatusCode::TOO_MANY_REQUESTS), _) => true,
        (Outcome::MaybeSeen, _) => {
            is_repeatable(kept.cx.method()) || mutation::is(Mutation::KeyFreedOnClassB)
        }
        (Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE), Some(response)) => {
            response.headers().contains_key(RETRY_AFTER)
        }
        (Outcome::Answered(_), _) => false,
    };
    match (is_free, outcome, response) {
        (true, ..) => KeyEnd::Free,
        (false, Outcome::Answered(status), Some(response)) => {
            let body = body.filter(|body| body.len() as u64 <= MAX_STORED_BYTES);
            KeyEnd::Done(StoredAnswer { status, headers: stored_fields(response.headers()), body })
        }
        (false, ..) => KeyEnd::Uncertain,
    }
}

/// The fields stored for a repeated answer: without framing, and only as many as fit.
fn stored_fields(headers: &HeaderMap) -> HeaderMap {
    const MAX_BYTES: usize = 24 << 10;
    let mut bytes = 0;
    let is_kept = |(name, value): &(&HeaderName, &HeaderValue)| {
        bytes += name.as_str().len() + value.len() + 8;
        let is_ours = [&CONTENT_LENGTH, &TRANSFER_ENCODING, &SLUICE_EVENT_ID].contains(name);
        bytes <= MAX_BYTES && !is_ours
    };
    let kept = headers.iter().filter(is_kept);
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}
