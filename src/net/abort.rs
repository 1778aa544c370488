//! Ends a connection in a way that the other side cannot take for a clean end.

/// A stream that can be aborted.
///
/// A message that ends with its connection (a response to HTTP/1.0 without a length) looks complete
/// if the connection is closed in order, however much of it was sent.
pub trait Abort {
    /// When this is dropped, the other side sees a reset instead of an end, and unsent data is
    /// discarded. On a stream without resets (a unix socket) it is an ordinary end.
    fn abort(&mut self);
}

#[cfg(test)]
impl Abort for tokio::io::DuplexStream {
    fn abort(&mut self) {}
}
