//! `tools load PORT CONNECTIONS SECONDS RATE FIRST FILE`: GET requests over HTTP/1.1 keep-alive, as many a
//! second as it is told, whatever the answers take.
//!
//! With a rate (an open loop) each request has its time, one after another at equal distances, and its
//! latency counts from there: a request that had to wait for a free connection has waited, so a proxy
//! that stops for a moment pays for all that came in it (no coordinated omission). With a rate of 0 (a
//! closed loop) each connection sends when it has its answer. FILE has the heads of requests, which are
//! sent in turn from number FIRST on. Prints `RESULT requests nanoseconds p50-micros p99-micros
//! p999-micros errors next`.

use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use crate::{
    epoll::{Epoll, READ, sharp_timers},
    number,
    reply::{Reply, reply},
};

/// How long after the end an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// A longer answer is not one to these requests.
const BUFFER: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// What came and is no whole answer yet.
    pending: Vec<u8>,
    /// When the request was to be sent, after the start.
    due: Duration,
}

struct Load {
    heads: Vec<Vec<u8>>,
    connections: Vec<Connection>,
    /// Those without a request.
    free: Vec<usize>,
    /// Between two requests; zero in a closed loop.
    distance: Duration,
    sent: u32,
    first: usize,
    micros: Vec<u32>,
    errors: u64,
}

/// Loads until the time is over and all that was sent is answered.
pub fn run(arguments: &[&str]) -> io::Result<()> {
    let [port, connections, seconds, rate, first, file] = arguments else {
        return Err(io::Error::other("usage: tools load PORT CONNECTIONS SECONDS RATE FIRST FILE"));
    };
    sharp_timers()?;
    let mut epoll = Epoll::new()?;
    let rate = number(rate)?;
    let distance = if rate == 0 { Duration::ZERO } else { Duration::from_secs(1) / rate as u32 };
    let mut load = Load {
        heads: heads(&fs::read(file)?)?,
        connections: Vec::new(),
        free: (0..number(connections)?).collect(),
        distance,
        sent: 0,
        first: number(first)?,
        micros: Vec::new(),
        errors: 0,
    };
    for id in 0..load.free.len() {
        load.connections.push(Connection::open(&epoll, port, id as u64)?);
    }
    let end = Duration::from_secs(number(seconds)? as u64);
    let took = load.run(&mut epoll, end)?;
    load.micros.sort_unstable();
    let pick = |share: f64| {
        let at = (load.micros.len() as f64 * share) as usize;
        load.micros.get(at.min(load.micros.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let next = (load.first + load.sent as usize) % load.heads.len();
    let (count, nanos) = (load.micros.len(), took.as_nanos());
    println!(
        "RESULT {count} {nanos} {} {} {} {} {next}",
        pick(0.5),
        pick(0.99),
        pick(0.999),
        load.errors
    );
    Ok(())
}

/// The heads in a file, each with the blank line that ends it.
fn heads(text: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let text = std::str::from_utf8(text).map_err(io::Error::other)?;
    let heads: Vec<_> =
        text.split_inclusive("\r\n\r\n").map(|head| head.as_bytes().to_vec()).collect();
    if heads.is_empty() { Err(io::Error::other("the file has no request")) } else { Ok(heads) }
}

// === impl Load ===

impl Load {
    /// How long it took until the last answer.
    fn run(&mut self, epoll: &mut Epoll, end: Duration) -> io::Result<Duration> {
        let (start, mut buffer) = (Instant::now(), vec![0; BUFFER]);
        loop {
            let pause = self.send(start, end)?;
            let now = start.elapsed();
            if pause.is_none() && self.free.len() == self.connections.len() {
                return Ok(now);
            }
            if now > end + PATIENCE {
                return Err(io::Error::other("requests are not answered"));
            }
            for index in 0..epoll.wait_for(pause.unwrap_or(PATIENCE))? {
                let id = epoll.event(index).token as usize;
                let Some(reply) = self.connections[id].turn(&mut buffer)? else { continue };
                let took = start.elapsed().saturating_sub(self.connections[id].due);
                match reply {
                    Reply::Good => {
                        self.micros.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
                    }
                    Reply::Bad => self.errors += 1,
                }
                self.free.push(id);
            }
        }
    }

    /// Sends what is due, and says how long it is until more is: `None` if that is for an answer to
    /// say, or nothing is any more.
    fn send(&mut self, start: Instant, end: Duration) -> io::Result<Option<Duration>> {
        while !self.free.is_empty() {
            let now = start.elapsed();
            let due = if self.distance.is_zero() { now } else { self.distance * self.sent };
            if due >= end {
                return Ok(None);
            }
            if due > now {
                return Ok(Some(due - now));
            }
            let Some(id) = self.free.pop() else { break };
            let connection = &mut self.connections[id];
            connection.due = due;
            let head = &self.heads[(self.first + self.sent as usize) % self.heads.len()];
            // A head fits into any socket's buffer.
            connection.stream.write_all(head)?;
            self.sent += 1;
        }
        Ok(None)
    }
}

// === impl Connection ===

impl Connection {
    fn open(epoll: &Epoll, port: &str, token: u64) -> io::Result<Self> {
        let stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(stream.as_raw_fd(), token, READ)?;
        Ok(Self { stream, pending: Vec::new(), due: Duration::ZERO })
    }

    /// Reads once; the answer, when it is whole.
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<Option<Reply>> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
        let Some((length, reply)) = reply(&self.pending)? else { return Ok(None) };
        if self.pending.len() < length {
            return Ok(None);
        }
        self.pending.clear();
        Ok(Some(reply))
    }
}
