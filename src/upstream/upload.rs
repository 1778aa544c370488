//! A streaming request body on its way into an h2 stream.
//!
//! hyper pipes it in a task of its own that tells the exchange nothing. So the body records what
//! the exchange needs: since when the upstream has asked for nothing (flow control), and why the
//! body itself failed. It also holds the stream's place, because an early answer does not end the
//! stream while we still send. Costs a box and a shared allocation, for streaming bodies on h2
//! only.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{self, Instant};

use crate::{
    error::{Error, Kind},
    http::Body,
    upstream::handshake::H2Stream,
};

/// The upstream is not waited for: it is the client's turn, or the body is over.
const NOT_PENDING: u64 = u64::MAX;

/// A request body that records its progress.
struct Upload {
    body: Body,
    progress: Arc<Progress>,
}

/// What an exchange knows of its request body.
pub(crate) struct Progress {
    stream: H2Stream,
    started: Instant,
    /// Milliseconds after `started` since which the upstream is to take more.
    pending_since: AtomicU64,
    failure: OnceLock<Kind>,
}

/// Wraps `body`, and returns the progress to watch.
pub(crate) fn watch(body: Body, stream: H2Stream) -> (Body, Arc<Progress>) {
    let progress = Arc::new(Progress {
        stream,
        started: Instant::now(),
        pending_since: AtomicU64::new(0),
        failure: OnceLock::new(),
    });
    (Body::boxed(Upload { body, progress: progress.clone() }), progress)
}

// === impl Progress ===

// Relaxed: each word stands alone.
impl Progress {
    /// The stream it goes into.
    pub(crate) fn stream(&self) -> &H2Stream {
        &self.stream
    }

    /// Why the body failed, if it did.
    pub(crate) fn failure(&self) -> Option<&Kind> {
        self.failure.get()
    }

    /// Completes when the upstream has taken nothing for `timeout`. Cancel-safe.
    pub(crate) async fn stalled(&self, timeout: Duration) {
        let mut wait = timeout;
        while !wait.is_zero() {
            time::sleep(wait).await;
            let pending_for = match self.pending_since.load(Ordering::Relaxed) {
                NOT_PENDING => Duration::ZERO,
                since => self.started.elapsed().saturating_sub(Duration::from_millis(since)),
            };
            wait = timeout.saturating_sub(pending_for);
        }
    }

    fn set_pending(&self, is_pending: bool) {
        let since = if is_pending {
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NOT_PENDING)
        } else {
            NOT_PENDING
        };
        self.pending_since.store(since, Ordering::Relaxed);
    }
}

// === impl Upload ===

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Err(error))) = &polled {
            // A body fails once, so no other failure is lost.
            let _was_first = self.progress.failure.set(error.kind().clone());
        }
        self.progress.set_pending(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.progress.set_pending(false);
    }
}
