//! Decides which events follow from a request's result, and gives them their final form.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header::CONTENT_TYPE};
use uuid::Uuid;

use super::{
    making::{self, LATE_KEY_BYTES},
    peek::peek,
    plan::{Item, Kept},
    settings::When,
};
use crate::{
    error::Error,
    events::ingress::{MAX_STORED_BYTES, uncertain},
    http::{Context, Outcome, Response, selector::Input},
};

/// How an intent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Event,
    Nothing,
    Uncertain,
}

/// Keeps the events that follow from `result`.
pub(super) fn judge(
    items: &mut Vec<Item>,
    outcome: Outcome,
    result: &Result<Response, Error>,
    cx: &Context,
) {
    if cx.is_deferred() {
        // It is done later, by delivery: nothing has happened yet.
        items.clear();
    }
    let status = result.as_ref().ok().map(Response::status);
    items.retain_mut(|item| {
        let verdict = verdict(&item.settings().when, outcome, status);
        item.is_uncertain = verdict == Verdict::Uncertain;
        verdict != Verdict::Nothing
    });
}

/// How much of the answer's body is read, if an event or the key needs it.
pub(super) fn readable(
    items: &[Item],
    outcome: Outcome,
    result: &Result<Response, Error>,
    is_keyed: bool,
) -> Option<u64> {
    let response = result.as_ref().ok()?;
    let limits = items.iter().filter(|it| !it.is_uncertain && it.settings().reads_response());
    let limits = limits.map(|it| it.publication.target.max_event_bytes());
    let is_kept = is_keyed && matches!(outcome, Outcome::Answered(_));
    let limit = limits.chain(is_kept.then_some(MAX_STORED_BYTES)).max()?;
    is_readable(response).then_some(limit)
}

pub(super) async fn read(
    result: Result<Response, Error>,
    limit: u64,
) -> (Result<Response, Error>, Option<Bytes>) {
    match result {
        Ok(response) => {
            let (response, body) = peek(response, limit).await;
            (Ok(response), body)
        }
        error => (error, None),
    }
}

/// Gives the events their final form.
pub(super) fn complete_all(
    items: &mut [Item],
    result: &Result<Response, Error>,
    body: Option<&Bytes>,
    kept: &Kept,
) {
    for item in items {
        match result {
            _ if item.is_uncertain => {
                item.owed.change(|event| *event = uncertain(std::mem::take(event)));
                item.id = Uuid::parse_str(item.owed.id()).unwrap_or_default();
            }
            Ok(response) => {
                complete(item, making::Answer { headers: response.headers(), body }, kept);
            }
            Err(_) => {}
        }
    }
}

/// Exactly one of three, decided by what the upstream may know. If a route asks for a status, an
/// answer with it counts whoever made it.
fn verdict(when: &When, outcome: Outcome, status: Option<StatusCode>) -> Verdict {
    match (outcome, status) {
        (Outcome::NotSent, _) => Verdict::Nothing,
        (_, Some(status)) if when.takes(status) => Verdict::Event,
        (Outcome::Answered(_), _) => Verdict::Nothing,
        (Outcome::MaybeSeen, _) => Verdict::Uncertain,
    }
}

/// Neither an endless stream nor an upgraded connection is waited for.
fn is_readable(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_stream =
        kind.is_some_and(|it| it.to_ascii_lowercase().starts_with(b"text/event-stream"));
    !is_stream && response.status() != StatusCode::SWITCHING_PROTOCOLS
}

/// Fills in what only the answer knows.
fn complete(item: &mut Item, answer: making::Answer<'_>, kept: &Kept) {
    let publication = &item.publication;
    let settings = &publication.settings;
    if let (false, Some(late)) = (settings.has_early_keys(), &kept.late) {
        let json = answer.body.and_then(making::parse);
        let (headers, body) = &**late;
        let input = Input {
            body: body.as_ref(),
            response_headers: Some(answer.headers),
            response_body: json.as_ref(),
            ..Input::of(headers, &kept.cx)
        };
        item.owed.change(|event| making::set_keys(event, settings, &input, LATE_KEY_BYTES));
    }
    if settings.data.has_response() {
        let limit = publication.target.max_event_bytes();
        let content = answer.body.and_then(|body| publication.content(true, body, answer.headers));
        let is_whole = answer.body.is_some();
        let request = item.content.take();
        let (request, content) = (request.as_ref(), content.as_ref());
        item.owed.change(|event| {
            making::set_data(event, settings.data, request, content, is_whole, limit);
        });
    }
}
