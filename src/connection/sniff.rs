//! HTTP/2 by prior knowledge, or HTTP/1: told by the first bytes of a plain-text connection.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::connection::{Protocol, io::State};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads into `read` until it is clear what is spoken.
pub(super) async fn sniff<S>(
    stream: &mut S,
    read: &mut BytesMut,
    state: &State,
) -> io::Result<Protocol>
where
    S: AsyncRead + Unpin,
{
    loop {
        let common = read.len().min(H2_PREFACE.len());
        if read[..common] != H2_PREFACE[..common] {
            return Ok(Protocol::H1);
        }
        if common == H2_PREFACE.len() {
            return Ok(Protocol::H2);
        }
        let count = stream.read_buf(read).await?;
        state.note_read(count);
        if count == 0 {
            // Nothing at all, or the beginning of something: hyper knows what to say to it.
            return Ok(Protocol::H1);
        }
    }
}
