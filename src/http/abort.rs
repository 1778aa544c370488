//! Ending a connection so that the other side cannot take it for a clean end.

/// A stream that can be broken off.
///
/// A message whose end is the end of its connection (a response to HTTP/1.0 without a length) looks
/// complete when the connection is closed in order, wherever it stood.
pub trait Abort {
    /// When this is dropped, the other side sees a reset, not an end. What was not yet sent is
    /// discarded. On a stream that has no resets (a unix socket) it is an ordinary end.
    fn abort(&mut self);
}

#[cfg(test)]
impl Abort for tokio::io::DuplexStream {
    fn abort(&mut self) {}
}
