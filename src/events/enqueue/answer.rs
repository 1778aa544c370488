//! What clients of stored requests are told. Pure.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION, RETRY_AFTER,
    },
};
use serde_json::{Map, Value, json};

use super::prefer::Preference;
use crate::{
    events::request::{State, Status},
    http::{
        Body, Response, hop_by_hop,
        idempotency::StoredAnswer,
        names::{PREFERENCE_APPLIED, STATUS_PATH},
    },
    telemetry::clock,
};

/// `Retry-After`: a result takes a while.
const SOON: HeaderValue = HeaderValue::from_static("1");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// What is told about one request.
#[derive(Clone, Copy, Debug)]
pub(super) struct About<'a> {
    /// The text of its ID.
    pub(super) id: &'a str,
    /// When it was stored, in milliseconds since 1970.
    pub(super) time: u64,
    /// Until when its status can be asked for, in milliseconds since 1970.
    pub(super) status_until: u64,
}

/// 202: it is stored.
pub(super) fn accepted(about: About<'_>, status: &Status, applied: Preference) -> Response {
    let mut response = document(StatusCode::ACCEPTED, &described(about, status));
    let headers = response.headers_mut();
    headers.extend(location(about.id).map(|location| (LOCATION, location)));
    headers.insert(RETRY_AFTER, SOON);
    headers.extend(applied.applied().map(|applied| (PREFERENCE_APPLIED, applied)));
    response
}

/// The upstream's answer, for a client that has waited. `None` if there is no answer, or only part
/// of it.
pub(super) fn answered(about: About<'_>, status: Status, applied: Preference) -> Option<Response> {
    let StoredAnswer { status, headers, body } = status.answer?;
    let body = body?;
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    *response.headers_mut() = passed_on(headers);
    let headers = response.headers_mut();
    headers.extend(location(about.id).map(|location| (CONTENT_LOCATION, location)));
    headers.extend(applied.applied().map(|applied| (PREFERENCE_APPLIED, applied)));
    Some(response)
}

/// 200: the current status.
pub(super) fn status(about: About<'_>, status: &Status) -> Response {
    let mut response = document(StatusCode::OK, &described(about, status));
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if !status.state.is_over() {
        headers.insert(RETRY_AFTER, SOON);
    }
    response
}

fn described(about: About<'_>, status: &Status) -> Value {
    let Status { state, attempts, answer } = status;
    let mut said = json!({
        "id": about.id,
        "state": state.word(),
        "attempts": attempts,
        "accepted_at": time(about.time),
        "status_until": time(about.status_until),
    });
    if let (State::Succeeded | State::Failed, Some(answer)) = (state, answer) {
        said["answer"] = told(answer);
    }
    said
}

/// An answer as JSON: a text body as is, any other in base64, `null` if it was not kept.
fn told(answer: &StoredAnswer) -> Value {
    let mut fields = Map::new();
    for (name, value) in &passed_on(answer.headers.clone()) {
        let value = Value::String(String::from_utf8_lossy(value.as_bytes()).into_owned());
        match fields.get_mut(name.as_str()) {
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = json!([first.take(), value]),
            None => drop(fields.insert(name.as_str().to_owned(), value)),
        }
    }
    let mut said = json!({ "status": answer.status.as_u16(), "headers": fields });
    match answer.body.as_ref().map(|body| (std::str::from_utf8(body), body)) {
        Some((Ok(text), _)) => said["body"] = text.into(),
        Some((Err(_), body)) => said["body_base64"] = STANDARD.encode(body).into(),
        None => said["body"] = Value::Null,
    }
    said
}

/// The fields of an answer, without hop-by-hop fields.
fn passed_on(mut headers: HeaderMap) -> HeaderMap {
    hop_by_hop::strip(&mut headers);
    headers.remove(CONTENT_LENGTH);
    headers
}

fn location(id: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{STATUS_PATH}{id}")).ok()
}

fn document(status: StatusCode, value: &Value) -> Response {
    let mut response = Response::new(Body::full(Bytes::from(format!("{value}\n"))));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

fn time(millis: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    clock::rfc3339(time.unwrap_or(SystemTime::UNIX_EPOCH))
}
