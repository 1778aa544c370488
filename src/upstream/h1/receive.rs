//! The response as it comes out of the socket: its head, then its body part by part.

use std::{
    io,
    mem::{self, MaybeUninit},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, response};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::{
    telemetry::clock,
    upstream::{
        h1::{
            Broken, Invalid,
            chunked::Step,
            head::{self, Found, Framing, Head, Read},
            read_size::{self, ReadSize},
        },
        io::Io,
    },
};

/// The most bytes of interim responses (1xx) to one request.
const MAX_INTERIM_BYTES: usize = 256 * 1024;

/// Where in the response its reader is.
#[derive(Debug)]
pub(super) struct Receiving {
    /// Read, and not passed on.
    bytes: BytesMut,
    framing: Framing,
    read_size: ReadSize,
    is_head: bool,
    /// Bytes of interim responses before the head.
    interim: usize,
    /// Memory for the fields of the next head.
    fields: HeaderMap,
}

/// The head of a response, with the body if that is here and known to be whole.
pub(crate) struct Answer {
    pub(crate) parts: response::Parts,
    /// `None`: it has to be read.
    pub(crate) body: Option<Bytes>,
    /// Whether the upstream closes the connection afterwards.
    pub(crate) closes: bool,
}

// === impl Receiving ===

impl Default for Receiving {
    fn default() -> Self {
        Self {
            bytes: BytesMut::new(),
            framing: Framing::Length(0),
            read_size: ReadSize::default(),
            is_head: false,
            interim: 0,
            fields: HeaderMap::new(),
        }
    }
}

impl Receiving {
    /// Begins the response to a request. `is_head`: the method of that is HEAD.
    pub(super) fn begin(&mut self, is_head: bool) {
        (self.is_head, self.interim) = (is_head, 0);
        self.read_size = ReadSize::default();
    }

    /// Takes the memory of these fields for those of the next head.
    pub(super) fn reuse(&mut self, mut fields: HeaderMap) {
        fields.clear();
        self.fields = fields;
    }

