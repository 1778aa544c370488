//! The service: HTTP/1.1 keep-alive, 110 bytes of JSON, or 1 MiB on `/1m`.
//!
//! It finds the blank line and looks at the first bytes of the target, and of a POST at its length, no
//! more: what it saves is left to the load generator, which shares its core.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
};

use crate::epoll::{Epoll, READ, WRITE};

const LISTENER: u64 = u64::MAX;
const MEBIBYTE: usize = 1 << 20;
const JSON: &str = concat!(
    r#"{"id":"7d9f2c1e-4b7a-4f0e-9a51-2f6f0d9b8c3a","sku":"A-1042-041","#,
    r#""quantity":3,"price":"19.90","currency":"EUR"}"#
);
const _: () = assert!(JSON.len() == 110);

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    /// The start of a request whose end has not come.
    head: Vec<u8>,
    /// What is still to be sent: which answer, and how much of it is out.
    queue: VecDeque<(bool, usize)>,
    waits_for_write: bool,
}

/// Serves until the process is killed.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    let answers = Answers::new();
    let mut epoll = Epoll::new()?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut scratch = vec![0; 64 * 1024];
    epoll.add(listener.as_raw_fd(), LISTENER, READ)?;
    loop {
        for index in 0..epoll.wait()? {
            let event = epoll.event(index);
            if event.token == LISTENER {
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
        let answer = |kind: &str, body: &[u8]| {
            let length = body.len();
            let mut bytes = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n"
            )
            .into_bytes();
            bytes.extend_from_slice(body);
            bytes
        };
        Self {
            small: answer("application/json", JSON.as_bytes()),
            large: answer("application/octet-stream", &vec![b'x'; MEBIBYTE]),
        }
    }
}

// === impl Connection ===

impl Connection {
    fn open(epoll: &Epoll, stream: TcpStream, token: u64) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll.add(stream.as_raw_fd(), token, READ)?;
        Ok(Self { stream, head: Vec::new(), queue: VecDeque::new(), waits_for_write: false })
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
            let rest = requests(bytes, &mut self.queue);
            self.head.extend_from_slice(rest);
        } else {
            self.head.extend_from_slice(bytes);
            let all = std::mem::take(&mut self.head);
            self.head = requests(&all, &mut self.queue).to_vec();
        }
    }

    fn send(&mut self, answers: &Answers) -> io::Result<()> {
        while let Some((large, sent)) = self.queue.front_mut() {
            let answer = if *large { &answers.large } else { &answers.small };
            match self.stream.write(&answer[*sent..]) {
                Ok(length) => *sent += length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if *sent == answer.len() {
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}

/// Queues one answer per complete request in `bytes`; returns what is left.
fn requests<'a>(mut bytes: &'a [u8], queue: &mut VecDeque<(bool, usize)>) -> &'a [u8] {
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let body = if bytes.starts_with(b"POST ") { length(&bytes[..end]) } else { 0 };
        let Some(rest) = bytes.get(end + 4 + body..) else { break };
        queue.push_back((bytes.starts_with(b"GET /1m"), 0));
        bytes = rest;
    }
    bytes
}

/// What `content-length` says; 0 without one.
fn length(head: &[u8]) -> usize {
    const NAME: &[u8] = b"\ncontent-length:";
    let found = head.windows(NAME.len()).position(|window| window.eq_ignore_ascii_case(NAME));
    let value = found.map_or(&head[..0], |at| &head[at + NAME.len()..]);
    let value = value.iter().skip_while(|byte| **byte == b' ').take_while(|it| it.is_ascii_digit());
    value.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'))
}
