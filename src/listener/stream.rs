//! An accepted connection as a stream of bytes: TCP or a unix socket, with or without TLS.
//!
//! Bytes that were read in search of a PROXY header are returned first, below TLS. Only for runtimes of
//! one thread, like the [`Socket`](crate::net::Socket).

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::{
    listener::{limit::Permit, socket::Connected},
    net::{Abort, Post},
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
    socket: Connected,
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
        match &mut self.0 {
            Layer::Plain(transport) => transport.socket.abort(),
            Layer::Tls(tls) => tls.get_mut().0.socket.abort(),
        }
    }
}

impl Post for Stream {
    fn post(&mut self, cx: &Context<'_>, bufs: &[IoSlice<'_>]) -> bool {
        match &mut self.0 {
            Layer::Plain(transport) => transport.socket.post(cx, bufs),
            Layer::Tls(_) => false,
        }
    }

    fn poll_posted(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Layer::Plain(transport) => transport.socket.poll_posted(cx),
            Layer::Tls(tls) => Pin::new(tls).poll_flush(cx),
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
    pub(super) fn new(socket: Connected, read_ahead: Bytes, permit: Permit) -> Self {
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
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
