//! `mirror`: copies a share of the requests to another upstream and discards the answers.
//!
//! Touches the requests of routes with `mirror`, but never their outcome: a copy has its own task,
//! context and deadline, so it neither delays nor fails the request, and continues when the client
//! leaves. A copy carries no credentials (`Authorization`, `Cookie`, `Proxy-Authorization`, API
//! keys) and is marked by `x-sluice-mirror`. Copies are not logged; `sluice_mirrored_total` counts
//! them.
//!
//! Only bodies in memory are copied: a request whose body is still streaming, or that asks for an
//! upgrade, gets no copy. Each route and worker has at most [`Settings::max_in_flight`] copies in
//! flight; further ones are dropped and counted. The drain waits for copies as for requests.
//!
//! Costs a random number; a copy costs its head, a context and a task, and shares the body. Sits
//! before header changes and rewrite, and is given the steps that apply them to the copy. Dropping
//! the future does not affect copies.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, header};
use http_body_util::BodyExt;
use tower::{Layer, Service};

use crate::{
    error::Error,
    http::{Body, Context, Next, Request, Response, names::X_SLUICE_MIRROR},
    telemetry::{
        in_flight::Counter as InFlight,
        metrics::{Cells, Counter, MIRRORED},
        task::Spawner,
    },
};

/// How many bytes of an answer are read so that its connection can be reused.
const DISCARDED: usize = 1024 * 1024;

/// `routes[].mirror`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The share of requests that are copied, 0 to 1.
    pub share: f64,
    /// Fields that are removed from a copy, besides those that always carry credentials.
    pub credentials: Vec<HeaderName>,
    /// The time limit from the start of a copy to the end of its answer.
    pub deadline: Duration,
    /// The maximum number of copies in flight on one worker.
    pub max_in_flight: usize,
}

/// Makes [`Mirror`]s; without a [`Copier`] nothing is copied.
#[derive(Clone, Debug)]
pub struct MirrorLayer<M>(Option<Arc<Copier<M>>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Mirror<M, S> {
    copier: Option<Arc<Copier<M>>>,
    inner: S,
}

/// Makes the copies and sends them: `to` is the rest of a stack, as [`Next`] is.
#[derive(Debug)]
pub struct Copier<M> {
    settings: Settings,
    to: M,
    tasks: Spawner,
    under_way: Arc<InFlight>,
    outcomes: Outcomes,
}

/// [`MIRRORED`] for one upstream on one worker.
#[derive(Debug)]
struct Outcomes {
    answered: Counter,
    failed: Counter,
    timeout: Counter,
    dropped: Counter,
    not_in_memory: Counter,
}

// === impl MirrorLayer ===

impl<M> MirrorLayer<M> {
    /// A layer that copies; `None`: nothing is copied.
    pub fn new(copier: Option<Copier<M>>) -> Self {
        Self(copier.map(Arc::new))
    }
}

impl<M, S> Layer<S> for MirrorLayer<M> {
    type Service = Mirror<M, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Mirror { copier: self.0.clone(), inner }
    }
}

// === impl Mirror ===

impl<M: Next + Sync, S: Next> Service<Request> for Mirror<M, S> {
    type Response = Response;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&mut self, _task: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        if let Some(copier) = &self.copier
            && fastrand::f64() < copier.settings.share
        {
            copier.send_copy(&request);
        }
        self.inner.call(request)
    }
}

// === impl Copier ===

impl<M: Next + Sync> Copier<M> {
    /// Copies to the upstream with this name, reached through `to`, in tasks of `tasks`.
    pub fn new(settings: Settings, upstream: &str, to: M, tasks: Spawner, cells: &Cells) -> Self {
        let outcomes = Outcomes::new(upstream, cells);
        Self { settings, to, tasks, under_way: Arc::default(), outcomes }
    }

