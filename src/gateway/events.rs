//! The event endpoints as a service of the workers and as a part of the admin listener.
//!
//! A client of `events_api` needs the scope for its call: `topic:<name>:publish` or
//! `subscription:<name>:consume`. A client admitted by the service of `auth.forward` has no scopes,
//! and may use every topic and subscription. Nothing else of the queue is accessible.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context as Task, Poll},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::request::Parts;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::Value;
use tower::Service;

use crate::{
    error::Error,
    events::{
        Events,
        api::{self, Access, Call, Endpoint, Payload, Problem},
        facade::Refusal,
    },
    http::{Body, Principal, Request, Response, context::RouteInfo},
    middleware::auth::jwt,
};

/// What there is to serve.
#[derive(Clone, Debug)]
pub(super) enum Served {
    /// Nothing: there are no topics.
    Nothing,
    /// The store is not open (yet).
    Closed,
    /// The store was closed because the gateway is about to stop.
    Over,
    /// The open store.
    Open(Arc<dyn Events>),
}

/// Answers publishers and consumers. One per worker.
#[derive(Clone, Debug)]
pub(super) struct EventService {
    served: Served,
    info: Arc<RouteInfo>,
}

// === impl Served ===

impl Served {
    /// The implementation, or the refusal.
    fn events(self, is_operator: bool) -> Result<Arc<dyn Events>, Problem> {
        match self {
            Self::Open(events) => Ok(events),
            Self::Nothing => Err(Problem::no_store()),
            Self::Over => Err(Problem::refused(&Refusal::Draining, is_operator)),
            Self::Closed => {
                let detail = "the store is not open: the log says what it waits for";
                Err(Problem::refused(&Refusal::unavailable(detail), is_operator))
            }
        }
    }
}

// === impl EventService ===

impl EventService {
    /// Answers from `served`. Logged and counted under `info`.
    pub(super) fn new(served: Served, info: Arc<RouteInfo>) -> Self {
        Self { served, info }
    }
}

impl Service<Request> for EventService {
    type Response = Response;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        request.cx.set_route(self.info.clone(), None);
        let served = self.served.clone();
        Box::pin(async move {
            let admitted = admitted(&request).and_then(|it| Ok((it, served.events(false)?)));
            let response = match admitted {
                Ok(((endpoint, access), events)) => {
                    serve(events, request, endpoint, access).await?
                }
                Err(problem) => problem.response(),
            };
            Ok(response.map(body))
        })
    }
}

/// The requested endpoint, if the caller may use it.
fn admitted(request: &Request) -> Result<(Endpoint, Access), Problem> {
    let target = request.cx.target();
    let path = target.map_or_else(|| request.parts.uri.path(), |target| target.path());
    let endpoint = Endpoint::at(&request.parts.method, path)?;
    let scope = endpoint.scope().ok_or_else(Problem::no_such_path)?;
    let principal = request.cx.principal();
    if principal.is_some_and(|principal| !has_scope(principal, &scope)) {
        return Err(Problem::out_of_scope(&scope));
    }
    let name = principal.map(|principal| principal.name.as_ref().into());
    Ok((endpoint, Access::Client(name)))
}

fn has_scope(principal: &Principal, wanted: &str) -> bool {
    match &principal.scopes {
        Some(scopes) => scopes.iter().any(|scope| **scope == *wanted),
        None => principal.claims == Value::Null || jwt::has_scope(&principal.claims, wanted),
    }
}

async fn serve(
    events: Arc<dyn Events>,
    request: Request,
    endpoint: Endpoint,
    access: Access,
) -> Result<http::Response<Payload>, Error> {
    let Request { parts, body, .. } = request;
    let body = if endpoint.has_body() { body.collect().await?.to_bytes() } else { Bytes::new() };
    let query = parts.uri.query().map(str::to_owned);
    let headers = parts.headers;
    Ok(api::answer(events, Call { endpoint, headers, query, body, access }).await)
}

/// The answer to an operator's call.
pub(super) async fn answer_operator(served: Served, parts: &Parts, body: Bytes) -> Response {
    let endpoint = Endpoint::at(&parts.method, parts.uri.path());
    let answer = match endpoint.and_then(|it| Ok((it, served.events(true)?))) {
        Err(problem) => problem.response(),
        Ok((endpoint, events)) => {
            let query = parts.uri.query().map(str::to_owned);
            let headers = parts.headers.clone();
            let access = Access::Operator;
            api::answer(events, Call { endpoint, headers, query, body, access }).await
        }
    };
    answer.map(self::body)
}

fn body(payload: Payload) -> Body {
    match payload {
        Payload::Full(bytes) => Body::full(bytes),
        Payload::Stream(pieces) => {
            Body::boxed(StreamBody::new(pieces.map(|piece| Ok(Frame::data(piece)))))
        }
    }
}
