//! Binds an address: one `SO_REUSEPORT` socket per worker, so that the kernel spreads connections
//! and no worker waits for another.
//!
//! `SO_REUSEPORT` alone would let a second process share the port unnoticed. So a probe without it
//! binds first and reports "address in use"; right after it the first worker's socket takes the
//! port. Port 0 is resolved by the probe and reused. A unix socket is one socket, cloned to all
//! workers; a stale file left by a process that is gone is removed, one that has a listener is in
//! use.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, TcpKeepalive, Type};

use crate::listener::BindAddress;

/// Connections that the kernel queues for a busy worker; limited by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// TCP keepalive: a vanished client is noticed after two minutes of silence, even by a tunnel,
/// which has no timer of its own.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 6;

/// An address that is taken: it gives out one listening socket for each worker.
#[derive(Debug)]
pub struct Bound {
    address: BindAddress,
    held: Held,
}

/// A listening socket, non-blocking, not yet registered with a runtime.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket.
    Unix(UnixListener),
}

/// Why an address cannot be listened on, and what to do about it.
#[derive(Debug)]
pub struct BindError {
    address: BindAddress,
    source: io::Error,
}

#[derive(Debug)]
enum Held {
    /// Bound but not listening: it holds the port until the first worker asks, so that no
    /// connection queues on a socket that nobody accepts from.
    Inet(Mutex<Option<socket2::Socket>>),
    Unix {
        listener: UnixListener,
        _file: UnixFile,
    },
}

/// The socket file: removed at the end if it is still ours.
#[derive(Debug)]
struct UnixFile {
    path: PathBuf,
    inode: u64,
}

// === impl Bound ===

impl Bound {
    /// Takes the address. Fails if somebody listens on it, this process included.
    pub fn open(address: &BindAddress) -> Result<Self, BindError> {
        let opened = match address {
            BindAddress::Inet(address) => Self::open_inet(*address),
            BindAddress::Unix(path) => Self::open_unix(path),
        };
        opened.map_err(|source| BindError { address: address.clone(), source })
    }

    /// The address as it is: with the port that port 0 became.
    pub fn address(&self) -> &BindAddress {
        &self.address
    }

    /// A listening socket for one worker. Connections arrive on it from now on, so the caller has
    /// to accept them.
    pub fn worker_socket(&self) -> Result<Socket, BindError> {
        self.listen().map_err(|source| BindError { address: self.address.clone(), source })
    }

    fn open_inet(address: SocketAddr) -> io::Result<Self> {
        let probe = inet_socket(address, false)?;
        let resolved = probe
            .local_addr()?
            .as_socket()
            .ok_or_else(|| io::Error::other("the socket has no internet address"))?;
        drop(probe);
        let first = inet_socket(resolved, true)?;
        Ok(Self { address: BindAddress::Inet(resolved), held: Held::Inet(Mutex::new(Some(first))) })
    }

    fn open_unix(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let listener = UnixListener::bind(path)?;
        // std listens with a backlog of its own; listening again only changes it.
        rustix::net::listen(&listener, BACKLOG)?;
        listener.set_nonblocking(true)?;
        let inode = std::fs::symlink_metadata(path)?.ino();
        let file = UnixFile { path: path.to_owned(), inode };
        Ok(Self {
            address: BindAddress::Unix(path.to_owned()),
            held: Held::Unix { listener, _file: file },
        })
    }

    fn listen(&self) -> io::Result<Socket> {
        match (&self.held, &self.address) {
            (Held::Inet(first), BindAddress::Inet(address)) => {
                let held = first.lock().take();
                let socket = match held {
                    Some(socket) => socket,
                    None => inet_socket(*address, true)?,
                };
                socket.listen(BACKLOG)?;
                Ok(Socket::Tcp(socket.into()))
            }
            (Held::Unix { listener, .. }, _) => Ok(Socket::Unix(listener.try_clone()?)),
            (Held::Inet(_), BindAddress::Unix(_)) => Err(io::Error::other("not an inet address")),
        }
    }
}

