//! Carries an exchange out to its end, whether or not somebody still waits for it.

use std::{
    future::{Future as _, poll_fn},
    panic::AssertUnwindSafe,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use uuid::Uuid;

use super::{
    keyed,
    layer::Publication,
    making::{self, LATE_KEY_BYTES},
    peek::peek,
    plan::{Item, Kept, Plan},
    settings::{Ack, Mode, OnError, When},
    spans::Producing,
};
use crate::{
    error::{Error, Kind},
    events::{
        ingress::{
            Answer, Exchange, Key, KeyEnd, MAX_STORED_BYTES, Owed, Target, failed, refused,
            uncertain,
        },
        queue::{
            codec::Draft,
            log::{AppendError, Commit, Later, Permit, Refused},
            mutation::{self, Mutation},
        },
    },
    http::{Next, Outcome, Request, Response, names::SLUICE_EVENT_ID, selector::Input},
};

/// How an intent ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Event,
    Nothing,
    Uncertain,
}

/// An event handed over to be stored.
struct Appending {
    publication: Arc<Publication>,
    id: Uuid,
    is_uncertain: bool,
    /// `None`: nobody waits for it, and its loss is counted.
    commit: Result<Option<Commit>, Refused>,
}

/// The request's result, and what follows from it.
struct Finished {
    result: Result<Response, Error>,
    outcome: Outcome,
    /// The events that follow.
    items: Vec<Item>,
    /// The answer's body, if it was read and is not too long.
    body: Option<Bytes>,
}

/// Carries `plan` out and returns the client's response.
pub(super) async fn run<S: Next>(
    plan: Plan,
    inner: S,
    request: Request,
) -> Result<Response, Error> {
    let Plan { items, room, key, request: kept } = plan;
    let mut ids = Vec::with_capacity(items.len());
    let mut after = items;
    let before: Vec<_> =
        after.extract_if(.., |item| item.settings().mode == Mode::Before).collect();
    let producing = Producing::begin(&kept.cx, before.iter());
    let first = append_first(before, &mut ids).await;
    producing.end(&kept.cx, &ids, first.as_ref().err());
    if let Err(error) = first {
        // Frees the key as well: nobody has used it.
        drop(room);
        return Err(error);
    }
    let exchange = async {
        let Some(room) = room else { return Ok(None) };
        let intents = after.iter().filter(|item| item.has_intent());
        let intents: Vec<&Owed> = intents.map(|item| &*item.owed).collect();
        room.begin(&intents, kept.about()).await.map(Some)
    };
    let is_mutant = mutation::is(Mutation::IntentAfterForwarding);
    let (result, begun) = if is_mutant {
        let result = forward(inner, request, (&kept, key.as_deref())).await;
        (result, exchange.await)
    } else {
        match exchange.await {
            Err(error) => return Err(failed(&error)),
            begun => (forward(inner, request, (&kept, key.as_deref())).await, begun),
        }
    };
    let exchange = begun.unwrap_or_default();
    let finished = follow(result, after, &kept, key.is_some()).await;
    end(finished, exchange, &kept, ids).await
}

/// Appends the events that come before the request. On an error the request is not sent.
async fn append_first(items: Vec<Item>, ids: &mut Vec<Uuid>) -> Result<(), Error> {
    let mut waited = Vec::new();
    for item in items {
        let Appending { publication, id, commit, .. } = append(item);
        match commit {
            Ok(Some(commit)) => waited.push((publication, id, commit)),
            // Being appended; nobody waits for it.
            Ok(None) => ids.push(id),
            Err(_) if publication.settings.on_error == OnError::Ignore => publication.lost.add(1),
            Err(error) => return Err(refused(error)),
        }
    }
    for (publication, id, commit) in waited {
        match commit.await {
            Ok(_) => ids.push(id),
            Err(_) if publication.settings.on_error == OnError::Ignore => publication.lost.add(1),
            Err(error) => return Err(failed(&error)),
        }
    }
    Ok(())
}

