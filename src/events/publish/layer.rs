//! Publishes events about requests, before or after they are sent.
//!
//! Touches requests of routes with `publish`, and keyed requests of routes with `idempotency`,
//! whose key is in the context: its result is recorded together with everything else. Refuses
//! before anything is sent: 503 `queue-full`, `queue-disk` or `queue-unavailable` when there is no
//! room for the events, 413 `event-too-large`, 400 `event-key-missing`. If the upstream's answer
//! cannot be recorded and `on_error` is `fail`, answers 503 `queue-unavailable` in its place: the
//! upstream has acted, and the event ends as `<type>.uncertain`. Adds `sluice-event-id` to answers
//! whose events are certain, and writes their IDs to the context. Counts
//! `sluice_queue_dropped_total`.
//!
//! The exchange runs in a task of the worker's drained spawner. A client that leaves drops only its
//! own wait. A failure caused by time alone is reported to the client while the attempt runs on
//! (`Context::allow_overtime`).
//!
//! Cost for a route that publishes: a boxed future, and the wait for the disk; elsewhere one look
//! at an `Option`. Sits behind everything that may refuse, and behind `buffer`, whose bytes it
//! shares; before `action`, so that a route that answers by itself publishes too.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::{
    making::{self, Content, Payload},
    plan::{Plan, key_of},
    run::{Way, run},
    settings::Settings,
};
use crate::{
    error::{Error, Kind, QueueFault},
    events::{
        ingress::{Ingress, Preset, Target, Topics},
        queue::log::{AppendError, Watch},
    },
    http::{Context, Next, Request, Response},
    telemetry::{
        clock,
        metrics::{Cells, Counter, QUEUE_DROPPED},
        task::{RunsOn, Spawner},
    },
};

/// `Retry-After` when somebody has to intervene first.
const UNAVAILABLE: Duration = Duration::from_secs(30);

/// What a route publishes with; one for each worker and route.
pub struct Publisher(Option<Parts>);

/// `None`: the store or a topic is not there, and every request of the route is refused.
struct Parts {
    publications: Vec<Arc<Publication>>,
    source: String,
    ingress: Ingress,
    tasks: Spawner,
}

/// One event that a route publishes, and its topic.
pub(super) struct Publication {
    pub(super) settings: Settings,
    pub(super) target: Arc<dyn Target>,
    /// Where its events wait, if they are delayed.
    pub(super) waits: Option<Arc<dyn Target>>,
    /// What all its events have in common.
    pub(super) preset: Preset,
    /// Events that could not be stored and whose loss the route accepts.
    pub(super) lost: Counter,
    /// Bodies left out because they could not be parsed.
    unreadable: Counter,
}

/// Makes [`Publish`]es.
#[derive(Clone, Debug)]
pub struct PublishLayer(Option<Arc<Publisher>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Publish<S> {
    publisher: Option<Arc<Publisher>>,
    inner: S,
}

pin_project! {
    /// The response, from the route itself or from the task that runs the exchange.
    pub struct ResponseFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Passed { #[pin] inner: F },
        Refused { error: Option<Error> },
        Running { exchange: Exchange },
    }
}

/// An exchange that runs to its end, and what its client is told before that.
struct Exchange {
    exchange: RunsOn<Result<Response, Error>>,
    cx: Context,
}

// === impl Publisher ===

impl Publisher {
    /// For a route without a store: nothing it asks for can be kept, so nothing is sent.
    pub fn unavailable() -> Self {
        Self(None)
    }

    /// Publishes these events as the route of this name, and records the results of idempotency
    /// keys. If a topic is missing, the result is [`Publisher::unavailable`].
    pub fn new(
        settings: &[Settings],
        (instance, route): (&str, &str),
        (topics, ingress): (&dyn Topics, &Ingress),
        tasks: Spawner,
        cells: &Cells,
    ) -> Self {
        let source = format!("/sluice/{instance}/{route}");
        let publication = |settings: &Settings| {
            let target = topics.named(&settings.topic)?;
            let waits =
                if settings.delay.is_zero() { None } else { Some(topics.delayed(target.id())?) };
            Some(Arc::new(Publication {
                target,
                waits,
                preset: Preset::new(&source, &settings.kind),
                lost: cells.counter(&QUEUE_DROPPED, &[&settings.topic, "on-error-ignore"]),
                unreadable: cells.counter(&QUEUE_DROPPED, &[&settings.topic, "not-redactable"]),
                settings: settings.clone(),
            }))
        };
        let publications = settings.iter().map(publication).collect::<Option<Vec<_>>>();
        let Some(publications) = publications else {
            tracing::error!(%route, "a topic that this route publishes to is not there: its requests are refused");
            return Self::unavailable();
        };
        Self(Some(Parts { publications, source, ingress: ingress.clone(), tasks }))
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.0.as_ref().map(|parts| &parts.source);
        f.debug_struct("Publisher").field("source", &source).finish_non_exhaustive()
    }
}

// === impl Publication ===

impl Publication {
    /// Where its events are appended.
    pub(super) fn way(&self) -> &Arc<dyn Target> {
        self.waits.as_ref().unwrap_or(&self.target)
    }

    /// A body as the event may carry it, if it `is_wanted`. One that cannot be parsed is left out
    /// and counted, never stored unredacted.
    pub(super) fn content(
        &self,
        is_wanted: bool,
        body: &Bytes,
        headers: &HeaderMap,
    ) -> Option<Content> {
        let content = is_wanted.then(|| Content::of(body, headers, &self.settings))?;
        if content.is_err() {
            self.unreadable.add(1);
        }
        content.ok()
    }

    /// The request's body as the only data, as [`Publication::content`].
    pub(super) fn request_payload<'a>(&self, body: &Bytes, headers: &'a HeaderMap) -> Payload<'a> {
        making::request_payload(body, headers, &self.settings).unwrap_or_else(|_| {
            self.unreadable.add(1);
            Payload::default()
        })
    }
}

