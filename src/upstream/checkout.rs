//! What a request gets from a pool: a connection, or the wait for one.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::{
    error::{Kind, Result},
    upstream::{Local, h1::H1, handshake::H2Stream},
};

/// A connection, or a stream of one, for one request.
pub(crate) enum Lease {
    H1(Box<H1>),
    H2(H2Stream),
}

/// What a checkout finds.
pub(crate) enum Checkout {
    Ready(Lease),
    Wait(Waiting),
    /// Every stream of every connection we may have is taken.
    Full,
}

/// Waits for a connection. Dropped, it leaves what it was given to the pool.
pub(crate) struct Waiting {
    lease: oneshot::Receiver<Result<Lease>>,
    local: Arc<Local>,
}

// === impl Waiting ===

impl Waiting {
    /// Waits for what is sent, of a connection of `local`.
    pub(crate) fn new(lease: oneshot::Receiver<Result<Lease>>, local: &Arc<Local>) -> Self {
        Self { lease, local: local.clone() }
    }
}

impl Future for Waiting {
    type Output = Result<Lease>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.lease).poll(cx).map(|received| {
            // Only the end of the runtime drops a dial before it has answered.
            received.unwrap_or_else(|_| Err(Kind::UpstreamConnect.into()))
        })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.lease.close();
        if let Ok(Ok(lease)) = self.lease.try_recv() {
            self.local.pool().put_unused(&self.local, lease);
        }
    }
}