/// Hands an event over. The client waits for it if the route says so, never for an uncertain one.
fn append(item: Item) -> Appending {
    let Item { publication, id, owed, permit, is_uncertain, .. } = item;
    let drafts = vec![owed.into_record()];
    let commit = if publication.settings.ack == Ack::Durable && !is_uncertain {
        publication.way().append(permit, drafts).map(Some)
    } else {
        let told = publication.clone();
        let then = move |outcome: Result<_, _>| {
            if outcome.is_err() {
                told.lost.add(1);
            }
        };
        let later = Later::IsTold(Box::new(then));
        publication.way().append_later(permit, drafts, later).map(|()| None)
    };
    Appending { publication, id, is_uncertain, commit }
}

/// Sends the request and waits for the result. Once its time is up nobody knows what becomes of its
/// key, whether or not the client is still there. After a panic below, nobody knows what was sent.
async fn forward<S: Next>(
    mut inner: S,
    request: Request,
    (kept, key): (&Kept, Option<&Key>),
) -> Result<Response, Error> {
    let attempts = AssertUnwindSafe(async move { inner.call(request).await }).catch_unwind();
    tokio::pin!(attempts);
    let caught = poll_fn(|task| {
        let polled = attempts.as_mut().poll(task);
        if let (Some(key), true) = (key, polled.is_pending())
            && kept.cx.is_overtime()
        {
            key.doubt();
        }
        polled
    });
    caught
        .await
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal).with_detail("a panic below `publish`")))
}

