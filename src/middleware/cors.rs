//! `cors`: answers preflights, and adds CORS fields to every answer for an allowed origin.
//!
//! Touches the requests of routes with `cors`. A preflight (OPTIONS with Origin and
//! Access-Control-Request-Method) is answered with 204; any other OPTIONS is an ordinary request.
//! tower-http computes the fields for an Origin before the request continues, and they are written
//! to the context, so that refusals from below carry them too; on successful answers they replace
//! the upstream's CORS fields. Every answer gets `Vary: Origin`, because without it a shared cache
//! would give one origin's answer to another.
//!
//! Costs only that field without an Origin, else two small maps. Before auth, because a preflight
//! has no credentials, and behind the address rules.

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
    http::{Body, Next, Request, Response},
};

/// Makes shared caches keep the answers to different origins apart.
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// `routes[].cors`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Exact origins, or `*` alone for any.
    pub origins: Vec<HeaderValue>,
    /// The methods that a preflight is told.
    pub methods: Vec<Method>,
    /// The request fields that a preflight is told.
    pub headers: Vec<HeaderName>,
    /// How long a browser may cache a preflight.
    pub max_age: Duration,
}

/// Makes [`Cors`] services; without settings they do nothing.
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

/// The fields that an answer gets.
#[derive(Debug)]
enum Fields {
    /// The route has no `cors`.
    None,
    /// The request has no Origin.
    Vary,
    /// Those stored in the context.
    Computed(crate::http::Context),
}

/// Replaces the rest of the stack when only tower-http's fields are needed.
#[derive(Clone, Copy)]
struct Nothing;

// === impl CorsLayer ===

