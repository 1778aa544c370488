//! One stream to requests: finds out what is spoken, runs hyper's HTTP/1 or HTTP/2 over it, and
//! ends it in time.
//!
//! hyper answers most malformed heads by itself, with a bare 400, 414 or 431 that no request is
//! called for: they are counted and logged here from the connection's error. It also repairs three
//! things - a lone LF as line end, Content-Length beside Transfer-Encoding, equal repeated
//! Content-Length - which is harmless, because what goes upstream is framed anew. The tests below
//! hold both lists.
//!
//! A connection ends when the client leaves, when a timer runs out, or in an orderly way: after its
//! number of requests, its age, or when the worker drains or needs its place. Orderly is h1 with
//! `Connection: close` on a response or at once when idle, h2 with GOAWAY. What a client is still
//! sending when it was answered early is discarded for a while, so that it sees the answer and not a
//! reset.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use hyper::server::conn::{http1, http2};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    connection::{
        Connections, Outcomes, Settings,
        drain::Registered,
        io::{Io, State},
        linger,
        outcomes::Causes,
        requests::Requests,
        sniff::sniff,
        streams::{ResetLimit, Streams},
        timer::{Expired, Timer},
    },
    http::{Peer, Request, Response},
};

/// More fields than a request may have, so that a refusal of the 101st is ours and says why.
const MAX_FIELDS: usize = 128;
/// What hyper may hold of a body in either direction.
const BUFFER_BYTES: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const H2_PENDING_ACCEPT_RESETS: usize = 20;
const H2_LOCAL_ERROR_RESETS: usize = 100;

/// Where requests go: the top of the stack. Called through one shared reference, so that nothing is
/// cloned per request for hyper's sake.
pub trait Handle: Send + Sync + 'static {
    /// Dropped when the client leaves.
    type Future: Future<Output = Response> + Send + 'static;

    /// Answers one request. Never fails: below `respond` every failure has become a response.
    fn handle(&self, request: Request) -> Self::Future;
}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    H1,
    /// HTTP/2 from the first byte.
    H2,
    /// Plain text where both are on: HTTP/2 if its preface comes first (prior knowledge).
    Either,
}

/// Looks after one connection while hyper runs it.
struct Driver {
    registered: Registered,
    settings: Arc<Settings>,
    outcomes: Outcomes,
    timer: Timer,
    resets: ResetLimit,
    /// h2 only.
    streams: Option<Streams>,
    /// hyper was told to end the connection.
    is_told: bool,
}

/// How a connection ended.
enum Ended {
    /// hyper is done with it.
    Over(hyper::Result<()>),
    Expired(Expired),
    Resets,
}

// === impl Protocol ===

impl Protocol {
    /// What to speak with `peer` on a listener that speaks `h1`, `h2` or both: with TLS what ALPN
    /// settled.
    pub fn of(peer: &Peer, h1: bool, h2: bool) -> Self {
        match (&peer.tls, h1, h2) {
            (Some(tls), _, _) if tls.is_h2 => Self::H2,
            (Some(_), true, _) | (_, _, false) => Self::H1,
            (_, false, true) => Self::H2,
            (None, true, true) => Self::Either,
        }
    }
}

