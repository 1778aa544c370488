//! `tools transfer PORT CONNECTIONS SECONDS down|up BYTES`: large bodies over HTTP/1.1 keep-alive, from the
//! origin (`GET /bytes/N`) or to it (`POST`).
//!
//! When the time is over each connection finishes the body it is at, so that what is counted is what
//! was moved. Prints `RESULT bytes nanoseconds bodies errors`.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use crate::{
    epoll::{Epoll, READ, WRITE},
    number,
    reply::{Reply, reply},
};

const PIECE: usize = 256 * 1024;

/// One body after another.
struct Connection {
    stream: TcpStream,
    /// Of the request, what is still to be sent: of its head, and how many bytes of its body.
    head: Vec<u8>,
    upload: usize,
    /// The answer: its head while that is not whole, then how much of it is to come.
    answer: Vec<u8>,
    rest: Option<(usize, Reply)>,
    waits_for_write: bool,
    is_done: bool,
}

/// What every body has in common.
struct Plan {
    head: Vec<u8>,
    upload: usize,
    end: Instant,
}

#[derive(Default)]
struct Tally {
    bodies: u64,
    errors: u64,
}

/// Moves bodies until the time is over.
pub fn run(arguments: &[&str]) -> io::Result<()> {
    let [port, connections, seconds, way, bytes] = arguments else {
        return Err(io::Error::other(
            "usage: tools transfer PORT CONNECTIONS SECONDS down|up BYTES",
        ));
    };
    let size = number(bytes)?;
    let (line, upload) = match *way {
        "down" => (format!("GET /bytes/{size} HTTP/1.1\r\nhost: localhost\r\n\r\n"), 0),
        "up" => {
            (format!("POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n"), size)
        }
        _ => return Err(io::Error::other(format!("{way}: down or up"))),
    };
    let start = Instant::now();
    let end = start + Duration::from_secs(number(seconds)? as u64);
    let plan = Plan { head: line.into_bytes(), upload, end };
    let (mut epoll, mut all) = (Epoll::new()?, Vec::new());
    for id in 0..number(connections)? {
        all.push(Connection::open(&epoll, port, id as u64, &plan)?);
    }
    let (mut tally, mut buffer) = (Tally::default(), vec![b'x'; PIECE]);
    while all.iter().any(|it| !it.is_done) {
        for index in 0..epoll.wait()? {
            let token = epoll.event(index).token;
            let connection = &mut all[token as usize];
            connection.turn(&plan, &mut buffer, &mut tally)?;
            connection.register(&epoll, token)?;
        }
    }
    let (bytes, nanos) = (tally.bodies * size as u64, start.elapsed().as_nanos());
    println!("RESULT {bytes} {nanos} {} {}", tally.bodies, tally.errors);
    Ok(())
}

// === impl Connection ===

impl Connection {
    fn open(epoll: &Epoll, port: &str, token: u64, plan: &Plan) -> io::Result<Self> {
        let stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        // Writable at once: the first turn begins.
        epoll.add(stream.as_raw_fd(), token, READ | WRITE)?;
        let (head, upload) = (plan.head.clone(), plan.upload);
        let (answer, rest) = (Vec::new(), None);
        Ok(Self { stream, head, upload, answer, rest, waits_for_write: true, is_done: false })
    }

    /// Writes and reads once.
    fn turn(&mut self, plan: &Plan, buffer: &mut [u8], tally: &mut Tally) -> io::Result<()> {
        self.send(buffer)?;
        let length = match self.stream.read(buffer) {
            // The answers to all requests are there: whoever closes now has kept its word.
            Ok(0) if self.is_done => return Ok(()),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        let (rest, verdict) = match self.rest {
            Some((rest, verdict)) => (rest.saturating_sub(length), verdict),
            None => {
                self.answer.extend_from_slice(&buffer[..length]);
                let Some((whole, verdict)) = reply(&self.answer)? else { return Ok(()) };
                (whole.saturating_sub(self.answer.len()), verdict)
            }
        };
        self.rest = Some((rest, verdict));
        if rest > 0 {
            return Ok(());
        }
        match verdict {
            Reply::Good => tally.bodies += 1,
            Reply::Bad => tally.errors += 1,
        }
        self.answer.clear();
        self.rest = None;
        self.is_done = Instant::now() >= plan.end;
        if !self.is_done {
            self.head.extend_from_slice(&plan.head);
            self.upload = plan.upload;
            self.send(buffer)?;
        }
        Ok(())
    }

    fn send(&mut self, buffer: &[u8]) -> io::Result<()> {
        while !self.head.is_empty() || self.upload > 0 {
            let is_head = !self.head.is_empty();
            let piece =
                if is_head { &self.head[..] } else { &buffer[..self.upload.min(buffer.len())] };
            match self.stream.write(piece) {
                Ok(length) if is_head => drop(self.head.drain(..length)),
                Ok(length) => self.upload -= length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn register(&mut self, epoll: &Epoll, token: u64) -> io::Result<()> {
        let waits_for_write = !self.head.is_empty() || self.upload > 0;
        if waits_for_write != self.waits_for_write {
            self.waits_for_write = waits_for_write;
            let interest = if waits_for_write { READ | WRITE } else { READ };
            epoll.modify(self.stream.as_raw_fd(), token, interest)?;
        }
        Ok(())
    }
}
