//! The only reader of whole request bodies.
//!
//! Touches streaming bodies of routes that need them whole. A body is read to its end, without
//! trailers, and becomes one `Bytes`; only then does the request continue, framed by its true
//! length. Refuses before anything is sent: 413 `body-too-large` above the limit; 503 `queue-full`
//! if the body is needed for an event, a key or a fingerprint and all such bodies together exceed
//! `queue.body_buffer`; 499 if it ends short of its declared length. The body's own limit and pace
//! apply as well. No body, or one already in memory, passes at no cost.
//!
//! Costs one box and one copy of the body; a body of one frame is not copied. Behind everything
//! that may refuse, so that unwelcome clients cannot fill memory, and before everything that needs
//! the bytes. Dropping the future discards what was read.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, QueueFault},
    http::{
        Body, Next, Request, Response,
        held::{Held, HeldBodies},
    },
};

/// The most that is allocated for a declared length, which is only a promise.
const FIRST_CAPACITY: u64 = 64 * 1024;

/// Other bodies finish soon, so the client may try again soon.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Whether and how much of a body is read before the request continues.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes read into memory; 413 above, nothing sent. `None`: the body streams.
    pub bytes: Option<u64>,
    /// Whether the bytes held count against `queue.body_buffer`.
    pub is_counted: bool,
}

/// Makes [`Buffer`]s.
#[derive(Clone, Debug)]
pub struct BufferLayer {
    limit: Option<u64>,
    room: Option<HeldBodies>,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Buffer<S> {
    limit: Option<u64>,
    room: Option<HeldBodies>,
    inner: S,
}

pin_project! {
    /// The response; first the body is read if it has to be.
    pub struct ResponseFuture<S>
    where
        S: Service<Request>,
    {
        #[pin]
        state: State<S>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S>
    where
        S: Service<Request>,
    {
        Passed { #[pin] inner: S::Future },
        // Boxed, so that routes that never buffer do not carry its size.
        Reading { reading: Box<Reading<S>> },
    }
}

/// A request whose body is being read.
struct Reading<S> {
    inner: S,
    // `None` once the request has been passed on.
    request: Option<Request>,
    limit: u64,
    // The length that the client declared.
    declared: Option<u64>,
    read: Read,
    // The part of the shared room that this body takes.
    held: Option<Held>,
}

/// What has been read. Most bodies are one frame, which is passed on without a copy.
#[derive(Debug, Default)]
enum Read {
    #[default]
    Nothing,
    Frame(Bytes),
    Frames(BytesMut),
}

// === impl BufferLayer ===

impl BufferLayer {
    /// A layer with these settings; `room` is shared by all bodies that are counted.
    pub fn new(settings: &Settings, room: Option<&HeldBodies>) -> Self {
        let room = room.filter(|_| settings.is_counted).cloned();
        Self { limit: settings.bytes, room }
    }
}

impl<S> Layer<S> for BufferLayer {
    type Service = Buffer<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Buffer { limit: self.limit, room: self.room.clone(), inner }
    }
}

// === impl Buffer ===

impl<S: Next> Service<Request> for Buffer<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let state = match self.limit {
            Some(limit) if !request.body.is_in_memory() => {
                let inner = self.inner.clone();
                let declared = request.body.size_hint().exact();
                let (request, read) = (Some(request), Read::Nothing);
                let held = self.room.as_ref().map(HeldBodies::hold);
                let reading = Reading { inner, request, limit, declared, read, held };
                State::Reading { reading: Box::new(reading) }
            }
            Some(_) | None => State::Passed { inner: self.inner.call(request) },
        };
        ResponseFuture { state }
    }
}

// === impl ResponseFuture ===

impl<S: Next> Future for ResponseFuture<S> {
    type Output = Result<Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        if let StateProj::Reading { reading } = state.as_mut().project() {
            let inner = ready!(reading.poll(cx))?;
            state.set(State::Passed { inner });
        }
        match state.project() {
            StateProj::Passed { inner } => inner.poll(cx),
            StateProj::Reading { .. } => Poll::Pending,
        }
    }
}

// === impl Reading ===

