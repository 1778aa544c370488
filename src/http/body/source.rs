//! Where the frames of a body come from.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::{
    error::{Error, Kind, Sent},
    http::body::Receive,
};

type Boxed = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Error> + Send>>;

/// Where its frames come from.
pub(super) enum Source {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Received(Box<dyn Receive>),
    /// It has failed, and its reader is not told yet.
    Failed(Option<Error>),
    Boxed(Boxed),
}

/// How to know that a received body ended and was not cut off. On h1 hyper tells; on h2 only
/// `END_STREAM` does, because hyper also takes a reset with `NO_ERROR` for an end (RFC 9113, 8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    H1,
    H2Request,
    H2Response,
}

// === impl Source ===

impl Source {
    pub(super) fn poll(
        &mut self,
        on_hyper_error: fn(hyper::Error) -> Error,
        carrier: Carrier,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            // With the last byte of a known length. hyper says so with a frame too, but not once the
            // answer is over: then the end would come with the next request, as trailers still do.
            Self::Incoming(incoming) if http_body::Body::is_end_stream(incoming) => {
                Poll::Ready(None)
            }
            Self::Incoming(incoming) => {
                let polled = ready!(http_body::Body::poll_frame(Pin::new(&mut *incoming), cx));
                Poll::Ready(match polled {
                    Some(frame) => Some(frame.map_err(on_hyper_error)),
                    None if http_body::Body::is_end_stream(incoming) => None,
                    None => carrier.cut_off().map(Err),
                })
            }
            Self::Received(body) => body.poll_frame(cx),
            Self::Failed(error) => Poll::Ready(error.take().map(Err)),
            Self::Boxed(body) => body.as_mut().poll_frame(cx),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) | Self::Failed(_) => false,
            Self::Incoming(incoming) => http_body::Body::is_end_stream(incoming),
            Self::Received(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) => http_body::Body::size_hint(incoming),
            Self::Received(body) => body.size_hint(),
            Self::Failed(_) => SizeHint::default(),
            Self::Boxed(body) => body.size_hint(),
        }
    }
}

// === impl Carrier ===

impl Carrier {
    /// The error of a body that ends without the mark of its end; `None` if the protocol has none.
    fn cut_off(self) -> Option<Error> {
        match self {
            Self::H1 => None,
            Self::H2Request => Some(Kind::ClientClosed.into()),
            Self::H2Response => Some(Kind::UpstreamReset(Sent::MaybeSeen).into()),
        }
    }
}
