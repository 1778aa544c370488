//! A connected socket: TCP or a unix socket.
//!
//! It is read and written through shared references, because the [outbox](super::outbox) writes to it too.
//! One task at a time waits for each direction.
//!
//! Only for runtimes of one thread. A short read or write shows that there is no more, and the
//! readiness is forgotten without the system call that would find that out; on another thread the
//! reactor may have seen more in between.

use std::{
    io::{self, IoSlice},
    net::{IpAddr, Shutdown},
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::{Interest, ReadBuf},
    net::{TcpStream, UnixStream},
};

use super::gather;

/// A connected socket.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

/// Calls a method of the socket, whichever it is.
macro_rules! on {
    ($socket:expr, $io:ident => $call:expr) => {
        match $socket {
            Socket::Tcp($io) => $call,
            Socket::Unix($io) => $call,
        }
    };
}

// === impl Socket ===

impl Socket {
    /// Reads without waiting.
    pub fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        on!(self, io => io.try_read(buf))
    }

    /// Writes as much of `buf` as there is room for now, which may be nothing.
    pub fn write_now(&self, buf: &[u8]) -> io::Result<usize> {
        match on!(self, io => io.try_write(buf)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            done => done,
        }
    }

    /// For options, and calls that neither read nor write.
    pub fn as_sock_ref(&self) -> SockRef<'_> {
        on!(self, io => SockRef::from(io))
    }

    /// Reads into `buf` as soon as there is something.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(on!(self, io => io.poll_read_ready(cx)))?;
            let room = buf.remaining();
            match on!(self, io => io.try_read_buf(buf)) {
                Ok(count) => {
                    if count > 0 && count < room {
                        self.used_up(Interest::READABLE);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Writes as much of `buf` as there is room for, once there is some.
    pub fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_with(cx, buf.len(), || on!(self, io => io.try_write(buf)))
    }

    /// Like [`Socket::poll_write`], for several slices.
    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let small = gather::write_small(bufs, |bytes| self.poll_write(cx, bytes));
        // Of very many slices a system call may leave some out although there is room.
        small.unwrap_or_else(|| {
            self.poll_with(cx, 0, || on!(self, io => io.try_write_vectored(bufs)))
        })
    }

    /// Lets `write` write once the socket has room. If it writes less than `most` bytes, there is none
    /// left.
    fn poll_with(
        &self,
        cx: &mut Context<'_>,
        most: usize,
        write: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(on!(self, io => io.poll_write_ready(cx)))?;
            match write() {
                Ok(count) => {
                    if count > 0 && count < most {
                        self.used_up(Interest::WRITABLE);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Tells the peer that nothing follows.
    pub fn shut_down(&self) -> io::Result<()> {
        match self.as_sock_ref().shutdown(Shutdown::Write) {
            // The peer has closed already: nothing is left to tell it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            done => done,
        }
    }

    /// The kernel gave or took less than was asked for: there is no more.
    fn used_up(&self, interest: Interest) {
        let blocked = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
        // It only clears the readiness.
        if let Err(error) = on!(self, io => io.try_io(interest, blocked)) {
            debug_assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        }
    }
}

/// Whether `peer` is on this machine, where the socket has the address `own`, as far as addresses
/// tell.
pub fn is_near(peer: IpAddr, own: IpAddr) -> bool {
    peer.to_canonical().is_loopback() || peer == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_near_if_an_address_says_so() {
        let is_near = |peer: &str, own: &str| is_near(peer.parse().unwrap(), own.parse().unwrap());
        assert!(is_near("127.0.0.1", "127.0.0.1"));
        assert!(is_near("::1", "::1"));
        assert!(is_near("::ffff:127.0.0.2", "::ffff:127.0.0.1"), "a dual-stack socket");
        assert!(is_near("192.0.2.1", "192.0.2.1"), "its own address");
        assert!(!is_near("192.0.2.1", "192.0.2.2"));
    }
}
