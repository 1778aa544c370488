//! An exchange carried out to its end, whoever still waits for it.

use std::{panic::AssertUnwindSafe, sync::Arc};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use tokio::sync::oneshot;

use super::{
    keyed,
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
            log::{Commit, Later, Permit, Refused},
            mutation::{self, Mutation},
        },
    },
    http::{Next, Outcome, Request, Response, names::SLUICE_EVENT_ID, selector::Input},
};

/// Who waits for the answer, until it has one or has gone.
struct Client(Option<oneshot::Sender<Result<Response, Error>>>);

/// What an intent ends as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Event,
    Nothing,
    Uncertain,
}

/// An event that follows, and its room.
struct Following {
    verdict: Verdict,
    item: Item,
}

/// What came of the request, and what follows from it.
struct Finished {
    result: Result<Response, Error>,
    outcome: Outcome,
    following: Vec<Following>,
    /// Of the answer, if it was read and is not too long.
    body: Option<Bytes>,
}

/// Carries `plan` out. What the client gets goes to `client`.
pub(super) async fn run<S: Next>(
    plan: Plan,
    inner: S,
    request: Request,
    client: oneshot::Sender<Result<Response, Error>>,
) {
    let mut client = Client(Some(client));
    let Plan { items, room, key, request: kept } = plan;
    let (before, after): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| item.settings().mode == Mode::Before);
    let producing = Producing::begin(&kept.cx, before.iter());
    let first = append_first(before).await;
    producing.end(&kept.cx, first.as_deref().unwrap_or_default(), first.as_ref().err());
    let mut ids = match first {
        Ok(ids) => ids,
        // With its key, which nobody has used.
        Err(error) => {
            drop(room);
            return client.answer(Err(error));
        }
    };
    let exchange = async {
        let Some(room) = room else { return Ok(None) };
        let intents = after.iter().filter(|item| item.has_intent());
        let intents: Vec<_> = intents.map(|item| item.owed.clone()).collect();
        room.begin(&intents, kept.about()).await.map(Some)
    };
    let is_mutant = mutation::is(Mutation::IntentAfterForwarding);
    let (result, begun) = if is_mutant {
        let result = forward(inner, request, (&kept, key.as_deref()), &mut client).await;
        (result, exchange.await)
    } else {
        match exchange.await {
            Err(error) => return client.answer(Err(failed(&error))),
            begun => {
                let of = (&kept, key.as_deref());
                (forward(inner, request, of, &mut client).await, begun)
            }
        }
    };
    let exchange = begun.unwrap_or_default();
    let finished = follow(result, after, &kept, key.is_some()).await;
    end(finished, exchange, &kept, &mut ids, client).await;
}

