//! An answer that begins before its request has ended: both directions go on, each at its own pace.
//!
//! Whoever reads the answer may stop reading until the request has been sent, as a simple client
//! does. So a task writes the rest of the request whatever happens to the answer, and passes the
//! answer on part by part. Rare, so it may cost a task and a channel.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;

use crate::{
    error::{Error, Kind, Result, Sent},
    http::{
        Body,
        body::{End, Receive as _},
    },
    telemetry::task,
    upstream::{
        failure::broken_off,
        h1::{Broken, H1},
    },
};

/// The answer as its reader sees it.
struct Apart {
    parts: mpsc::Receiver<Part>,
    /// What is to come; `None` once nothing is.
    rest: Option<SizeHint>,
}

/// A part of the answer.
struct Part {
    /// `None` at the end of a body whose last frame was not known to be the last.
    frame: Option<Result<Frame<Bytes>>>,
    /// What follows it.
    rest: Option<SizeHint>,
}

/// The body of an answer on `h1`, which still sends.
pub(crate) fn read_apart(h1: Box<H1>) -> Body {
    let (passed, parts) = mpsc::channel(1);
    let rest = Some(h1.size_hint());
    task::spawn("upstream both ways", both_ways(h1, passed));
    Body::boxed(Apart { parts, rest })
}

async fn both_ways(mut h1: Box<H1>, passed: mpsc::Sender<Part>) {
    let mut failed = None;
    loop {
        let Some(frame) = next(&mut h1, &passed, &mut failed).await else { return };
        let is_failed = matches!(frame, Some(Err(_)));
        let is_over = is_failed || frame.is_none() || h1.is_end_stream();
        let rest = (!is_over).then(|| h1.size_hint());
        let mut passing = pin!(passed.send(Part { frame, rest }));
        let is_passed = poll_fn(|cx| {
            send_on(&mut h1, cx, &mut failed);
            passing.as_mut().poll(cx)
        });
        if is_passed.await.is_err() || is_failed {
            return;
        }
        if is_over {
            h1.finish(End::Complete);
            return;
        }
    }
}

/// The next frame of the answer, while the request goes on; `None` once nobody wants it. Then
/// dropping the connection ends the request too.
async fn next(
    h1: &mut H1,
    passed: &mpsc::Sender<Part>,
    failed: &mut Option<Broken>,
) -> Option<Option<Result<Frame<Bytes>>>> {
    let mut gone = pin!(passed.closed());
    poll_fn(|cx| {
        if gone.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        send_on(h1, cx, failed);
        // What has arrived is passed on first.
        match (h1.poll_body(cx), failed.take()) {
            (Poll::Pending, Some(error)) => Poll::Ready(Some(Some(Err(broken_off(error))))),
            (frame, error) => {
                *failed = error;
                frame.map(Some)
            }
        }
    })
    .await
}

fn send_on(h1: &mut H1, cx: &mut Context<'_>, failed: &mut Option<Broken>) {
    if failed.is_none()
        && let Poll::Ready(Err(error)) = h1.poll_send(cx)
    {
        *failed = Some(error);
    }
}

impl http_body::Body for Apart {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>>>> {
        if self.rest.is_none() {
            return Poll::Ready(None);
        }
        let part = ready!(self.parts.poll_recv(cx)).unwrap_or_else(|| Part {
            // Only the end of the runtime, or a panic, ends the task before the answer.
            frame: Some(Err(Kind::UpstreamReset(Sent::MaybeSeen).into())),
            rest: None,
        });
        self.rest = part.rest;
        Poll::Ready(part.frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.rest.unwrap_or_else(|| SizeHint::with_exact(0))
    }
}