impl Watch for Publication {
    /// Nobody waits for it: it is lost.
    fn failed(&self, _: AppendError) {
        self.lost.add(1);
    }
}

// === impl PublishLayer ===

impl PublishLayer {
    /// Makes a layer that publishes with `publisher`, or one that does nothing.
    pub fn new(publisher: Option<Arc<Publisher>>) -> Self {
        Self(publisher)
    }
}

impl<S> Layer<S> for PublishLayer {
    type Service = Publish<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Publish { publisher: self.0.clone(), inner }
    }
}

// === impl Publish ===

impl<S: Next> Service<Request> for Publish<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let has_work = |it: &&Arc<Publisher>| {
            let has_events = it.0.as_ref().is_none_or(|parts| !parts.publications.is_empty());
            has_events || request.cx.rider().is_some()
        };
        let Some(publisher) = self.publisher.as_ref().filter(has_work) else {
            return ResponseFuture { state: State::Passed { inner: self.inner.call(request) } };
        };
        let Some(Parts { publications, source, ingress, tasks }) = &publisher.0 else {
            let fault = QueueFault::Unavailable(UNAVAILABLE);
            return ResponseFuture {
                state: State::Refused { error: Some(Kind::Queue(fault).into()) },
            };
        };
        let now = clock::unix(clock::tick());
        let state = match Plan::new(publications, source, ingress, &request, now) {
            Ok(plan) => {
                let cx = request.cx.clone();
                cx.allow_overtime();
                let way = if plan.writes_first() {
                    Way::Ahead(self.inner.clone(), request)
                } else {
                    Way::begin(&mut self.inner, request)
                };
                let exchange = tasks.runs_on("publish", run(plan, way));
                State::Running { exchange: Exchange { exchange, cx } }
            }
            Err(error) => {
                if let Some(key) = key_of(&request.cx) {
                    key.release();
                }
                State::Refused { error: Some(error) }
            }
        };
        ResponseFuture { state }
    }
}

// === impl ResponseFuture ===

impl<F: Future<Output = Result<Response, Error>>> Future for ResponseFuture<F> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Passed { inner } => inner.poll(cx),
            StateProj::Refused { error } => {
                Poll::Ready(Err(error.take().unwrap_or_else(|| Kind::Internal.into())))
            }
            StateProj::Running { exchange } => exchange.poll(cx),
        }
    }
}

// === impl Exchange ===

impl Exchange {
    fn poll(&mut self, task: &mut Task<'_>) -> Poll<Result<Response, Error>> {
        let polled = Pin::new(&mut self.exchange).poll(task);
        if polled.is_pending()
            && let Some(error) = self.cx.take_overtime()
        {
            self.exchange.detach();
            return Poll::Ready(Err(error));
        }
        polled
    }
}
