//! The status of stored requests: `GET /.sluice/requests/{id}`.
//!
//! Touches only requests for that path. The router hands them to the route that took the stored
//! request, so its policies apply, `auth` above all. Answers 200 with the current status; with
//! `?wait=20s`, as soon as the request is over or the time is up. Refuses: 404 `route-none` for an
//! ID that is not a request of this client, 404 `other-instance` for one of another gateway, 410
//! `status-gone` after `status_ttl` or when its record is gone, 405, 400 `bad-target` for an
//! invalid `wait`, 503 `queue-unavailable` when the result cannot be read.
//!
//! Costs a look at each request's path; a status request reads one record. Sits behind everything
//! that identifies the client, and before everything that sends or stores. Cancel-safe.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Either};
use http::{HeaderValue, Method};
use tokio::time::Instant;
use tower::{Layer, Service};

use super::{
    answer::{self, About},
    enqueuer::{Enqueuer, Parts, watch},
};
use crate::{
    error::{Error, Kind, Method405, QueueFault},
    events::{
        queue::log::ReadError,
        request::{Fingerprint, NotAnId, Place, RequestId, StoredRequest},
    },
    http::{Context, Next, Request, Response, names::STATUS_PATH, query},
};

/// The longest `wait`.
const LONGEST: Duration = Duration::from_secs(20);
/// `Retry-After` when somebody has to intervene first.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// Makes [`RequestStatus`]es.
#[derive(Clone, Debug)]
pub struct RequestStatusLayer(Option<Arc<Enqueuer>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct RequestStatus<S> {
    enqueuer: Option<Arc<Enqueuer>>,
    inner: S,
}

// === impl RequestStatusLayer ===

impl RequestStatusLayer {
    /// Makes a layer that reports on the requests `enqueuer` stores; `None`: there are none.
    pub fn new(enqueuer: Option<Arc<Enqueuer>>) -> Self {
        Self(enqueuer)
    }
}

impl<S> Layer<S> for RequestStatusLayer {
    type Service = RequestStatus<S>;

    fn layer(&self, inner: S) -> Self::Service {
        RequestStatus { enqueuer: self.0.clone(), inner }
    }
}

// === impl RequestStatus ===

impl<S: Next> Service<Request> for RequestStatus<S> {
    type Response = Response;
    type Error = Error;
    // Boxed, so that other requests do not carry its size.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // No route has paths of its own below this one: the router sent this request here.
        let is_asked = |_: &&Arc<Enqueuer>| {
            request.cx.target().is_some_and(|target| target.merged().starts_with(STATUS_PATH))
        };
        match self.enqueuer.as_ref().filter(is_asked).cloned() {
            None => Either::Left(self.inner.call(request)),
            Some(enqueuer) => Either::Right(Box::pin(status(enqueuer, request))),
        }
    }
}

async fn status(enqueuer: Arc<Enqueuer>, request: Request) -> Result<Response, Error> {
    let Request { parts: asked, cx, .. } = request;
    if !matches!(asked.method, Method::GET | Method::HEAD) {
        let allow = HeaderValue::from_static("GET, HEAD");
        return Err(Kind::MethodNotAllowed(Method405 { allow }).into());
    }
    let parts = enqueuer.parts()?;
    let target = cx.target().ok_or(Kind::Internal)?;
    let text = target.merged().strip_prefix(STATUS_PATH).unwrap_or_default();
    let id = parts.requests.ids().read(text).map_err(not_an_id)?;
    let patience = patience(target.query())?;
    let (stored, place) = found(&enqueuer, parts, &id, &cx).await?;
    let results = parts.requests.results();
    let deadline = Instant::now() + patience;
    let waits = if patience.is_zero() { None } else { parts.waiting.enter() };
    let mut status = match &waits {
        Some(_) => watch(results, place, deadline).await,
        None => results.status(place).await,
    };
    if results.is_offline() && !status.state.is_over() {
        return Err(Kind::Queue(QueueFault::Unavailable(UNAVAILABLE)).into());
    }
    if let Some(answer) = &mut status.answer {
        (parts.changes)(&mut answer.headers);
    }
    let StoredRequest { time, status_until, .. } = stored;
    Ok(answer::status(About { id: text, time, status_until }, &status))
}

/// The request with this ID, if it belongs to this route and client and its status is still kept.
async fn found(
    enqueuer: &Enqueuer,
    parts: &Parts,
    id: &RequestId,
    cx: &Context,
) -> Result<(StoredRequest, Place), Error> {
    let unknown = || Error::from(Kind::RouteNotFound);
    let target = parts.requests.topic_of(id).ok_or_else(unknown)?;
    let unread = || Error::from(Kind::Queue(QueueFault::Unavailable(UNAVAILABLE)));
    let read = parts.requests.read(&*target, id.offset).await.map_err(|_| unread())?;
    let record = match read {
        Ok(Some(record)) => record,
        Err(ReadError::Retired { .. }) => return Err(Kind::Queue(QueueFault::StatusGone).into()),
        Ok(None) => return Err(unknown()),
        Err(error) => return Err(unread().with_source(error)),
    };
    let stored = record.record().and_then(|record| {
        // The body is not reported.
        let stored = StoredRequest::read(&record, |_| Bytes::new()).ok()?;
        Some((stored, record.partition()))
    });
    let (stored, partition) = stored.ok_or_else(unknown)?;
    let principal = cx.principal().map_or("", |principal| &principal.name);
    let place = Place { topic: target.id(), offset: id.offset };
    let is_own = stored.id(place, partition) == *id
        && *stored.route == *enqueuer.route
        && stored.principal == Fingerprint::of(parts.requests.hash_key(), principal);
    if !is_own {
        return Err(unknown());
    }
    if parts.requests.results().is_past(stored.status_until) {
        return Err(Kind::Queue(QueueFault::StatusGone).into());
    }
    Ok((stored, place))
}

/// The error for an invalid request ID.
pub fn not_an_id(why: NotAnId) -> Error {
    match why {
        NotAnId::Malformed => Kind::RouteNotFound.into(),
        NotAnId::OtherStore => Kind::Queue(QueueFault::OtherInstance).into(),
    }
}

/// Parses `wait`: seconds, or a duration as in gateway.yaml.
fn patience(query: Option<&str>) -> Result<Duration, Error> {
    let Some(wait) = query.and_then(|query| query::values(query, "wait").next()) else {
        return Ok(Duration::ZERO);
    };
    let (number, unit) = match wait.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => wait.split_at(at),
        None => (&*wait, "s"),
    };
    let number: Option<u64> = number.parse().ok();
    let wait = match (number, unit) {
        (Some(number), "ms") => Some(Duration::from_millis(number)),
        (Some(number), "s") => Some(Duration::from_secs(number)),
        _ => None,
    };
    let wait = wait.ok_or_else(|| Error::new(Kind::BadTarget).with_detail("`wait` is no time"))?;
    Ok(wait.min(LONGEST))
}