impl CorsLayer {
    /// A layer with these settings; `None`: CORS is left to the upstream.
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
            // Not `AllowOrigin::list`, which would be copied for every request.
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

/// The fields that tower-http would add to the answer to this request.
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
    // It never waits: neither do its rules nor what replaces the stack.
    let answered = rules.layer(Nothing).call(asked).now_or_never();
    let mut fields = match answered {
        Some(Ok(answer)) => answer.into_parts().0.headers,
        Some(Err(never)) => match never {},
        None => HeaderMap::new(),
    };
    fields.remove(header::CONTENT_LENGTH);
    fields.insert(header::VARY, VARY_ORIGIN);
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

/// Adds `Origin` to `Vary` if it is missing.
fn vary(headers: &mut HeaderMap) {
    let varies = headers.get_all(header::VARY).iter().any(|value| {
        let names = value.as_bytes().split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        names.into_iter().any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    });
    if !varies {
        headers.append(header::VARY, VARY_ORIGIN);
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

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        error::Kind,
        middleware::testing::{get, request},
    };

    const SHOP: &str = "https://shop.example.com";

    fn layer(origins: &[&'static str]) -> CorsLayer {
        CorsLayer::new(Some(Settings {
            origins: origins.iter().map(|origin| HeaderValue::from_static(origin)).collect(),
            methods: vec![Method::POST, Method::PUT],
            headers: vec![header::AUTHORIZATION],
            max_age: Duration::from_mins(10),
        }))
    }

    /// Answers like an upstream that sends its own CORS fields.
    async fn upstream(request: Request) -> Result<Response, Error> {
        let mut response = Response::new(Body::full("answer"));
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        assert_eq!(request.cx.cors().is_some(), request.parts.headers.contains_key(header::ORIGIN));
        Ok(response)
    }

    fn with(mut request: Request, fields: &[(HeaderName, &'static str)]) -> Request {
        for (name, value) in fields {
            request.parts.headers.insert(name, HeaderValue::from_static(value));
        }
        request
    }

    fn preflight(origin: &'static str) -> Request {
        let asked = (header::ACCESS_CONTROL_REQUEST_METHOD, "PUT");
        with(request(Method::OPTIONS, "/", Body::empty()), &[(header::ORIGIN, origin), asked])
    }

    fn all<'a>(response: &'a Response, name: &HeaderName) -> Vec<&'a str> {
        response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
    }

    #[tokio::test]
    async fn a_preflight_is_answered_here() {
        let inner = service_fn(async |_: Request| -> Result<Response, Error> {
            panic!("a preflight went on")
        });
        let response = layer(&[SHOP]).layer(inner).oneshot(preflight(SHOP)).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN), [SHOP]);
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_METHODS), ["POST,PUT"]);
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_HEADERS), ["authorization"]);
        assert_eq!(all(&response, &header::ACCESS_CONTROL_MAX_AGE), ["600"]);
        assert_eq!(all(&response, &header::VARY), ["Origin"]);
        assert!(http_body::Body::is_end_stream(response.body()));

        let foreign = preflight("https://evil.example");
        let response = layer(&[SHOP]).layer(inner).oneshot(foreign).await.unwrap();
        assert!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN).is_empty());
    }

    #[tokio::test]
    async fn any_other_options_is_an_ordinary_request() {
        let plain = request(Method::OPTIONS, "/", Body::empty());
        let with_origin =
            with(request(Method::OPTIONS, "/", Body::empty()), &[(header::ORIGIN, SHOP)]);
        for options in [plain, with_origin] {
            let answer = layer(&[SHOP]).layer(service_fn(upstream)).oneshot(options).await;
            assert_eq!(answer.unwrap().status(), StatusCode::OK);
        }
    }

    #[tokio::test]
    async fn what_the_upstream_says_about_cors_is_replaced() {
        let asked = with(get("/"), &[(header::ORIGIN, SHOP)]);
        let response = layer(&[SHOP]).layer(service_fn(upstream)).oneshot(asked).await.unwrap();
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN), [SHOP]);
        assert!(all(&response, &header::ACCESS_CONTROL_ALLOW_CREDENTIALS).is_empty());
        assert!(all(&response, &header::ACCESS_CONTROL_ALLOW_METHODS).is_empty());
        assert_eq!(all(&response, &header::VARY), ["accept-encoding", "Origin"]);

        let foreign = with(get("/"), &[(header::ORIGIN, "https://evil.example")]);
        let response = layer(&[SHOP]).layer(service_fn(upstream)).oneshot(foreign).await.unwrap();
        assert!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN).is_empty());
    }

    #[tokio::test]
    async fn any_origin_is_allowed_where_the_star_says_so() {
        let asked = with(get("/"), &[(header::ORIGIN, "https://anyone.example")]);
        let response = layer(&["*"]).layer(service_fn(upstream)).oneshot(asked).await.unwrap();
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN), ["*"]);
    }

    #[tokio::test]
    async fn without_an_origin_an_answer_only_says_that_it_varies() {
        let response = layer(&[SHOP]).layer(service_fn(upstream)).oneshot(get("/")).await.unwrap();
        assert_eq!(all(&response, &header::VARY), ["accept-encoding", "Origin"]);
    }

    #[tokio::test]
    async fn a_refusal_from_below_finds_its_fields_in_the_context() {
        let refusing = service_fn(async |_: Request| Err::<Response, Error>(Kind::IpDenied.into()));
        let asked = with(get("/"), &[(header::ORIGIN, SHOP)]);
        let cx = asked.cx.clone();
        assert!(layer(&[SHOP]).layer(refusing).oneshot(asked).await.is_err());
        let fields = cx.cors().unwrap();
        assert_eq!(fields[header::ACCESS_CONTROL_ALLOW_ORIGIN], SHOP);
        assert_eq!(fields[header::VARY], "Origin");
    }

    #[test]
    fn vary_names_the_origin_once() {
        for (before, after) in [
            (None, vec!["Origin"]),
            (Some("accept"), vec!["accept", "Origin"]),
            (Some("Accept, Origin"), vec!["Accept, Origin"]),
            (Some("*"), vec!["*"]),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(header::VARY, HeaderValue::from_static(before));
            }
            vary(&mut headers);
            assert_eq!(headers.get_all(header::VARY).iter().collect::<Vec<_>>(), after);
        }
    }

    #[tokio::test]
    async fn without_settings_an_answer_stays_as_it_is() {
        let asked = get("/");
        let response = CorsLayer::new(None).layer(service_fn(upstream)).oneshot(asked).await;
        let response = response.unwrap();
        assert_eq!(all(&response, &header::ACCESS_CONTROL_ALLOW_ORIGIN), ["*"]);
        assert_eq!(all(&response, &header::VARY), ["accept-encoding"]);
    }
}
