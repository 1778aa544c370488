//! Sockets of the admin API: accept, limits, one exchange per connection.
//!
//! Connections are not kept alive: calls are rare, and an idle connection must not hold one of the
//! few places. At most 64 are served at once, the next wait in the socket's backlog; each has 10 s
//! to send its head and a minute for all of it, and another only for what it takes slowly, so a place
//! always comes free.

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

/// Connections at once.
const MAX_CONNECTIONS: usize = 64;
/// Bytes of a head, and of what is read ahead of a body.
const MAX_BUFFER: usize = 32 * 1024;
/// From the accept to the end of the head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// From the head to the last byte of the answer, for who does not take at least [`MIN_TAKEN`] of it meanwhile:
/// an event may be larger than a slow client gets in a minute, and it would get no further the next time.
const EXCHANGE_TIMEOUT: Duration = Duration::from_mins(1);
/// Bytes.
const MIN_TAKEN: u64 = 32 * 1024;
/// After a failed accept, which most often means that there are no descriptors left.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Answers calls on `listener` for as long as it is polled.
///
/// Dropping it closes the listener; connections that were accepted run on, for a little over a
/// minute, or as long as they take what they are told.
pub async fn serve(listener: TcpListener, handles: Arc<dyn Handles>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut is_failing = false;
    // Never closed, so there is always a place to wait for.
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
        // What a stream tells piece by piece would wait for the acknowledgement of the piece before, 40 ms
        // for each (benches/tail.rs). Without it the connection is slower, and nothing else.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "admin: a socket keeps its delay");
        }
        let handles = handles.clone();
        // Its own task: a slow call must not hold up a probe.
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
    // Either the exchange is over, or its head is there and the longer time applies, or neither in
    // time. Nothing is lost by any branch: `exchange` is polled on or given up.
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
