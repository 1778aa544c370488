//! Turns a stream into a connection that speaks HTTP; for HTTP/2, starts the task that drives it.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use hyper::{client::conn::http2, rt::Executor};
use parking_lot::Mutex;
use tokio::time::{self, Instant};

use crate::{
    error::{Error, Kind, Result},
    http::Body,
    telemetry::task,
    upstream::{Local, connect::Dialled, h1::H1, io::Io, meter::Meter, timer::Timer},
};

/// The largest response head over HTTP/2, as that counts it.
const MAX_HEAD_BYTES_H2: u32 = 32 * 1024;
/// What an upstream may send of one response before we read it.
const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// The same for all responses of one connection: this many slow readers must fill their windows
/// before others have to wait.
const H2_CONNECTION_WINDOW: u32 = 64 * H2_STREAM_WINDOW;
/// While streams are open, a peer that is silent for this long is pinged.
const H2_PING_INTERVAL: Duration = Duration::from_secs(10);
/// How long it may take to answer a ping.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that speaks HTTP.
pub(crate) enum Opened {
    H1(Box<H1>),
    H2(Arc<H2>),
}

/// An HTTP/2 connection: many requests at a time. When dropped, it closes after its streams end.
pub(crate) struct H2 {
    local: Weak<Local>,
    sender: http2::SendRequest<Body>,
    open: AtomicUsize,
    /// The peer's stream limit, as the connection task last saw it.
    limit: Arc<AtomicUsize>,
    idle_since: Mutex<Instant>,
    is_leaving: AtomicBool,
}

/// A stream's place on an HTTP/2 connection, held until this is dropped.
pub(crate) struct H2Stream {
    h2: Arc<H2>,
}

/// Runs hyper's tasks of one connection.
#[derive(Clone)]
struct Spawn {
    greeting: Arc<Greeting>,
}

/// Detects that the connection's first bytes, its SETTINGS, have been read.
struct Greeting {
    meter: Arc<Meter>,
    is_over: AtomicBool,
    waker: AtomicWaker,
}

/// Connects to an endpoint and performs the handshake, all within `connect_timeout`.
pub(crate) async fn open(local: &Arc<Local>) -> Result<Opened> {
    in_time(local, async {
        let dialled = local.transport().dial(local.endpoint(), false).await?;
        if dialled.is_h2 {
            return open_h2(local, dialled).await;
        }
        let keep_alive = local.transport().settings().idle_timeout;
        Ok(Opened::H1(h1(local, dialled, keep_alive)))
    })
    .await
}

async fn in_time<T>(local: &Local, opening: impl Future<Output = Result<T>>) -> Result<T> {
    let timeout = local.transport().settings().connect_timeout;
    match time::timeout(timeout, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Error::new(Kind::UpstreamConnect)
            .with_detail(format!("{}: no connection in {timeout:?}", local.label()))),
    }
}

fn h1(local: &Local, dialled: Dialled, keep_alive: Duration) -> Box<H1> {
    let (io, _meter) = Io::new(dialled.stream, local.transport().settings().send_idle_timeout);
    Box::new(H1::new(io, keep_alive))
}

/// A dedicated HTTP/1.1 connection for one request that may be upgraded.
pub(crate) async fn open_for_upgrade(local: &Local) -> Result<Box<H1>> {
    let dialled = in_time(local, local.transport().dial(local.endpoint(), true)).await?;
    let mut h1 = h1(local, dialled, Duration::ZERO);
    h1.is_spent = true;
    Ok(h1)
}

