//! Performs requests with a key once, and repeats the stored answer.
//!
//! Touches the unsafe requests of routes with `idempotency`; GET, HEAD, OPTIONS and TRACE pass.
//! Refuses: 400 `idempotency-missing` if a required key is absent, or one is invalid or repeated; 422
//! `idempotency-mismatch` for a different request with a used key; 409 `idempotency-in-flight` with
//! `Retry-After` while the first request runs; 409 `idempotency-uncertain` if nobody knows what
//! became of it; 503 `queue-full` or `queue-unavailable` if the key cannot be remembered. A request
//! that was done gets the stored answer with `Idempotent-Replayed: true`, reason
//! `idempotency-replayed`.
//!
//! Writes the key into the context, for the layer that records the exchange (`publish`, right
//! below). With `on_uncertain: resend` also writes that the upstream honours the key, which permits
//! `retry` to repeat.
//!
//! Costs, with a key: a hash of the body, a box, a lock of the table of keys; without one: a look
//! at the fields. Behind `buffer`, whose bytes it hashes, and around everything that has an effect.
//! If the future is dropped before the request was recorded, the key is unchanged; afterwards the
//! exchange continues.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
    time::Duration,
};

use futures_util::future::{BoxFuture, Either, ready};
use http::{HeaderName, HeaderValue, Method};
use tower::{Layer, Service};

use super::fingerprint::fingerprint;
use crate::{
    error::{Error, IdempotencyFault, Kind},
    http::{
        Body, Next, Request, Response,
        idempotency::{
            IdempotencyStore, Judgement, KeyHonoured, Keyed, NotAKey, StoredAnswer, key,
        },
        names::IDEMPOTENT_REPLAYED,
    },
};

/// The first request with a key is still running.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The reason of a replayed answer.
const REPLAYED: &str = "idempotency-replayed";
/// Replaces a body that was too long to keep.
const NOTE: &str = "{\"title\":\"This request was done before; its answer is not kept.\"}\n";

/// `routes[].idempotency`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The field that carries the key.
    pub header: HeaderName,
    /// Whether requests without a key are refused.
    pub is_required: bool,
    /// How long a key is remembered.
    pub ttl: Duration,
    /// Whether the upstream honours the key: then a request it may have seen is sent again.
    pub may_resend: bool,
}

/// Makes [`Idempotency`]s.
#[derive(Clone, Debug)]
pub struct IdempotencyLayer(Option<Arc<Shared>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Idempotency<S> {
    shared: Option<Arc<Shared>>,
    inner: S,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    route: Arc<str>,
    store: Arc<dyn IdempotencyStore>,
}

// === impl IdempotencyLayer ===

impl IdempotencyLayer {
    /// A layer for the route with this name; `None`: it has no `idempotency`.
    pub fn new(settings: Option<(Settings, Arc<str>, Arc<dyn IdempotencyStore>)>) -> Self {
        let shared = |(settings, route, store)| Arc::new(Shared { settings, route, store });
        Self(settings.map(shared))
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Idempotency { shared: self.0.clone(), inner }
    }
}

// === impl Idempotency ===

impl<S: Next> Service<Request> for Idempotency<S> {
    type Response = Response;
    type Error = Error;
    // Boxed, so that requests without a key do not carry its size.
    type Future = Either<S::Future, BoxFuture<'static, Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let keyed = self.shared.as_ref().map(|shared| shared.keyed(&request)).transpose();
        match (keyed, &self.shared) {
            (Ok(Some(Some(keyed))), Some(shared)) => {
                let judged = judged(shared.store.clone(), keyed, self.inner.clone(), request);
                Either::Right(Box::pin(judged))
            }
            (Ok(_), _) => Either::Left(self.inner.call(request)),
            (Err(fault), _) => Either::Right(Box::pin(ready(Err(Kind::Idempotency(fault).into())))),
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The key of a request and its fingerprint; `None`: it needs none.
    fn keyed(&self, request: &Request) -> Result<Option<Keyed>, IdempotencyFault> {
        let Request { parts, body, cx } = request;
        if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) {
            return Ok(None);
        }
        let key = key(&parts.headers, &self.settings.header);
        let key = key.map_err(|fault| match fault {
            NotAKey::Several => IdempotencyFault::Several,
            NotAKey::Invalid => IdempotencyFault::Invalid,
        })?;
        let Some(key) = key else {
            let is_required = self.settings.is_required;
            return if is_required { Err(IdempotencyFault::Missing) } else { Ok(None) };
        };
        let body = body.as_full().map_or(&[][..], |bytes| &bytes[..]);
        let target = cx.target().map(|target| target.path_and_query(true).to_string());
        let target = target.unwrap_or_default();
        Ok(Some(Keyed {
            route: self.route.clone(),
            principal: cx.principal().map(|it| it.name.clone()).unwrap_or_default(),
            key,
            fingerprint: fingerprint(&parts.method, &target, body),
            ttl: self.settings.ttl,
            may_resend: self.settings.may_resend,
        }))
    }
}

/// Acts on what is known about the key.
async fn judged<S: Next>(
    store: Arc<dyn IdempotencyStore>,
    keyed: Keyed,
    mut inner: S,
    request: Request,
) -> Result<Response, Error> {
    let honoured = KeyHonoured::by(&keyed);
    let fault = match store.judge(keyed).await.map_err(Kind::Queue)? {
        Judgement::New(rider) => {
            request.cx.set_rider(rider);
            if let Some(honoured) = honoured {
                request.cx.set_key_honoured(honoured);
            }
            return inner.call(request).await;
        }
        Judgement::Done(answer) => {
            request.cx.set_reason(REPLAYED);
            return Ok(replayed(answer));
        }
        Judgement::Running => IdempotencyFault::InFlight(RETRY_AFTER),
        Judgement::Mismatch => IdempotencyFault::Mismatch,
        Judgement::Uncertain => IdempotencyFault::Uncertain,
    };
    Err(Kind::Idempotency(fault).into())
}

/// The stored answer, or its status and a note.
fn replayed(answer: StoredAnswer) -> Response {
    let StoredAnswer { status, mut headers, body } = answer;
    let body = body.unwrap_or_else(|| {
        headers.remove(http::header::CONTENT_ENCODING);
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        NOTE.into()
    });
    headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
    let mut response = Response::new(Body::full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
