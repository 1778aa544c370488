//! What a route does with a request: answer it here, redirect it, or choose the upstream.
//!
//! Touches every request. `respond` and `redirect` end here and drop the request; their answers are
//! not refusals. `upstream` and `split` continue; the choice among several upstreams is written to
//! the context, once for all attempts. Refuses with 400 `bad-target` a redirect whose location is
//! too long for a header field, or needs a host where the request names none.
//!
//! Costs a random number with `split`, a string with `redirect`; no lock, no box. Behind everything
//! that may refuse, and before everything that concerns an upstream.

use std::{
    future::{self, Ready},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::Either;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tower::{Layer, Service};

use super::{
    headers::Changes,
    template::{Template, Values},
};
use crate::{
    error::{Error, Kind},
    http::{Body, Next, Request, Response},
};

/// Each route has exactly one of these.
#[derive(Clone, Debug)]
pub enum Settings {
    /// `respond`: a fixed answer.
    Respond {
        /// The status.
        status: StatusCode,
        /// Its fields.
        headers: HeaderMap,
        /// Its body.
        body: Bytes,
    },
    /// `redirect`.
    Redirect {
        /// 301, 302, 303, 307 or 308.
        status: StatusCode,
        /// The `Location`, with placeholders.
        location: Template,
        /// Its other fields.
        headers: HeaderMap,
    },
    /// `upstream` or `split`: the weight of each of the route's upstreams, in the order of
    /// the route's list. One entry without `split`.
    Forward {
        /// Weights, not all zero.
        weights: Vec<u32>,
    },
}

/// Makes [`Action`]s.
#[derive(Clone, Debug)]
pub struct ActionLayer(Option<Arc<Shared>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Action<S> {
    // `None` if everything is forwarded to the only upstream.
    shared: Option<Arc<Shared>>,
    inner: S,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    merge_slashes: bool,
}

// === impl Settings ===

impl Settings {
    /// Applies these changes to the route's own answers. Changes to an upstream's answers are made
    /// when they arrive.
    #[must_use]
    pub fn changed(mut self, changes: &Changes) -> Self {
        match &mut self {
            Self::Respond { headers, .. } | Self::Redirect { headers, .. } => {
                changes.apply(headers);
            }
            Self::Forward { .. } => {}
        }
        self
    }
}

// === impl ActionLayer ===

impl ActionLayer {
    /// A layer with these settings, for a route with this `merge_slashes`.
    pub fn new(settings: Settings, merge_slashes: bool) -> Self {
        // Without `split` there is nothing to choose.
        let is_needed = !matches!(&settings, Settings::Forward { weights } if weights.len() <= 1);
        Self(is_needed.then(|| Arc::new(Shared { settings, merge_slashes })))
    }
}

impl<S> Layer<S> for ActionLayer {
    type Service = Action<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Action { shared: self.0.clone(), inner }
    }
}

// === impl Action ===

impl<S: Next> Service<Request> for Action<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The upstream's unwritten cell already reads as 0.
        let Some(shared) = &self.shared else { return Either::Left(self.inner.call(request)) };
        match &shared.settings {
            Settings::Respond { status, headers, body } => {
                let response = respond(&request.parts.method, *status, headers.clone(), body);
                Either::Right(future::ready(Ok(response)))
            }
            Settings::Redirect { status, location, headers } => {
                let values = Values::of(&request.cx, shared.merge_slashes);
                let redirected = redirect(*status, location, &values, headers.clone());
                Either::Right(future::ready(redirected))
            }
            Settings::Forward { weights } => {
                request.cx.set_upstream(choose(weights, fastrand::u64(..)));
                Either::Left(self.inner.call(request))
            }
        }
    }
}

/// The answer from the configuration. For HEAD it states how long the body would be (RFC 9110,
/// 9.3.2); if the status allows no body, none is sent and no length stated.
fn respond(method: &Method, status: StatusCode, headers: HeaderMap, body: &Bytes) -> Response {
    let has_body = !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let is_sent = has_body && method != Method::HEAD;
    let mut response =
        Response::new(if is_sent { Body::full(body.clone()) } else { Body::empty() });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if has_body {
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    } else {
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    response
}

fn redirect(
    status: StatusCode,
    to: &Template,
    values: &Values<'_>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    if values.host.is_empty() && to.has_host() {
        // `https:///a/b` is `https://a/b` to browsers: the client's path would name the host.
        return Err(Error::new(Kind::BadTarget).with_detail("a redirect to no host"));
    }
    let location = HeaderValue::from_maybe_shared(Bytes::from(to.render_location(values)))
        .map_err(|error| Error::new(Kind::BadTarget).with_source(error))?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    Ok(response)
}

