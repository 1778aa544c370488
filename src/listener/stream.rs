//! An accepted connection as a stream of bytes: TCP or a unix socket, with or without TLS.
//!
//! Bytes that were read in search of a PROXY header are returned first, below TLS. Only for runtimes of
//! one thread, like the [`Socket`].

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::{
    listener::limit::Permit,
    net::{Abort, Socket},
};

/// A connection that requests can be read from. It holds the connection's place in the limits,
/// wherever it is handed on to.
#[derive(Debug)]
pub struct Stream(Layer);

#[derive(Debug)]
enum Layer {
    Plain(Transport),
    /// Boxed: a TLS session is many times the size of a socket.
    Tls(Box<TlsStream<Transport>>),
}

/// What is below TLS: a socket, and the bytes already read from it.
#[derive(Debug)]
pub(super) struct Transport {
    socket: Socket,
    read_ahead: Bytes,
    _permit: Permit,
}

/// Calls the same method of whichever layer is the outermost.
macro_rules! forward {
    ($value:expr, $io:ident => $call:expr) => {
        match $value {
            Layer::Plain($io) => $call,
            Layer::Tls($io) => $call,
        }
    };
}

// === impl Stream ===

impl Stream {
    pub(super) fn plain(transport: Transport) -> Self {
        Self(Layer::Plain(transport))
    }

    pub(super) fn tls(stream: TlsStream<Transport>) -> Self {
        Self(Layer::Tls(Box::new(stream)))
    }
}

impl Abort for Stream {
    fn abort(&mut self) {
        let transport = match &self.0 {
            Layer::Plain(transport) => transport,
            Layer::Tls(tls) => tls.get_ref().0,
        };
        let Socket::Tcp(socket) = &transport.socket else { return };
        // Closing a socket with a linger time of zero resets it.
        if let Err(error) = SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
            tracing::debug!(%error, "a connection that broke off is closed like a complete one");
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(&mut self.0, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(&mut self.0, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        forward!(&self.0, io => io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, io => Pin::new(io).poll_shutdown(cx))
    }
}

// === impl Transport ===

impl Transport {
    /// `read_ahead` was already read from `socket`; reads return it first.
    pub(super) fn new(socket: Socket, read_ahead: Bytes, permit: Permit) -> Self {
        Self { socket, read_ahead, _permit: permit }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.read_ahead.is_empty() {
            let count = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(&self.read_ahead.split_to(count));
            return Poll::Ready(Ok(()));
        }
        self.socket.poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shut_down())
    }
}
