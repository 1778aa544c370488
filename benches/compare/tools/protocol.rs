//! As much of four protocols as it takes to publish events and to know that they are stored: HTTP,
//! RESP, NATS and AMQP 0-9-1.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    ops::RangeInclusive,
    time::Duration,
};

/// Topic, stream, key or queue: everywhere the same name.
const NAME: &str = "orders";

/// How one system is spoken to.
pub enum Protocol {
    /// Sluice's event endpoint: one CloudEvent in binary mode, several as a JSON batch.
    Http(Vec<u8>),
    /// `XADD` to a Redis stream.
    Resp(Vec<u8>),
    /// A JetStream publish with its acknowledgement.
    Nats(Vec<u8>),
    /// A persistent message to a quorum queue, with publisher confirms.
    Amqp(Vec<u8>),
}

/// What came back.
pub enum Reply {
    /// Nothing whole yet.
    None,
    /// One event is stored.
    Stored,
    /// All events of the connection up to this one, counted from 1, are stored.
    StoredUntil(u64),
    /// All events of the request are stored.
    StoredAll,
    /// It was refused.
    Refused,
}

// === impl Protocol ===

impl Protocol {
    /// The protocol of a system, with events of so many bytes.
    pub fn named(system: &str, bytes: usize) -> io::Result<Self> {
        let body = order(bytes);
        match system {
            "sluice" => Ok(Self::Http(body)),
            "redis" => Ok(Self::Resp(body)),
            "nats" => Ok(Self::Nats(body)),
            "rabbitmq" => Ok(Self::Amqp(body)),
            _ => Err(failed(format!("{system}: one of sluice, redis, nats, rabbitmq"))),
        }
    }

    /// What comes before the first event; the first connection also makes the stream or the queue.
    pub fn greet(&self, stream: &mut TcpStream, id: usize) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        match self {
            Self::Http(_) | Self::Resp(_) => Ok(()),
            Self::Nats(_) => greet_nats(stream, id),
            Self::Amqp(_) => greet_amqp(stream, id),
        }
    }

    /// Appends what publishes these events of connection `id`: one request for Sluice, a command for
    /// each event for the others.
    pub fn request(&self, out: &mut Vec<u8>, id: usize, events: RangeInclusive<u64>) {
        match self {
            Self::Http(body) if events.start() == events.end() => {
                http_event(out, body, id, *events.start());
            }
            Self::Http(body) => http_batch(out, body, id, events),
            Self::Resp(body) => events.for_each(|_| resp_add(out, body)),
            Self::Nats(body) => events.for_each(|_| nats_publish(out, body, id)),
            Self::Amqp(body) => events.for_each(|_| amqp_publish(out, body)),
        }
    }

    /// How many bytes of `bytes` are whole, and what they say.
    pub fn reply(&self, bytes: &[u8]) -> io::Result<(usize, Reply)> {
        match self {
            Self::Http(_) => http_reply(bytes),
            Self::Resp(_) => resp_reply(bytes),
            Self::Nats(_) => nats_reply(bytes),
            Self::Amqp(_) => amqp_reply(bytes),
        }
    }
}

