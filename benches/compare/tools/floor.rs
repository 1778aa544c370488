//! The floor: each client connection gets one connection to the origin, and bytes are copied.
//!
//! No parsing, no pool, no header, no log: what is left is the price of the sockets, which every
//! proxy pays too. A side that cannot be written stops the reading of the other.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use crate::epoll::{Epoll, READ, WRITE};

const LISTENER: u64 = u64::MAX;

/// Two sockets; each has what the other could not yet be given.
struct Pair {
    sides: [Side; 2],
}

struct Side {
    stream: TcpStream,
    /// To be written to this side.
    pending: Vec<u8>,
    interest: u32,
}

/// Serves until the process is killed.
pub fn serve(listener: TcpListener, origin: &str) -> io::Result<()> {
    let origin = format!("127.0.0.1:{origin}");
    let mut epoll = Epoll::new()?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    epoll.add(listener.as_raw_fd(), LISTENER, READ)?;
    loop {
        let ready = epoll.wait()?;
        for index in 0..ready {
            let event = epoll.event(index);
            if event.token == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let slot = free.pop().unwrap_or(pairs.len());
                    if slot == pairs.len() {
                        pairs.push(None);
                    }
                    // Blocking connect: loopback, and only while the load ramps up.
                    let server = TcpStream::connect(&origin)?;
                    pairs[slot] = Some(Pair::open(&epoll, [client, server], slot as u64)?);
                }
                continue;
            }
            let (slot, side) = ((event.token >> 1) as usize, (event.token & 1) as usize);
            let Some(pair) = pairs[slot].as_mut() else { continue };
            if pair.turn(&epoll, slot as u64, side, event.ready, &mut scratch).is_err() {
                pairs[slot] = None;
                free.push(slot);
            }
        }
    }
}

// === impl Pair ===

impl Pair {
    fn open(epoll: &Epoll, streams: [TcpStream; 2], slot: u64) -> io::Result<Self> {
        for (side, stream) in streams.iter().enumerate() {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            epoll.add(stream.as_raw_fd(), slot << 1 | side as u64, READ)?;
        }
        let side = |stream| Side { stream, pending: Vec::new(), interest: READ };
        Ok(Self { sides: streams.map(side) })
    }

    /// One read or one write. An error, the end of a stream included, closes both.
    fn turn(
        &mut self,
        epoll: &Epoll,
        slot: u64,
        from: usize,
        ready: u32,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let to = 1 - from;
        if ready & WRITE != 0 {
            let side = &mut self.sides[from];
            let sent = write(&mut side.stream, &side.pending)?;
            side.pending.drain(..sent);
        }
        if ready & !WRITE != 0 && self.sides[to].pending.is_empty() {
            let length = match self.sides[from].stream.read(buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                Err(error) => return Err(error),
            };
            let side = &mut self.sides[to];
            let sent = write(&mut side.stream, &buffer[..length])?;
            side.pending.extend_from_slice(&buffer[sent..length]);
        }
        self.register(epoll, slot, from)?;
        self.register(epoll, slot, to)
    }

    fn register(&mut self, epoll: &Epoll, slot: u64, side: usize) -> io::Result<()> {
        let mut interest = 0;
        if self.sides[1 - side].pending.is_empty() {
            interest |= READ;
        }
        if !self.sides[side].pending.is_empty() {
            interest |= WRITE;
        }
        let this = &mut self.sides[side];
        if this.interest != interest {
            this.interest = interest;
            epoll.modify(this.stream.as_raw_fd(), slot << 1 | side as u64, interest)?;
        }
        Ok(())
    }
}

fn write(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Ok(0);
    }
    match stream.write(bytes) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}