impl<S: Next> Reading<S> {
    /// Reads what is available; at the end of the body passes the request on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Future, Error>> {
        let Some(request) = &mut self.request else {
            return Poll::Ready(Err(Kind::Internal.into()));
        };
        let expected = request.body.size_hint().lower();
        if expected > self.limit.saturating_sub(self.read.len()) {
            return Poll::Ready(Err(Kind::BodyTooLarge.into()));
        }
        if !hold(&mut self.held, self.read.len() + expected) {
            return Poll::Ready(Err(Kind::Queue(QueueFault::Full(RETRY_AFTER)).into()));
        }
        while let Some(frame) = ready!(Pin::new(&mut request.body).poll_frame(cx)?) {
            // Trailers are dropped: a body in memory has none.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() as u64 > self.limit.saturating_sub(self.read.len()) {
                return Poll::Ready(Err(Kind::BodyTooLarge.into()));
            }
            if !hold(&mut self.held, self.read.len() + data.len() as u64) {
                return Poll::Ready(Err(Kind::Queue(QueueFault::Full(RETRY_AFTER)).into()));
            }
            self.read.push(data, expected);
        }
        // However the body ended, a partial one must not pass for a complete one.
        if self.declared.is_some_and(|declared| declared != self.read.len()) {
            return Poll::Ready(Err(Kind::ClientClosed.into()));
        }
        let Some(mut request) = self.request.take() else {
            return Poll::Ready(Err(Kind::Internal.into()));
        };
        if let Some(held) = self.held.take() {
            request.cx.hold_body(held);
        }
        let bytes = std::mem::take(&mut self.read).into_bytes();
        let headers = &mut request.parts.headers;
        // A single declared length was found correct above, so it stays.
        let told = headers.get_all(header::CONTENT_LENGTH).iter().count();
        if self.declared.is_none() || told != 1 {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        }
        headers.remove(header::TRAILER);
        request.body = Body::full(bytes);
        Poll::Ready(Ok(self.inner.call(request)))
    }
}

/// Whether there is room for `bytes` in total.
fn hold(held: &mut Option<Held>, bytes: u64) -> bool {
    held.as_mut().is_none_or(|held| held.grow_to(bytes))
}

// === impl Read ===

