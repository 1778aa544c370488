//! Gives every request an ID, and its response the same one.
//!
//! Touches every request. Keeps a valid `X-Request-Id` from a trusted peer and replaces any other;
//! writes it to the request, the response and the context. Never refuses. IDs are made sixteen at a
//! time: one allocation, and for each ID a SipHash of 128 bits and an addition
//! to a counter of this worker.
//!
//! Outermost, so that every failure below can be reported under an ID.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    hash::{BuildHasher, Hasher, RandomState},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as Task, Poll, ready},
};

use bytes::Bytes;
use http::HeaderValue;
use pin_project_lite::pin_project;
use siphasher::sip128::{Hash128, Hasher128, SipHasher13};
use tower::{Layer, Service};

use crate::http::{Request, Response, fields, hex, names::X_REQUEST_ID};

/// The maximum length of a trusted peer's ID.
const MAX_LEN: usize = 128;
/// The length of our IDs.
const LEN: usize = 32;
/// How many IDs are made at once and share memory: few, so that a long request keeps little memory
/// of others alive.
const BATCH: usize = 16;

/// Adds [`RequestId`]. One per worker.
#[derive(Clone, Debug, Default)]
pub struct RequestIdLayer {
    ids: Arc<Ids>,
}

/// Gives every request an ID.
#[derive(Debug)]
pub struct RequestId<S> {
    ids: Arc<Ids>,
    /// The next IDs; a clone makes its own.
    made: Bytes,
    inner: S,
}

pin_project! {
    /// Puts the ID on the response.
    #[derive(Debug)]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        id: Option<HeaderValue>,
    }
}

/// 128-bit IDs that nobody can guess: a counter, hashed with a key from the system's random source.
/// The counter is the only state, so there is no lock.
struct Ids {
    count: AtomicU64,
    keyed: SipHasher13,
}

// === impl RequestIdLayer ===

impl RequestIdLayer {
    /// A source of IDs that no other layer gives.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestId<S>;

    fn layer(&self, inner: S) -> RequestId<S> {
        RequestId { ids: self.ids.clone(), made: Bytes::new(), inner }
    }
}

// === impl RequestId ===

impl<S: Clone> Clone for RequestId<S> {
    fn clone(&self) -> Self {
        Self { ids: self.ids.clone(), made: Bytes::new(), inner: self.inner.clone() }
    }
}

impl<S> Service<Request> for RequestId<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let headers = &mut request.parts.headers;
        let is_trusted = request.cx.peer().trusted;
        let given = is_trusted.then(|| headers.get(X_REQUEST_ID)).flatten();
        let id = match given.filter(|id| is_sane(id)) {
            Some(given) => given.clone(),
            None => self.ids.next(&mut self.made),
        };
        fields::set(headers, X_REQUEST_ID, id.clone());
        request.cx.set_request_id(id.clone());
        ResponseFuture { inner: self.inner.call(request), id: Some(id) }
    }
}

fn is_sane(id: &HeaderValue) -> bool {
    (1..=MAX_LEN).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic)
}

// === impl ResponseFuture ===

impl<F> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response, Infallible>>,
{
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Ok(mut response) = ready!(this.inner.poll(cx));
        if let Some(id) = this.id.take() {
            fields::set(response.headers_mut(), X_REQUEST_ID, id);
        }
        Poll::Ready(Ok(response))
    }
}

// === impl Ids ===

impl Default for Ids {
    fn default() -> Self {
        // Each has a random key of its own, so what it makes of a constant is as random.
        let random = || RandomState::new().hash_one(0_u8);
        let keyed = SipHasher13::new_with_keys(random(), random());
        Self { count: AtomicU64::new(0), keyed }
    }
}

impl Ids {
    /// The first of the IDs in `made`, or of new ones.
    fn next(&self, made: &mut Bytes) -> HeaderValue {
        if made.len() < LEN {
            *made = self.make();
        }
        HeaderValue::from_maybe_shared(made.split_to(LEN)).unwrap_or(HeaderValue::from_static("-"))
    }

