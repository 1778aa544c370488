//! Carries an exchange out to its end, whether or not somebody still waits for it.

use std::{
    future::{Future, poll_fn},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;
use uuid::Uuid;

use super::{
    follow::{complete_all, judge, read, readable},
    keyed,
    layer::Publication,
    plan::{Item, Kept, Plan},
    settings::{Ack, OnError},
    spans::Producing,
};
use crate::{
    error::{Error, Kind},
    events::{
        event::id_text,
        ingress::{Answer, Exchange, Key, KeyEnd, Owed, Room, Target, failed, refused},
        queue::{
            codec::Draft,
            log::{AppendError, Commit, Later, Permit, Refused},
            mutation::{self, Mutation},
        },
    },
    http::{Next, Outcome, Request, Response, names::SLUICE_EVENT_ID},
};

/// An event handed over to be stored.
struct Appending {
    publication: Arc<Publication>,
    id: Uuid,
    is_uncertain: bool,
    /// `None`: nobody waits for it, and its loss is counted.
    commit: Result<Option<Commit>, Refused>,
}

/// How far a request has come when its exchange begins.
pub(super) enum Way<S: Next> {
    /// It is sent once something is written.
    Ahead(S, Request),
    /// It is on its way, unless a layer below has panicked.
    Taken(Option<S::Future>),
}

/// IDs of certain events.
type Ids = SmallVec<[Uuid; 1]>;

// === impl Appending ===

impl Appending {
    /// It is stored, or could not be. Returns what the client is told in that case.
    fn end(self, stored: Result<(), AppendError>, ids: &mut Ids) -> Option<Error> {
        let settings = &self.publication.settings;
        let is_waited = settings.ack == Ack::Durable && !self.is_uncertain;
        match stored {
            Ok(()) if !self.is_uncertain => ids.push(self.id),
            Ok(()) => {}
            Err(_) if settings.on_error == OnError::Ignore || !is_waited => {
                self.publication.lost.add(1);
            }
            Err(error) => return Some(failed(&error)),
        }
        None
    }
}

// === impl Way ===

impl<S: Next> Way<S> {
    /// Sends the request. After a panic below, nobody knows what was sent.
    pub(super) fn begin(inner: &mut S, request: Request) -> Self {
        Self::Taken(catch_unwind(AssertUnwindSafe(|| inner.call(request))).ok())
    }

    fn go(self) -> Option<S::Future> {
        let taken = match self {
            Self::Ahead(mut inner, request) => Self::begin(&mut inner, request),
            taken @ Self::Taken(_) => taken,
        };
        match taken {
            Self::Ahead(..) => None,
            Self::Taken(future) => future,
        }
    }
}

/// Carries `plan` out and returns the client's response.
pub(super) async fn run<S: Next>(plan: Plan, way: Way<S>) -> Result<Response, Error> {
    let Plan { mut items, mut room, key, request: kept } = plan;
    let mut ids = Ids::new();
    if items.iter().any(Item::comes_first) {
        // On an error the room goes, and frees the key as well: nobody has used it.
        Box::pin(append_first(&mut items, &mut ids, &kept)).await?;
    }
    let (mut exchange, mut body) = (None, None);
    if let Some(room) = room.take_if(|_| !mutation::is(Mutation::IntentAfterForwarding)) {
        exchange = Some(begin(room, &items, &kept).await.map_err(|error| failed(&error))?);
    }
    let mut result = match way.go() {
        Some(future) => {
            tokio::pin!(future);
            poll_fn(|task| watch(future.as_mut(), task, (&kept, key.as_deref()))).await
        }
        None => Err(panicked()),
    };
    if let Some(room) = room {
        exchange = begin(room, &items, &kept).await.ok();
    }
    let outcome = Outcome::of(&result, &kept.cx);
    judge(&mut items, outcome, &result, &kept.cx);
    if let Some(limit) = readable(&items, outcome, &result, key.is_some()) {
        (result, body) = Box::pin(read(result, limit)).await;
    }
    complete_all(&mut items, &result, body.as_ref(), &kept);
    let producing = Producing::begin(&kept.cx, items.iter());
    // Hand these over first, so that all syncs run in parallel.
    let direct = items.extract_if(.., |item| !item.has_intent()).map(append);
    let direct: SmallVec<[Appending; 1]> = direct.collect();
    let (mut failure, mut settling) = (None, None);
    if let Some(exchange) = exchange {
        let end = key_end(&exchange, outcome, &result, body, &kept);
        settling = record(items, exchange, (end, &mut ids), &mut failure).await;
    }
    for mut appending in direct {
        let stored = match mem::replace(&mut appending.commit, Ok(None)) {
            Ok(Some(commit)) => commit.await.map(drop),
            Ok(None) => Ok(()),
            Err(refused) => Err(refused.into()),
        };
        failure = appending.end(stored, &mut ids).or(failure);
    }
    producing.end(&kept.cx, &ids, failure.as_ref());
    match (failure, &mut result) {
        (Some(error), _) => result = Err(error),
        (None, result) => result.iter_mut().for_each(|response| tell(response, &ids)),
    }
    if !ids.is_empty() {
        kept.cx.set_event_ids(ids);
    }
    // Already on disk: this only hands it on, without waiting.
    if let Some((exchange, owed)) = settling {
        exchange.settle(owed);
    }
    result
}

/// Records what may happen: once this returns the request may be sent.
async fn begin(room: Room, items: &[Item], kept: &Kept) -> Result<Exchange, AppendError> {
    let intents = items.iter().filter(|item| item.has_intent());
    let intents: SmallVec<[&Owed; 1]> = intents.map(|item| &*item.owed).collect();
    room.begin(&intents, kept.about()).await
}

/// The result of the request's key, if it has one.
fn key_end(
    exchange: &Exchange,
    outcome: Outcome,
    result: &Result<Response, Error>,
    body: Option<Bytes>,
    kept: &Kept,
) -> KeyEnd {
    if exchange.has_key() {
        keyed::end(outcome, result.as_ref().ok(), body, kept)
    } else {
        KeyEnd::Free
    }
}

/// Appends the events that come before the request. On an error the request is not sent.
async fn append_first(items: &mut Vec<Item>, ids: &mut Ids, kept: &Kept) -> Result<(), Error> {
    let first: Vec<_> = items.extract_if(.., |item| item.comes_first()).collect();
    let producing = Producing::begin(&kept.cx, first.iter());
    let appended = append_all(first, ids).await;
    producing.end(&kept.cx, ids, appended.as_ref().err());
    appended
}

async fn append_all(items: Vec<Item>, ids: &mut Ids) -> Result<(), Error> {
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
        let later = Later::IsWatched { by: publication.clone(), goes_on: false };
        publication.way().append_later(permit, drafts, later).map(|()| None)
    };
    Appending { publication, id, is_uncertain, commit }
}