/// The index chosen by `random`, uniform over all numbers; each in proportion to its weight.
fn choose(weights: &[u32], random: u64) -> usize {
    let total: u64 = weights.iter().copied().map(u64::from).sum();
    // The remainder favours low indexes, by less than one in 2^32.
    let mut left = random.checked_rem(total).unwrap_or(0);
    for (index, &weight) in weights.iter().enumerate() {
        match left.checked_sub(u64::from(weight)) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::middleware::{
        template::Part,
        testing::{get, read, request},
    };

    async fn ended(settings: Settings, request: Request) -> Result<Response, Error> {
        let inner = service_fn(async |_: Request| -> Result<Response, Error> {
            panic!("the rest of the stack was called")
        });
        ActionLayer::new(settings, true).layer(inner).oneshot(request).await
    }

    fn hello(status: StatusCode) -> Settings {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Settings::Respond { status, headers, body: Bytes::from_static(b"hello\n") }
    }

    #[tokio::test]
    async fn respond_answers_as_it_is_written() {
        let response = ended(hello(StatusCode::IM_A_TEAPOT), get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/plain");
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "6");
        assert_eq!(read(response.into_body()).await.unwrap(), "hello\n");
    }

    #[tokio::test]
    async fn head_is_told_the_length_and_sent_nothing() {
        let head = request(Method::HEAD, "/", Body::empty());
        let response = ended(hello(StatusCode::OK), head).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "6");
        assert!(read(response.into_body()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_status_without_a_body_has_none() {
        let response = ended(hello(StatusCode::NO_CONTENT), get("/")).await.unwrap();
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        assert!(read(response.into_body()).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn redirect_names_the_place() {
        let location = Template(vec![Part::Text("https://shop.example".into()), Part::Path]);
        let settings = Settings::Redirect {
            status: StatusCode::PERMANENT_REDIRECT,
            location,
            headers: HeaderMap::new(),
        };
        let response = ended(settings, get("/a//b%0d%0ax?q=1")).await.unwrap();
        assert_eq!(response.status(), StatusCode::PERMANENT_REDIRECT);
        let location = response.headers()[header::LOCATION].to_str().unwrap();
        assert!(location.eq_ignore_ascii_case("https://shop.example/a/b%0d%0ax"), "{location}");
    }

    #[tokio::test]
    async fn redirect_to_the_host_asked_for_needs_one() {
        let redirected = async |host: &str| {
            let location = Template(vec![Part::Text("https://".into()), Part::Host, Part::Path]);
            let (status, headers) = (StatusCode::FOUND, HeaderMap::new());
            let asked = get("/evil.example/a");
            asked.cx.set_host(host.into());
            ended(Settings::Redirect { status, location, headers }, asked).await
        };
        let response = redirected("shop.example").await.unwrap();
        assert_eq!(response.headers()[header::LOCATION], "https://shop.example/evil.example/a");
        assert_eq!(redirected("").await.unwrap_err().kind().reason(), "bad-target");
    }

    #[tokio::test]
    async fn split_is_chosen_once_and_written_down() {
        let inner = service_fn(async |request: Request| {
            assert_eq!(request.cx.upstream(), 1);
            Ok(Response::new(Body::empty()))
        });
        let split = Settings::Forward { weights: vec![0, 5, 0] };
        assert!(ActionLayer::new(split, true).layer(inner).oneshot(get("/")).await.is_ok());
    }

    #[tokio::test]
    async fn a_single_upstream_needs_no_choice() {
        let inner = service_fn(async |request: Request| {
            // Only an unwritten cell can still be written.
            request.cx.set_upstream(7);
            assert_eq!(request.cx.upstream(), 7);
            Ok(Response::new(Body::empty()))
        });
        let one = Settings::Forward { weights: vec![1] };
        assert!(ActionLayer::new(one, true).layer(inner).oneshot(get("/")).await.is_ok());
    }

    proptest! {
        #[test]
        fn each_upstream_gets_exactly_its_weight(
            weights in prop::collection::vec(0..20u32, 1..6)
        ) {
            let total = weights.iter().sum::<u32>();
            prop_assume!(total > 0);
            let mut chosen = vec![0; weights.len()];
            for random in 0..u64::from(total) {
                chosen[choose(&weights, random)] += 1;
            }
            prop_assert_eq!(chosen, weights);
        }
    }
}
