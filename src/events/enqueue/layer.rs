//! Stores requests instead of sending them (`enqueue`), or because nothing of them could be sent
//! (`spill`).
//!
//! Touches the requests of routes with `enqueue`, and the unsafe ones of routes with `spill`. Once
//! a request is on disk, answers 202 with `Location` and `Retry-After`, reason `enqueued` or
//! `spilled`. With `on_prefer: true` a client that prefers to wait gets the upstream's answer, if
//! it comes in time. Writes to the context that the request is done later.
//!
//! Refuses with nothing stored: 503 `queue-full`, `queue-disk` or `queue-unavailable` when there is
//! no room, 413 `event-too-large`, 422 `idempotency-mismatch` for a different request under the key
//! of a stored one. If the log fails during the append, the answer is 503 `queue-unavailable` and
//! the request may be stored; it then counts as possibly seen by the upstream, because it may still
//! be sent.
//!
//! A request that could be neither sent nor stored gets the queue's refusal, since there may be
//! room later; one that is too large to store gets the error that kept it from being sent. While
//! the topic is not open, a request with a key is not even sent.
//!
//! A request that may be spilled runs in a task of the worker's drained spawner, so it reaches one
//! of its ends even if its client leaves. While a spilled request of a key waits, no later request
//! of that key is sent. Nor is one that repeats the `Idempotency-Key` of a stored request: it gets
//! the same 202.
//!
//! Cost of storing: one copy of the fields, and the wait for the disk. A route with `spill` pays
//! that copy for each request, and a lock if it has a key. Other routes pay one look at an
//! `Option`. Sits inside `headers`, so that what is stored is what would have been sent, and
//! outside all attempts.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::{BoxFuture, Either};
use tower::{Layer, Service};

use super::{
    enqueuer::{Enqueuer, Kept},
    making,
    prefer::Preference,
    settings::When,
    spilling::{is_told, may_spill},
};
use crate::{
    error::Error,
    events::request::StoredRequest,
    http::{Context, Next, Request, Response},
};

/// Makes [`Enqueue`]s.
#[derive(Clone, Debug)]
pub struct EnqueueLayer(Option<Arc<Enqueuer>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Enqueue<S> {
    enqueuer: Option<Arc<Enqueuer>>,
    inner: S,
}

// === impl EnqueueLayer ===

impl EnqueueLayer {
    /// Makes a layer that stores with `enqueuer`, or one that does nothing.
    pub fn new(enqueuer: Option<Arc<Enqueuer>>) -> Self {
        Self(enqueuer)
    }
}

impl<S> Layer<S> for EnqueueLayer {
    type Service = Enqueue<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Enqueue { enqueuer: self.0.clone(), inner }
    }
}

// === impl Enqueue ===

impl<S: Next> Service<Request> for Enqueue<S> {
    type Response = Response;
    type Error = Error;
    // Boxed, so that requests that are only sent do not carry its size.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let has_work = |it: &&Arc<Enqueuer>| match it.settings.when {
            When::Always { .. } => true,
            // A safe request asks a question; nobody wants the answer later.
            When::Unsent => !request.parts.method.is_safe(),
        };
        match self.enqueuer.as_ref().filter(has_work).cloned() {
            None => Either::Left(self.inner.call(request)),
            Some(enqueuer) => Either::Right(match enqueuer.settings.when {
                When::Always { .. } => Box::pin(enqueue(enqueuer, request)),
                When::Unsent => Box::pin(spill(enqueuer, self.inner.clone(), request)),
            }),
        }
    }
}

async fn enqueue(enqueuer: Arc<Enqueuer>, request: Request) -> Result<Response, Error> {
    let preference = Preference::of(&request.parts.headers);
    let stored = enqueuer.stored(&request)?;
    let cx = request.cx.clone();
    let kept = keep(&enqueuer, stored, &cx).await?;
    // It is on disk: a client that waits for the result keeps no body in memory.
    drop(request);
    cx.release_body();
    enqueuer.answer(&kept, preference, &cx).await
}

async fn keep(enqueuer: &Enqueuer, stored: StoredRequest, cx: &Context) -> Result<Kept, Error> {
    let kept = enqueuer.store(enqueuer.admit(stored)?).await?;
    cx.set_deferred();
    Ok(kept)
}

async fn spill<S: Next>(
    enqueuer: Arc<Enqueuer>,
    inner: S,
    request: Request,
) -> Result<Response, Error> {
    // Without the store nobody knows what was stored earlier under a key, so a request with a key
    // is refused.
    if enqueuer.parts().is_err() && !making::is_keyed(&enqueuer.settings, &request) {
        return send_only(&enqueuer, inner, request).await;
    }
    let stored = enqueuer.stored(&request)?;
    let tasks = enqueuer.parts()?.tasks.clone();
    let sending = async move { send_or_store(&enqueuer, inner, request, stored).await };
    // It runs to its end: the drain waits for it, the client need not.
    tasks.runs_on("spill", sending).await
}

/// Sends without the option to store: there is no store.
async fn send_only<S: Next>(
    enqueuer: &Enqueuer,
    mut inner: S,
    request: Request,
) -> Result<Response, Error> {
    let cx = request.cx.clone();
    let result = inner.call(request).await;
    match enqueuer.parts() {
        Err(error) if may_spill(&result, &cx) => Err(error),
        _ => result,
    }
}

async fn send_or_store<S: Next>(
    enqueuer: &Enqueuer,
    mut inner: S,
    request: Request,
    stored: StoredRequest,
) -> Result<Response, Error> {
    let preference = Preference::of(&request.parts.headers);
    let cx = request.cx.clone();
    let parts = enqueuer.parts()?;
    if parts.requests.holds_back(&*parts.target, &stored) {
        let kept = spill_one(enqueuer, stored, &cx).await?;
        return enqueuer.answer(&kept, preference, &cx).await;
    }
    let result = inner.call(request).await;
    if !may_spill(&result, &cx) {
        return result;
    }
    match spill_one(enqueuer, stored, &cx).await {
        Ok(kept) => enqueuer.answer(&kept, preference, &cx).await,
        Err(error) if is_told(error.kind()) => Err(error),
        Err(error) => {
            tracing::debug!(%error, "what could not be sent cannot be stored either");
            result
        }
    }
}

/// Stores the request; later requests of its key are ordered behind it.
async fn spill_one(
    enqueuer: &Enqueuer,
    stored: StoredRequest,
    cx: &Context,
) -> Result<Kept, Error> {
    let parts = enqueuer.parts()?;
    let key = stored.key.clone();
    let spilling = key.as_ref().map(|key| parts.requests.begin(&*parts.target, key));
    let kept = keep(enqueuer, stored, cx).await?;
    if let Some(spilling) = spilling {
        spilling.stored(kept.place.offset);
    }
    Ok(kept)
}