/// Polls the request on its way. Once its time is up nobody knows what becomes of its key, whether or
/// not the client is still there. After a panic below, nobody knows what was sent.
fn watch<F: Future<Output = Result<Response, Error>>>(
    future: Pin<&mut F>,
    task: &mut Task<'_>,
    (kept, key): (&Kept, Option<&Key>),
) -> Poll<Result<Response, Error>> {
    let polled = catch_unwind(AssertUnwindSafe(|| future.poll(task)));
    let polled = polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())));
    if let (Some(key), true) = (key, polled.is_pending())
        && kept.cx.is_overtime()
    {
        key.doubt();
    }
    polled
}

#[cold]
fn panicked() -> Error {
    Error::new(Kind::Internal).with_detail("a panic below `publish`")
}

type Settling = (Exchange, Vec<(Arc<dyn Target>, Permit, Draft)>);

/// Writes the answer and the owed events in one frame. They are appended later: the debt is on
/// disk.
async fn record(
    items: Vec<Item>,
    mut exchange: Exchange,
    (mut key, ids): (KeyEnd, &mut Ids),
    failure: &mut Option<Error>,
) -> Option<Settling> {
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

/// Adds the IDs of its events to an answer.
fn tell(response: &mut Response, ids: &[Uuid]) {
    let headers = response.headers_mut();
    // An upstream's event IDs are not for our clients.
    match ids.split_first() {
        Some((first, others)) => {
            drop(headers.insert(SLUICE_EVENT_ID, id_value(*first)));
            put_ids(headers, others);
        }
        None => drop(headers.remove(SLUICE_EVENT_ID)),
    }
}

fn put_ids<'a>(headers: &mut HeaderMap, ids: impl IntoIterator<Item = &'a Uuid>) {
    for id in ids {
        headers.append(SLUICE_EVENT_ID, id_value(*id));
    }
}

fn id_value(id: Uuid) -> HeaderValue {
    // Digits, letters and dashes only.
    HeaderValue::from_bytes(&id_text(id)).unwrap_or(HeaderValue::from_static(""))
}
