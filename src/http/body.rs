//! The one body type: its bytes, how many may pass, how long to wait for them, and what must happen
//! at the end.
//!
//! Layers attach to a body and never wrap it, so that a body is as deep with twenty layers as with
//! none. Guards run exactly once: when the body ends, fails or is dropped, whichever comes first.

mod ending;
mod failing;
mod source;

use std::{
    fmt, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::{
    error::{Error, Kind},
    http::{
        self,
        identity::Identity,
        pace::{Pace, Pacing},
        trailers,
    },
};

pub use self::failing::is_malformed;
pub use crate::http::guard::{End, Finish, Guard, Over, Receive};

use self::{
    failing::client_failed,
    source::{Carrier, Source},
};

/// A request or response body.
///
/// One pointer wide, because every layer moves it; an empty body without guards has no allocation.
/// Dropping it ends it: the guards run, and an `Incoming` that was not read to its end makes hyper
/// reset the stream or close the connection, unless an [`Upload`](http::upload::Upload) takes it.
#[derive(Default)]
pub struct Body(Option<Box<Inner>>);

struct Inner {
    source: Source,
    limit: u64,
    seen: u64,
    pacing: Pacing,
    on_hyper_error: fn(hyper::Error) -> Error,
    carrier: Carrier,
    received_by: Option<http::Context>,
    is_kept: bool,
    identity: Option<Arc<Identity>>,
    guards: SmallVec<[Guard; 3]>,
}

// === impl Body ===

impl Body {
    /// A body without bytes.
    pub fn empty() -> Self {
        Self(None)
    }

    /// A body with all its bytes in memory.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        if bytes.is_empty() { Self::empty() } else { Self::from_source(Source::Full(bytes)) }
    }

    /// A body that hyper receives from a client.
    pub fn from_client(incoming: Incoming) -> Self {
        Self::from_incoming(incoming, client_failed)
    }

    /// A body that hyper receives; `on_error` converts its failures.
    pub fn from_incoming(incoming: Incoming, on_error: fn(hyper::Error) -> Error) -> Self {
        if http_body::Body::is_end_stream(&incoming) {
            return Self::empty();
        }
        let mut inner = Inner::of(Source::Incoming(incoming));
        inner.on_hyper_error = on_error;
        Self(Some(inner))
    }

    /// Marks a body from a client over HTTP/2: if its stream is closed without `END_STREAM`, the
    /// client left; that is not the end of the body.
    pub fn set_h2_request(&mut self) {
        self.if_any(|inner| inner.carrier = Carrier::H2Request);
    }

    /// Marks a body from an upstream over HTTP/2: closing without `END_STREAM` means a reset.
    pub fn set_h2_response(&mut self) {
        self.if_any(|inner| inner.carrier = Carrier::H2Response);
    }

    /// A body from any other source of frames.
    pub fn boxed(body: impl http_body::Body<Data = Bytes, Error = Error> + Send + 'static) -> Self {
        Self::from_source(Source::Boxed(Box::pin(body)))
    }

    /// A body that an HTTP/1.1 upstream's connection reads.
    pub fn received(body: Box<dyn Receive>) -> Self {
        Self::from_source(Source::Received(body))
    }

    fn from_source(source: Source) -> Self {
        Self(Some(Inner::of(source)))
    }

    /// Lets at most `limit` bytes pass; the frame that exceeds it becomes `body-too-large`.
    pub fn set_limit(&mut self, limit: u64) {
        self.if_any(|inner| inner.limit = limit);
    }

    /// Marks the request body of the exchange `cx`. Counts the bytes passed on as received there,
    /// frame by frame: it may outlive the answer. While the answer is under way, its pace is off.
    pub fn count_received(&mut self, cx: http::Context) {
        self.if_any(|inner| inner.received_by = Some(cx));
    }

    /// Filters the trailers: a client may not send the fields in `identity`.
    pub fn guard_identity(&mut self, identity: Arc<Identity>) {
        self.if_any(|inner| inner.identity = Some(identity));
    }

    /// Fails the body if its peer is slower than `pace`. Costs nothing until somebody has to wait.
    pub fn set_pace(&mut self, pace: Pace) {
        self.if_any(|inner| inner.pacing = Pacing::Unarmed(pace));
    }

    /// Marks that somebody keeps a copy of what is read, to send it again.
    pub fn set_kept(&mut self) {
        self.if_any(|inner| inner.is_kept = true);
    }

    /// Whether somebody keeps a copy of what is read.
    pub fn is_kept(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_kept)
    }

    /// Settings about frames are skipped for a body that will have none.
    fn if_any(&mut self, ask: impl FnOnce(&mut Inner)) {
        if let Some(inner) = &mut self.0 {
            ask(inner);
        }
    }

    /// Whether reading never has to wait: there are no bytes, or all are here.
    pub fn is_in_memory(&self) -> bool {
        let Some(inner) = &self.0 else { return true };
        matches!(inner.source, Source::Empty | Source::Full(_))
    }

    /// Completes when the body is over; `None` for one in memory, which is over once read.
    pub fn watch(&mut self) -> Option<Over> {
        if self.is_in_memory() {
            return None;
        }
        let (guard, over) = oneshot::channel();
        self.attach(Guard::Watched(guard));
        Some(Over(over))
    }

    /// Data bytes passed on so far.
    pub fn seen(&self) -> u64 {
        self.0.as_ref().map_or(0, |inner| inner.seen)
    }

    /// The whole body, if it is in memory and untouched.
    pub fn as_full(&self) -> Option<&Bytes> {
        match &self.0.as_ref()?.source {
            Source::Full(bytes) if self.seen() == 0 => Some(bytes),
            _ => None,
        }
    }

    /// Runs `guard` when the body is over.
    pub fn attach(&mut self, guard: Guard) {
        self.0.get_or_insert_with(|| Inner::of(Source::Empty)).guards.push(guard);
    }

    /// Takes over the guards of `other`, for a layer that answers with another body.
    pub fn take_guards(&mut self, other: &mut Self) {
        if let Some(other) = &mut other.0
            && !other.guards.is_empty()
        {
            let inner = self.0.get_or_insert_with(|| Inner::of(Source::Empty));
            inner.guards.append(&mut other.guards);
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match &mut self.0 {
            Some(inner) => inner.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|inner| inner.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or_else(|| SizeHint::with_exact(0), |inner| inner.source.size_hint())
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match self.0.as_ref().map(|inner| &inner.source) {
            None | Some(Source::Empty) => "Empty",
            Some(Source::Full(_)) => "Full",
            Some(Source::Incoming(_)) => "Incoming",
            Some(Source::Received(_)) => "Received",
            Some(Source::Failed(_)) => "Failed",
            Some(Source::Boxed(_)) => "Boxed",
        };
        f.debug_struct("Body")
            .field("source", &source)
            .field("seen", &self.seen())
            .finish_non_exhaustive()
    }
}

// === impl Inner ===

impl Inner {
    fn of(source: Source) -> Box<Self> {
        Box::new(Self {
            source,
            limit: u64::MAX,
            seen: 0,
            pacing: Pacing::Off,
            on_hyper_error: client_failed,
            carrier: Carrier::H1,
            received_by: None,
            is_kept: false,
            identity: None,
            guards: SmallVec::new(),
        })
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let (source, on_hyper_error, carrier) =
            (&mut self.source, self.on_hyper_error, self.carrier);
        let poll = |cx: &mut Context<'_>| source.poll(on_hyper_error, carrier, cx);
        let polled = match self.pacing.poll(cx, self.seen, self.received_by.as_ref(), poll) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(polled) => polled,
        };
        match polled {
            Some(Ok(mut frame)) => {
                if let Some(fields) = frame.trailers_mut() {
                    trailers::filter(fields);
                    if let Some(identity) = &self.identity {
                        trailers::filter_identity(fields, identity);
                    }
                    // Nothing follows the trailers, and hyper does not poll again.
                    self.finish(End::Complete);
                }
                if let Some(data) = frame.data_ref() {
                    let len = data.len() as u64;
                    self.seen += len;
                    if let Some(cx) = &self.received_by {
                        cx.add_received(len);
                    }
                    if self.seen > self.limit {
                        self.finish(End::Failed(Kind::BodyTooLarge.reason()));
                        return Poll::Ready(Some(Err(Kind::BodyTooLarge.into())));
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) if matches!(self.source, Source::Received(_)) => {
                // A turn later: hyper aborts at once, and would lose what it has not written yet.
                self.source = Source::Failed(Some(error));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Err(error)) => {
                let error = self.explained(error);
                self.finish(End::Failed(error.kind().reason()));
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.finish(End::Complete);
                Poll::Ready(None)
            }
        }
    }

    /// The failure, or what led to it if a guard knows that.
    fn explained(&self, error: Error) -> Error {
        let cause = self.guards.iter().find_map(|guard| match guard {
            Guard::Upstream(upstream) => upstream.cause(),
            Guard::InFlight(_) | Guard::Upload(_) | Guard::Exchange(_) | Guard::Watched(_) => None,
        });
        match cause {
            Some(cause) => Error::new(cause.clone()).with_source(error),
            None => error,
        }
    }

    /// Lets go of the source, and runs the guards.
    fn finish(&mut self, end: End) {
        let is_kept = |guard: &Guard| matches!(guard, Guard::Upload(_)) && end != End::Complete;
        let mut rest = None;
        match mem::replace(&mut self.source, Source::Empty) {
            Source::Received(received) => received.finish(end),
            Source::Incoming(incoming) if self.guards.iter().any(is_kept) => rest = Some(incoming),
            _ => {}
        }
        let seen = self.seen;
        for guard in self.guards.drain(..) {
            match guard {
                Guard::InFlight(in_flight) => drop(in_flight),
                Guard::Upload(upload) => {
                    if let Some(rest) = rest.take() {
                        upload.give_up(rest);
                    }
                }
                Guard::Exchange(exchange) => exchange.finish(seen, end),
                Guard::Upstream(upstream) => upstream.finish(end),
                Guard::Watched(watcher) => drop(watcher),
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.guards.is_empty() && !matches!(self.source, Source::Received(_)) {
            return;
        }
        // hyper does not poll a body for its end once it says that it is at the end.
        let is_over = self.source.is_end_stream() || self.read_end();
        self.finish(if is_over { End::Complete } else { End::Dropped });
    }
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderName, HeaderValue};
    use futures_util::FutureExt;
    use http_body_util::{BodyExt, StreamBody};
    use parking_lot::Mutex;

    use super::*;

    fn endless() -> Body {
        Body::boxed(StreamBody::new(futures_util::stream::pending()))
    }

    #[test]
    fn whoever_watches_is_told_when_a_body_ends_fails_or_is_dropped() {
        let mut ended = Body::boxed(Body::full("x"));
        let over = ended.watch().unwrap();
        ended.frame().now_or_never().unwrap().unwrap().unwrap();
        let mut over = Box::pin(over);
        assert!(over.as_mut().now_or_never().is_none(), "its end has not been read");
        assert!(ended.frame().now_or_never().unwrap().is_none());
        assert!(over.now_or_never().is_some());

        let mut failed = Body::boxed(Body::full("x"));
        failed.set_limit(0);
        let over = failed.watch().unwrap();
        failed.frame().now_or_never().unwrap().unwrap().unwrap_err();
        assert!(over.now_or_never().is_some());

        let mut dropped = endless();
        let over = dropped.watch().unwrap();
        drop(dropped);
        assert!(over.now_or_never().is_some());
    }

    #[test]
    fn a_body_that_ends_with_trailers_is_complete() {
        struct Ended(Arc<Mutex<Option<End>>>);
        impl Finish for Ended {
            fn finish(self: Box<Self>, end: End) {
                *self.0.lock() = Some(end);
            }
        }
        let frames = [Frame::data(Bytes::from_static(b"x")), Frame::trailers(HeaderMap::new())];
        let frames = futures_util::stream::iter(frames.map(Ok));
        let mut body = Body::boxed(StreamBody::new(frames));
        let ended = Arc::new(Mutex::new(None));
        body.attach(Guard::Upstream(Box::new(Ended(ended.clone()))));
        body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(*ended.lock(), None);
        let trailers = body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert!(trailers.is_trailers());
        // Like hyper, which does not poll for the end.
        drop(body);
        assert_eq!(*ended.lock(), Some(End::Complete));
    }

    #[test]
    fn trailers_do_not_say_what_the_identity_keeps_a_client_from_saying() {
        let user = HeaderName::from_static("x-user");
        let mut fields = HeaderMap::new();
        for name in [&user, &HeaderName::from_static("x-sum")] {
            fields.insert(name, HeaderValue::from_static("0"));
        }
        let frames = futures_util::stream::iter([Ok(Frame::trailers(fields))]);
        let mut body = Body::boxed(StreamBody::new(frames));
        body.guard_identity(Arc::new(Identity::new([user])));
        let trailers = body.frame().now_or_never().unwrap().unwrap().unwrap();
        let left: Vec<_> = trailers.trailers_ref().unwrap().keys().collect();
        assert_eq!(left, ["x-sum"]);
    }

    /// Every layer moves them; whoever makes one larger should notice.
    #[test]
    fn a_body_and_what_it_is_in_stay_small() {
        assert_eq!(size_of::<Body>(), size_of::<usize>());
        assert_eq!(size_of::<http::Request>(), 3 * size_of::<usize>());
        assert!(size_of::<http::Response>() <= 120, "{}", size_of::<http::Response>());
    }

    #[test]
    fn a_body_in_memory_is_not_worth_watching() {
        assert!(Body::empty().watch().is_none());
        assert!(Body::full("x").watch().is_none());
        assert!(endless().watch().is_some());
    }
}