    fn send_copy(self: &Arc<Self>, request: &Request) {
        let Some(copy) = self.copy(request) else {
            return self.outcomes.not_in_memory.add(1);
        };
        let Some(place) = self.under_way.try_enter(self.settings.max_in_flight) else {
            return self.outcomes.dropped.add(1);
        };
        let (copier, mut to) = (self.clone(), self.to.clone());
        // Nobody waits for it: its outcome is only counted.
        drop(self.tasks.spawn("mirror", async move {
            let _place = place;
            let exchange = async { discard(to.call(copy).await?).await };
            let outcomes = &copier.outcomes;
            match tokio::time::timeout(copier.settings.deadline, exchange).await {
                Ok(Ok(())) => outcomes.answered.add(1),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a mirrored request failed");
                    outcomes.failed.add(1);
                }
                Err(_) => outcomes.timeout.add(1),
            }
        }));
    }

    /// A copy of the request, with its own context; `None` if it cannot be copied.
    fn copy(&self, request: &Request) -> Option<Request> {
        let Request { parts, body, cx } = request;
        let is_upgrade = parts.headers.contains_key(header::UPGRADE);
        if is_upgrade || !body.is_in_memory() || body.seen() > 0 {
            return None;
        }
        let body = body.as_full().map_or_else(Body::empty, |bytes| Body::full(bytes.clone()));
        let (mut copied, ()) = http::Request::new(()).into_parts();
        copied.method = parts.method.clone();
        copied.uri = parts.uri.clone();
        copied.version = parts.version;
        copied.headers = self.fields(&parts.headers);
        Some(Request { parts: Box::new(copied), body, cx: context_of(cx) })
    }

    fn fields(&self, headers: &HeaderMap) -> HeaderMap {
        let mut fields = headers.clone();
        let always = [header::AUTHORIZATION, header::COOKIE, header::PROXY_AUTHORIZATION];
        for name in always.iter().chain(&self.settings.credentials) {
            fields.remove(name);
        }
        fields.insert(X_SLUICE_MIRROR, HeaderValue::from_static("1"));
        fields
    }
}

/// A context with what the steps behind the mirror need. It is separate from the request's own: a
/// copy's attempts are not the request's, and it has one upstream.
fn context_of(cx: &Context) -> Context {
    let copy = Context::new(cx.peer().clone(), cx.method().clone(), cx.version());
    if let Some(ip) = cx.client_ip() {
        copy.set_client_ip(ip);
    }
    if let Some(host) = cx.host() {
        copy.set_host(host.into());
    }
    if let Some(target) = cx.target() {
        copy.set_target(target.clone());
    }
    if let Some(id) = cx.request_id() {
        copy.set_request_id(id.clone());
    }
    if let Some(bound) = cx.bound() {
        copy.set_bound(bound.clone());
    }
    copy
}

/// Reads an answer to its end, if it is short: then its connection can be reused.
async fn discard(response: Response) -> Result<(), Error> {
    let mut body = response.into_body();
    let mut seen = 0;
    while let Some(frame) = body.frame().await {
        seen += frame?.data_ref().map_or(0, bytes::Bytes::len);
        if seen > DISCARDED {
            break;
        }
    }
    Ok(())
}

// === impl Outcomes ===

