//! WebSocket and other upgrades: a dedicated connection, then bytes both ways.
//!
//! The request is sent with its `Upgrade` on an HTTP/1.1 connection that never enters the pool.
//! After a 101, a task of the worker's drained spawner joins both sides; it counts tunnels apart
//! from requests. Any other answer is an ordinary response. A tunnel has two buffers of 8 KiB and
//! reads from one side only what the other takes. It ends when both sides have ended, when either
//! fails or takes nothing for `send_idle_timeout`, `half_close_timeout` after the first side's end,
//! or at the drain's deadline. At that deadline both ends of a WebSocket get a close frame with
//! 1001 (going away), placed between two frames, so that they reconnect at once.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, StatusCode, header, request};
use hyper::{
    rt::{Read, Write},
    upgrade::OnUpgrade,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, copy, copy_bidirectional, sink},
    join,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    error::{Error, Kind, Result, Sent, Unsent},
    http::{Body, Request, Response},
    upstream::{
        Flight, Protocol, Settings,
        failure::failed_h1,
        forward::receive_h1,
        h1::{Answer, H1},
        handshake,
        io::Io,
        reframe,
        stall::Stall,
        websocket::{self, Frames},
    },
};

/// How long a tunnel may take to say goodbye after its deadline.
pub const FAREWELL: Duration = Duration::from_secs(1);

/// When tunnels have to end; `None` until the drain begins.
pub type TunnelDeadline = watch::Receiver<Option<Instant>>;

/// A request to switch protocols.
pub(crate) struct Asked {
    protocol: HeaderValue,
    client: OnUpgrade,
}

/// A stream for hyper as one for tokio.
struct Adapted<T> {
    io: T,
    /// Notified when nothing more is written to it because the other side has ended.
    ended: Arc<Notify>,
    /// The connection's own timer ended with HTTP.
    stall: Stall,
    /// Tracks the frames written to it, if it speaks WebSocket.
    frames: Option<Frames>,
}

// === impl Asked ===

impl Asked {
    /// Takes the upgrade request out of `parts`, if there is one that can be granted. `h2c` never
    /// is: it would bypass everything that judges requests.
    pub(crate) fn take(parts: &mut request::Parts, settings: &Settings) -> Option<Self> {
        let is_h2_by_prior_knowledge = settings.protocol == Protocol::H2 && settings.tls.is_none();
        if is_h2_by_prior_knowledge || !parts.headers.contains_key(header::UPGRADE) {
            return None;
        }
        let client = parts.extensions.remove::<OnUpgrade>()?;
        if reframe::list(&parts.headers, header::UPGRADE)
            .any(|protocol| protocol.eq_ignore_ascii_case("h2c"))
        {
            return None;
        }
        let protocol = parts.headers.remove(header::UPGRADE)?;
        Some(Self { protocol, client })
    }

    /// Whether `upgrade` contains nothing but what was asked for.
    fn covers(&self, upgrade: &HeaderMap) -> bool {
        let asked = self.protocol.to_str().unwrap_or_default();
        reframe::list(upgrade, header::UPGRADE).all(|chosen| {
            asked.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case(chosen))
        })
    }

    /// Puts it back, for another attempt.
    fn restore(self, parts: &mut request::Parts) {
        parts.headers.insert(header::UPGRADE, self.protocol);
        parts.extensions.insert(self.client);
    }
}

/// Sends a request that asks for an upgrade, on a dedicated connection.
pub(crate) async fn exchange(
    mut request: Request,
    asked: Asked,
    flight: Flight,
    preserve_host: bool,
) -> Result<Response> {
    let local = flight.local();
    request.cx.set_connecting(true);
    let opened = handshake::open_for_upgrade(local).await;
    request.cx.set_connecting(false);
    local.pool().count_opened(opened.is_ok());
    let mut h1 = match opened {
        Ok(h1) => h1,
        Err(error) => {
            asked.restore(&mut request.parts);
            return Err(error.with_unsent(request));
        }
    };
    let Request { mut parts, body, cx } = request;
    reframe::to_h1(&mut parts, &body, local.authority(), preserve_host);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, asked.protocol.clone());
    h1.send(parts, body);
    let Answer { mut parts, body, .. } = match h1.answer().await {
        Ok(answer) => answer,
        Err(broken) => {
            let mut error = failed_h1(broken, &mut h1, None, cx).with_detail(&**local.label());
            return match error.take_unsent().and_then(Unsent::into_request) {
                Some(mut request) => {
                    asked.restore(&mut request.parts);
                    Err(error.with_unsent(request))
                }
                None => Err(error),
            };
        }
    };
    if parts.status == StatusCode::SWITCHING_PROTOCOLS {
        return switch(parts, *h1, asked, flight);
    }
    reframe::check_response(&mut parts, true)?;
    let body = receive_h1(&parts, body, h1, flight);
    Ok(Response::from_parts(parts, body))
}

