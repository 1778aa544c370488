//! A copy of a request, for the case that it turns out never to have been sent.
//!
//! hyper hands a request back only as long as it has not begun it. That not one byte left although
//! it had begun (the socket was closed already, the peer refused the stream) shows afterwards, and
//! then the request is gone with the connection. Of a body that streams hyper has read some by then: so
//! much as `http::replay` keeps can be handed back. The copy costs allocations, so it is made only where
//! that may happen: see who calls [`Spare::of`].

use http::request;

use crate::http::{Body, Context, PackedHead, Request, replay::Replay};

/// A copy of a request. Guards and limits stay with the original where its body is in memory: it has been
/// judged, and what waits for its end hears of the first. A streaming body keeps them.
pub(crate) struct Spare {
    head: PackedHead,
    body: Replay,
}

// === impl Spare ===

impl Spare {
    /// `None` for a body of which some has been read, or of which somebody else keeps a copy.
    pub(crate) fn of(parts: &request::Parts, body: &mut Body) -> Option<Box<Self>> {
        if body.seen() > 0 || body.is_kept() {
            return None;
        }
        Some(Box::new(Self { head: PackedHead::of(parts), body: Replay::of(body) }))
    }

    /// The request again; `None` when more of its body was read than is kept.
    pub(crate) fn request(&self, cx: Context) -> Option<Request> {
        Some(Request::new(self.head.unpack(), self.body.again()?, cx))
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.body.release();
    }
}