/// A bound, non-blocking TCP socket.
fn inet_socket(address: SocketAddr, reuse_port: bool) -> io::Result<socket2::Socket> {
    let socket =
        socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections in TIME_WAIT of an earlier process must not block the port.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    // Accepted sockets inherit it, which saves a system call for each.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Removes a socket file that nobody listens on. Leaves anything else in place: bind fails on it.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path)
            }
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
            Err(error) => Err(error),
        },
        Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

// === impl UnixFile ===

impl Drop for UnixFile {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.ino() == self.inode);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "socket file not removed");
        }
    }
}

// === impl BindError ===

impl BindError {
    fn hint(&self) -> Option<&'static str> {
        match self.source.kind() {
            io::ErrorKind::AddrInUse => {
                Some("another process listens there; stop it or choose another address")
            }
            io::ErrorKind::PermissionDenied => {
                Some("ports below 1024 and some folders need a privilege (CAP_NET_BIND_SERVICE)")
            }
            io::ErrorKind::AddrNotAvailable => {
                Some("no interface has this address; 0.0.0.0 listens on all of them")
            }
            io::ErrorKind::AlreadyExists => Some("a file that is not a socket is in the way"),
            io::ErrorKind::NotFound => Some("the folder of the socket file does not exist"),
            _ => None,
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.source)?;
        self.hint().map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback() -> BindAddress {
        BindAddress::Inet("127.0.0.1:0".parse().unwrap())
    }

    #[test]
    fn port_0_is_resolved_once_and_shared_by_all_workers() {
        let bound = Bound::open(&loopback()).unwrap();
        let BindAddress::Inet(address) = *bound.address() else { panic!("not inet") };
        assert_ne!(address.port(), 0);
        for _ in 0..3 {
            let Socket::Tcp(socket) = bound.worker_socket().unwrap() else { panic!("not tcp") };
            assert_eq!(socket.local_addr().unwrap(), address);
        }
    }

    #[test]
    fn accepted_sockets_notice_a_client_that_has_vanished() {
        let bound = Bound::open(&loopback()).unwrap();
        let Socket::Tcp(listener) = bound.worker_socket().unwrap() else { panic!("not tcp") };
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = std::iter::repeat_with(|| listener.accept())
            .find_map(|accepted| match accepted {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
                settled => Some(settled.unwrap().0),
            })
            .unwrap();
        let socket = socket2::SockRef::from(&accepted);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
    }

    #[test]
    fn an_address_in_use_is_seen_although_workers_share_ports() {
        let bound = Bound::open(&loopback()).unwrap();
        let _socket = bound.worker_socket().unwrap();
        let error = Bound::open(bound.address()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(text.contains("another process listens there"), "{text}");
    }

    #[test]
    fn no_connection_waits_on_a_socket_that_no_worker_took() {
        let bound = Bound::open(&loopback()).unwrap();
        let BindAddress::Inet(address) = *bound.address() else { panic!("not inet") };
        let refused = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let _socket = bound.worker_socket().unwrap();
        std::net::TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_stale_socket_file_is_removed_and_a_live_one_is_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let address = BindAddress::Unix(folder.path().join("s.sock"));
        let BindAddress::Unix(path) = &address else { panic!("not unix") };
        drop(UnixListener::bind(path).unwrap());
        assert!(path.exists(), "std leaves the file behind");

        let bound = Bound::open(&address).unwrap();
        let error = Bound::open(&address).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        let _socket = bound.worker_socket().unwrap();
        UnixStream::connect(path).unwrap();
        drop(bound);
        assert!(!path.exists(), "our file goes with us");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data");
        std::fs::write(&path, "precious").unwrap();
        let error = Bound::open(&BindAddress::Unix(path.clone())).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