/// The events that follow from `result`, in their final form.
async fn follow(
    result: Result<Response, Error>,
    mut items: Vec<Item>,
    kept: &Kept,
    is_keyed: bool,
) -> Finished {
    let outcome = Outcome::of(&result, &kept.cx);
    let status = result.as_ref().ok().map(Response::status);
    if kept.cx.is_deferred() {
        // It is done later, by delivery: nothing has happened yet.
        items.clear();
    }
    items.retain_mut(|item| {
        let verdict = verdict(&item.settings().when, outcome, status);
        item.is_uncertain = verdict == Verdict::Uncertain;
        verdict != Verdict::Nothing
    });
    let limits = items.iter().filter(|it| !it.is_uncertain && it.settings().reads_response());
    let limits = limits.map(|it| it.publication.target.max_event_bytes());
    let is_kept = is_keyed && matches!(outcome, Outcome::Answered(_));
    let limit = limits.chain(is_kept.then_some(MAX_STORED_BYTES)).max();
    let (result, body) = match (result, limit) {
        (Ok(response), Some(limit)) if is_readable(&response) => {
            let (response, body) = peek(response, limit).await;
            (Ok(response), body)
        }
        (result, _) => (result, None),
    };
    for item in &mut items {
        match &result {
            _ if item.is_uncertain => {
                item.owed.change(|event| *event = uncertain(std::mem::take(event)));
                item.id = Uuid::parse_str(item.owed.id()).unwrap_or_default();
            }
            Ok(response) => {
                let answer = making::Answer { headers: response.headers(), body: body.as_ref() };
                complete(item, answer, kept);
            }
            Err(_) => {}
        }
    }
    Finished { result, outcome, items, body }
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
    let publication = item.publication.clone();
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

/// Records what follows, appends the events, and returns the client's response.
async fn end(
    finished: Finished,
    exchange: Option<Exchange>,
    kept: &Kept,
    mut ids: Vec<Uuid>,
) -> Result<Response, Error> {
    let Finished { result, outcome, mut items, body } = finished;
    let producing = Producing::begin(&kept.cx, items.iter());
    // Hand these over first, so that all syncs run in parallel.
    let direct: Vec<_> = items.extract_if(.., |item| !item.has_intent()).map(append).collect();
    let mut failure = None;
    let key = match &exchange {
        Some(exchange) if exchange.has_key() => {
            keyed::end(outcome, result.as_ref().ok(), body, kept)
        }
        _ => KeyEnd::Free,
    };
    let settling = record(items, exchange, (key, &mut ids), &mut failure).await;
    for Appending { publication, id, is_uncertain, commit } in direct {
        let is_waited = publication.settings.ack == Ack::Durable && !is_uncertain;
        let stored = match commit {
            Ok(Some(commit)) => commit.await.map(drop),
            Ok(None) => Ok(()),
            Err(refused) => Err(refused.into()),
        };
        match stored {
            Ok(()) if !is_uncertain => ids.push(id),
            Ok(()) => {}
            Err(_) if publication.settings.on_error == OnError::Ignore || !is_waited => {
                publication.lost.add(1);
            }
            Err(error) => failure = Some(failed(&error)),
        }
    }
    producing.end(&kept.cx, &ids, failure.as_ref());
    let answer = match failure {
        None => result.map(|response| tell(response, &ids)),
        Some(error) => Err(error),
    };
    if !ids.is_empty() {
        kept.cx.set_event_ids(ids);
    }
    // Already on disk: this only hands it on, without waiting.
    if let Some((exchange, owed)) = settling {
        exchange.settle(owed);
    }
    answer
}

type Settling = (Exchange, Vec<(Arc<dyn Target>, Permit, Draft)>);

/// Writes the answer and the owed events in one frame. They are appended later: the debt is on
/// disk.
async fn record(
    items: Vec<Item>,
    exchange: Option<Exchange>,
    (mut key, ids): (KeyEnd, &mut Vec<Uuid>),
    failure: &mut Option<Error>,
) -> Option<Settling> {
    let mut exchange = exchange?;
    if items.is_empty() && key == KeyEnd::Free {
        exchange.close();
        return None;
    }
    let certain = items.iter().filter(|item| !item.is_uncertain);
    let certain: Vec<Uuid> = certain.map(|item| item.id).collect();
    if let KeyEnd::Done(answer) = &mut key {
        put_ids(&mut answer.headers, ids.iter().chain(&certain));
    }
    let is_uncertain = certain.len() < items.len();
    let owed = items.iter().map(|item| &*item.owed).collect();
    if let Err(error) = exchange.answer(Answer { is_uncertain, owed, key: Some(key) }).await {
        *failure = unrecorded(&items, &error);
        return None;
    }
    ids.extend(certain);
    let owed = items
        .into_iter()
        .map(|item| (item.publication.way().clone(), item.permit, item.owed.into_record()));
    Some((exchange, owed.collect()))
}

/// What the client is told when the answer could not be recorded.
#[cold]
fn unrecorded(items: &[Item], error: &AppendError) -> Option<Error> {
    tracing::error!(%error, "an answer cannot be recorded: the events of its request are uncertain");
    let mut is_failure = items.is_empty();
    for item in items.iter().filter(|item| !item.is_uncertain) {
        match item.settings().on_error {
            OnError::Fail => is_failure = true,
            OnError::Ignore => item.publication.lost.add(1),
        }
    }
    // With only a key and no event, nobody has allowed a loss.
    is_failure.then(|| failed(error))
}

/// The answer, with the IDs of its events.
fn tell(mut response: Response, ids: &[Uuid]) -> Response {
    let headers = response.headers_mut();
    // An upstream's event IDs are not for our clients.
    match ids.split_first() {
        Some((first, others)) => {
            drop(headers.insert(SLUICE_EVENT_ID, id_value(*first)));
            put_ids(headers, others);
        }
        None => drop(headers.remove(SLUICE_EVENT_ID)),
    }
    response
}

fn put_ids<'a>(headers: &mut HeaderMap, ids: impl IntoIterator<Item = &'a Uuid>) {
    for id in ids {
        headers.append(SLUICE_EVENT_ID, id_value(*id));
    }
}

fn id_value(id: Uuid) -> HeaderValue {
    let mut text = Uuid::encode_buffer();
    let text = &*id.hyphenated().encode_lower(&mut text);
    // Digits, letters and dashes only.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
