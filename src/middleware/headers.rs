//! `request_headers`, `response_headers`, `rewrite`: changes a message on its way through.
//!
//! Touches every request that goes upstream. The request gets its final target, either the
//! normalised one or the result of `rewrite`, and loses its Host unless `preserve_host` keeps it:
//! the upstream layer forwards a Host that is present, and sends the endpoint's own otherwise.
//! Refuses with 400 `bad-target` only a rewrite that became too long for a target. Responses are
//! changed whatever their status; our own errors do not pass here.
//!
//! Costs one reference count, and one string with `rewrite`. Inside everything that reads the
//! request as the client sent it.

use std::{
    future::{self, Future, Ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use super::template::Values;
pub use super::template::{Part, Template};
use crate::{
    error::{Error, Kind},
    http::{Next, Request, Response, fields},
};

/// `request_headers` and `response_headers`, `rewrite`, `preserve_host`.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Applied before the request is sent.
    pub request: Changes,
    /// Applied before the response is passed back.
    pub response: Changes,
    /// The path (and query) sent upstream in place of the client's.
    pub rewrite: Option<Template>,
    /// Whether `Host` goes upstream as the client sent it, instead of the endpoint's own name.
    pub preserve_host: bool,
}

/// Changes to fields: removed first, then set, then added.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Fields that replace those with the same name.
    pub set: HeaderMap,
    /// Fields that are added beside those with the same name.
    pub add: HeaderMap,
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
}

/// Makes [`Headers`].
#[derive(Clone, Debug)]
pub struct HeadersLayer {
    // `None` if nothing is to be changed, so that requests need not look there.
    changes: Option<Arc<Settings>>,
    preserve_host: bool,
    merge_slashes: bool,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Headers<S> {
    layer: HeadersLayer,
    inner: S,
}

pin_project! {
    /// The response, changed.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        // `None` if nothing is to be changed.
        changes: Option<Arc<Settings>>,
    }
}

// === impl Changes ===

impl Changes {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }

    /// Makes the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for name in self.remove.iter().chain(self.set.keys()) {
            headers.remove(name);
        }
        for (name, value) in self.set.iter().chain(&self.add) {
            headers.append(name, value.clone());
        }
    }
}

// === impl HeadersLayer ===

impl HeadersLayer {
    /// A layer with these settings, for a route with this `merge_slashes`.
    pub fn new(settings: Settings, merge_slashes: bool) -> Self {
        let preserve_host = settings.preserve_host;
        let is_needed = settings.rewrite.is_some()
            || !settings.request.is_empty()
            || !settings.response.is_empty();
        let changes = is_needed.then(|| Arc::new(settings));
        Self { changes, preserve_host, merge_slashes }
    }

    /// The target to send upstream.
    fn target(&self, request: &Request) -> Result<PathAndQuery, Error> {
        let rewrite = self.changes.as_ref().and_then(|changes| changes.rewrite.as_ref());
        let Some(rewrite) = rewrite else {
            // Every routed request has a normalised target.
            let target = request.cx.target().ok_or(Kind::Internal)?;
            return Ok(target.path_and_query(self.merge_slashes));
        };
        let target = rewrite.render_target(&Values::of(&request.cx, self.merge_slashes));
        PathAndQuery::from_maybe_shared(Bytes::from(target))
            .map_err(|error| Error::new(Kind::BadTarget).with_source(error))
    }
}

impl<S> Layer<S> for HeadersLayer {
    type Service = Headers<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Headers { layer: self.clone(), inner }
    }
}

// === impl Headers ===

impl<S: Next> Service<Request> for Headers<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<ResponseFuture<S::Future>, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let HeadersLayer { changes, preserve_host, .. } = &self.layer;
        let host = preserve_host.then(|| asked_host(&request.parts)).flatten();
        match self.layer.target(&request) {
            Ok(target) => request.parts.uri = Uri::from(target),
            Err(error) => return Either::Right(future::ready(Err(error))),
        }
        let headers = &mut request.parts.headers;
        match host {
            Some(host) => fields::set(headers, header::HOST, host),
            None => drop(fields::take(headers, &header::HOST)),
        }
        // After Host, so that a Host set here is the one that is sent.
        if let Some(changes) = changes {
            changes.request.apply(headers);
        }
        let changes = changes.as_ref().filter(|changes| !changes.response.is_empty()).cloned();
        Either::Left(ResponseFuture { inner: self.inner.call(request), changes })
    }
}

