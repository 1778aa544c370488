//! The only reader of whole request bodies.
//!
//! Touches the streaming bodies of routes that need them whole: they are read to the end, without
//! their trailers, become one `Bytes`, and only then does the request go on, framed by its true
//! length. Refuses with 413 `body-too-large` above the limit, before anything was sent anywhere; the
//! body's own limit and pace hold as well. No body, or one in memory: passed through at no cost.
//!
//! Costs one box and one copy of the body; a body of one frame is not copied. It sits behind
//! everything that may refuse, so that nobody unwelcome fills memory, and before everything that
//! needs the bytes. A drop forgets what was read.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, header};
use http_body::Body as _;
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind},
    http::{Body, Next, Request, Response},
};

/// What is set aside before a byte has come: an announced length is only a promise.
const FIRST_CAPACITY: u64 = 64 * 1024;

/// Whether and how much of a body is read before the request goes on.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Bytes read into memory; 413 above, nothing sent. `None`: the body streams.
    pub bytes: Option<u64>,
}

/// Makes [`Buffer`]s.
#[derive(Clone, Copy, Debug)]
pub struct BufferLayer(Option<u64>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Buffer<S> {
    limit: Option<u64>,
    inner: S,
}

pin_project! {
    /// The response, after the body was read if it has to be.
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
    // `None` once it has gone on.
    request: Option<Request>,
    limit: u64,
    read: Read,
}

/// What has been read: most bodies are one frame, which is passed on as it came.
#[derive(Debug, Default)]
enum Read {
    #[default]
    Nothing,
    Frame(Bytes),
    Frames(BytesMut),
}

// === impl BufferLayer ===

impl BufferLayer {
    /// A layer of these settings.
    pub fn new(settings: &Settings) -> Self {
        Self(settings.bytes)
    }
}

impl<S> Layer<S> for BufferLayer {
    type Service = Buffer<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Buffer { limit: self.0, inner }
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
                let reading = Reading { inner, request: Some(request), limit, read: Read::Nothing };
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
    /// Reads what there is; once that is all, sends the request on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Future, Error>> {
        let Some(request) = &mut self.request else {
            return Poll::Ready(Err(Kind::Internal.into()));
        };
        let expected = request.body.size_hint().lower();
        if expected > self.limit.saturating_sub(self.read.len()) {
            return Poll::Ready(Err(Kind::BodyTooLarge.into()));
        }
        while let Some(frame) = ready!(Pin::new(&mut request.body).poll_frame(cx)?) {
            // Trailers end here: a body in memory has none.
            let Ok(data) = frame.into_data() else { continue };
            if data.len() as u64 > self.limit.saturating_sub(self.read.len()) {
                return Poll::Ready(Err(Kind::BodyTooLarge.into()));
            }
            self.read.push(data, expected);
        }
        let Some(mut request) = self.request.take() else {
            return Poll::Ready(Err(Kind::Internal.into()));
        };
        let bytes = std::mem::take(&mut self.read).into_bytes();
        request.parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        request.parts.headers.remove(header::TRAILER);
        request.body = Body::full(bytes);
        Poll::Ready(Ok(self.inner.call(request)))
    }
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

    /// Adds `data`; `expected` more is announced, it included.
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