/// An order as JSON, of exactly so many bytes.
fn order(bytes: usize) -> Vec<u8> {
    const ITEM: &str = r#"{"sku":"A-4711","count":2,"price":12.99,"gift":false},"#;
    let (head, tail) = (r#"{"customer":"c-1207","items":["#, r#"],"note":""#);
    let room = bytes.saturating_sub(head.len() + tail.len() + 2) / ITEM.len();
    let items = ITEM.repeat(room);
    let mut order = format!("{head}{}{tail}", items.trim_end_matches(',')).into_bytes();
    order.resize(bytes.saturating_sub(2).max(order.len()), b'x');
    order.extend_from_slice(b"\"}");
    order
}

fn http_event(out: &mut Vec<u8>, body: &[u8], id: usize, count: u64) {
    let head = format!(
        "POST /v1/topics/{NAME}/events HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\nce-specversion: 1.0\r\nce-type: load\r\n\
         ce-source: /load/{id}\r\nce-id: {count}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
}

fn http_batch(out: &mut Vec<u8>, body: &[u8], id: usize, events: RangeInclusive<u64>) {
    let mut batch = Vec::new();
    for count in events {
        batch.push(if batch.is_empty() { b'[' } else { b',' });
        let attributes = format!(
            r#"{{"specversion":"1.0","type":"load","source":"/load/{id}","id":"{count}","datacontenttype":"application/json","data":"#
        );
        batch.extend_from_slice(attributes.as_bytes());
        batch.extend_from_slice(body);
        batch.push(b'}');
    }
    batch.push(b']');
    let head = format!(
        "POST /v1/topics/{NAME}/events HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/cloudevents-batch+json\r\ncontent-length: {}\r\n\r\n",
        batch.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&batch);
}

fn resp_add(out: &mut Vec<u8>, body: &[u8]) {
    let (name, size) = (NAME, body.len());
    let head = format!(
        "*5\r\n$4\r\nXADD\r\n${}\r\n{name}\r\n$1\r\n*\r\n$1\r\nd\r\n${size}\r\n",
        name.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

fn nats_publish(out: &mut Vec<u8>, body: &[u8], id: usize) {
    out.extend_from_slice(format!("PUB {NAME} _INBOX.{id} {}\r\n", body.len()).as_bytes());
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
}

fn amqp_publish(out: &mut Vec<u8>, body: &[u8]) {
    let mut publish = vec![0, 60, 0, 40, 0, 0, 0];
    short_string(&mut publish, NAME);
    publish.push(0);
    frame(out, 1, 1, &publish);
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    // delivery-mode 2: persistent.
    header.extend_from_slice(&[0x10, 0x00, 2]);
    frame(out, 2, 1, &header);
    frame(out, 3, 1, body);
}

fn http_reply(bytes: &[u8]) -> io::Result<(usize, Reply)> {
    let Some(end) = bytes.windows(4).position(|it| it == b"\r\n\r\n") else {
        return Ok((0, Reply::None));
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize =
        length.and_then(|it| it.trim().parse().ok()).ok_or_else(|| failed(head.clone()))?;
    if bytes.len() < end + 4 + length {
        return Ok((0, Reply::None));
    }
    let reply = if head.starts_with("http/1.1 202") { Reply::StoredAll } else { Reply::Refused };
    Ok((end + 4 + length, reply))
}

fn resp_reply(bytes: &[u8]) -> io::Result<(usize, Reply)> {
    let Some(end) = line_end(bytes) else { return Ok((0, Reply::None)) };
    match bytes[0] {
        b'$' => match line_end(&bytes[end..]) {
            Some(second) => Ok((end + second, Reply::Stored)),
            None => Ok((0, Reply::None)),
        },
        _ => Err(failed(String::from_utf8_lossy(&bytes[..end]))),
    }
}

fn nats_reply(bytes: &[u8]) -> io::Result<(usize, Reply)> {
    let Some(end) = line_end(bytes) else { return Ok((0, Reply::None)) };
    let line = String::from_utf8_lossy(&bytes[..end]);
    if !line.starts_with("MSG ") {
        return if line.starts_with("-ERR") { Err(failed(line)) } else { Ok((end, Reply::None)) };
    }
    let size: usize = line
        .trim_end()
        .rsplit(' ')
        .next()
        .and_then(|it| it.parse().ok())
        .ok_or_else(|| failed(&line))?;
    let whole = end + size + 2;
    if bytes.len() < whole {
        return Ok((0, Reply::None));
    }
    let is_stored = contains(&bytes[end..whole], b"\"seq\":");
    Ok((whole, if is_stored { Reply::Stored } else { Reply::Refused }))
}

fn amqp_reply(bytes: &[u8]) -> io::Result<(usize, Reply)> {
    let Some((length, method)) = amqp_frame(bytes) else { return Ok((0, Reply::None)) };
    match method {
        // basic.ack; its last bit says that it is for all before it too.
        [0, 60, 0, 80, tag @ .., multiple] => {
            let tag = <[u8; 8]>::try_from(tag).map_err(|_| failed("a tag of 8 bytes"))?;
            let until = Reply::StoredUntil(u64::from_be_bytes(tag));
            Ok((length, if *multiple == 0 { Reply::Stored } else { until }))
        }
        [0, 60, 0, 120, ..] => Ok((length, Reply::Refused)),
        // A heartbeat.
        [] => Ok((length, Reply::None)),
        _ => Err(failed(format!(
            "unexpected method {:?}: {}",
            &method[..4],
            String::from_utf8_lossy(method)
        ))),
    }
}

fn greet_nats(stream: &mut TcpStream, id: usize) -> io::Result<()> {
    read_until(stream, |bytes| line_end(bytes).is_some())?;
    write!(
        stream,
        "CONNECT {{\"verbose\":false,\"pedantic\":false}}\r\nSUB _INBOX.{id} 1\r\nPING\r\n"
    )?;
    // The server may go on with a question of its own, which waits for two minutes.
    read_until(stream, |bytes| contains(bytes, b"PONG\r\n"))?;
    if id == 0 {
        let stream_config = format!(
            r#"{{"name":"{NAME}","subjects":["{NAME}"],"storage":"file","retention":"limits"}}"#
        );
        write!(
            stream,
            "PUB $JS.API.STREAM.CREATE.{NAME} _INBOX.{id} {}\r\n{stream_config}\r\n",
            stream_config.len()
        )?;
        let answer = read_until(stream, |bytes| contains(bytes, b"}\r\n"))?;
        if contains(&answer, b"\"error\":") {
            return Err(failed(String::from_utf8_lossy(&answer)));
        }
    }
    Ok(())
}

fn greet_amqp(stream: &mut TcpStream, id: usize) -> io::Result<()> {
    let call = |stream: &mut TcpStream, channel: u16, method: &[u8], answer: [u8; 4]| {
        let mut out = Vec::new();
        frame(&mut out, 1, channel, method);
        stream.write_all(&out)?;
        expect(stream, answer)
    };
    stream.write_all(b"AMQP\0\0\x09\x01")?;
    expect(stream, [0, 10, 0, 10])?;
    // start-ok: no properties, PLAIN guest/guest.
    let mut start_ok = vec![0, 10, 0, 11, 0, 0, 0, 0];
    short_string(&mut start_ok, "PLAIN");
    start_ok.extend_from_slice(&[0, 0, 0, 12]);
    start_ok.extend_from_slice(b"\0guest\0guest");
    short_string(&mut start_ok, "en_US");
    call(stream, 0, &start_ok, [0, 10, 0, 30])?;
    // tune-ok: 2047 channels, frames of 128 KiB, no heartbeat; open `/`.
    let mut out = Vec::new();
    frame(&mut out, 1, 0, &[0, 10, 0, 31, 0x07, 0xff, 0, 2, 0, 0, 0, 0]);
    stream.write_all(&out)?;
    call(stream, 0, &[0, 10, 0, 40, 1, b'/', 0, 0], [0, 10, 0, 41])?;
    call(stream, 1, &[0, 20, 0, 10, 0], [0, 20, 0, 11])?;
    if id == 0 {
        // queue.declare: durable, {x-queue-type: quorum}.
        let mut declare = vec![0, 50, 0, 10, 0, 0];
        short_string(&mut declare, NAME);
        declare.push(0b0000_0010);
        let mut table = Vec::new();
        short_string(&mut table, "x-queue-type");
        table.extend_from_slice(b"S\0\0\0\x06quorum");
        declare.extend_from_slice(&(table.len() as u32).to_be_bytes());
        declare.extend_from_slice(&table);
        call(stream, 1, &declare, [0, 50, 0, 11])?;
    }
    call(stream, 1, &[0, 85, 0, 10, 0], [0, 85, 0, 11])
}

/// Reads one AMQP frame, which has to be this method.
fn expect(stream: &mut TcpStream, method: [u8; 4]) -> io::Result<()> {
    let bytes = read_until(stream, |bytes| amqp_frame(bytes).is_some())?;
    match amqp_frame(&bytes) {
        Some((_, payload)) if payload.starts_with(&method) => Ok(()),
        _ => Err(failed(format!("not {method:?}: {}", String::from_utf8_lossy(&bytes)))),
    }
}

/// Appends an AMQP frame.
fn frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xce);
}

/// The length of the first AMQP frame, and its payload.
fn amqp_frame(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let size = u32::from_be_bytes(bytes.get(3..7)?.try_into().ok()?) as usize;
    Some((size + 8, bytes.get(..size + 8)?.get(7..size + 7)?))
}

fn short_string(out: &mut Vec<u8>, text: &str) {
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Past the first line break.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|it| it == b"\r\n").map(|at| at + 2)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|it| it == wanted)
}

fn read_until(stream: &mut TcpStream, is_whole: impl Fn(&[u8]) -> bool) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_whole(&bytes) {
        match stream.read(&mut buffer)? {
            0 => return Err(failed(format!("closed after {}", String::from_utf8_lossy(&bytes)))),
            length => bytes.extend_from_slice(&buffer[..length]),
        }
    }
    Ok(bytes)
}

fn failed(what: impl AsRef<str>) -> io::Error {
    io::Error::other(what.as_ref().to_owned())
}
