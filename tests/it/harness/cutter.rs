//! An upstream of raw sockets that breaks one exchange off at a chosen byte, and counts what of a
//! request it saw. HTTP/1.1, or HTTP/2 by prior knowledge.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::http1::Message;

/// Where an exchange breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many bytes that the gateway wrote, of the whole connection.
    Request(usize),
    /// After the whole request and so many bytes of the answer.
    Response(usize),
    /// HTTP/2: the stream is reset with this code, unanswered.
    Reset(u32),
    /// HTTP/2: the stream is reset after the head of its answer.
    ResetAfterHead(u32),
    /// HTTP/2: GOAWAY with this code; the flag says whether it excludes the stream. Then it closes.
    GoAway(u32, bool),
}

/// How it breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Fin,
    Rst,
}

/// The upstream. Stops when it is dropped.
pub struct Cutter {
    address: SocketAddr,
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct State {
    plan: Mutex<Option<(Cut, End)>>,
    /// What was seen since the last plan. A connection keeps the count it began with, for bytes may
    /// be read when the next plan is there already.
    seen: Mutex<Seen>,
    longest: AtomicUsize,
}

/// Requests of which at least a byte was read.
#[derive(Clone, Default)]
pub struct Seen(Arc<AtomicUsize>);

/// What an uncut exchange is answered with.
pub const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
/// Bytes of its head.
pub const HEAD: usize = ANSWER.len() - 5;

// HTTP/2 (RFC 9113, 4.1): length, type, flags, stream.
const PREFACE: usize = 24;
const FRAME: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

// === impl Cutter ===

impl Cutter {
    pub async fn h1() -> Self {
        Self::start(false).await
    }

    pub async fn h2() -> Self {
        Self::start(true).await
    }

