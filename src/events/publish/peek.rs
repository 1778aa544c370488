//! Reads an answer's body without taking it from the client.
//!
//! If the body is over the limit or breaks off, the client's stream resumes where reading stopped:
//! the client gets every byte in any case.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::{
    error::Error,
    http::{Body, Response},
};

/// Frames that were read, and the body they came from.
struct Read {
    frames: VecDeque<Frame<Bytes>>,
    error: Option<Error>,
    rest: Body,
}

/// The whole body of `response`, if it ends within `limit` bytes; `None` if it does not, or breaks
/// off. The response itself is unchanged.
pub(super) async fn peek(response: Response, limit: u64) -> (Response, Option<Bytes>) {
    let (parts, mut body) = response.into_parts();
    if body.size_hint().lower() > limit {
        return (Response::from_parts(parts, body), None);
    }
    if body.is_in_memory() {
        let whole = body.as_full().cloned().unwrap_or_default();
        return (Response::from_parts(parts, body), Some(whole));
    }
    let (mut frames, mut error, mut length) = (VecDeque::new(), None, 0);
    let is_whole = loop {
        match body.frame().await {
            None => break true,
            Some(Ok(frame)) => {
                length += frame.data_ref().map_or(0, |data| data.len() as u64);
                frames.push_back(frame);
                if length > limit {
                    break false;
                }
            }
            Some(Err(failed)) => {
                error = Some(failed);
                break false;
            }
        }
    };
    let whole = is_whole.then(|| join(&frames));
    let body = Body::boxed(Read { frames, error, rest: body });
    (Response::from_parts(parts, body), whole)
}

/// All data in one piece.
fn join(frames: &VecDeque<Frame<Bytes>>) -> Bytes {
    let mut data = frames.iter().filter_map(Frame::data_ref);
    match (data.next(), data.next()) {
        (None, _) => Bytes::new(),
        (Some(only), None) => only.clone(),
        (Some(first), Some(second)) => {
            let mut all = BytesMut::from(&first[..]);
            all.extend_from_slice(second);
            data.for_each(|more| all.extend_from_slice(more));
            all.freeze()
        }
    }
}

// === impl Read ===

impl http_body::Body for Read {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Some(frame) = self.frames.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty() && self.error.is_none() && self.rest.is_end_stream()
    }

    /// A body that breaks off has no known length: what was read is not all of it.
    fn size_hint(&self) -> SizeHint {
        let read = self.frames.iter().filter_map(Frame::data_ref).map(|it| it.len() as u64);
        let (read, rest) = (read.sum::<u64>(), self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(read + rest.lower());
        if let (Some(upper), None) = (rest.upper(), &self.error) {
            hint.set_upper(read + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::StreamBody;

    use super::*;
    use crate::error::Kind;

    fn streamed(frames: Vec<Result<Frame<Bytes>, Error>>) -> Response {
        Response::new(Body::boxed(StreamBody::new(stream::iter(frames))))
    }

    fn data(text: &'static str) -> Frame<Bytes> {
        Frame::data(Bytes::from_static(text.as_bytes()))
    }

    async fn rest(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn what_was_read_goes_to_the_client_all_the_same() {
        for (limit, expected) in [(6, Some("foobar")), (5, None), (2, None)] {
            let (response, whole) =
                peek(streamed(vec![Ok(data("foo")), Ok(data("bar"))]), limit).await;
            assert_eq!(whole.as_deref(), expected.map(str::as_bytes));
            assert_eq!(rest(response).await, "foobar");
        }
    }

    #[tokio::test]
    async fn trailers_and_memory_are_kept() {
        let mut fields = http::HeaderMap::new();
        fields.insert("grpc-status", 0.into());
        let frames = vec![Ok(data("foo")), Ok(Frame::trailers(fields))];
        let (response, whole) = peek(streamed(frames), 9).await;
        assert_eq!(whole.unwrap(), "foo");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        let (response, whole) = peek(Response::new(Body::full("foo")), 9).await;
        assert_eq!((whole.unwrap(), response.body().as_full().unwrap().len()), ("foo".into(), 3));
        let (response, whole) = peek(Response::new(Body::empty()), 0).await;
        assert_eq!((whole.unwrap(), rest(response).await), (Bytes::new(), Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_breaks_off_for_the_client() {
        let frames = vec![Ok(data("foo")), Err(Kind::UpstreamBadResponse.into())];
        let (response, whole) = peek(streamed(frames), 9).await;
        assert!(whole.is_none());
        let mut body = response.into_body();
        assert_eq!(body.size_hint().exact(), None, "3 bytes are not all of it");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "foo");
        assert!(body.frame().await.unwrap().is_err());
    }
}