/// Events that come before the request is sent. An error: it is not.
async fn append_first(items: Vec<Item>) -> Result<Vec<Box<str>>, Error> {
    let mut ids = Vec::with_capacity(items.len());
    let mut waited = Vec::new();
    for item in items {
        let id: Box<str> = item.event().id.as_str().into();
        let is_waited = item.settings().ack == Ack::Durable;
        let publication = item.publication.clone();
        match append(item, is_waited) {
            Ok(Some(commit)) => waited.push((publication, id, commit)),
            // It is on its way.
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
    Ok(ids)
}

/// `None`: nobody waits for it, and its loss is counted.
fn append(item: Item, is_waited: bool) -> Result<Option<Commit>, Refused> {
    let Item { publication, record, permit, .. } = item;
    let (way, drafts) = (publication.way(), vec![record]);
    if is_waited {
        return way.append(permit, drafts).map(Some);
    }
    let told = publication.clone();
    let then = move |outcome: Result<_, _>| {
        if outcome.is_err() {
            told.lost.add(1);
        }
    };
    way.append_later(permit, drafts, Later::IsTold(Box::new(then))).map(|()| None)
}

/// Sends the request and waits for what comes of it; for a late answer too, where the client has been
/// told that the time is up. A panic below is a failure of which nobody knows what was sent.
async fn forward<S: Next>(
    mut inner: S,
    request: Request,
    (kept, key): (&Kept, Option<&Key>),
    client: &mut Client,
) -> Result<Response, Error> {
    let overtime = kept.cx.allow_overtime();
    let attempts = AssertUnwindSafe(async move { inner.call(request).await }).catch_unwind();
    tokio::pin!(attempts, overtime);
    let caught = tokio::select! {
        caught = &mut attempts => caught,
        // The sender is in the context, which outlives this: it ends by being told something.
        Ok(error) = &mut overtime => {
            if let Some(key) = key {
                key.doubt();
            }
            client.answer(Err(error));
            attempts.await
        }
    };
    caught
        .unwrap_or_else(|_| Err(Error::new(Kind::Internal).with_detail("a panic below `publish`")))
}

/// What follows from `result`, each event as it is to be stored.
async fn follow(
    result: Result<Response, Error>,
    items: Vec<Item>,
    kept: &Kept,
    is_keyed: bool,
) -> Finished {
    let outcome = Outcome::of(&result, &kept.cx);
    let status = result.as_ref().ok().map(Response::status);
    let mut following: Vec<_> = items
        .into_iter()
        .map(|item| {
            let when = &item.settings().when;
            let is_deferred = kept.cx.is_deferred();
            // Done later, by whoever delivers it: nothing has happened yet.
            let verdict =
                if is_deferred { Verdict::Nothing } else { verdict(when, outcome, status) };
            Following { verdict, item }
        })
        .collect();
    let limits = following.iter().filter(|it| it.verdict == Verdict::Event);
    let limits = limits.filter(|it| it.item.settings().reads_response());
    let limits = limits.map(|it| it.item.publication.target.max_event_bytes());
    let is_kept = is_keyed && matches!(outcome, Outcome::Answered(_));
    let limit = limits.chain(is_kept.then_some(MAX_STORED_BYTES)).max();
    let (result, body) = match (result, limit) {
        (Ok(response), Some(limit)) if is_readable(&response) => {
            let (response, body) = peek(response, limit).await;
            (Ok(response), body)
        }
        (result, _) => (result, None),
    };
    let headers = result.as_ref().ok().map(Response::headers);
    for it in &mut following {
        match (it.verdict, headers) {
            (Verdict::Event, Some(headers)) => {
                let answer = making::Answer { headers, body: body.as_ref() };
                complete(&mut it.item, answer, kept);
            }
            (Verdict::Uncertain, _) => {
                it.item.change(|event| *event = uncertain(std::mem::take(event)));
            }
            _ => {}
        }
    }
    Finished { result, outcome, following, body }
}

/// Exactly one of three, from what the upstream knows. An answer that a route asks for by its status is
/// an answer, whoever made it.
fn verdict(when: &When, outcome: Outcome, status: Option<StatusCode>) -> Verdict {
    match (outcome, status) {
        (Outcome::NotSent, _) => Verdict::Nothing,
        (_, Some(status)) if when.takes(status) => Verdict::Event,
        (Outcome::Answered(_), _) => Verdict::Nothing,
        (Outcome::MaybeSeen, _) => Verdict::Uncertain,
    }
}

/// A stream without an end is not waited for, nor is an upgraded connection.
fn is_readable(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_stream =
        kind.is_some_and(|it| it.to_ascii_lowercase().starts_with(b"text/event-stream"));
    !is_stream && response.status() != StatusCode::SWITCHING_PROTOCOLS
}

/// What only the answer knows.
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
        item.change(|event| making::set_keys(event, settings, &input, LATE_KEY_BYTES));
    }
    if settings.data.has_response() {
        let limit = publication.target.max_event_bytes();
        let content = answer.body.and_then(|body| publication.content(true, body, answer.headers));
        let is_whole = answer.body.is_some();
        let request = item.content.take();
        let (request, content) = (request.as_ref(), content.as_ref());
        item.change(|event| {
            making::set_data(event, settings.data, request, content, is_whole, limit);
        });
    }
}