    async fn start(is_h2: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    let state = state.clone();
                    if is_h2 {
                        tokio::spawn(serve_h2(stream, state));
                    } else {
                        tokio::spawn(serve_h1(stream, state));
                    }
                }
            }
        });
        Self { address, state, task }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next exchange is broken off here; those after it are answered. Gives what is seen until
    /// the next plan.
    pub fn cut(&self, cut: Cut, end: End) -> Seen {
        let seen = Seen::default();
        let mut plan = self.state.plan.lock();
        *self.state.seen.lock() = seen.clone();
        *plan = Some((cut, end));
        seen
    }

    /// Whether the cut has been made.
    pub fn is_cut(&self) -> bool {
        self.state.plan.lock().is_none()
    }

    /// The bytes of the longest connection that was answered, up to the end of the request.
    pub fn longest(&self) -> usize {
        self.state.longest.load(Ordering::SeqCst)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Seen ===

impl Seen {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Breaks off; what still comes after a FIN is read, so that it stays one, and counted if `unseen`.
async fn end(mut stream: TcpStream, end: End, mut unseen: Option<&Seen>) {
    match end {
        End::Rst => stream.set_zero_linger().unwrap(),
        End::Fin => {
            drop(stream.shutdown().await);
            let mut chunk = [0; 1024];
            while let Ok(1..) = stream.read(&mut chunk).await {
                if let Some(seen) = unseen.take() {
                    seen.add();
                }
            }
        }
    }
}

/// Up to `limit` bytes of it; fewer when the peer ends.
async fn take(stream: &mut TcpStream, limit: usize) -> Vec<u8> {
    let mut bytes = vec![0; limit];
    let mut filled = 0;
    while filled < limit {
        match stream.read(&mut bytes[filled..]).await {
            Ok(n @ 1..) => filled += n,
            Ok(0) | Err(_) => break,
        }
    }
    bytes.truncate(filled);
    bytes
}

async fn serve_h1(mut stream: TcpStream, state: Arc<State>) {
    let (plan, seen) = {
        let mut plan = state.plan.lock();
        (plan.take(), state.seen.lock().clone())
    };
    if let Some((Cut::Request(limit), how)) = plan {
        let taken = take(&mut stream, limit).await.len();
        if taken > 0 {
            seen.add();
        }
        end(stream, how, (taken == 0).then_some(&seen)).await;
        return;
    }
    let mut counted = Counted { stream, bytes: 0 };
    let Some(_request) = Message::read_request(&mut counted, &mut Vec::new()).await else { return };
    seen.add();
    state.longest.fetch_max(counted.bytes, Ordering::SeqCst);
    let mut stream = counted.stream;
    let Some((Cut::Response(limit), how)) = plan else {
        drop(stream.write_all(ANSWER).await);
        return;
    };
    drop(stream.write_all(&ANSWER[..limit]).await);
    end(stream, how, None).await;
}

/// Counts what is read of it.
struct Counted {
    stream: TcpStream,
    bytes: usize,
}

impl tokio::io::AsyncRead for Counted {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = std::pin::Pin::new(&mut self.stream).poll_read(cx, buf);
        self.bytes += buf.filled().len() - before;
        polled
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// One request of an HTTP/2 connection: its stream, or how far it came.
enum Asked {
    Whole(u32),
    /// The limit was reached, or the peer ended.
    Short,
}

/// Reads frames until a stream has ended, at most `limit` bytes of the connection.
async fn read_h2(
    stream: &mut TcpStream,
    state: &State,
    limit: usize,
    is_first: bool,
    total: &mut usize,
) -> Asked {
    let mut left = limit;
    let mut take_some = async |wanted: usize| {
        let bytes = take(stream, wanted.min(left)).await;
        left -= bytes.len();
        *total += bytes.len();
        (bytes.len() == wanted).then_some(bytes)
    };
    if is_first && take_some(PREFACE).await.is_none() {
        return Asked::Short;
    }
    loop {
        let Some(head) = take_some(FRAME).await else { return Asked::Short };
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if kind == HEADERS {
            state.seen.lock().add();
        }
        if take_some(length).await.is_none() {
            return Asked::Short;
        }
        if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
            return Asked::Whole(id);
        }
    }
}

async fn serve_h2(mut stream: TcpStream, state: Arc<State>) {
    let plan = *state.plan.lock();
    if stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.is_err() {
        return;
    }
    let mut total = 0;
    if let Some((Cut::Request(limit), how)) = plan {
        *state.plan.lock() = None;
        read_h2(&mut stream, &state, limit, true, &mut total).await;
        end(stream, how, None).await;
        return;
    }
    let mut is_first = true;
    loop {
        let asked = read_h2(&mut stream, &state, usize::MAX, is_first, &mut total).await;
        let Asked::Whole(id) = asked else { return };
        is_first = false;
        state.longest.fetch_max(total, Ordering::SeqCst);
        // `:status 200` is one byte of the static table.
        let mut answer = frame(HEADERS, END_HEADERS, id, &[0x88]);
        let plan = state.plan.lock().take();
        let reset = |code: u32| frame(RST_STREAM, 0, id, &code.to_be_bytes());
        let bytes = match plan {
            Some((Cut::Response(limit), how)) => {
                answer.extend(frame(DATA, END_STREAM, id, b"hello"));
                drop(stream.write_all(&answer[..limit.min(answer.len())]).await);
                end(stream, how, None).await;
                return;
            }
            Some((Cut::Reset(code), _)) => reset(code),
            Some((Cut::ResetAfterHead(code), _)) => [answer, reset(code)].concat(),
            Some((Cut::GoAway(code, excludes), how)) => {
                let last = if excludes { id.saturating_sub(2) } else { id };
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                drop(stream.write_all(&frame(GOAWAY, 0, 0, &payload)).await);
                end(stream, how, None).await;
                return;
            }
            Some((Cut::Request(_), _)) | None => {
                // A plan of bytes is for a new connection: this one goes.
                answer.extend(frame(DATA, END_STREAM, id, b"hello"));
                let payload = [id.to_be_bytes(), 0_u32.to_be_bytes()].concat();
                answer.extend(frame(GOAWAY, 0, 0, &payload));
                *state.plan.lock() = plan;
                drop(stream.write_all(&answer).await);
                end(stream, End::Fin, None).await;
                return;
            }
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Bytes of an HTTP/2 answer, and of its head.
pub const ANSWER_H2: usize = FRAME + 1 + FRAME + 5;
pub const HEAD_H2: usize = FRAME + 1;
