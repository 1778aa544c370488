//! The request on its way into the socket: its head, and its body as it comes.
//!
//! Whatever is there when it is polled leaves in one write: the head with the first part of the body,
//! a chunk with its size and its end. The next part is asked for once the socket has taken the last.

use std::{
    io::{self, IoSlice},
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, header, request};
use http_body::{Body as _, Frame};
use hyper::rt::Write as _;
use smallvec::SmallVec;

use crate::{
    http::Body,
    upstream::{
        h1::{Broken, head},
        io::Io,
        reframe,
    },
};

const LINE_END: &[u8] = b"\r\n";
/// The last chunk.
const LAST_CHUNK: &[u8] = b"0\r\n";
/// A head's buffer is kept for the next request up to this size.
const MAX_KEPT: usize = 4096;
/// A request up to this size is posted.
const MAX_POSTED: usize = 4096;

/// What of a request has not been written yet.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// In this order: the head of the message or of a chunk, a part of the body, and what follows.
    before: Vec<u8>,
    data: Bytes,
    after: Vec<u8>,
    /// How much of the three is written.
    written: usize,
    /// Where the rest comes from.
    body: Option<Body>,
    framing: Framing,
    /// The trailers that the head has announced.
    announced: SmallVec<[HeaderName; 2]>,
    needs_flush: bool,
    post: Post,
    is_broken: bool,
}

/// Whether a request leaves through the [outbox](crate::net::outbox).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Post {
    /// It is written.
    #[default]
    Not,
    /// It may.
    Maybe,
    /// It is there.
    Posted,
}

/// How the upstream knows where the body ends.
#[derive(Clone, Copy, Debug)]
enum Framing {
    /// This many bytes are missing.
    Length(u64),
    Chunked,
}

// === impl Sending ===

impl Sending {
    /// Begins a request. `parts` says how its body is framed; `may_post`, whether the connection was
    /// used just now and it may leave a little later.
    pub(super) fn begin(&mut self, parts: &request::Parts, body: &Body, may_post: bool) {
        self.before.clear();
        head::write(parts, &mut self.before);
        self.written = 0;
        self.framing = match body.size_hint().exact() {
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        };
        self.announced.clear();
        if matches!(self.framing, Framing::Chunked) {
            let names = reframe::list(&parts.headers, header::TRAILER);
            self.announced.extend(names.filter_map(|name| HeaderName::try_from(name).ok()));
        }
        self.needs_flush = true;
        self.post = if may_post { Post::Maybe } else { Post::Not };
    }

    /// Adds a body that is in memory.
    pub(super) fn add(&mut self, bytes: Bytes) {
        self.data = bytes;
        self.framing = Framing::Length(0);
    }

    /// Adds a body that has to be waited for.
    pub(super) fn follow(&mut self, body: Body) {
        self.body = Some(body);
    }

    /// Whether something is left to do.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_none() && !self.needs_flush && !self.is_broken
    }

    /// Lets go of what the next request may not need.
    pub(super) fn shrink(&mut self) {
        if self.before.capacity() > MAX_KEPT {
            self.before = Vec::new();
        }
        self.after = Vec::new();
    }

    /// Writes what there is; ready when all of the request has been written.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<Result<(), Broken>> {
        let polled = self.poll_all(cx, io);
        if let Poll::Ready(Err(_)) = polled {
            // Nothing may follow: what is on the connection must not look like a whole request.
            *self = Self { is_broken: true, ..Self::default() };
        }
        polled
    }

    fn poll_all(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<Result<(), Broken>> {
        if self.is_broken {
            return Poll::Ready(Err(Broken::Io(io::ErrorKind::BrokenPipe.into())));
        }
        ready!(self.poll_posted(cx, io))?;
        while !self.is_over() {
            let is_waiting = self.poll_fill(cx)?.is_pending();
            ready!(self.poll_write(cx, io)).map_err(Broken::Io)?;
            if self.needs_flush && (is_waiting || self.body.is_none()) {
                ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(Broken::Io)?;
                self.needs_flush = false;
            }
            if is_waiting {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Posts a small request that is all there. Ready with what is left to be written, if anything.
    fn poll_posted(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<Result<(), Broken>> {
        let size = self.before.len() + self.data.len();
        match mem::take(&mut self.post) {
            Post::Maybe if self.body.is_none() && size <= MAX_POSTED && io.can_post() => {
                self.before.extend_from_slice(&mem::take(&mut self.data));
                io.post(cx, &mut self.before);
            }
            Post::Posted => {
                if let Poll::Ready(written) = io.poll_posted(cx, &mut self.before) {
                    self.written = written.map_err(Broken::Io)?;
                    return Poll::Ready(Ok(()));
                }
            }
            Post::Maybe | Post::Not => return Poll::Ready(Ok(())),
        }
        self.post = Post::Posted;
        Poll::Pending
    }

    /// Puts the next part of the body behind what is waiting to be written. Pending if there is none
    /// yet.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while self.data.is_empty() && self.after.is_empty() {
            let Some(body) = &mut self.body else { break };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => self.put(frame)?,
                Some(Err(error)) => return Poll::Ready(Err(Broken::Body(error))),
                None => self.end(&HeaderMap::new())?,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn put(&mut self, frame: Frame<Bytes>) -> Result<(), Broken> {
        let data = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return self.end(&trailers);
            }
        };
        // An empty chunk would end the body.
        if data.is_empty() {
            return Ok(());
        }
        match &mut self.framing {
            Framing::Length(missing) => {
                *missing = missing.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
            }
            Framing::Chunked => {
                use std::io::Write as _;
                write!(self.before, "{:X}\r\n", data.len()).map_err(Broken::Io)?;
                self.after.extend_from_slice(LINE_END);
            }
        }
        self.data = data;
        self.needs_flush = true;
        let is_whole = matches!(self.framing, Framing::Length(0));
        if is_whole || self.body.as_ref().is_some_and(http_body::Body::is_end_stream) {
            return self.end(&HeaderMap::new());
        }
        Ok(())
    }

    /// The body is over, with these trailers. Only those that the head announced are sent.
    fn end(&mut self, trailers: &HeaderMap) -> Result<(), Broken> {
        self.body = None;
        match self.framing {
            Framing::Length(0) => {}
            Framing::Length(_) => return Err(Broken::Length),
            Framing::Chunked => {
                self.after.extend_from_slice(LAST_CHUNK);
                let mut sent = HeaderMap::new();
                for (name, value) in trailers {
                    if self.announced.contains(name) {
                        sent.append(name, value.clone());
                    }
                }
                head::write_fields(&sent, &mut self.after);
                self.after.extend_from_slice(LINE_END);
                self.needs_flush = true;
            }
        }
        Ok(())
    }

    /// Writes all that is there.
    fn poll_write(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<()>> {
        let all = self.before.len() + self.data.len() + self.after.len();
        while self.written < all {
            let mut skip = self.written;
            let rest = [&self.before[..], &self.data[..], &self.after[..]].map(|part| {
                let skipped = skip.min(part.len());
                skip -= skipped;
                IoSlice::new(&part[skipped..])
            });
            let from = rest.iter().take_while(|part| part.is_empty()).count();
            let count = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &rest[from..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
        }
        self.before.clear();
        self.data = Bytes::new();
        self.after.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::Length(0)
    }
}
