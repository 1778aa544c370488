//! The wait between two attempts.
//!
//! Meanwhile the discarded answer is read to its end, up to 64 KiB, so that its connection can be
//! reused; if more is left, dropping it closes the connection. A dropped pause sends nothing.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::Body as _;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use super::resend::Resend;
use crate::http::Body;

/// The most that is read of an answer that nobody gets.
const DRAIN_BYTES: u64 = 64 * 1024;

pin_project! {
    /// Waits, then completes with the request to send.
    pub(super) struct Pause {
        #[pin]
        sleep: Sleep,
        rest: Option<Body>,
        resend: Option<Resend>,
    }
}

// === impl Pause ===

impl Pause {
    /// Waits for `length`, then gives `resend`; `rest` is the body of an answer nobody gets.
    pub(super) fn new(length: Duration, rest: Option<Body>, resend: Resend) -> Self {
        Self { sleep: sleep(length), rest, resend: Some(resend) }
    }
}

impl Future for Pause {
    /// `None` if it is polled again after its end.
    type Output = Option<Resend>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.rest.as_mut().is_some_and(|rest| drain(rest, cx).is_ready()) {
            *this.rest = None;
        }
        ready!(this.sleep.poll(cx));
        *this.rest = None;
        Poll::Ready(this.resend.take())
    }
}

/// Ready once nothing more needs to be read.
fn drain(body: &mut Body, cx: &mut Context<'_>) -> Poll<()> {
    while body.seen() < DRAIN_BYTES {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => break,
        }
    }
    Poll::Ready(())
}
