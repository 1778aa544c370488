//! Sockets of the admin API: accept, limits, one exchange per connection.
//!
//! Connections are not kept alive: calls are rare, and an idle connection must not hold one of the
//! few places. At most 64 are served at once, further ones wait in the socket's backlog. Each has
//! 10 s to send its head and a minute for the rest, and more only while its client keeps taking the
//! answer, so a place always becomes free.

mod taken;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Notify, Semaphore},
    time::sleep,
};

use self::taken::{Counted, Taken};
use super::{Handles, api};
use crate::{http::io::Io, telemetry::task};

/// The maximum number of connections at once.
const MAX_CONNECTIONS: usize = 64;
/// The maximum size of a head, and of what is read ahead of a body, in bytes.
const MAX_BUFFER: usize = 32 * 1024;
/// The time from the accept to the end of the head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the head to the end of the answer, for a client that takes less than [`MIN_TAKEN`] of it:
/// an event may be too large for a slow client to get in a minute, now or the next time.
const EXCHANGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes.
const MIN_TAKEN: u64 = 32 * 1024;
/// The pause after a failed accept, which most often means that no descriptors are left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Answers calls on `listener` for as long as it is polled.
///
/// Dropping it closes the listener; accepted connections continue, for a little over a minute, or
/// as long as their clients keep taking the answer.
pub async fn serve(listener: TcpListener, handles: Arc<dyn Handles>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut is_failing = false;
    // Never closed, so waiting for a place always succeeds.
    while let Ok(place) = places.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !is_failing {
                    tracing::warn!(%error, "admin: cannot accept connections; tried again until it works");
                }
                is_failing = true;
                sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        is_failing = false;
        // Otherwise each piece of a stream would wait for the acknowledgement of the one before, 40
        // ms each (benches/tail.rs). If this fails, the connection is just slower.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "admin: a socket keeps its delay");
        }
        let handles = handles.clone();
        // Its own task: a slow call must not delay a probe.
        task::spawn("admin connection", async move {
            connection(stream, handles).await;
            drop(place);
        });
    }
}

/// One exchange on one connection.
async fn connection<T>(stream: T, handles: Arc<dyn Handles>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let has_head = Notify::new();
    let service = service_fn(|request: Request<Incoming>| {
        has_head.notify_one();
        let (parts, body) = request.into_parts();
        let handles = &handles;
        async move { Ok::<_, Infallible>(api::answer(&**handles, &parts, body).await) }
    });
    let taken = Taken::default();
    let exchange = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(MAX_BUFFER)
        .serve_connection(Io(Counted::new(stream, &taken)), service);
    tokio::pin!(exchange);
    // Either the exchange ends, or its head arrives and the longer time applies, or the time is up.
    // Every branch is cancel-safe: `exchange` continues or is given up.
    let ended = tokio::select! {
        result = exchange.as_mut() => Some(result),
        () = has_head.notified() => tokio::select! {
            result = exchange.as_mut() => Some(result),
            () = taken.falls_below(MIN_TAKEN, EXCHANGE_TIMEOUT) => None,
        },
        () = sleep(HEAD_TIMEOUT) => None,
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "admin: connection failed"),
        None => tracing::debug!("admin: connection timed out"),
    }
}

#[cfg(test)]
mod tests;
