//! Writes that may leave together with those of other streams.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::AsyncWrite;

/// A stream whose small writes can be posted: they leave soon, with others of the thread, through the
/// [outbox](super::outbox).
///
/// What was posted counts as written, like what is in the kernel's buffer. [`AsyncWrite`]'s write comes
/// behind it; its flush and its shutdown send it at once.
pub trait Post: AsyncWrite + Unpin {
    /// Posts all of `bufs`. `false`: nothing happened, they have to be written.
    ///
    /// Whoever posts calls [`Post::poll_posted`] after it, and at the end of each later poll: `cx` is
    /// woken if the kernel does not take all.
    fn post(&mut self, _: &Context<'_>, _: &[IoSlice<'_>]) -> bool {
        false
    }

    /// Writes what the kernel has not taken of what was posted, and flushes everything else. Ready also
    /// while all of it waits to leave.
    fn poll_posted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_flush(cx)
    }
}

#[cfg(test)]
impl Post for tokio::io::DuplexStream {}
