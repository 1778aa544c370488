//! Reads the first bytes of a head, and tells HTTP/2 by prior knowledge from HTTP/1 by them.
//!
//! A connection waits here for its first byte, and again between two requests that are far apart,
//! without hyper and without a buffer.

use std::{
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{Protocol, state::State};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes per read; on the stack, so that waiting holds no memory.
const FIRST_READ: usize = 4096;

/// Reads into `read` until the protocol is known. `None`: the client left without sending anything.
///
/// Cancel-safe: what was read so far is in `read`.
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
            // hyper knows how to answer an incomplete head.
            return Poll::Ready(Ok((!read.is_empty()).then_some(Protocol::H1)));
        }
        read.extend_from_slice(buf.filled());
    }
}

/// The protocol, as soon as the first bytes decide it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_http2_by_its_whole_preface_and_http1_by_the_first_other_byte() {
        assert_eq!((judge(b"", true), judge(b"", false)), (None, None));
        for length in 1..=H2_PREFACE.len() {
            let whole = length == H2_PREFACE.len();
            let mut read = H2_PREFACE[..length].to_vec();
            assert_eq!(judge(&read, true), whole.then_some(Protocol::H2), "{length}");
            assert_eq!(judge(&read, false), Some(Protocol::H1), "{length}");
            read[length - 1] ^= 1;
            assert_eq!(judge(&read, true), Some(Protocol::H1), "{length}");
        }
        assert_eq!(judge(&[H2_PREFACE, b"\0\0\0\x04"].concat(), true), Some(Protocol::H2));
        assert_eq!(judge(b"GET / HTTP/1.1\r\n", true), Some(Protocol::H1));
    }
}
