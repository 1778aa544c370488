//! A copy of a request, for the case that it turns out never to have been sent.
//!
//! hyper hands a request back only as long as it has not begun it. That not one byte left although
//! it had begun (the socket was closed already, the peer refused the stream) shows afterwards, and
//! then the request is gone with the connection. The copy costs an allocation, so it is made only where that
//! may happen: see who calls [`Spare::of`].

use bytes::Bytes;
use http::request;

use crate::http::{Body, Context, PackedHead, Request};

/// A copy of a request whose body is in memory. Guards and limits stay with the original: what is in
/// memory has been judged, and what waits for its end hears of the first.
pub(crate) struct Spare {
    head: PackedHead,
    body: Bytes,
}

// === impl Spare ===

impl Spare {
    /// `None` for a body that is not in memory as a whole.
    pub(crate) fn of(parts: &request::Parts, body: &Body) -> Option<Self> {
        let body = match body.as_full() {
            Some(bytes) => bytes.clone(),
            None if body.is_in_memory() && body.seen() == 0 => Bytes::new(),
            None => return None,
        };
        Some(Self { head: PackedHead::of(parts), body })
    }

    /// The request again.
    pub(crate) fn into_request(self, cx: Context) -> Request {
        Request::new(self.head.unpack(), Body::full(self.body), cx)
    }
}
