//! Accepts sockets from one listening socket.
//!
//! When the process is out of descriptors it backs off: connections stay queued in the kernel and
//! none is lost. An error of one connection is skipped. When a listener is removed, the connections
//! already in the kernel's queue are still handed out, so that none of them is refused.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time,
};

use crate::{
    http::peer::Address,
    listener::{bind::Socket, socket::Connected},
    net::socket::is_near,
};

const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// One worker's side of a listener.
#[derive(Debug)]
pub struct Acceptor {
    listening: Listening,
    backoff: Duration,
}

/// A socket that was just accepted; nothing was read from it.
#[derive(Debug)]
pub struct Accepted {
    pub(super) socket: Connected,
    pub(super) remote: Address,
    pub(super) local: Address,
}

#[derive(Debug)]
enum Listening {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What an error of `accept` concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The accepted connection: the next one may be fine.
    Connection,
    /// The process or the machine: the next one fails too, until something is freed.
    Resources,
}

// === impl Acceptor ===

impl Acceptor {
    /// Registers `socket` with the current runtime.
    pub fn new(socket: Socket) -> io::Result<Self> {
        let listening = match socket {
            Socket::Tcp(socket) => Listening::Tcp(TcpListener::from_std(socket)?),
            Socket::Unix(socket) => Listening::Unix(UnixListener::from_std(socket)?),
        };
        Ok(Self { listening, backoff: BACKOFF_FIRST })
    }

    /// The next connection. Cancel-safe: a connection is either returned or still queued.
    pub async fn accept(&mut self) -> Accepted {
        loop {
            let accepted = match &self.listening {
                Listening::Tcp(listener) => listener
                    .accept()
                    .await
                    .and_then(|(socket, remote)| Accepted::tcp(socket, remote)),
                Listening::Unix(listener) => {
                    listener.accept().await.map(|(socket, _)| Accepted::unix(socket))
                }
            };
            match accepted {
                Ok(accepted) => {
                    self.backoff = BACKOFF_FIRST;
                    return accepted;
                }
                Err(error) => self.recover(&error).await,
            }
        }
    }

    /// Stops listening and returns the connections that were queued until then.
    ///
    /// The port is released only after `accept` has reported that none is left.
    pub fn close(self) -> io::Result<Vec<Accepted>> {
        match self.listening {
            Listening::Tcp(listener) => {
                let listener = listener.into_std()?;
                queued(|| {
                    let (socket, remote) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Accepted::tcp(TcpStream::from_std(socket)?, remote)
                })
            }
            Listening::Unix(listener) => {
                let listener = listener.into_std()?;
                queued(|| {
                    let (socket, _) = listener.accept()?;
                    socket.set_nonblocking(true)?;
                    Ok(Accepted::unix(UnixStream::from_std(socket)?))
                })
            }
        }
    }

    async fn recover(&mut self, error: &io::Error) {
        match Fault::of(error) {
            Fault::Connection => {
                tracing::debug!(%error, "a connection was closed before it was accepted");
            }
            Fault::Resources => {
                tracing::warn!(%error, wait = ?self.backoff, "cannot accept connections");
                time::sleep(self.backoff).await;
                self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Accepts until the queue is empty. Errors of single connections are skipped; running out of
/// descriptors ends it, because waiting would keep the port.
fn queued(mut accept: impl FnMut() -> io::Result<Accepted>) -> io::Result<Vec<Accepted>> {
    let mut accepted = Vec::new();
    loop {
        match accept() {
            Ok(connection) => accepted.push(connection),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(accepted),
            Err(error) if Fault::of(&error) == Fault::Resources => {
                tracing::warn!(%error, "out of descriptors while a listener was removed: connections in its queue are refused");
                return Ok(accepted);
            }
            Err(error) => tracing::debug!(%error, "a connection was closed before it was accepted"),
        }
    }
}

// === impl Accepted ===

impl Accepted {
    fn tcp(socket: TcpStream, remote: SocketAddr) -> io::Result<Self> {
        // Responses are written in as few pieces as possible already; Nagle's algorithm would only
        // add delay.
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let is_near = is_near(remote.ip(), local.ip());
        Ok(Self {
            socket: Connected::tcp(socket, is_near),
            remote: canonical(remote),
            local: canonical(local),
        })
    }

    fn unix(socket: UnixStream) -> Self {
        Self { socket: Connected::unix(socket), remote: Address::Unix, local: Address::Unix }
    }

    /// The socket's peer, before any PROXY header.
    pub fn remote(&self) -> Address {
        self.remote
    }
}

/// A dual-stack socket reports IPv4 clients as mapped IPv6 addresses; this undoes it.
fn canonical(address: SocketAddr) -> Address {
    Address::Inet(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

// === impl Fault ===

impl Fault {
    fn of(error: &io::Error) -> Self {
        use rustix::io::Errno;

        match Errno::from_io_error(error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Self::Resources,
            _ => Self::Connection,
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;
    use tokio::time::Instant;

    use super::*;
    use crate::listener::{BindAddress, Bound};

    #[tokio::test(start_paused = true)]
    async fn out_of_descriptors_backs_off_and_a_broken_connection_does_not() {
        let address = BindAddress::Inet("127.0.0.1:0".parse().unwrap());
        let bound = Bound::open(&address).unwrap();
        let mut acceptor = Acceptor::new(bound.worker_socket().unwrap()).unwrap();
        let started = Instant::now();
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::PERM] {
            acceptor.recover(&errno.into()).await;
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        for (errno, millis) in [(Errno::MFILE, 10), (Errno::NFILE, 20), (Errno::NOBUFS, 40)] {
            let started = Instant::now();
            acceptor.recover(&errno.into()).await;
            assert_eq!(started.elapsed().as_millis(), millis);
        }
        for _ in 0..10 {
            acceptor.recover(&Errno::NOMEM.into()).await;
        }
        assert_eq!(acceptor.backoff, BACKOFF_MAX);
    }
}