/// Serves one connection until it is over; an upgraded one is over when it is upgraded.
///
/// Dropping the future closes the connection and cancels what runs on it.
pub async fn serve<S, H>(
    stream: S,
    protocol: Protocol,
    peer: Arc<Peer>,
    settings: Arc<Settings>,
    handle: Arc<H>,
    connections: Connections,
    outcomes: Outcomes,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handle,
{
    let registered = connections.register(peer.listener.clone());
    let state = registered.state().clone();
    let mut driver = Driver::new(registered, settings, outcomes);
    let mut io = Io::new(stream, state.clone());
    let protocol = match protocol {
        Protocol::Either => match driver.sniff(&mut io).await {
            Some(protocol) => protocol,
            None => return,
        },
        settled => settled,
    };
    let limit = jittered(driver.settings.requests_per_connection);
    let mut requests = Requests { handle, peer, state, limit, streams: None };
    if protocol == Protocol::H2 {
        let streams = Streams::default();
        requests.streams = Some(streams.clone());
        driver.serve_h2(io, requests, streams).await;
    } else {
        driver.serve_h1(io, requests).await;
    }
}

/// `count` by up to a tenth more or less, at least 1.
fn jittered(count: u64) -> u64 {
    let tenth = count / 10;
    (count - tenth).saturating_add(fastrand::u64(0..=tenth.saturating_mul(2))).max(1)
}

// === impl Driver ===

impl Driver {
    fn new(registered: Registered, settings: Arc<Settings>, outcomes: Outcomes) -> Self {
        let timer = Timer::new(&settings);
        let resets = ResetLimit::new(settings.max_resets, settings.reset_window);
        Self { registered, settings, outcomes, timer, resets, streams: None, is_told: false }
    }

    fn state(&self) -> &State {
        self.registered.state()
    }

    /// Reads until it is clear whether the HTTP/2 preface comes; hyper reads the bytes again.
    /// `None`: the connection is over.
    async fn sniff<S>(&mut self, io: &mut Io<S>) -> Option<Protocol>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut read = BytesMut::with_capacity(1024);
        let sniffed = {
            let state = self.state_shared();
            let mut sniffing = pin!(sniff(io.stream_mut(), &mut read, &state));
            poll_fn(|cx| self.poll_sniffing(cx, sniffing.as_mut())).await
        };
        match sniffed {
            Ok(protocol) => {
                io.read_again(read.freeze());
                Some(protocol)
            }
            Err(Some(Expired::Header)) => {
                self.answer_timeout(io).await;
                None
            }
            Err(_) => {
                linger::close(io.stream_mut(), &self.settings).await;
                None
            }
        }
    }

    /// `Err`: what ran out, or nothing when the connection is to close.
    fn poll_sniffing<F>(
        &mut self,
        cx: &mut Context<'_>,
        sniffing: Pin<&mut F>,
    ) -> Poll<Result<Protocol, Option<Expired>>>
    where
        F: Future<Output = io::Result<Protocol>>,
    {
        self.state().waker().register(cx.waker());
        if let Poll::Ready(protocol) = sniffing.poll(cx) {
            return Poll::Ready(protocol.map_err(|_| None));
        }
        match self.poll_timer(cx) {
            Some(Expired::KeepAlive) => {
                self.outcomes.keepalive_timeout.add(1);
                Poll::Ready(Err(Some(Expired::KeepAlive)))
            }
            Some(expired) => Poll::Ready(Err(Some(expired))),
            None if self.state().is_closing() && self.timer.idle_since().is_some() => {
                Poll::Ready(Err(None))
            }
            None => Poll::Pending,
        }
    }

    async fn serve_h1<S, H>(mut self, io: Io<S>, requests: Requests<H>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Handle,
    {
        let mut conn = http1::Builder::new()
            .header_read_timeout(None)
            .max_headers(MAX_FIELDS)
            .max_header_size(self.settings.header_bytes)
            .max_buf_size(self.settings.header_bytes.max(BUFFER_BYTES))
            .serve_connection(io, requests)
            .with_upgrades();
        let ended =
            self.run(Pin::new(&mut conn), http1::UpgradeableConnection::graceful_shutdown).await;
        let has_to_discard = match &ended {
            // When hyper closes by itself, the client may still be sending what nobody wants.
            Ended::Over(Ok(())) => !self.is_told,
            Ended::Over(Err(error)) => error.is_parse(),
            Ended::Expired(_) | Ended::Resets => false,
        } && !self.state().is_read_closed();
        // An upgraded connection has no parts: its tunnel has them.
        let Some(mut parts) = conn.into_parts() else { return };
        if matches!(ended, Ended::Expired(Expired::Header)) {
            self.answer_timeout(&mut parts.io).await;
        } else if has_to_discard {
            linger::discard(parts.io.stream_mut(), &self.settings).await;
        }
    }

    async fn serve_h2<S, H>(mut self, io: Io<S>, requests: Requests<H>, streams: Streams)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Handle,
    {
        self.streams = Some(streams.clone());
        self.timer.ignore_heads();
        let header_list = u32::try_from(self.settings.header_bytes).unwrap_or(u32::MAX);
        let conn = http2::Builder::new(streams)
            .initial_stream_window_size(H2_STREAM_WINDOW)
            .initial_connection_window_size(H2_CONNECTION_WINDOW)
            .max_concurrent_streams(self.settings.max_streams)
            .max_header_list_size(header_list)
            .max_pending_accept_reset_streams(H2_PENDING_ACCEPT_RESETS)
            .max_local_error_reset_streams(H2_LOCAL_ERROR_RESETS)
            .max_send_buf_size(BUFFER_BYTES)
            .serve_connection(io, requests);
        let mut conn = pin!(conn);
        let ended = self.run(conn.as_mut(), http2::Connection::graceful_shutdown).await;
        if matches!(ended, Ended::Resets) {
            // One more poll writes the GOAWAY; whoever resets that much is not waited for.
            conn.as_mut().graceful_shutdown();
            poll_fn(|cx| Poll::Ready(conn.as_mut().poll(cx).is_ready())).await;
        }
    }

    /// Runs hyper's connection until it is over or has to be ended, and counts why.
    async fn run<C>(&mut self, mut conn: Pin<&mut C>, tell: fn(Pin<&mut C>)) -> Ended
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let ended = poll_fn(|cx| self.poll_run(cx, conn.as_mut(), tell)).await;
        match &ended {
            Ended::Over(Ok(())) | Ended::Expired(_) => {}
            Ended::Over(Err(error)) => {
                self.outcomes.failed(error);
                tracing::debug!(error = %Causes(error), "connection ended");
            }
            Ended::Resets => {
                self.outcomes.resets.add(1);
                tracing::debug!("connection closed: too many streams were reset");
            }
        }
        if let Ended::Expired(Expired::SendIdle) = ended {
            self.outcomes.send_idle.add(1);
        }
        ended
    }

    fn poll_run<C>(
        &mut self,
        cx: &mut Context<'_>,
        mut conn: Pin<&mut C>,
        tell: fn(Pin<&mut C>),
    ) -> Poll<Ended>
    where
        C: Future<Output = hyper::Result<()>>,
    {
        // Before anything is looked at: whoever asks from now on wakes this task again.
        self.state().waker().register(cx.waker());
        loop {
            if let Poll::Ready(result) = conn.as_mut().poll(cx) {
                return Poll::Ready(Ended::Over(result));
            }
            match self.poll_timer(cx) {
                None => {}
                Some(Expired::Age) => {
                    self.state().ask_to_close();
                    continue;
                }
                Some(Expired::KeepAlive) if !self.is_told => {
                    self.outcomes.keepalive_timeout.add(1);
                    self.state().ask_to_close();
                }
                Some(expired) => return Poll::Ready(Ended::Expired(expired)),
            }
            if self.resets.is_over(self.registered.state().aborted(), Instant::now) {
                return Poll::Ready(Ended::Resets);
            }
            if !self.may_tell() {
                return Poll::Pending;
            }
            self.is_told = true;
            self.timer.begin_closing(self.settings.discard_timeout);
            tell(conn.as_mut());
        }
    }

    /// h2 is told at once; h1 when it is idle: until then its responses say it.
    fn may_tell(&self) -> bool {
        !self.is_told
            && self.state().is_closing()
            && (self.streams.is_some() || self.timer.idle_since().is_some())
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Option<Expired> {
        let Self { registered, settings, outcomes, timer, streams, .. } = self;
        let expired = timer.poll(cx, registered.state().seen(), |now| {
            let (given_up, next) = streams.as_ref()?.sweep(now, settings.send_idle_timeout);
            outcomes.send_idle.add(given_up);
            next
        });
        registered.note_idle(timer.idle_since());
        expired
    }

    /// 408 to a client whose head did not come in time.
    async fn answer_timeout<S>(&self, io: &mut Io<S>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.outcomes.head_timed_out();
        tracing::debug!("connection closed: no complete head in time");
        linger::answer_timeout(io.stream_mut(), &self.settings).await;
    }

    fn state_shared(&self) -> Arc<State> {
        self.registered.state().clone()
    }
}

#[cfg(test)]
mod tests;
