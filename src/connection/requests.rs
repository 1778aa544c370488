//! Converts hyper's requests to ours, and our responses to hyper's.
//!
//! hyper's `Service` is implemented directly over one shared handle, so a request costs its
//! [`Context`] and no clone of the stack. The response body is wrapped once, at this boundary: when
//! hyper drops it, the exchange is over.
//!
//! A client that asks before it sends a body (`Expect: 100-continue`) is answered when somebody
//! reads the body. If nobody does, hyper closes the connection behind the answer, because the body
//! may still come: then the answer says so (RFC 9110, 10.1.1). So it does if the body of any other
//! request was given up before its answer and has not arrived as a whole (RFC 9112, 9.3). One that is
//! still being read then may be given up later, of which no answer can speak.

use std::{
    convert::Infallible,
    future::Future,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{self, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderValue, StatusCode, Version,
    header::{CONNECTION, EXPECT, UPGRADE},
};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use thiserror::Error;

use crate::{
    connection::{
        Handle,
        state::State,
        streams::{Progress, Streams},
        unread::Unread,
    },
    error::Error,
    http::{Body, Context, Peer, Request, Response, body::Guard},
};

/// The most bytes that are handed to h2 at once. h2 takes a frame of any size, and a stream that asks for no
/// further frame within `send_idle_timeout` is reset: larger pieces would cut off readers that are only slow.
const PIECE: usize = 32 * 1024;

/// Answers the requests of one connection.
#[derive(Debug)]
pub(super) struct Requests<H> {
    pub(super) handle: Arc<H>,
    pub(super) peer: Arc<Peer>,
    pub(super) state: Arc<State>,
    /// After this many requests the connection is closed gracefully.
    pub(super) limit: u64,
    /// h2 only.
    pub(super) streams: Option<Streams>,
}

pin_project! {
    /// A request on its way. Dropped by hyper when the client leaves.
    pub(super) struct ResponseFuture<F> {
        // Until it has answered.
        #[pin]
        inner: Option<F>,
        exchange: Option<Exchange>,
        has_body: bool,
        // Whether the body was asked for; only if the client waits for that.
        asked: Option<Arc<AtomicBool>>,
        // An answer, held back while the rest of the request's body is skipped.
        unread: Option<Box<Unread>>,
        // A 101, held back until the connection has been made upgradeable.
        held: Option<Box<hyper::Response<Sending>>>,
    }
}

/// The body of a client that sends it only if it is asked for.
struct Awaited {
    body: Body,
    /// Relaxed: read on the connection's own task, where the body is read before it is answered.
    asked: Arc<AtomicBool>,
}

/// A response body on its way to the client.
#[derive(Debug)]
pub(super) struct Sending {
    body: Body,
    /// h2 only: the rest of a frame that is handed over in pieces.
    rest: Bytes,
    exchange: Exchange,
}

/// A response body broke off. The access log says why; hyper only needs to know that it did.
#[derive(Debug, Error)]
#[error("response body broke off: {0}")]
pub(super) struct BrokenOff(&'static str);

/// One request and its response, until both are over.
#[derive(Debug)]
struct Exchange {
    state: Arc<State>,
    progress: Option<Arc<Progress>>,
    is_complete: bool,
}

// === impl Requests ===

impl<H: Handle> hyper::service::Service<hyper::Request<Incoming>> for Requests<H> {
    type Response = hyper::Response<Sending>;
    type Error = Infallible;
    type Future = ResponseFuture<H::Future>;

    fn call(&self, request: hyper::Request<Incoming>) -> Self::Future {
        let number = self.state.begin_request();
        if number >= self.limit {
            self.state.ask_to_close();
        }
        let (parts, incoming) = request.into_parts();
        let cx = Context::new(self.peer.clone(), parts.method.clone(), parts.version);
        let mut body = Body::from_client(incoming);
        let mut asked: Option<Arc<AtomicBool>> = None;
        let is_h2 = parts.version == Version::HTTP_2;
        let has_body = !http_body::Body::is_end_stream(&body);
        if has_body {
            // A request body may outlast its response: its bytes are not the start of a new head.
            body.attach(Guard::Upload(self.state.uploads().begin(!is_h2)));
        }
        if is_h2 {
            body.set_h2_request();
        } else if has_body && is_awaited(&parts) {
            let flag = asked.insert(Arc::default());
            body = Body::boxed(Awaited { body, asked: flag.clone() });
        }
        let exchange = Exchange {
            state: self.state.clone(),
            progress: self.streams.as_ref().map(Streams::called),
            is_complete: false,
        };
        let inner = self.handle.handle(Request::new(parts, body, cx));
        ResponseFuture {
            inner: Some(inner),
            exchange: Some(exchange),
            has_body,
            asked,
            unread: None,
            held: None,
        }
    }
}

/// Whether the client waits to be asked for the body. hyper asks, and knows no other expectation.
fn is_awaited(parts: &http::request::Parts) -> bool {
    let expected = parts.headers.get(EXPECT).map(HeaderValue::as_bytes);
    parts.version == Version::HTTP_11
        && expected.is_some_and(|it| it.eq_ignore_ascii_case(b"100-continue"))
}

// === impl ResponseFuture ===

impl<F: Future<Output = Response>> Future for ResponseFuture<F> {
    type Output = Result<hyper::Response<Sending>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if let Some(held) = this.held.take_if(|held| held.body().exchange.state.is_switch_granted())
        {
            return Poll::Ready(Ok(*held));
        }
        if this.held.is_some() {
            return Poll::Pending;
        }
        let (mut response, is_whole) = ready!(self.as_mut().poll_answer(cx));
        let this = self.project();
        let Some(exchange) = this.exchange.take() else { return Poll::Pending };
        let is_upgrade = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_last = exchange.state.is_closing() || !is_whole;
        if exchange.progress.is_none() && is_last && !is_upgrade {
            // A 426 also names what to upgrade to (RFC 9110, 7.8).
            let options =
                if response.headers().contains_key(UPGRADE) { "upgrade, close" } else { "close" };
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static(options));
        }
        let is_held = is_upgrade && exchange.progress.is_none();
        if is_held {
            exchange.state.ask_to_switch();
        }
        let response = response.map(|body| Sending { body, rest: Bytes::new(), exchange });
        if is_held {
            *this.held = Some(Box::new(response));
            return Poll::Pending;
        }
        Poll::Ready(Ok(response))
    }
}

