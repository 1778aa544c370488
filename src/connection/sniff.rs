//! The first bytes of a head, and HTTP/2 by prior knowledge or HTTP/1, told by them.
//!
//! A connection waits here for its first byte, and again between two requests that are far apart:
//! without hyper and without a buffer.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{Protocol, io::State};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What is read at once; on the stack, so that waiting holds no memory.
const FIRST_READ: usize = 4096;

/// Reads into `read` until it is clear what is spoken. `None`: the client left without a word.
///
/// Nothing that was read is lost when this is pending: it is in `read`.
pub(super) fn poll_first<S>(
    stream: &mut S,
    cx: &mut Context<'_>,
    read: &mut BytesMut,
    may_be_h2: bool,
    state: &State,
) -> Poll<io::Result<Option<Protocol>>>
where
    S: AsyncRead + Unpin,
{
    loop {
        if let Some(protocol) = judge(read, may_be_h2) {
            return Poll::Ready(Ok(Some(protocol)));
        }
        let mut room = [MaybeUninit::uninit(); FIRST_READ];
        let mut buf = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        state.note_read(buf.filled().len());
        if buf.filled().is_empty() {
            // Of the beginning of something hyper knows what to say.
            return Poll::Ready(Ok((!read.is_empty()).then_some(Protocol::H1)));
        }
        read.extend_from_slice(buf.filled());
    }
}

/// What is spoken, as soon as the first bytes tell.
fn judge(read: &[u8], may_be_h2: bool) -> Option<Protocol> {
    let common = read.len().min(H2_PREFACE.len());
    if common == 0 {
        None
    } else if !may_be_h2 || read[..common] != H2_PREFACE[..common] {
        Some(Protocol::H1)
    } else {
        (common == H2_PREFACE.len()).then_some(Protocol::H2)
    }
}