/// Writes down what follows, answers the client, and appends the events.
async fn end(
    finished: Finished,
    exchange: Option<Exchange>,
    kept: &Kept,
    ids: &mut Vec<Box<str>>,
    mut client: Client,
) {
    let Finished { result, outcome, following, body } = finished;
    let stored = following.iter().filter(|it| it.verdict != Verdict::Nothing);
    let producing = Producing::begin(&kept.cx, stored.map(|it| &it.item));
    let (recorded, direct): (Vec<_>, Vec<_>) = following
        .into_iter()
        .filter(|it| it.verdict != Verdict::Nothing)
        .partition(|it| it.item.has_intent());
    // Handed over first, so that all syncs run beside each other.
    let mut commits = Vec::new();
    for Following { verdict, item } in direct {
        let (publication, id) = (item.publication.clone(), item.event().id.as_str().into());
        let is_waited = publication.settings.ack == Ack::Durable && verdict == Verdict::Event;
        commits.push((publication, verdict, id, append(item, is_waited)));
    }
    let mut failure = None;
    let key = keyed::end(outcome, result.as_ref().ok(), body, kept);
    let settling = record(recorded, exchange, (key, ids), &mut failure).await;
    for (publication, verdict, id, commit) in commits {
        let is_waited = publication.settings.ack == Ack::Durable && verdict == Verdict::Event;
        let stored = match commit {
            Ok(Some(commit)) => commit.await.map(drop),
            Ok(None) => Ok(()),
            Err(refused) => Err(refused.into()),
        };
        match stored {
            Ok(()) if verdict == Verdict::Event => ids.push(id),
            Ok(()) => {}
            Err(_) if publication.settings.on_error == OnError::Ignore || !is_waited => {
                publication.lost.add(1);
            }
            Err(error) => failure = Some(failed(&error)),
        }
    }
    if !ids.is_empty() {
        kept.cx.set_event_ids(ids.iter().cloned());
    }
    producing.end(&kept.cx, ids, failure.as_ref());
    client.answer(match failure {
        None => result.map(|response| tell(response, ids)),
        Some(error) => Err(error),
    });
    if let Some((exchange, owed)) = settling {
        exchange.settle(owed);
    }
}

type Settling = (Exchange, Vec<(Arc<dyn Target>, Permit, Owed)>);

/// Writes the answer and what is owed in one frame. What is owed is appended later: it is on disk.
async fn record(
    recorded: Vec<Following>,
    exchange: Option<Exchange>,
    (mut key, ids): (KeyEnd, &mut Vec<Box<str>>),
    failure: &mut Option<Error>,
) -> Option<Settling> {
    let mut exchange = exchange?;
    if recorded.is_empty() && (key == KeyEnd::Free || !exchange.has_key()) {
        exchange.close();
        return None;
    }
    let owed: Vec<_> = recorded.iter().map(|it| it.item.owed.clone()).collect();
    let is_uncertain = recorded.iter().any(|it| it.verdict == Verdict::Uncertain);
    let certain = recorded.iter().filter(|it| it.verdict == Verdict::Event);
    let certain: Vec<Box<str>> = certain.map(|it| it.item.event().id.as_str().into()).collect();
    if let KeyEnd::Done(answer) = &mut key {
        put_ids(&mut answer.headers, ids.iter().chain(&certain));
    }
    let answer = Answer { is_uncertain, owed: &owed, key: Some(key) };
    if let Err(error) = exchange.answer(answer).await {
        tracing::error!(%error, "an answer cannot be written down: what follows from it is uncertain");
        let is_failure = |it: &Following| {
            it.verdict == Verdict::Event && it.item.settings().on_error == OnError::Fail
        };
        // With a key and nothing else to follow, nobody has said that it may be lost.
        if recorded.iter().any(is_failure) || recorded.is_empty() {
            *failure = Some(failed(&error));
        }
        let is_lost = |it: &&Following| {
            it.verdict == Verdict::Event && it.item.settings().on_error == OnError::Ignore
        };
        recorded.iter().filter(is_lost).for_each(|it| it.item.publication.lost.add(1));
        return None;
    }
    ids.extend(certain);
    let owed = recorded
        .into_iter()
        .map(|Following { item, .. }| (item.publication.way().clone(), item.permit, item.owed));
    Some((exchange, owed.collect()))
}

/// The answer, and the events that follow from it.
fn tell(mut response: Response, ids: &[Box<str>]) -> Response {
    // Whose events an upstream means is not for our clients to guess.
    response.headers_mut().remove(SLUICE_EVENT_ID);
    put_ids(response.headers_mut(), ids.iter());
    response
}

fn put_ids<'a>(headers: &mut HeaderMap, ids: impl Iterator<Item = &'a Box<str>>) {
    for id in ids {
        if let Ok(id) = HeaderValue::from_str(id) {
            headers.append(SLUICE_EVENT_ID, id);
        }
    }
}

// === impl Client ===

impl Client {
    /// Once; whoever has left does not want to know.
    fn answer(&mut self, result: Result<Response, Error>) {
        if let Some(client) = self.0.take() {
            drop(client.send(result));
        }
    }
}