/// The client's Host; on h2 it may have come as `:authority` alone.
fn asked_host(parts: &Parts) -> Option<HeaderValue> {
    let field = parts.headers.get(header::HOST).cloned();
    field.or_else(|| HeaderValue::from_str(parts.uri.authority()?.as_str()).ok())
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
        if let (Ok(response), Some(changes)) = (&mut result, this.changes) {
            changes.response.apply(response.headers_mut());
        }
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{http::Body, middleware::testing::get};

    /// Answers with the target and the fields that went upstream.
    async fn upstream(request: Request) -> Result<Response, Error> {
        let mut response = Response::new(Body::full(request.parts.uri.to_string()));
        *response.headers_mut() = request.parts.headers;
        Ok(response)
    }

    async fn sent(settings: Settings, merge_slashes: bool, request: Request) -> Response {
        let layer = HeadersLayer::new(settings, merge_slashes);
        layer.layer(service_fn(upstream)).oneshot(request).await.unwrap()
    }

    fn target(response: &Response) -> &[u8] {
        response.body().as_full().unwrap()
    }

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    #[test]
    fn fields_are_removed_then_set_then_added() {
        let changes = Changes {
            remove: vec![HeaderName::from_static("x-debug"), HeaderName::from_static("x-tier")],
            set: map(&[("x-tier", "gold"), ("x-user", "a"), ("x-user", "b")]),
            add: map(&[("x-tag", "new"), ("x-debug", "back")]),
        };
        let mut headers =
            map(&[("x-debug", "1"), ("x-debug", "2"), ("x-user", "old"), ("x-tag", "old")]);
        changes.apply(&mut headers);
        let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
        assert_eq!(all("x-debug"), ["back"]);
        assert_eq!(all("x-tier"), ["gold"]);
        assert_eq!(all("x-user"), ["a", "b"]);
        assert_eq!(all("x-tag"), ["old", "new"]);
    }

    #[tokio::test]
    async fn the_normalised_target_goes_upstream() {
        let response = sent(Settings::default(), true, get("/a//b?x=1")).await;
        assert_eq!(target(&response), b"/a/b?x=1");
        let response = sent(Settings::default(), false, get("/a//b?x=1")).await;
        assert_eq!(target(&response), b"/a//b?x=1");
    }

    #[tokio::test]
    async fn a_rewrite_makes_the_target() {
        let rewrite = Template(vec![Part::Text("/v2".into()), Part::Path]);
        let settings = Settings { rewrite: Some(rewrite), ..Settings::default() };
        let response = sent(settings.clone(), true, get("/a//b?x=1")).await;
        assert_eq!(target(&response), b"/v2/a/b?x=1");
        let response = sent(settings, false, get("/a//b")).await;
        assert_eq!(target(&response), b"/v2/a//b");
    }

    #[tokio::test]
    async fn a_rewrite_that_became_too_long_is_refused() {
        let path = format!("/{}", "a".repeat(40_000));
        let rewrite = Some(Template(vec![Part::Path, Part::Path]));
        let layer = HeadersLayer::new(Settings { rewrite, ..Settings::default() }, true);
        let refused = layer.layer(service_fn(upstream)).oneshot(get(&path)).await.unwrap_err();
        assert!(matches!(refused.kind(), Kind::BadTarget));
    }

    #[tokio::test]
    async fn host_goes_upstream_only_where_it_is_preserved_or_set() {
        let asked = || {
            let mut request = get("/");
            request.parts.headers = map(&[("host", "shop.example.com")]);
            request
        };
        let plain = sent(Settings::default(), true, asked()).await;
        assert!(!plain.headers().contains_key(header::HOST));

        let preserve = Settings { preserve_host: true, ..Settings::default() };
        let preserved = sent(preserve.clone(), true, asked()).await;
        assert_eq!(preserved.headers()[header::HOST], "shop.example.com");

        let mut h2 = get("/");
        h2.parts.uri = Uri::from_static("https://h2.example.com/");
        let preserved = sent(preserve, true, h2).await;
        assert_eq!(preserved.headers()[header::HOST], "h2.example.com");

        let request = Changes { set: map(&[("host", "other.example")]), ..Changes::default() };
        let set = sent(Settings { request, ..Settings::default() }, true, asked()).await;
        assert_eq!(set.headers()[header::HOST], "other.example");
    }

    #[tokio::test]
    async fn both_directions_get_their_own_changes() {
        let request = Changes { set: map(&[("x-tier", "gold")]), ..Changes::default() };
        let remove = vec![HeaderName::from_static("x-internal")];
        let response = Changes { remove, set: map(&[("x-answered", "yes")]), ..Changes::default() };
        let mut asked = get("/");
        asked.parts.headers = map(&[("x-internal", "1")]);
        let settings = Settings { request, response, ..Settings::default() };
        let answer = sent(settings, true, asked).await;
        // The upstream echoes what it got.
        assert_eq!(answer.headers()["x-tier"], "gold");
        assert_eq!(answer.headers()["x-answered"], "yes");
        assert!(!answer.headers().contains_key("x-internal"));
    }
}