fn switch(
    mut parts: http::response::Parts,
    h1: H1,
    asked: Asked,
    mut flight: Flight,
) -> Result<Response> {
    let refuse = |detail: &str| Err(Error::new(Kind::UpstreamBadResponse).with_detail(detail));
    if h1.is_sending() {
        return refuse("101 before the request was complete");
    }
    if !asked.covers(&parts.headers) {
        return refuse("101 to a protocol that was not asked for");
    }
    let Some(protocol) = parts.headers.remove(header::UPGRADE) else {
        return refuse("101 without `Upgrade`");
    };
    reframe::check_response(&mut parts, true)?;
    let is_websocket = protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, protocol);
    // A tunnel does not count for `max_in_flight`, but it is load on its endpoint.
    flight.leave_group();
    let pools = flight.local().pool().pools().clone();
    let deadline = pools.tunnel_deadline();
    let settings = flight.local().transport().settings();
    let (half_close_timeout, send_idle_timeout) =
        (settings.half_close_timeout, settings.send_idle_timeout);
    pools.tunnels().spawn("tunnel", async move {
        let ends = (asked.client, h1.into_stream());
        if let Err(error) =
            tunnel(ends, is_websocket, half_close_timeout, send_idle_timeout, deadline).await
        {
            tracing::debug!(endpoint = %flight.local().label(), %error, "tunnel ended");
        }
    });
    Ok(Response::from_parts(parts, Body::empty()))
}

async fn tunnel(
    (client, upstream): (OnUpgrade, Io),
    is_websocket: bool,
    half_close_timeout: Duration,
    send_idle_timeout: Duration,
    deadline: TunnelDeadline,
) -> Result<()> {
    let reset =
        |error: hyper::Error| Error::new(Kind::UpstreamReset(Sent::MaybeSeen)).with_source(error);
    let ended = Arc::new(Notify::new());
    let stall = || Stall::new(send_idle_timeout);
    let mut client = Adapted::new(client.await.map_err(reset)?, &ended, stall(), is_websocket);
    let mut upstream = Adapted::new(upstream, &ended, stall(), is_websocket);
    let overdue = async {
        ended.notified().await;
        sleep(half_close_timeout).await;
    };
    tokio::select! {
        // The streams are borrowed only while this branch runs; losing data in the other branches
        // is intended.
        copied = copy_bidirectional(&mut client, &mut upstream) => {
            copied.map(drop).map_err(|error| Error::new(Kind::UpstreamReset(Sent::MaybeSeen)).with_source(error))
        }
        () = overdue => Err(Error::new(Kind::UpstreamReset(Sent::MaybeSeen)).with_detail("half-closed")),
        () = reached(deadline) => {
            let mask = fastrand::u32(..).to_ne_bytes();
            let farewell = async { join!(client.leave(None), upstream.leave(Some(mask))) };
            // A peer that does not read is cut off.
            drop(timeout(FAREWELL, farewell).await);
            Err(Kind::Draining.into())
        }
    }
}

/// Completes at the deadline, once there is one.
async fn reached(mut deadline: TunnelDeadline) {
    let instant = match deadline.wait_for(Option::is_some).await {
        Ok(instant) => *instant,
        Err(_) => None,
    };
    match instant {
        Some(instant) => sleep_until(instant).await,
        // Nobody can set a deadline any more: there will be none.
        None => std::future::pending().await,
    }
}

// === impl Adapted ===

impl<T: Read + Write + Unpin> Adapted<T> {
    fn new(io: T, ended: &Arc<Notify>, stall: Stall, is_websocket: bool) -> Self {
        Self { io, ended: ended.clone(), stall, frames: is_websocket.then(Frames::default) }
    }

    /// Sends a WebSocket close frame where one may stand, then reads what is left: closing with
    /// unread data would make the kernel discard what was sent.
    async fn leave(&mut self, mask: Option<[u8; 4]>) -> io::Result<()> {
        if !self.frames.as_ref().is_some_and(Frames::may_follow) {
            return Ok(());
        }
        self.write_all(&websocket::going_away(mask)).await?;
        self.shutdown().await?;
        copy(self, &mut sink()).await.map(drop)
    }
}

impl<T: Read + Unpin> AsyncRead for Adapted<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // The first read initialises the copy's buffer; it need not be zeroed again.
        let mut read = hyper::rt::ReadBuf::new(buf.initialize_unfilled());
        ready!(Pin::new(&mut self.io).poll_read(cx, read.unfilled()))?;
        let filled = read.filled().len();
        buf.advance(filled);
        Poll::Ready(Ok(()))
    }
}

impl<T: Write + Unpin> AsyncWrite for Adapted<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(cx, buf);
        let written = ready!(self.stall.judge(cx, polled))?;
        if let Some(frames) = &mut self.frames {
            frames.pass(&buf[..written]);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended.notify_one();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
