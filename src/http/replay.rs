//! What is kept of a request body, so that another attempt can send it again.
//!
//! A body in memory is shared. A streaming one passes through a tee, which copies its first 64 KiB:
//! as long as no more was read, it can be sent again, the copy first and then whatever the client
//! sends next. Beyond that, or after it failed, it cannot, and then not even a request that was
//! handed back is sent again. The client's body stays in the tee with its limit, pace and guards:
//! it is read once, whoever reads it.
//!
//! Invariant: at most one attempt reads the client's body. A new reader takes over from the
//! previous one, which is woken and gets an error, never an end: hyper may still hold it in a task
//! of its own, and a body that was cut off must not look whole.
//!
//! Whoever inserts a tee marks the body ([`Body::is_kept`]): one copy is enough.
//!
//! Costs nothing for an empty body, a reference for one in memory. A streaming body costs two
//! allocations, an uncontended lock per frame and the copy, which is freed by the first answer that
//! is accepted.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use crate::{
    error::{Error, Kind},
    http::Body,
};

/// The most that is copied of a body.
const TEE_BYTES: usize = 64 * 1024;

/// What is kept of a request body.
pub enum Replay {
    /// There is no body.
    Empty,
    /// All of it.
    Full(Bytes),
    /// What has been read so far, and the rest.
    Tee(Arc<Tee>),
}

/// A client's body in transit, and what was read of it.
pub struct Tee(Mutex<State>);

struct State {
    source: Body,
    record: Record,
    /// The number of the reader that may continue.
    reader: u32,
    /// Wakes the reader that waits for the client.
    waiting: Option<Waker>,
}

enum Record {
    /// All that was read so far.
    Whole { data: Vec<u8>, trailers: Option<HeaderMap> },
    /// Something was read that is not in the copy.
    Lost,
}

/// The body of one attempt: the copy, then the client's own.
struct Reader {
    tee: Arc<Tee>,
    number: u32,
    copy: Bytes,
    trailers: Option<HeaderMap>,
}

// === impl Replay ===

impl Replay {
    /// Keeps what can be kept of `body`, of which nothing has been read. A streaming body is
    /// replaced by the tee's first reader.
    pub fn of(body: &mut Body) -> Self {
        if let Some(bytes) = body.as_full() {
            return Self::Full(bytes.clone());
        }
        if body.is_in_memory() {
            return Self::Empty;
        }
        let source = std::mem::replace(body, Body::empty());
        let record = Record::Whole { data: Vec::new(), trailers: None };
        let tee = Arc::new(Tee(Mutex::new(State { source, record, reader: 0, waiting: None })));
        let first = Reader { tee: tee.clone(), number: 0, copy: Bytes::new(), trailers: None };
        *body = Body::boxed(first);
        body.set_kept();
        Self::Tee(tee)
    }

    /// Whether everything read so far is in the copy.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Empty | Self::Full(_) => true,
            Self::Tee(tee) => matches!(tee.0.lock().record, Record::Whole { .. }),
        }
    }

    /// The body again; `None` if it is not whole. Its previous reader can read no more.
    pub fn again(&self) -> Option<Body> {
        match self {
            Self::Empty => Some(Body::empty()),
            Self::Full(bytes) => Some(Body::full(bytes.clone())),
            Self::Tee(tee) => Tee::again(tee),
        }
    }

    /// Frees the copy: the body will not be sent again.
    pub fn release(&self) {
        if let Self::Tee(tee) = self {
            tee.0.lock().record = Record::Lost;
        }
    }
}

// === impl Tee ===

impl Tee {
    fn again(tee: &Arc<Self>) -> Option<Body> {
        let mut state = tee.0.lock();
        let State { source, record, reader, waiting } = &mut *state;
        let Record::Whole { data, trailers } = record else { return None };
        *reader += 1;
        // The client's next frame wakes the new reader only. The previous one is to end its stream
        // or connection now, not to hold it for as long as the client likes.
        if let Some(previous) = waiting.take() {
            previous.wake();
        }
        let copy = Bytes::copy_from_slice(data);
        if trailers.is_none() && source.is_end_stream() {
            return Some(Body::full(copy));
        }
        let (number, trailers) = (*reader, trailers.clone());
        drop(state);
        Some(Body::boxed(Reader { tee: tee.clone(), number, copy, trailers }))
    }
}

// === impl Record ===