impl Outcomes {
    fn new(upstream: &str, cells: &Cells) -> Self {
        let counter = |outcome| cells.counter(&MIRRORED, &[upstream, outcome]);
        Self {
            answered: counter("answered"),
            failed: counter("failed"),
            timeout: counter("timeout"),
            dropped: counter("dropped"),
            not_in_memory: counter("not-in-memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future;

    use futures_util::FutureExt;
    use http::Method;
    use tokio::sync::mpsc;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        middleware::testing::{fed, get, read, request},
        telemetry::metrics::Metrics,
    };

    fn settings() -> Settings {
        Settings {
            share: 1.0,
            credentials: vec![HeaderName::from_static("x-api-key")],
            deadline: Duration::from_secs(1),
            max_in_flight: 2,
        }
    }

    struct Setup<M> {
        metrics: Metrics,
        tasks: Spawner,
        layer: MirrorLayer<M>,
    }

    impl<M: Next + Sync> Setup<M> {
        fn new(settings: Settings, to: M) -> Self {
            let (metrics, tasks) = (Metrics::new(), Spawner::new());
            let copier = Copier::new(settings, "next", to, tasks.clone(), &metrics.thread());
            Self { metrics, tasks, layer: MirrorLayer::new(Some(copier)) }
        }

        /// The answer to the request itself, which must be there at once.
        fn call(&self, request: Request) -> Response {
            let inner = service_fn(|request: Request| {
                future::ready(Ok::<_, Error>(Response::new(request.body)))
            });
            let answer = self.layer.layer(inner).oneshot(request).now_or_never();
            answer.expect("the mirror delays nothing").unwrap()
        }

        fn counted(&self, outcome: &str) -> u64 {
            let series =
                format!("sluice_mirrored_total{{upstream=\"next\",outcome=\"{outcome}\"}} ");
            let text = self.metrics.render();
            text.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok()).unwrap()
        }
    }

    #[tokio::test]
    async fn a_copy_has_the_body_and_no_credentials() {
        let (sent, mut copies) = mpsc::channel(1);
        let to = service_fn(move |request: Request| {
            sent.try_send(request).unwrap();
            future::ready(Ok::<_, Error>(Response::new(Body::empty())))
        });
        let setup = Setup::new(settings(), to);
        let mut post = request(Method::POST, "/orders?a=b", Body::full("order"));
        for name in ["authorization", "cookie", "proxy-authorization", "x-api-key", "x-other"] {
            post.parts.headers.insert(name, HeaderValue::from_static("v"));
        }
        let answer = setup.call(post);
        assert_eq!(read(answer.into_body()).await.unwrap(), "order", "the request has its own");
        let copy = copies.recv().await.unwrap();
        let names: Vec<_> = copy.parts.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["x-other", "x-sluice-mirror"]);
        assert_eq!((copy.parts.method, copy.parts.uri.path()), (Method::POST, "/orders"));
        assert_eq!(copy.cx.target().unwrap().query(), Some("a=b"));
        assert_eq!(read(copy.body).await.unwrap(), "order");
        setup.tasks.drained().await;
        assert_eq!(setup.counted("answered"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_mirror_that_hangs_is_bounded_and_ends_at_its_deadline() {
        let to = service_fn(|_: Request| future::pending::<Result<Response, Error>>());
        let setup = Setup::new(settings(), to);
        for _ in 0..5 {
            setup.call(get("/"));
        }
        assert_eq!(setup.tasks.running(), 2);
        assert_eq!(setup.counted("dropped"), 3);
        setup.tasks.drained().await;
        assert_eq!(setup.counted("timeout"), 2);
    }

    #[tokio::test]
    async fn a_failure_of_the_copy_is_only_counted() {
        let to = service_fn(async |_: Request| {
            Err::<Response, Error>(crate::error::Kind::UpstreamConnect.into())
        });
        let setup = Setup::new(settings(), to);
        setup.call(get("/"));
        setup.tasks.drained().await;
        assert_eq!(setup.counted("failed"), 1);
    }

    #[tokio::test]
    async fn what_is_not_in_memory_has_no_copy() {
        let to = service_fn(async |_: Request| -> Result<Response, Error> { panic!("copied") });
        let setup = Setup::new(settings(), to);
        let (_feed, body) = fed();
        setup.call(request(Method::POST, "/", body));
        let mut upgrade = get("/");
        upgrade.parts.headers.insert("upgrade", HeaderValue::from_static("websocket"));
        setup.call(upgrade);
        assert_eq!(setup.counted("not-in-memory"), 2);
        let none = Setup::new(Settings { share: 0.0, ..settings() }, to);
        none.call(get("/"));
        assert_eq!(none.tasks.running(), 0);
    }
}