impl Read {
    fn len(&self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Frame(bytes) => bytes.len() as u64,
            Self::Frames(bytes) => bytes.len() as u64,
        }
    }

    /// Adds `data`; `expected` is the number of bytes still announced, including `data`.
    fn push(&mut self, data: Bytes, expected: u64) {
        match self {
            Self::Nothing => *self = Self::Frame(data),
            Self::Frame(first) => {
                let announced = usize::try_from(expected.min(FIRST_CAPACITY)).unwrap_or(0);
                let mut bytes = BytesMut::with_capacity(announced.max(first.len() + data.len()));
                bytes.extend_from_slice(first);
                bytes.extend_from_slice(&data);
                *self = Self::Frames(bytes);
            }
            Self::Frames(bytes) => bytes.extend_from_slice(&data),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Frame(bytes) => bytes,
            Self::Frames(bytes) => bytes.freeze(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};
    use http_body::Frame;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::middleware::testing::{Feed, data, fed, get, request};

    /// Answers with the body it got, which must be in memory, and with its fields.
    async fn echo(request: Request) -> Result<Response, Error> {
        let body = request.body.as_full().cloned().unwrap_or_default();
        assert!(request.body.is_in_memory());
        let mut response = Response::new(Body::full(body));
        *response.headers_mut() = request.parts.headers;
        Ok(response)
    }

    /// Buffers what `feed` sends, and passes it on if that is at most `limit`.
    async fn buffered(limit: u64, feeding: impl FnOnce(Feed)) -> Result<Response, Error> {
        let (feed, body) = fed();
        feeding(feed);
        let layer = BufferLayer::new(&Settings { bytes: Some(limit), is_counted: false }, None);
        let mut request = request(Method::POST, "/", body);
        request.parts.headers.insert(header::TRAILER, HeaderValue::from_static("x-sum"));
        layer.layer(service_fn(echo)).oneshot(request).await
    }

    #[tokio::test]
    async fn frames_become_one_body_with_its_true_length() {
        for frames in [&["abc"][..], &["a", "b", "c"], &["", "ab", "", "c"], &[]] {
            let whole = frames.concat();
            let response = buffered(3, |feed| {
                for &frame in frames {
                    feed.try_send(data(frame)).unwrap();
                }
            });
            let response = response.await.unwrap();
            assert_eq!(response.headers()[header::CONTENT_LENGTH], whole.len().to_string());
            let body = response.body().as_full().cloned().unwrap_or_default();
            assert_eq!(body, whole);
        }
    }

    #[tokio::test]
    async fn a_single_frame_is_not_copied() {
        let sent = Bytes::from(vec![b'x'; 64]);
        let frame = sent.clone();
        let response = buffered(64, |feed| feed.try_send(data(frame)).unwrap()).await.unwrap();
        assert_eq!(response.body().as_full().unwrap().as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn trailers_are_dropped_with_their_announcement() {
        let response = buffered(3, |feed| {
            feed.try_send(data("abc")).unwrap();
            feed.try_send(Frame::trailers(HeaderMap::new())).unwrap();
        });
        let response = response.await.unwrap();
        assert_eq!(response.body().as_full().unwrap(), "abc");
        assert!(!response.headers().contains_key(header::TRAILER));
    }

    #[tokio::test]
    async fn one_byte_too_many_is_refused_though_the_client_has_not_finished() {
        let mut still_open = None;
        let refused = buffered(3, |feed| {
            feed.try_send(data("ab")).unwrap();
            feed.try_send(data("cd")).unwrap();
            still_open = Some(feed);
        });
        assert!(matches!(refused.await.unwrap_err().kind(), Kind::BodyTooLarge));
    }

    /// A body that claims five bytes and has three.
    struct Short(Option<Bytes>);

    impl http_body::Body for Short {
        type Data = Bytes;
        type Error = Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
            Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
        }

        fn size_hint(&self) -> http_body::SizeHint {
            http_body::SizeHint::with_exact(self.0.as_ref().map_or(2, |_| 5))
        }
    }

    #[tokio::test]
    async fn a_body_short_of_its_declared_length_is_not_passed_on() {
        let body = Body::boxed(Short(Some(Bytes::from_static(b"abc"))));
        let layer = BufferLayer::new(&Settings { bytes: Some(1024), is_counted: false }, None);
        let call = layer.layer(service_fn(echo)).oneshot(request(Method::POST, "/", body));
        assert!(matches!(call.await.unwrap_err().kind(), Kind::ClientClosed));
    }

    #[tokio::test]
    async fn the_limit_of_the_body_itself_holds_too() {
        let (feed, mut body) = fed();
        body.set_limit(2);
        feed.try_send(data("abc")).unwrap();
        let layer = BufferLayer::new(&Settings { bytes: Some(1024), is_counted: false }, None);
        let call = layer.layer(service_fn(echo)).oneshot(request(Method::POST, "/", body));
        assert!(matches!(call.await.unwrap_err().kind(), Kind::BodyTooLarge));
    }

    #[tokio::test]
    async fn what_is_in_memory_and_what_may_stream_pass_untouched() {
        let on = BufferLayer::new(&Settings { bytes: Some(1), is_counted: false }, None);
        let full = request(Method::POST, "/", Body::full("ab"));
        let response = on.layer(service_fn(echo)).oneshot(full).await.unwrap();
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        assert!(on.layer(service_fn(echo)).oneshot(get("/")).await.is_ok());

        let off = BufferLayer::new(&Settings { bytes: None, is_counted: false }, None);
        let inner = service_fn(async |request: Request| {
            assert!(!request.body.is_in_memory());
            Ok(Response::new(Body::empty()))
        });
        let streaming = request(Method::POST, "/", fed().1);
        assert!(off.layer(inner).oneshot(streaming).await.is_ok());
    }

    #[tokio::test]
    async fn bodies_that_are_counted_share_their_room() {
        let room = HeldBodies::new(10);
        let settings = Settings { bytes: Some(8), is_counted: true };
        let layer = BufferLayer::new(&settings, Some(&room));
        let (feed, body) = fed();
        let asked = request(Method::POST, "/", body);
        let cx = asked.cx.clone();
        feed.send(data("sevenby")).await.unwrap();
        drop(feed);
        layer.layer(service_fn(echo)).oneshot(asked).await.unwrap();
        // It is held for as long as its exchange exists.
        let send = async |text: &'static str| {
            let (feed, body) = fed();
            feed.send(data(text)).await.unwrap();
            drop(feed);
            layer.layer(service_fn(echo)).oneshot(request(Method::POST, "/", body)).await
        };
        let refused = send("four").await.unwrap_err();
        assert!(matches!(refused.kind(), Kind::Queue(QueueFault::Full(_))), "{refused}");
        assert!(send("two").await.is_ok());
        drop(cx);
        assert!(send("eight by").await.is_ok(), "and given back");
        let free = BufferLayer::new(&Settings { is_counted: false, ..settings }, Some(&room));
        assert!(free.room.is_none());
    }
}
