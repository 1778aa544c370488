//! The rest of a request body that nobody has read, when the answer is ready.
//!
//! Refusals come before a body is read, and most bodies are small and have arrived with their head:
//! then the connection goes on. Nobody waits for bytes that are still on their way.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body::Body as _;
use hyper::body::Incoming;

use crate::http::Response;

/// More than that is not skipped.
const MAX: u64 = 64 * 1024;

/// An answer that is held back while the rest of its request is skipped.
pub(super) struct Unread {
    answer: Response,
    rest: Incoming,
    skipped: u64,
    /// hyper has been asked for more, and has had a turn to bring what is there.
    was_asked: bool,
}

// === impl Unread ===

impl Unread {
    pub(super) fn new(answer: Response, rest: Incoming) -> Self {
        Self { answer, rest, skipped: 0, was_asked: false }
    }

    pub(super) fn into_answer(self) -> Response {
        self.answer
    }

    /// Ready with whether all of the rest was there. Pending only for turns of the connection's own
    /// task.
    pub(super) fn poll_skip(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        loop {
            if self.skipped + self.rest.size_hint().lower() > MAX {
                return Poll::Ready(false);
            }
            if self.rest.is_end_stream() {
                return Poll::Ready(true);
            }
            match Pin::new(&mut self.rest).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.skipped += frame.data_ref().map_or(0, |data| data.len() as u64);
                    self.was_asked = false;
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending if self.was_asked => return Poll::Ready(false),
                Poll::Pending => {
                    self.was_asked = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}
