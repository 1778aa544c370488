//! Authorises the calls of the admin API, and answers them.
//!
//! A browser on the operator's machine is the one stranger that can reach a loopback address. So
//! without a token only calls to an IP address or `localhost` are answered (any other name could be
//! a stranger's, pointed here: DNS rebinding), and never a POST with `Origin`. Calls about events
//! are answered by the gateway's own handle, under the same rules.

use std::{future::Future, pin::Pin, time::Duration};

use ::http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode, Uri,
    header::{
        ACCEPT, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, ORIGIN, WWW_AUTHENTICATE,
        X_CONTENT_TYPE_OPTIONS,
    },
    request::Parts,
};
use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Problem;
use crate::{
    http::{self, Secret},
    telemetry::metrics::Format,
};

/// The maximum size of a body, in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// The time from the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// A future of a [`Handles`] method.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an operator may do with the gateway. Called by the control thread, one call per connection.
pub trait Handles: Send + Sync + 'static {
    /// The bearer token that is required by the running configuration: a reload may change it.
    fn token(&self) -> Option<Secret>;

    /// Why it is not ready, in sentences; empty if it is.
    fn readiness(&self) -> Vec<String>;

    /// All metrics in this format.
    fn metrics(&self, format: Format) -> Answer<'_, String>;

    /// The running configuration, secrets redacted, with its hash and time of load.
    fn config(&self) -> Value;

    /// The routes in the order of matching.
    fn routes(&self) -> Value;

    /// The endpoints with their state, and the reason for each one that is out.
    fn upstreams(&self) -> Value;

    /// Reloads; returns the new hash. The caller may leave meanwhile: dropping the future must not
    /// leave a reload half done.
    fn reload(&self) -> Answer<'_, Result<String, Problem>>;

    /// Begins the drain. A second call changes nothing.
    fn drain(&self);

    /// What would happen to the request that `call` describes.
    fn explain(&self, call: Value) -> Result<Value, Problem>;

    /// For a path about events, the maximum size of its body in bytes.
    fn takes_events(&self, path: &str) -> Option<usize>;

    /// Answers a call about events, with its whole body. The caller may leave at any time.
    fn events<'a>(&'a self, parts: &'a Parts, body: Bytes) -> Answer<'a, http::Response>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Endpoint {
    Livez,
    Readyz,
    Metrics,
    Config,
    Routes,
    Upstreams,
    Reload,
    Drain,
    Explain,
    /// About events, with the maximum size of its body.
    Events(usize),
}

/// Answers one call.
pub async fn answer<B>(handles: &dyn Handles, parts: &Parts, body: B) -> http::Response
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send,
{
    match admit(handles, parts) {
        Ok(endpoint) => match call(endpoint, handles, parts, body).await {
            Ok(response) => response,
            Err(problem) => refusal(&problem),
        },
        Err(problem) => refusal(&problem),
    }
}

/// The endpoint, if this caller may use it with this method.
fn admit(handles: &dyn Handles, parts: &Parts) -> Result<Endpoint, Problem> {
    let path = parts.uri.path();
    let endpoint = Endpoint::at(path).or_else(|| handles.takes_events(path).map(Endpoint::Events));
    if !endpoint.is_some_and(Endpoint::is_probe) {
        match handles.token() {
            Some(token) if !has_token(&parts.headers, &token) => return Err(unauthorized()),
            None if !is_local_name(&parts.headers, &parts.uri) => return Err(foreign_host()),
            _ => {}
        }
    }
    let endpoint = endpoint.ok_or_else(|| {
        Problem::new(StatusCode::NOT_FOUND, "name-unknown", "There is nothing under this path.")
    })?;
    let is_safe = matches!(parts.method, Method::GET | Method::HEAD);
    let is_allowed = if matches!(endpoint, Endpoint::Events(_)) {
        // It checks its methods itself.
        true
    } else if endpoint.is_post() {
        parts.method == Method::POST
    } else {
        is_safe
    };
    if !is_allowed {
        return Err(method_not_allowed(endpoint));
    }
    if !is_safe && parts.headers.contains_key(ORIGIN) {
        let title = "Calls from web pages are not answered.";
        return Err(Problem::new(StatusCode::FORBIDDEN, "unauthorized", title));
    }
    Ok(endpoint)
}

