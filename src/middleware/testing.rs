//! Shared by the tests of the layers: requests as `edge` leaves them, and bodies fed by a test.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::Method;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

use crate::{
    error::Error,
    http::{Body, Context, Peer, Request, Target, peer::Address},
};

/// The sending end of a body: frames sent here come out of the body; dropping it ends the body.
pub(super) type Feed = mpsc::Sender<Frame<Bytes>>;

/// A request for `target`, which its context also holds.
pub(super) fn request(method: Method, target: &str, body: Body) -> Request {
    let peer = Peer::new("test".into(), Address::Unix, Address::Unix);
    let cx = Context::new(Arc::new(peer), method.clone(), http::Version::HTTP_11);
    cx.set_target(Target::parse_str(target).unwrap());
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = method;
    parts.uri = target.parse().unwrap();
    Request::new(parts, body, cx)
}

/// A request for `target` without a body.
pub(super) fn get(target: &str) -> Request {
    request(Method::GET, target, Body::empty())
}

/// A body of unknown length, and its sending end.
pub(super) fn fed() -> (Feed, Body) {
    let (feed, mut frames) = mpsc::channel(16);
    let frames = stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok)));
    (feed, Body::boxed(StreamBody::new(frames)))
}

/// A frame of data.
pub(super) fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

/// All bytes of a body.
pub(super) async fn read(body: Body) -> Result<Bytes, Error> {
    body.collect().await.map(http_body_util::Collected::to_bytes)
}