impl Record {
    fn note(&mut self, polled: Option<&Result<Frame<Bytes>, Error>>) {
        let (Self::Whole { data, trailers }, Some(polled)) = (&mut *self, polled) else { return };
        let fits = |more: usize| data.len() + more <= TEE_BYTES;
        let Ok(frame) = polled else {
            *self = Self::Lost;
            return;
        };
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(more), _) if fits(more.len()) => data.extend_from_slice(more),
            (None, Some(fields)) if fits(size(fields)) => *trailers = Some(fields.clone()),
            _ => *self = Self::Lost,
        }
    }
}

fn size(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

// === impl Reader ===

impl http_body::Body for Reader {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if !self.copy.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.copy)))));
        }
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let mut state = self.tee.0.lock();
        if state.reader != self.number {
            let error = Error::new(Kind::Internal).with_detail("another attempt reads it by now");
            return Poll::Ready(Some(Err(error)));
        }
        let State { source, record, waiting, .. } = &mut *state;
        let Poll::Ready(polled) = Pin::new(&mut *source).poll_frame(cx) else {
            waiting.get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            return Poll::Pending;
        };
        record.note(polled.as_ref());
        if source.is_end_stream() {
            // hyper polls no further than this, and whoever waits for the end of the upload must
            // hear of it, although the tee lives on.
            *source = Body::empty();
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let state = self.tee.0.lock();
        let is_reader = state.reader == self.number;
        self.copy.is_empty() && self.trailers.is_none() && is_reader && state.source.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.tee.0.lock().source.size_hint();
        let copy = self.copy.len() as u64;
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(copy));
        // HTTP/1.1 has no trailers with a known length: hyper would omit them.
        if let Some(upper) = rest.upper()
            && self.trailers.is_none()
        {
            hint.set_upper(upper.saturating_add(copy));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::{FutureExt, stream};
    use http::HeaderValue;
    use http_body_util::{BodyExt, StreamBody};
    use tokio::sync::mpsc;

    use super::*;
    use crate::telemetry::task;

    /// The sending end of a body: frames sent here come out of it; dropping it ends the body.
    type Feed = mpsc::Sender<Frame<Bytes>>;

    fn fed() -> (Feed, Body) {
        let (feed, mut frames) = mpsc::channel(16);
        let frames = stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok)));
        (feed, Body::boxed(StreamBody::new(frames)))
    }

    fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
        Frame::data(bytes.into())
    }

    async fn read(body: Body) -> Result<Bytes, Error> {
        body.collect().await.map(http_body_util::Collected::to_bytes)
    }

    fn teed() -> (Feed, Replay, Body) {
        let (feed, mut body) = fed();
        let replay = Replay::of(&mut body);
        (feed, replay, body)
    }

    async fn next(body: &mut Body) -> Bytes {
        body.frame().await.unwrap().unwrap().into_data().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_waits_hears_that_another_took_over() {
        let (_feed, replay, mut first) = teed();
        let waiting = task::spawn("reader", async move { first.frame().await.unwrap().is_err() });
        tokio::task::yield_now().await;
        let _second = replay.again().unwrap();
        let failed = tokio::time::timeout(Duration::from_secs(1), waiting).await;
        assert!(failed.expect("it must not wait for the client").unwrap());
    }

    #[tokio::test]
    async fn an_empty_body_and_one_in_memory_stay_as_they_are() {
        let mut empty = Body::empty();
        let replay = Replay::of(&mut empty);
        assert!(matches!(replay, Replay::Empty) && empty.is_in_memory());
        assert!(replay.again().unwrap().is_end_stream());

        let mut full = Body::full("order");
        let replay = Replay::of(&mut full);
        assert!(full.as_full().is_some());
        read(full).await.unwrap();
        for _ in 0..2 {
            assert_eq!(replay.again().unwrap().as_full().unwrap(), "order");
        }
    }

    #[tokio::test]
    async fn a_body_read_in_part_is_sent_again_and_then_goes_on() {
        let (feed, replay, mut first) = teed();
        feed.try_send(data("one ")).unwrap();
        assert_eq!(next(&mut first).await, "one ");
        let mut second = replay.again().unwrap();
        feed.try_send(data("two")).unwrap();
        assert_eq!(next(&mut second).await, "one ");
        assert_eq!(next(&mut second).await, "two");
        drop(feed);
        assert!(second.frame().await.is_none() && second.is_end_stream());
        // All of it is here now: the third attempt waits for nobody.
        assert_eq!(replay.again().unwrap().as_full().unwrap(), "one two");
    }

    #[tokio::test]
    async fn whoever_read_before_reads_no_more_and_is_never_told_of_an_end() {
        let (feed, replay, mut first) = teed();
        feed.try_send(data("one")).unwrap();
        assert_eq!(next(&mut first).await, "one");
        let second = replay.again().unwrap();
        drop(feed);
        assert!(!first.is_end_stream());
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(read(second).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn beyond_64_kib_it_streams_on_and_is_not_sent_again() {
        let (feed, replay, mut first) = teed();
        feed.try_send(data(vec![b'a'; TEE_BYTES])).unwrap();
        assert_eq!(next(&mut first).await.len(), TEE_BYTES);
        assert!(replay.is_whole());
        feed.try_send(data("b")).unwrap();
        assert_eq!(next(&mut first).await, "b");
        assert!(!replay.is_whole());
        assert!(replay.again().is_none());
        drop(feed);
        assert!(first.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_accepted_answer_frees_the_copy_and_the_upload_goes_on() {
        let (feed, replay, mut first) = teed();
        feed.try_send(data("one")).unwrap();
        next(&mut first).await;
        replay.release();
        assert!(replay.again().is_none());
        feed.try_send(data("two")).unwrap();
        assert_eq!(next(&mut first).await, "two");
    }

    #[tokio::test]
    async fn trailers_are_part_of_it_and_leave_the_length_open() {
        let (feed, replay, first) = teed();
        let mut fields = HeaderMap::new();
        fields.insert("x-sum", HeaderValue::from_static("7"));
        feed.try_send(data("one")).unwrap();
        feed.try_send(Frame::trailers(fields)).unwrap();
        let mut bodies = vec![first];
        for _ in 0..3 {
            let read = bodies.pop().unwrap().collect().await.unwrap();
            assert_eq!(read.trailers().unwrap()["x-sum"], "7");
            assert_eq!(read.to_bytes(), "one");
            let again = replay.again().unwrap();
            assert_eq!((again.size_hint().lower(), again.size_hint().exact()), (3, None));
            bodies.push(again);
        }
    }

    #[tokio::test]
    async fn a_body_of_known_length_is_over_with_its_last_byte() {
        let mut body = Body::boxed(Body::full("order"));
        let over = body.watch().unwrap();
        let replay = Replay::of(&mut body);
        assert_eq!(next(&mut body).await, "order");
        // Like hyper, which never polls for the end of a body with a length.
        drop(body);
        assert!(over.now_or_never().is_some(), "the clock of the answer runs");
        assert_eq!(replay.again().unwrap().as_full().unwrap(), "order");
    }

    #[tokio::test]
    async fn a_body_its_client_broke_off_is_not_sent_again() {
        let mut body = Body::boxed(http_body_util::StreamBody::new(futures_util::stream::iter([
            Ok(data("one")),
            Err(Kind::ClientClosed.into()),
        ])));
        let replay = Replay::of(&mut body);
        assert!(read(body).await.is_err());
        assert!(!replay.is_whole() && replay.again().is_none());
    }

    #[tokio::test]
    async fn the_clients_body_keeps_its_limit_and_its_guards() {
        let (feed, mut body) = fed();
        body.set_limit(4);
        let over = body.watch().unwrap();
        let mut over = Box::pin(over);
        let replay = Replay::of(&mut body);
        feed.try_send(data("four")).unwrap();
        next(&mut body).await;
        let mut again = replay.again().unwrap();
        drop(body);
        assert!(over.as_mut().now_or_never().is_none(), "the client has not said its last");
        assert_eq!(next(&mut again).await, "four");
        feed.try_send(data("5")).unwrap();
        let error = again.frame().await.unwrap().unwrap_err();
        assert!(matches!(error.kind(), Kind::BodyTooLarge), "what is sent again counts once");
        assert!(over.now_or_never().is_some());
    }

    #[test]
    fn the_length_that_was_declared_is_said_again() {
        struct Declared(u64);
        impl http_body::Body for Declared {
            type Data = Bytes;
            type Error = Error;
            fn poll_frame(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
                self.0 -= 1;
                Poll::Ready(Some(Ok(data("x"))))
            }
            fn size_hint(&self) -> SizeHint {
                SizeHint::with_exact(self.0)
            }
        }
        let mut body = Body::boxed(Declared(10));
        let replay = Replay::of(&mut body);
        assert_eq!(body.size_hint().exact(), Some(10));
        body.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(body.size_hint().exact(), Some(9));
        assert_eq!(replay.again().unwrap().size_hint().exact(), Some(10));
    }
}