impl<F: Future<Output = Response>> ResponseFuture<F> {
    /// The answer, and whether its connection can go on: nothing of the request is missing.
    fn poll_answer(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<(Response, bool)> {
        let mut this = self.project();
        let mut unread = if let Some(unread) = this.unread.take() {
            unread
        } else {
            let Some(inner) = this.inner.as_mut().as_pin_mut() else { return Poll::Pending };
            let answer = ready!(inner.poll(cx));
            // Whatever it still holds of the request is given up.
            this.inner.set(None);
            let state = this.exchange.as_ref().map(|exchange| &exchange.state);
            let rest = state.filter(|_| *this.has_body).and_then(|it| it.uploads().end());
            let is_unasked = this.asked.as_ref().is_some_and(|it| !it.load(Ordering::Relaxed));
            match rest {
                Some(rest) if !is_unasked => Box::new(Unread::new(answer, rest)),
                _ => return Poll::Ready((answer, !is_unasked)),
            }
        };
        match unread.poll_skip(cx) {
            Poll::Ready(is_whole) => Poll::Ready((unread.into_answer(), is_whole)),
            Poll::Pending => {
                *this.unread = Some(unread);
                Poll::Pending
            }
        }
    }
}

// === impl Awaited ===

impl http_body::Body for Awaited {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.asked.store(true, Ordering::Relaxed);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Sending ===

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = &mut *self;
        let Some(progress) = &this.exchange.progress else {
            let polled = ready!(Pin::new(&mut this.body).poll_frame(cx));
            return Poll::Ready(polled.map(|frame| frame.map_err(|error| BrokenOff::by(&error))));
        };
        progress.asked();
        let polled = if this.rest.is_empty() {
            ready!(Pin::new(&mut this.body).poll_frame(cx))
        } else {
            Some(Ok(Frame::data(mem::take(&mut this.rest))))
        };
        // The failure is ours or the upstream's, not a reset by the client.
        let Some(Ok(frame)) = polled else {
            this.exchange.is_complete = true;
            return Poll::Ready(polled.map(|frame| frame.map_err(|error| BrokenOff::by(&error))));
        };
        progress.handed_over();
        let frame = match frame.into_data() {
            Ok(mut data) => {
                if data.len() > PIECE {
                    this.rest = data.split_off(PIECE);
                }
                Frame::data(data)
            }
            Err(frame) => frame,
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.body.size_hint();
        let rest = self.rest.len() as u64;
        if let Some(upper) = hint.upper().filter(|_| rest > 0) {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        // hyper does not poll for the end of a body that reports being at its end.
        self.exchange.is_complete |= http_body::Body::is_end_stream(self);
    }
}

// === impl BrokenOff ===

impl BrokenOff {
    fn by(error: &Error) -> Self {
        Self(error.kind().reason())
    }
}

// === impl Exchange ===

impl Drop for Exchange {
    fn drop(&mut self) {
        self.state.end_request();
        let Some(progress) = &self.progress else { return };
        progress.end();
        if !self.is_complete {
            self.state.note_aborted();
        }
    }
}