/// Waits one round trip for the peer's SETTINGS. Without its stream limit we would open more
/// streams than it takes; and a peer that only claims to speak h2 is found out before a request is
/// sent.
async fn open_h2(local: &Arc<Local>, dialled: Dialled) -> Result<Opened> {
    let (io, meter) = Io::new(dialled.stream, local.transport().settings().send_idle_timeout);
    let greeting =
        Arc::new(Greeting { meter, is_over: AtomicBool::new(false), waker: AtomicWaker::new() });
    let mut builder = http2::Builder::new(Spawn { greeting: greeting.clone() });
    builder
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEAD_BYTES_H2)
        .timer(Timer)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    let greeted = async {
        let (sender, mut connection) = builder.handshake(io).await?;
        poll_fn(|cx| greeting.poll(cx, &mut connection)).await?;
        Ok((sender, connection))
    };
    let (sender, mut connection) = greeted.await.map_err(|error| refused(local, error))?;
    let limit = Arc::new(AtomicUsize::new(connection.current_max_send_streams()));
    let published = limit.clone();
    task::spawn("upstream h2", async move {
        let ended = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            // Relaxed: a reader that is one SETTINGS behind opens a stream that h2 holds back.
            published.store(connection.current_max_send_streams(), Ordering::Relaxed);
            polled
        });
        if let Err(error) = ended.await {
            tracing::trace!(%error, "upstream connection ended");
        }
    });
    let idle_since = Mutex::new(Instant::now());
    Ok(Opened::H2(Arc::new(H2 {
        local: Arc::downgrade(local),
        sender,
        open: AtomicUsize::new(0),
        limit,
        idle_since,
        is_leaving: AtomicBool::new(false),
    })))
}

fn refused(local: &Local, error: hyper::Error) -> Error {
    Error::new(Kind::UpstreamConnect).with_detail(&**local.label()).with_source(error)
}

// === impl H2 ===

// Relaxed throughout: the count is exact because every change is one operation, and h2 itself holds
// back a stream opened beyond the limit in a race.
impl H2 {
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed() || self.is_leaving.load(Ordering::Relaxed)
    }

    /// Takes a place if one is free.
    pub(crate) fn try_stream(self: &Arc<Self>) -> Option<H2Stream> {
        let limit = self.limit.load(Ordering::Relaxed);
        let one_more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(H2Stream { h2: self.clone() })
    }

    #[cfg(test)]
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    pub(crate) fn is_idle_for(&self, timeout: Duration, now: Instant) -> bool {
        self.open.load(Ordering::Relaxed) == 0
            && now.saturating_duration_since(*self.idle_since.lock()) >= timeout
    }
}

// === impl H2Stream ===

impl H2Stream {
    pub(crate) fn sender(&self) -> http2::SendRequest<Body> {
        self.h2.sender.clone()
    }

    /// The peer takes no more streams on this connection: hand out no more.
    pub(crate) fn retire_connection(&self) {
        self.h2.is_leaving.store(true, Ordering::Relaxed);
    }
}

impl Drop for H2Stream {
    fn drop(&mut self) {
        let before = self.h2.open.fetch_sub(1, Ordering::Relaxed);
        if before == 1 {
            *self.h2.idle_since.lock() = Instant::now();
        }
        // Only then can somebody be waiting for it.
        if before >= self.h2.limit.load(Ordering::Relaxed)
            && let Some(local) = self.h2.local.upgrade()
        {
            local.pool().freed_stream();
        }
    }
}

// === impl Spawn ===

impl<F> Executor<F> for Spawn
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        let greeting = self.greeting.clone();
        task::spawn("upstream h2 stream", async move {
            let mut future = pin!(future);
            poll_fn(|cx| {
                let polled = future.as_mut().poll(cx);
                greeting.look();
                polled
            })
            .await
        });
    }
}

// === impl Greeting ===

// Relaxed: the flag only avoids waking a waker twice; the waker itself orders.
impl Greeting {
    fn look(&self) {
        if !self.is_over.load(Ordering::Relaxed) && self.meter.mark().read > 0 {
            self.is_over.store(true, Ordering::Relaxed);
            self.waker.wake();
        }
    }

    /// Ready once greeted; an error if `connection` ends first.
    fn poll<C>(&self, cx: &mut Context<'_>, connection: &mut C) -> Poll<hyper::Result<()>>
    where
        C: Future<Output = hyper::Result<()>> + Unpin,
    {
        self.waker.register(cx.waker());
        let ended = Pin::new(connection).poll(cx)?;
        // A connection that ended silently reports that to its first request.
        if ended.is_ready() || self.meter.mark().read > 0 {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }
}
