//! The event endpoints as a service of the workers and as a part of the admin listener.
//!
//! A client of `events_api` needs the scope of what it calls: `topic:<name>:publish` or
//! `subscription:<name>:consume`. Whom the service of `auth.forward` lets in has no scopes, and may use
//! every topic and subscription. Nothing else of the queue is there.

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
    },
    http::{Body, Principal, Request, Response, context::RouteInfo},
    middleware::auth::jwt,
};

/// Answers publishers and consumers. One per worker.
#[derive(Clone, Debug)]
pub(super) struct EventService {
    events: Option<Arc<dyn Events>>,
    info: Arc<RouteInfo>,
}

// === impl EventService ===

impl EventService {
    /// Answers for `events`; `None`: there are no topics. Logged and counted as `info` says.
    pub(super) fn new(events: Option<Arc<dyn Events>>, info: Arc<RouteInfo>) -> Self {
        Self { events, info }
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
        request.cx.set_route(self.info.clone());
        let events = self.events.clone();
        Box::pin(async move {
            let response = match admitted(&request) {
                Ok((endpoint, access)) => serve(events, request, endpoint, access).await?,
                Err(problem) => problem.response(),
            };
            Ok(response.map(body))
        })
    }
}

/// What is asked for, if the caller may.
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
    events: Option<Arc<dyn Events>>,
    request: Request,
    endpoint: Endpoint,
    access: Access,
) -> Result<http::Response<Payload>, Error> {
    let Request { parts, body, .. } = request;
    let body = if endpoint.has_body() { body.collect().await?.to_bytes() } else { Bytes::new() };
    let query = parts.uri.query().map(str::to_owned);
    Ok(match events {
        Some(events) => {
            let headers = parts.headers;
            api::answer(events, Call { endpoint, headers, query, body, access }).await
        }
        None => Problem::no_store().response(),
    })
}

/// The answer to an operator's call.
pub(super) async fn answer_operator(
    events: Option<Arc<dyn Events>>,
    parts: &Parts,
    body: Bytes,
) -> Response {
    let answer = match (Endpoint::at(&parts.method, parts.uri.path()), events) {
        (Err(problem), _) => problem.response(),
        (Ok(_), None) => Problem::no_store().response(),
        (Ok(endpoint), Some(events)) => {
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
