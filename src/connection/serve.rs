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
//!
//! A client that has shut down its side counts as gone. A client that closes its socket looks the
//! same until something is sent to it, and an upstream is not kept busy for the few that shut down
//! first and then wait (RFC 9112, 9.6 allows it; NGINX, Envoy and HAProxy since 3.3 do the same).
//! So are clients that pipeline: none of their requests is answered any more. On h1 hyper would look
//! for the end of the stream by reading into its own buffer, which the running request still uses:
//! two allocations for each request. So `half_close` keeps it from looking, and the I/O wrapper looks
//! instead.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};

use hyper::server::conn::http2;
use tokio::{io::AsyncRead, time::Instant};

use crate::{
    connection::{
        Connections, Outcomes, Settings,
        drain::Registered,
        io::Io,
        outcomes::Causes,
        requests::Requests,
        state::State,
        streams::{ResetLimit, Streams},
        timer::{Expired, Timer},
    },
    http::{Peer, Request, Response},
    net::{Abort, Post},
    telemetry::clock,
};

/// What hyper may buffer of a body in each direction.
pub(super) const BUFFER_BYTES: usize = 64 * 1024;
const H2_STREAM_WINDOW: u32 = 64 * 1024;
const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;
const H2_PENDING_ACCEPT_RESETS: usize = 20;
const H2_LOCAL_ERROR_RESETS: usize = 100;

/// Where requests go: the top of the stack. Called through one shared reference, so nothing is
/// cloned per request for hyper's sake.
pub trait Handle: Send + Sync + 'static {
    /// Dropped when the client leaves.
    type Future: Future<Output = Response> + Send + 'static;

    /// Answers one request. Never fails: below `respond` every failure has become a response.
    fn handle(&self, request: Request) -> Self::Future;
}

/// What a connection is served over.
pub trait Transport: AsyncRead + Post + Abort + Send + 'static {}

impl<S> Transport for S where S: AsyncRead + Post + Abort + Send + 'static {}

/// What is spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and 1.1.
    H1,
    /// HTTP/2 from the first byte.
    H2,
    /// Plain text with both enabled: HTTP/2 if the connection starts with its preface (prior
    /// knowledge).
    Either,
}

/// Drives one connection while hyper runs it.
pub(super) struct Driver {
    registered: Registered,
    pub(super) settings: Arc<Settings>,
    pub(super) outcomes: Outcomes,
    pub(super) timer: Timer,
    resets: ResetLimit,
    /// h2 only.
    streams: Option<Streams>,
    /// Whom [`State`] wakes.
    waker: Option<Waker>,
    /// hyper was told to end the connection.
    pub(super) is_told: bool,
}

/// How a connection ended.
pub(super) enum Ended {
    /// hyper is done with it.
    Over(hyper::Result<()>),
    Expired(Expired),
    Resets,
    /// The client left while its request ran.
    Gone {
        /// Its answer had begun.
        is_broken_off: bool,
    },
    /// Not yet: a 101 is about to be sent.
    Switching,
    /// Its time was over.
    Cut {
        /// A request ran.
        is_broken_off: bool,
    },
}

// === impl Protocol ===

impl Protocol {
    /// Which protocol to speak with `peer` on a listener that enables `h1`, `h2` or both. With TLS,
    /// ALPN has decided.
    pub fn of(peer: &Peer, h1: bool, h2: bool) -> Self {
        match (&peer.tls, h1, h2) {
            (Some(tls), _, _) if tls.is_h2 => Self::H2,
            (Some(_), true, _) | (_, _, false) => Self::H1,
            (_, false, true) => Self::H2,
            (None, true, true) => Self::Either,
        }
    }
}

