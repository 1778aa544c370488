//! A spare copy of a request, in case it turns out that the original was never sent.
//!
//! Whether no byte left although sending had begun (the socket was already closed, or the peer
//! refused the stream) shows only afterwards, when some of a streaming body has been read, and on h2
//! the request is gone with its stream. As much as `http::replay` keeps can be handed back. The copy
//! costs allocations, so it is made only where this can happen: see the callers of [`Spare::of`].

use http::request;

use crate::http::{Body, Context, PackedHead, Request, replay::Replay};

/// A copy of a request. If the body is in memory, guards and limits stay with the original: it was
/// judged already, and whatever waits for its end is told once. A streaming body keeps them.
pub(crate) struct Spare {
    head: PackedHead,
    body: Replay,
}

// === impl Spare ===

impl Spare {
    /// `None` if some of the body has been read, or somebody else already keeps a copy.
    pub(crate) fn of(parts: &request::Parts, body: &mut Body) -> Option<Box<Self>> {
        if body.seen() > 0 || body.is_kept() {
            return None;
        }
        Some(Box::new(Self { head: PackedHead::of(parts), body: Replay::of(body) }))
    }

    /// The request again; `None` if more of its body was read than is kept.
    pub(crate) fn request(&self, cx: Context) -> Option<Request> {
        Some(Request::new(self.head.unpack(), self.body.again()?, cx))
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.body.release();
    }
}
