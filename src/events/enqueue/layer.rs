//! Stores requests instead of sending them, or because nothing of them could be sent.
//!
//! Touches the requests of routes with `enqueue`, and the unsafe ones of routes with `spill`. Answers what
//! is on disk with 202, `Location` and `Retry-After`, reason `enqueued` or `spilled`; with
//! `on_prefer: true` a client that prefers to wait gets the answer itself, if it comes in time. Refuses,
//! with nothing stored: 503 `queue-full`, `queue-disk`, `queue-unavailable` where there is no room, 413
//! `event-too-large`, 422 `idempotency-mismatch` for another request under a key that a stored one has.
//! 503 `queue-unavailable` also tells that a request may be stored, where its log failed meanwhile; for who
//! goes by its outcome it may have been seen, as it may be sent yet.
//! What could not be sent and finds no room either is answered the same, since it may come again once there
//! is room or an upstream; what is too large to be stored with what kept it from being sent. One with a key
//! is not even sent while the topic is not open. Writes to the context that the request is done later.
//!
//! A request that may be spilled goes on in a task of the worker's drained spawner when the client leaves, so
//! that it comes to one of its ends. Of a key with a spilled request that waits nothing is sent, nor
//! is a request that comes again under the `Idempotency-Key` of one that is stored: it gets the same 202.
//!
//! Costs, where it stores, one copy of the fields and what waits for the disk; a route with `spill` that
//! copy for each request, and a lock where it has a key; elsewhere one look at an `Option`. It
//! sits inside `headers`, so that what is stored is what would have been sent, and outside all attempts.

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
    /// A layer that stores with this; `None`: nothing.
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
            // Nobody wants the answer to a question later.
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
    // It is on disk: whoever waits for the result holds no body for it.
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
    // Nobody knows what is stored before one with a key: that one is refused.
    if enqueuer.parts().is_err() && !making::is_keyed(&enqueuer.settings, &request) {
        return send_only(&enqueuer, inner, request).await;
    }
    let stored = enqueuer.stored(&request)?;
    let tasks = enqueuer.parts()?.tasks.clone();
    let sending = async move { send_or_store(&enqueuer, inner, request, stored).await };
    // To its end: the drain waits for it, the client does not have to.
    tasks.runs_on("spill", sending).await
}

/// While there is nothing to store it in.
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

/// Stores it; those of its key that come from now on come after it.
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