/// Serves one connection until it ends. For an upgraded connection that is the moment of the
/// upgrade.
///
/// Dropping the future closes the connection and cancels what runs on it. It is kept small because
/// it lives as long as the connection: state that only a busy connection needs is boxed inside.
pub fn serve<S, H>(
    stream: S,
    protocol: Protocol,
    peer: Arc<Peer>,
    settings: Arc<Settings>,
    handle: Arc<H>,
    connections: Connections,
    outcomes: Outcomes,
) -> impl Future<Output = ()> + Send
where
    S: Transport,
    H: Handle,
{
    let registered = connections.register(peer.clone());
    let state = registered.state().clone();
    let limit = jittered(settings.requests_per_connection);
    let io = Io::new(stream, state.clone());
    let requests = Requests { handle, peer, state, limit, streams: None };
    let mut driver = Driver::new(registered, settings, outcomes);
    let mut may_be_h2 = protocol == Protocol::Either;
    // Where both are while hyper does not own them. A block, not a function: a function would
    // reserve room for its arguments a second time.
    let mut kept = Some((io, requests));
    async move {
        while let Some((io, _)) = &mut kept {
            let is_h2 = protocol == Protocol::H2
                || match driver.wait(io, may_be_h2).await {
                    Some(began) => began == Protocol::H2,
                    None => return,
                };
            may_be_h2 = false;
            let Some((io, requests)) = kept.take() else { return };
            if is_h2 {
                return Box::pin(driver.serve_h2(io, requests)).await;
            }
            kept = Box::pin(driver.serve_h1(io, requests)).await;
        }
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
        Self {
            registered,
            settings,
            outcomes,
            timer,
            resets,
            streams: None,
            waker: None,
            is_told: false,
        }
    }

    pub(super) fn state(&self) -> &State {
        self.registered.state()
    }

    pub(super) fn registered(&self) -> &Registered {
        &self.registered
    }

    async fn serve_h2<S, H>(&mut self, io: Io<S>, mut requests: Requests<H>)
    where
        S: Transport,
        H: Handle,
    {
        let streams = Streams::default();
        self.streams = Some(streams.clone());
        requests.streams = Some(streams.clone());
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
            // One more poll writes the GOAWAY. A client that resets this much gets no more time.
            conn.as_mut().graceful_shutdown();
            poll_fn(|cx| Poll::Ready(conn.as_mut().poll(cx).is_ready())).await;
        }
    }

    /// Lets whoever asks the connection to close wake this task.
    pub(super) fn register(&mut self, cx: &Context<'_>) {
        // It is always the same task: a look at our own copy takes no lock.
        if !self.waker.as_ref().is_some_and(|it| it.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.state().set_waker(self.waker.clone());
        }
    }

    /// Runs hyper's connection until it is over or has to be ended, and counts why.
    pub(super) async fn run<C>(&mut self, mut conn: Pin<&mut C>, tell: fn(Pin<&mut C>)) -> Ended
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let ended = poll_fn(|cx| self.poll_run(cx, conn.as_mut(), tell)).await;
        match &ended {
            Ended::Over(Ok(())) | Ended::Expired(_) | Ended::Switching | Ended::Cut { .. } => {}
            Ended::Gone { .. } => tracing::debug!("connection closed: the client left"),
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
        let poll = clock::Poll::begin();
        // Register first: a request to close that comes after this wakes the task again.
        self.register(cx);
        loop {
            if self.state().is_cut() {
                let is_broken_off = self.state().seen().is_running;
                return Poll::Ready(Ended::Cut { is_broken_off });
            }
            self.state().begin_poll();
            if let Poll::Ready(result) = conn.as_mut().poll(cx) {
                return Poll::Ready(Ended::Over(result));
            }
            if self.state().is_gone() {
                return Poll::Ready(Ended::Gone { is_broken_off: self.state().is_answering() });
            }
            if self.state().grant_switch() {
                return Poll::Ready(Ended::Switching);
            }
            match self.poll_timer(cx, poll.again_by()) {
                None => {}
                Some(Expired::Age) => {
                    self.state().ask_to_close();
                    continue;
                }
                Some(Expired::KeepAlive) if !self.is_told => {
                    self.outcomes.keepalive_timeout.add(1);
                    self.state().close_now();
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
            // h2 may still have to write what its streams have queued.
            self.timer.begin_closing(match self.streams {
                Some(_) => self.settings.send_idle_timeout,
                None => self.settings.discard_timeout,
            });
            tell(conn.as_mut());
        }
    }

    /// h2 is told at once. h1 is told when it is idle; until then its responses announce the close.
    fn may_tell(&self) -> bool {
        !self.is_told && self.state().is_closing() && (self.streams.is_some() || self.is_to_close())
    }

    /// Whether an h1 connection that is to end has nothing running.
    pub(super) fn is_to_close(&self) -> bool {
        self.timer.idle_since().is_some() && self.state().may_close_idle()
    }

    pub(super) fn poll_timer(
        &mut self,
        cx: &mut Context<'_>,
        again_by: Option<Instant>,
    ) -> Option<Expired> {
        let Self { registered, settings, outcomes, timer, streams, .. } = self;
        let expired = timer.poll(cx, registered.state().seen(), clock::tick(), again_by, |now| {
            let (given_up, next) = streams.as_ref()?.sweep(now, settings.send_idle_timeout);
            outcomes.send_idle.add(given_up);
            next
        });
        registered.note_idle(timer.idle_since());
        expired
    }
}

#[cfg(test)]
mod tests;