    /// Shared from the start by the parts split off it.
    fn make(&self) -> Bytes {
        let mut batch = [0; BATCH * LEN];
        // Relaxed: it only has to give each number once.
        let first = self.count.fetch_add(BATCH as u64, Ordering::Relaxed);
        for (count, text) in (first..).zip(batch.chunks_exact_mut(LEN)) {
            let mut hasher = self.keyed;
            hasher.write_u64(count);
            let Hash128 { h1, h2 } = hasher.finish128();
            let (left, right) = text.split_at_mut(LEN / 2);
            left.copy_from_slice(&hex::digits(h1));
            right.copy_from_slice(&hex::digits(h2));
        }
        Bytes::from_owner(batch)
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("Ids").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::{Body, Context, Peer, peer::Address},
        middleware::testing::get,
    };

    /// The ID as the request, its context and its response had it.
    async fn ids(
        layer: &RequestIdLayer,
        trusted: bool,
        given: Option<&'static str>,
    ) -> [HeaderValue; 3] {
        let peer = Peer { trusted, ..Peer::new(Arc::from("web"), Address::Unix, Address::Unix) };
        let mut builder = http::Request::get("/");
        if let Some(given) = given {
            builder = builder.header(X_REQUEST_ID, given);
        }
        let parts = builder.body(()).unwrap().into_parts().0;
        let cx = Context::new(Arc::new(peer), parts.method.clone(), parts.version);
        let inner = service_fn(|request: Request| async move {
            let mut response = Response::new(Body::empty());
            let seen = request.parts.headers.get_all(X_REQUEST_ID).iter();
            for id in seen {
                response.headers_mut().append("x-seen", id.clone());
            }
            response.headers_mut().insert(X_REQUEST_ID, HeaderValue::from_static("upstream's"));
            Ok(response)
        });
        let request = Request::new(parts, Body::empty(), cx.clone());
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        let of = |name| {
            let mut values = response.headers().get_all(name).iter();
            let value = values.next().unwrap().clone();
            assert_eq!(values.next(), None);
            value
        };
        [of("x-seen"), cx.request_id().unwrap().clone(), of("x-request-id")]
    }

    fn is_ours(id: &HeaderValue) -> bool {
        id.len() == 32 && id.as_bytes().iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    #[tokio::test]
    async fn request_context_and_response_have_the_same_new_id() {
        let ids = ids(&RequestIdLayer::new(), false, None).await;
        assert!(is_ours(&ids[0]));
        assert!(ids.iter().all(|id| id == ids[0]));
    }

    #[tokio::test]
    async fn no_two_ids_are_the_same() {
        let (one, other) = (RequestIdLayer::new(), RequestIdLayer::new());
        let (mut seen, mut ours, mut others) = (HashSet::new(), Bytes::new(), Bytes::new());
        for _ in 0..100 {
            assert!(seen.insert(one.ids.next(&mut ours)));
            assert!(seen.insert(other.ids.next(&mut others)));
        }
    }

    #[tokio::test]
    async fn no_two_clones_of_a_service_give_the_same() {
        let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
        let mut service = RequestIdLayer::new().layer(inner);
        let mut seen = HashSet::new();
        for _ in 0..2 * BATCH {
            for mut service in [service.clone(), service.clone()] {
                let response = service.call(get("/")).await.unwrap();
                assert!(seen.insert(response.headers()[X_REQUEST_ID].clone()));
            }
            let response = service.call(get("/")).await.unwrap();
            assert!(seen.insert(response.headers()[X_REQUEST_ID].clone()));
        }
    }

    #[tokio::test]
    async fn the_id_of_a_trusted_peer_is_kept() {
        let ids = ids(&RequestIdLayer::new(), true, Some("edge-7/Aa")).await;
        assert!(ids.iter().all(|id| id == "edge-7/Aa"));
    }

    #[tokio::test]
    async fn the_id_of_an_untrusted_peer_is_replaced() {
        let ids = ids(&RequestIdLayer::new(), false, Some("edge-7")).await;
        assert!(ids.iter().all(is_ours));
    }

    #[tokio::test]
    async fn an_id_that_is_not_sane_is_replaced_whoever_sent_it() {
        const LONG: &str = match str::from_utf8(&[b'a'; MAX_LEN + 1]) {
            Ok(text) => text,
            Err(_) => "",
        };
        for given in ["", "a b", "a\tb", LONG] {
            let ids = ids(&RequestIdLayer::new(), true, Some(given)).await;
            assert!(ids.iter().all(is_ours), "{given}");
        }
        let longest = ids(&RequestIdLayer::new(), true, Some(&LONG[1..])).await;
        assert_eq!(longest[0].len(), MAX_LEN);
    }
}