async fn call<B>(
    endpoint: Endpoint,
    handles: &dyn Handles,
    parts: &Parts,
    body: B,
) -> Result<http::Response, Problem>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send,
{
    Ok(match endpoint {
        Endpoint::Livez => ok(&json!({"status": "live"})),
        Endpoint::Readyz => match handles.readiness() {
            reasons if reasons.is_empty() => ok(&json!({"status": "ready"})),
            reasons => {
                let body = json!({"status": "not-ready", "reasons": reasons});
                json_response(StatusCode::SERVICE_UNAVAILABLE, "application/json", &body)
            }
        },
        Endpoint::Metrics => {
            let accept = parts.headers.get_all(ACCEPT).iter();
            let format = Format::asked_for(accept.filter_map(|value| value.to_str().ok()));
            respond(StatusCode::OK, format.content_type(), handles.metrics(format).await.into())
        }
        Endpoint::Config => ok(&handles.config()),
        Endpoint::Routes => ok(&handles.routes()),
        Endpoint::Upstreams => ok(&handles.upstreams()),
        Endpoint::Reload => ok(&json!({"hash": handles.reload().await?})),
        Endpoint::Drain => {
            handles.drain();
            let body = json!({"status": "draining"});
            json_response(StatusCode::ACCEPTED, "application/json", &body)
        }
        Endpoint::Explain => ok(&handles.explain(read_json(&parts.headers, body).await?)?),
        Endpoint::Events(limit) => {
            let body = read(body, limit).await?;
            handles.events(parts, body).await
        }
    })
}

// === impl Endpoint ===

impl Endpoint {
    fn at(path: &str) -> Option<Self> {
        Some(match path {
            "/livez" => Self::Livez,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/v1/config" => Self::Config,
            "/v1/routes" => Self::Routes,
            "/v1/upstreams" => Self::Upstreams,
            "/v1/reload" => Self::Reload,
            "/v1/drain" => Self::Drain,
            "/v1/explain" => Self::Explain,
            _ => return None,
        })
    }

    /// Used by machines that have no token and may use any name.
    fn is_probe(self) -> bool {
        matches!(self, Self::Livez | Self::Readyz)
    }

    fn is_post(self) -> bool {
        matches!(self, Self::Reload | Self::Drain | Self::Explain)
    }
}

fn has_token(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(AUTHORIZATION) else { return false };
    let Some((scheme, given)) = value.as_bytes().split_at_checked(b"Bearer ".len()) else {
        return false;
    };
    scheme.eq_ignore_ascii_case(b"Bearer ") && is_same(given.trim_ascii(), token.expose())
}

/// Takes the same time wherever a wrong token differs; only its length shows.
fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    let difference =
        given.iter().zip(wanted).fold(0, |sum, (a, b)| std::hint::black_box(sum | (a ^ b)));
    given.len() == wanted.len() && difference == 0
}

/// Whether the caller means this machine, not a name that somebody pointed at it.
fn is_local_name(headers: &HeaderMap, uri: &Uri) -> bool {
    let named = headers.get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    // A call without a name is harmless: browsers always send one.
    named.chain(uri.authority().map(::http::uri::Authority::as_str)).all(|authority| {
        let Ok(authority) = authority.parse::<::http::uri::Authority>() else { return false };
        let host = authority.host();
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
    })
}

/// The whole body as JSON. Requiring the content type excludes forms, which need no preflight.
async fn read_json<B>(headers: &HeaderMap, body: B) -> Result<Value, Problem>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send,
{
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return Err(Problem::bad_request("the body has to be application/json"));
    }
    let collected = read(body, MAX_BODY).await?;
    serde_json::from_slice(&collected).map_err(|error| Problem::bad_request(error.to_string()))
}

/// All of a body.
async fn read<B>(body: B, limit: usize) -> Result<Bytes, Problem>
where
    B: Body<Data = Bytes, Error: std::error::Error + Send + Sync + 'static> + Send,
{
    let read = timeout(BODY_TIMEOUT, Box::pin(Limited::new(body, limit)).collect()).await;
    match read {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let title = "The request body is too large.";
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", title)
                .with_detail(format!("at most {limit} bytes are read")))
        }
        Ok(Err(error)) => Err(Problem::bad_request(error.to_string())),
        Err(_) => {
            let title = "The request did not arrive in time.";
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "client-timeout", title))
        }
    }
}

fn unauthorized() -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid bearer token is needed.")
}

fn foreign_host() -> Problem {
    let title = "Without a token only an IP address or `localhost` may be called.";
    Problem::new(StatusCode::FORBIDDEN, "unauthorized", title)
}

fn method_not_allowed(endpoint: Endpoint) -> Problem {
    let allow = if endpoint.is_post() { "POST" } else { "GET, HEAD" };
    let title = "This resource does not take this method.";
    let status = StatusCode::METHOD_NOT_ALLOWED;
    Problem { allow: Some(allow), ..Problem::new(status, "method-not-allowed", title) }
}

fn ok(body: &Value) -> http::Response {
    json_response(StatusCode::OK, "application/json", body)
}

fn refusal(problem: &Problem) -> http::Response {
    let mut response =
        json_response(problem.status, "application/problem+json", &problem.to_json());
    if problem.status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(allow) = problem.allow {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    }
    response
}

fn json_response(status: StatusCode, content_type: &'static str, body: &Value) -> http::Response {
    respond(status, content_type, format!("{body:#}\n").into())
}

fn respond(status: StatusCode, content_type: &'static str, body: Bytes) -> http::Response {
    let mut response = Response::new(http::Body::full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
