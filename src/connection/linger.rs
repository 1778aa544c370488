//! What is still done with a stream that hyper has released; bounded, whatever the client does.

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time,
};

use crate::connection::Settings;

const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Answers 408 to a client whose head did not arrive in time, then [`discard`]s.
pub(super) async fn answer_timeout<S>(stream: &mut S, settings: &Settings)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answered = async {
        stream.write_all(REQUEST_TIMEOUT).await?;
        stream.flush().await
    };
    if matches!(time::timeout(settings.discard_timeout, answered).await, Ok(Ok(()))) {
        discard(stream, settings).await;
    }
}

/// Shuts down the write side, then reads and discards what still arrives, within bounds.
pub(super) async fn discard<S>(stream: &mut S, settings: &Settings)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let discarding = async {
        stream.shutdown().await?;
        let mut limited = stream.take(settings.discard_bytes);
        tokio::io::copy(&mut limited, &mut tokio::io::sink()).await
    };
    // Failed, timed out or too much: the connection is closed in any case.
    if let Ok(Ok(bytes)) = time::timeout(settings.discard_timeout, discarding).await {
        tracing::trace!(bytes, "discarded what a client still sent");
    }
}

/// Sends what counts as written, within bounds.
pub(super) async fn flush<S>(stream: &mut S, settings: &Settings)
where
    S: AsyncWrite + Unpin,
{
    if let Ok(Err(error)) = time::timeout(settings.discard_timeout, stream.flush()).await {
        tracing::trace!(%error, "not flushed");
    }
}

/// Shuts down the write side, within bounds.
pub(super) async fn close<S>(stream: &mut S, settings: &Settings)
where
    S: AsyncWrite + Unpin,
{
    if let Ok(Err(error)) = time::timeout(settings.discard_timeout, stream.shutdown()).await {
        tracing::trace!(%error, "not shut down");
    }
}
