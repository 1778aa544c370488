//! `tools publish SYSTEM PORT CONNECTIONS SECONDS BYTES BATCH`: publishers that each wait for the
//! acknowledgement of a batch before they publish again, over the protocol of the system at hand.
//!
//! One thread over epoll, as the other tools: all systems are loaded by the same loop. Prints
//! `RESULT events nanoseconds p50-micros p99-micros refused`; latencies are those of batches.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use crate::{
    epoll::{Epoll, READ},
    number,
    protocol::{Protocol, Reply},
};

/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);
/// A longer answer is not an acknowledgement.
const BUFFER: usize = 64 * 1024;

struct Publisher {
    stream: TcpStream,
    /// What came and is no whole answer yet.
    pending: Vec<u8>,
    request: Vec<u8>,
    sent: Instant,
    /// Events sent, ...
    count: u64,
    /// ... and of the last batch, those not acknowledged yet.
    left: u64,
    id: usize,
}

/// What is counted.
#[derive(Default)]
struct Tally {
    micros: Vec<u32>,
    refused: u64,
}

/// Publishes until the time is over.
pub fn run(arguments: &[&str]) -> io::Result<()> {
    let [system, port, connections, seconds, bytes, batch] = arguments else {
        return Err(io::Error::other(
            "usage: tools publish SYSTEM PORT CONNECTIONS SECONDS BYTES BATCH",
        ));
    };
    let batch = number(batch)? as u64;
    let protocol = Protocol::named(system, number(bytes)?)?;
    let mut epoll = Epoll::new()?;
    let mut publishers = Vec::new();
    for id in 0..number(connections)? {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
        stream.set_nodelay(true)?;
        protocol.greet(&mut stream, id)?;
        stream.set_nonblocking(true)?;
        epoll.add(stream.as_raw_fd(), id as u64, READ)?;
        let (pending, request) = (Vec::new(), Vec::new());
        let sent = Instant::now();
        publishers.push(Publisher { stream, pending, request, sent, count: 0, left: 0, id });
    }
    for publisher in &mut publishers {
        publisher.publish(&protocol, batch)?;
    }
    let start = Instant::now() + WARM_UP;
    let end = start + Duration::from_secs(number(seconds)? as u64);
    let (mut tally, mut buffer) = (Tally::default(), vec![0; BUFFER]);
    loop {
        for index in 0..epoll.wait()? {
            let publisher = &mut publishers[epoll.event(index).token as usize];
            publisher.turn(&protocol, &mut buffer, start, &mut tally)?;
            if publisher.left == 0 {
                publisher.publish(&protocol, batch)?;
            }
        }
        if Instant::now() >= end {
            break;
        }
    }
    let elapsed = start.elapsed();
    tally.micros.sort_unstable();
    let pick = |share: f64| {
        let at = (tally.micros.len() as f64 * share) as usize;
        tally.micros.get(at.min(tally.micros.len().saturating_sub(1))).copied().unwrap_or(0)
    };
    let events = tally.micros.len() as u64 * batch;
    let (nanos, p50, p99) = (elapsed.as_nanos(), pick(0.5), pick(0.99));
    println!("RESULT {events} {nanos} {p50} {p99} {}", tally.refused);
    Ok(())
}

// === impl Publisher ===

impl Publisher {
    fn publish(&mut self, protocol: &Protocol, batch: u64) -> io::Result<()> {
        self.request.clear();
        protocol.request(&mut self.request, self.id, self.count + 1..=self.count + batch);
        (self.count, self.left) = (self.count + batch, batch);
        self.sent = Instant::now();
        // Nothing else is under way, so the socket's buffer has room for all of it.
        self.stream.write_all(&self.request)
    }

    fn turn(
        &mut self,
        protocol: &Protocol,
        buffer: &mut [u8],
        start: Instant,
        tally: &mut Tally,
    ) -> io::Result<()> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut read = 0;
        while self.left > 0 {
            let (length, reply) = protocol.reply(&self.pending[read..])?;
            read += length;
            match reply {
                // What comes unasked may stand before the answer.
                Reply::None if length > 0 => continue,
                Reply::None => break,
                Reply::Stored => self.left -= 1,
                Reply::StoredUntil(count) => self.left = self.count - count,
                Reply::StoredAll => self.left = 0,
                // The run has failed.
                Reply::Refused => (tally.refused, self.left) = (tally.refused + 1, 0),
            }
            if self.left == 0 && self.sent >= start {
                let micros = self.sent.elapsed().as_micros();
                tally.micros.push(u32::try_from(micros).unwrap_or(u32::MAX));
            }
        }
        self.pending.drain(..read);
        Ok(())
    }
}
