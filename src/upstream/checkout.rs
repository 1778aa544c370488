//! What a request gets from a pool: a connection, or a wait for one.

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

/// A connection, or a stream of one, lent to one request.
pub(crate) enum Lease {
    H1(Box<H1>),
    H2(H2Stream),
}

/// The result of a checkout.
pub(crate) enum Checkout {
    Ready(Lease),
    Wait(Waiting),
    /// Every stream of every permitted connection is taken.
    Full,
}

/// Waits for a connection. If dropped, a lease it was already sent goes back to the pool.
pub(crate) struct Waiting {
    lease: oneshot::Receiver<Result<Lease>>,
    local: Arc<Local>,
}

// === impl Waiting ===

impl Waiting {
    /// Waits for a lease of a connection to `local`.
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
