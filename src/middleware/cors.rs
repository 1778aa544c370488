//! `cors`: preflights are answered here, and every answer to an allowed origin says so.
//!
//! Touches the requests of routes with `cors`. A preflight (OPTIONS with Origin and
//! Access-Control-Request-Method) is answered with 204; any other OPTIONS is an ordinary request.
//! The fields an Origin gets are worked out by tower-http before the request goes on and written to
//! the context, so that refusals from below carry them too; on successful answers they replace
//! whatever the upstream has to say about CORS. `Vary: Origin` is on every answer, because without it
//! a shared cache hands one origin's answer to another.
//!
//! Costs nothing but that field without an Origin, else two small maps. Sits before auth, because a
//! preflight has no credentials, and behind the address rules.

use std::{
    convert::Infallible,
    future::{self, Future, Ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, FutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use pin_project_lite::pin_project;
use tower::{Layer, Service};
use tower_http::cors::{AllowOrigin, CorsLayer as Rules};

use crate::{
    error::Error,
    http::{self as vocabulary, Body, Next, Request, Response},
};

/// `routes[].cors`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Exact origins, or `*` alone for any.
    pub origins: Vec<HeaderValue>,
    /// What a preflight is told it may send.
    pub methods: Vec<Method>,
    /// What a preflight is told it may set.
    pub headers: Vec<HeaderName>,
    /// How long a browser may remember the preflight.
    pub max_age: Duration,
}

/// Makes [`Cors`] services; without settings they touch nothing.
#[derive(Clone, Debug)]
pub struct CorsLayer(Option<Arc<Rules>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Cors<S> {
    rules: Option<Arc<Rules>>,
    inner: S,
}

pin_project! {
    /// The response of a request that is not a preflight.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        fields: Fields,
    }
}

/// What an answer gets.
#[derive(Debug)]
enum Fields {
    /// The route has no `cors`.
    None,
    /// There was no Origin.
    Vary,
    /// What the context holds.
    Computed(vocabulary::Context),
}

/// Stands in for the rest of the stack where only tower-http's fields are wanted.
#[derive(Clone, Copy)]
struct Nothing;

// === impl CorsLayer ===

impl CorsLayer {
    /// A layer of these settings; `None`: CORS is left to the upstream.
    pub fn new(settings: Option<Settings>) -> Self {
        Self(settings.map(|settings| Arc::new(settings.into_rules())))
    }
}

impl<S> Layer<S> for CorsLayer {
    type Service = Cors<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Cors { rules: self.0.clone(), inner }
    }
}

// === impl Settings ===

impl Settings {
    fn into_rules(self) -> Rules {
        let Self { origins, methods, headers, max_age } = self;
        let origin = if origins.iter().any(|origin| origin == "*") {
            AllowOrigin::any()
        } else {
            // Not `list`, which would be copied for every request.
            AllowOrigin::predicate(move |origin, _| origins.contains(origin))
        };
        Rules::new()
            .allow_origin(origin)
            .allow_methods(methods)
            .allow_headers(headers)
            .max_age(max_age)
    }
}

// === impl Cors ===

impl<S: Next> Service<Request> for Cors<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<ResponseFuture<S::Future>, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let fields = match &self.rules {
            None => Fields::None,
            Some(_) if !request.parts.headers.contains_key(header::ORIGIN) => Fields::Vary,
            Some(rules) => {
                let is_preflight = is_preflight(&request.parts);
                let fields = compute(rules, &request.parts, is_preflight);
                if is_preflight {
                    return Either::Right(future::ready(Ok(answer(fields))));
                }
                request.cx.set_cors(fields);
                Fields::Computed(request.cx.clone())
            }
        };
        Either::Left(ResponseFuture { inner: self.inner.call(request), fields })
    }
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(header::ORIGIN)
        && parts.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// What tower-http would add to the answer of a request with these fields.
fn compute(rules: &Rules, parts: &Parts, is_preflight: bool) -> HeaderMap {
    let mut asked = http::Request::new(());
    // tower-http takes every OPTIONS for a preflight.
    *asked.method_mut() = if is_preflight { Method::OPTIONS } else { Method::GET };
    let names = [
        header::ORIGIN,
        header::ACCESS_CONTROL_REQUEST_METHOD,
        header::ACCESS_CONTROL_REQUEST_HEADERS,
    ];
    for name in names {
        if let Some(value) = parts.headers.get(&name) {
            asked.headers_mut().insert(name, value.clone());
        }
    }
    // It never waits: neither its rules nor what stands in for the stack do.
    let answered = rules.layer(Nothing).call(asked).now_or_never();
    let mut fields = match answered {
        Some(Ok(answer)) => answer.into_parts().0.headers,
        Some(Err(never)) => match never {},
        None => HeaderMap::new(),
    };
    fields.remove(header::CONTENT_LENGTH);
    fields.insert(header::VARY, HeaderValue::from_name(header::ORIGIN));
    fields
}

/// The answer to a preflight.
fn answer(fields: HeaderMap) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = fields;
    response
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Error>>,
{
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        if let Ok(response) = &mut result {
            this.fields.write(response.headers_mut());
        }
        Poll::Ready(result)
    }
}

// === impl Fields ===

impl Fields {
    fn write(&self, headers: &mut HeaderMap) {
        match self {
            Self::None => {}
            Self::Vary => vary(headers),
            Self::Computed(cx) => {
                let foreign: Vec<_> = headers
                    .keys()
                    .filter(|name| name.as_str().starts_with("access-control-"))
                    .cloned()
                    .collect();
                for name in foreign {
                    headers.remove(name);
                }
                vary(headers);
                let fields = cx.cors().into_iter().flatten();
                for (name, value) in fields.filter(|(name, _)| *name != header::VARY) {
                    headers.append(name, value.clone());
                }
            }
        }
    }
}

/// Adds `Origin` to `Vary`, unless it is there.
fn vary(headers: &mut HeaderMap) {
    let varies = headers.get_all(header::VARY).iter().any(|value| {
        let names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.into_iter().any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    });
    if !varies {
        headers.append(header::VARY, HeaderValue::from_name(header::ORIGIN));
    }
}

// === impl Nothing ===

impl Service<http::Request<()>> for Nothing {
    type Response = http::Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<http::Response<()>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: http::Request<()>) -> Self::Future {
        future::ready(Ok(http::Response::new(())))
    }
}
