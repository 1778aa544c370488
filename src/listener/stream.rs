//! An accepted connection as a stream of bytes: TCP or a unix socket, with or without TLS.
//!
//! Bytes that were read in search of a PROXY header are returned first, below TLS.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::{http::Abort, listener::limit::Permit};

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

/// An accepted socket.
#[derive(Debug)]
pub(super) enum Connected {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Calls the same method of whichever variant is there.
macro_rules! forward {
    ($value:expr, $type:ident :: [$($variant:ident)|+], $io:ident => $call:expr) => {
        match $value {
            $($type::$variant($io) => $call,)+
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
        let Connected::Tcp(socket) = &transport.socket else { return };
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
        forward!(&mut self.0, Layer::[Plain | Tls], io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        forward!(&mut self.0, Layer::[Plain | Tls], io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(
            &mut self.0,
            Layer::[Plain | Tls],
            io => Pin::new(io).poll_write_vectored(cx, bufs)
        )
    }

    fn is_write_vectored(&self) -> bool {
        forward!(&self.0, Layer::[Plain | Tls], io => io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, Layer::[Plain | Tls], io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.0, Layer::[Plain | Tls], io => Pin::new(io).poll_shutdown(cx))
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
        forward!(&mut self.socket, Connected::[Tcp | Unix], io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        forward!(
            &mut self.socket,
            Connected::[Tcp | Unix],
            io => Pin::new(io).poll_write_vectored(cx, bufs)
        )
    }

    fn is_write_vectored(&self) -> bool {
        forward!(&self.socket, Connected::[Tcp | Unix], io => io.is_write_vectored())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.socket, Connected::[Tcp | Unix], io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        forward!(&mut self.socket, Connected::[Tcp | Unix], io => Pin::new(io).poll_shutdown(cx))
    }
}

// === impl Connected ===

impl AsyncRead for Connected {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        forward!(&mut *self, Self::[Tcp | Unix], io => Pin::new(io).poll_read(cx, buf))
    }
}
