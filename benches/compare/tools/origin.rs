//! The service: HTTP/1.1 keep-alive, 110 bytes of JSON, or so many on `/bytes/N`.
//!
//! It finds the blank line and looks at the first bytes of the target, and of a POST at its length, no
//! more: what it saves is left to the load generator, which shares its core. The body of a POST is
//! read and thrown away.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use crate::{
    epoll::{Epoll, READ, WRITE},
    number, reply,
};

/// Tokens from here on are listeners.
const LISTENERS: u64 = 1 << 32;
const MEBIBYTE: usize = 1 << 20;
const JSON: &str = concat!(
    r#"{"id":"7d9f2c1e-4b7a-4f0e-9a51-2f6f0d9b8c3a","sku":"A-1042-041","#,
    r#""quantity":3,"price":"19.90","currency":"EUR"}"#
);
const _: () = assert!(JSON.len() == 110);

struct Answers {
    /// Head and body.
    small: Vec<u8>,
    /// A piece of a long body.
    piece: Vec<u8>,
}

/// An answer that is on its way.
enum Answer {
    Small {
        sent: usize,
    },
    /// What is still to be sent: of its head, and how many bytes of its body.
    Long {
        head: Vec<u8>,
        rest: usize,
    },
}

struct Connection {
    stream: TcpStream,
    /// The start of a request whose head has not ended.
    head: Vec<u8>,
    /// Bytes of a request's body that are still to come, before it is answered.
    body: usize,
    queue: VecDeque<Answer>,
    waits_for_write: bool,
}

/// Listens on this port of 127.0.0.1 and so many addresses in all that follow it.
pub fn listen(port: &str, addresses: &str) -> io::Result<Vec<TcpListener>> {
    let address = |offset| Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + offset);
    (0..number(addresses)?).map(|n| crate::listen(address(n as u32), port)).collect()
}

/// Serves until the process is killed.
pub fn serve(listeners: Vec<TcpListener>) -> io::Result<()> {
    let answers = Answers::new();
    let mut epoll = Epoll::new()?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    for (token, listener) in (LISTENERS..).zip(&listeners) {
        epoll.add(listener.as_raw_fd(), token, READ)?;
    }
    loop {
        for index in 0..epoll.wait()? {
            let event = epoll.event(index);
            if event.token >= LISTENERS {
                let listener = &listeners[(event.token - LISTENERS) as usize];
                while let Ok((stream, _)) = listener.accept() {
                    let slot = free.pop().unwrap_or(connections.len());
                    if slot == connections.len() {
                        connections.push(None);
                    }
                    connections[slot] = Some(Connection::open(&epoll, stream, slot as u64)?);
                }
                continue;
            }
            let slot = event.token as usize;
            let Some(connection) = connections[slot].as_mut() else { continue };
            if connection.turn(&epoll, event.token, &mut scratch, &answers).is_err() {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

// === impl Answers ===

impl Answers {
    fn new() -> Self {
        let mut small = head("application/json", JSON.len());
        small.extend_from_slice(JSON.as_bytes());
        Self { small, piece: vec![b'x'; MEBIBYTE] }
    }
}

fn head(kind: &str, length: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n").into()
}

// === impl Answer ===

impl Answer {
    /// The answer to the request with this head.
    fn to(request: &[u8]) -> Self {
        let Some(number) = request.strip_prefix(b"GET /bytes/") else {
            return Self::Small { sent: 0 };
        };
        let digits = number.iter().take_while(|byte| byte.is_ascii_digit());
        let rest = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        Self::Long { head: head("application/octet-stream", rest), rest }
    }

    /// What is to be written next; nothing when it is out.
    fn next<'a>(&'a self, all: &'a Answers) -> &'a [u8] {
        match self {
            Self::Small { sent } => &all.small[*sent..],
            Self::Long { head, .. } if !head.is_empty() => head,
            Self::Long { rest, .. } => &all.piece[..(*rest).min(all.piece.len())],
        }
    }

    fn advance(&mut self, length: usize) {
        match self {
            Self::Small { sent } => *sent += length,
            Self::Long { head, .. } if !head.is_empty() => drop(head.drain(..length)),
            Self::Long { rest, .. } => *rest -= length,
        }
    }
}

// === impl Connection ===

impl Connection {
    fn open(epoll: &Epoll, stream: TcpStream, token: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll.add(stream.as_raw_fd(), token, READ)?;
        let (head, queue) = (Vec::new(), VecDeque::new());
        Ok(Self { stream, head, body: 0, queue, waits_for_write: false })
    }

    /// Reads once, answers what is complete. An error, the end of the stream included, closes.
    fn turn(
        &mut self,
        epoll: &Epoll,
        token: u64,
        buffer: &mut [u8],
        all: &Answers,
    ) -> io::Result<()> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.take(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        self.send(all)?;
        let waits_for_write = !self.queue.is_empty();
        if waits_for_write != self.waits_for_write {
            self.waits_for_write = waits_for_write;
            let interest = if waits_for_write { READ | WRITE } else { READ };
            epoll.modify(self.stream.as_raw_fd(), token, interest)?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) {
        if self.head.is_empty() {
            let rest = self.requests(bytes);
            self.head.extend_from_slice(rest);
        } else {
            self.head.extend_from_slice(bytes);
            let all = std::mem::take(&mut self.head);
            self.head = self.requests(&all).to_vec();
        }
    }

    /// Queues one answer per complete request in `bytes`; returns the start of a head.
    fn requests<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        loop {
            if self.body > 0 {
                let length = self.body.min(bytes.len());
                (self.body, bytes) = (self.body - length, &bytes[length..]);
                if self.body > 0 {
                    return bytes;
                }
                self.queue.push_back(Answer::Small { sent: 0 });
            }
            let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
                return bytes;
            };
            let head = &bytes[..end];
            if head.starts_with(b"POST ") {
                self.body = reply::length(head).unwrap_or(0);
            }
            if self.body == 0 {
                self.queue.push_back(Answer::to(head));
            }
            bytes = &bytes[end + 4..];
        }
    }

    fn send(&mut self, all: &Answers) -> io::Result<()> {
        while let Some(answer) = self.queue.front_mut() {
            let piece = answer.next(all);
            if piece.is_empty() {
                self.queue.pop_front();
                continue;
            }
            match self.stream.write(piece) {
                Ok(length) => answer.advance(length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