    /// Waits for the head of the response.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<Result<Answer, Broken>> {
        // On the stack: what is kept of a head is copied, in one piece of its size.
        let mut room = [MaybeUninit::uninit(); read_size::LEAST];
        loop {
            let mut read = ReadBuf::uninit(&mut room);
            ready!(Pin::new(&mut *io).poll_read(cx, &mut read)).map_err(Broken::Io)?;
            if read.filled().is_empty() {
                return Poll::Ready(Err(Broken::Io(io::ErrorKind::UnexpectedEof.into())));
            }
            if let Some(answer) = self.look(read.filled())? {
                return Poll::Ready(Ok(answer));
            }
        }
    }

    /// Looks for the head in `new` and what was read before.
    fn look(&mut self, new: &[u8]) -> Result<Option<Answer>, Invalid> {
        let mut known = mem::take(&mut self.bytes);
        let is_first = known.is_empty();
        if !is_first {
            known.extend_from_slice(new);
            // Read again only when a line has ended: there are few of them, however many pieces.
            if !new.contains(&b'\n') && known.len() <= head::MAX_HEAD_BYTES {
                self.bytes = known;
                return Ok(None);
            }
        }
        let all = if is_first { new } else { &known };
        match head::read(all, self.is_head, &mut self.fields)? {
            Read::Head(found) => Ok(Some(self.found(found))),
            Read::Partial { skipped } => {
                self.interim += skipped;
                if self.interim > MAX_INTERIM_BYTES {
                    return Err(Invalid::Interim);
                }
                if is_first {
                    known.extend_from_slice(&new[skipped..]);
                } else {
                    known.advance(skipped);
                }
                self.bytes = known;
                Ok(None)
            }
        }
    }

    fn found(&mut self, found: Found<'_>) -> Answer {
        let Found { head: Head { parts, framing, closes }, body, rest } = found;
        self.bytes = BytesMut::from(rest);
        self.framing = if body.is_some() { Framing::Length(0) } else { framing };
        if let Framing::Length(length @ 1..) = self.framing {
            self.read_size.expect(length);
        }
        Answer { parts, body, closes }
    }

    /// The next part of the body; `None` at its end.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io,
    ) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        loop {
            match self.take() {
                Ok(Step::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(Step::Over(trailers)) if trailers.is_empty() => return Poll::Ready(None),
                Ok(Step::Over(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Step::More) => {}
                Err(invalid) => return Poll::Ready(Some(Err(invalid.into()))),
            }
            match ready!(self.poll_read(cx, io)) {
                Ok(0) if matches!(self.framing, Framing::UntilClose) => {
                    self.framing = Framing::Length(0);
                }
                Ok(0) => {
                    let error = Broken::Io(io::ErrorKind::UnexpectedEof.into());
                    return Poll::Ready(Some(Err(error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(Broken::Io(error)))),
            }
        }
    }

    /// What of the body has been read.
    fn take(&mut self) -> Result<Step, Invalid> {
        match &mut self.framing {
            Framing::Length(0) => Ok(Step::Over(HeaderMap::new())),
            Framing::Chunked(decoder) => decoder.step(&mut self.bytes),
            Framing::Length(_) | Framing::UntilClose if self.bytes.is_empty() => Ok(Step::More),
            Framing::UntilClose => Ok(Step::Data(self.bytes.split().freeze())),
            Framing::Length(missing) => {
                let all = self.bytes.len();
                let count = usize::try_from(*missing).map_or(all, |missing| missing.min(all));
                *missing -= count as u64;
                Ok(Step::Data(self.bytes.split_to(count).freeze()))
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<io::Result<usize>> {
        let size = self.read_size.begin(clock::tick());
        let wanted = match self.framing {
            Framing::Length(missing) => {
                usize::try_from(missing).map_or(size, |missing| missing.min(size))
            }
            Framing::Chunked(_) | Framing::UntilClose => size,
        };
        make_room(&mut self.bytes, wanted);
        let polled = poll_read_buf(Pin::new(io), cx, &mut (&mut self.bytes).limit(wanted));
        if polled.is_pending() && self.bytes.is_empty() && wanted > read_size::STEADY {
            // It may be silent for long.
            self.bytes = BytesMut::new();
        }
        let count = ready!(polled)?;
        self.read_size.end(count, clock::tick());
        Poll::Ready(Ok(count))
    }

    /// Whether all of the response has been passed on.
    pub(super) fn is_over(&self) -> bool {
        match &self.framing {
            Framing::Length(missing) => *missing == 0,
            Framing::Chunked(decoder) => decoder.is_over(),
            Framing::UntilClose => false,
        }
    }

    /// Whether bytes follow the response that nobody has asked for.
    pub(super) fn has_more(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// What was read behind the head.
    pub(super) fn into_rest(self) -> Bytes {
        self.bytes.freeze()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.framing {
            Framing::Length(missing) => SizeHint::with_exact(missing),
            Framing::Chunked(_) | Framing::UntilClose => SizeHint::default(),
        }
    }

    /// Lets go of what an idle connection does not need.
    pub(super) fn shrink(&mut self) {
        self.bytes = BytesMut::new();
    }
}

/// Room for `wanted` bytes. `reserve` alone would take back the large buffer of a reader that has
/// become slow, again and again, and allocate as much as the buffer once had where less is missing.
fn make_room(bytes: &mut BytesMut, wanted: usize) {
    let is_fit = bytes.try_reclaim(wanted) && bytes.capacity() <= wanted.max(read_size::STEADY);
    if bytes.is_empty() && !is_fit {
        *bytes = BytesMut::with_capacity(wanted);
    } else {
        bytes.reserve(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer of this many KiB that was filled, and whose content has been let go.
    fn used(kib: usize) -> BytesMut {
        let mut bytes = BytesMut::with_capacity(kib * 1024);
        bytes.resize(kib * 1024, 0);
        drop(bytes.split().freeze());
        bytes
    }

    #[test]
    fn a_reader_that_became_slow_does_not_keep_the_large_buffer() {
        let mut bytes = used(256);
        make_room(&mut bytes, 64 * 1024);
        assert_eq!(bytes.capacity(), 64 * 1024);
    }

    #[test]
    fn no_more_room_is_made_than_is_missing() {
        let mut bytes = BytesMut::with_capacity(64 * 1024);
        bytes.resize(64 * 1024, 0);
        let _still_held = bytes.split().freeze();
        make_room(&mut bytes, 6 * 1024);
        assert_eq!(bytes.capacity(), 6 * 1024);
    }

    #[test]
    fn a_buffer_of_the_right_size_is_used_again() {
        let mut bytes = used(256);
        let before = bytes.as_ptr().wrapping_sub(256 * 1024);
        make_room(&mut bytes, 256 * 1024);
        assert_eq!((bytes.as_ptr(), bytes.capacity()), (before, 256 * 1024));
    }
}
