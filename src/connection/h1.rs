//! HTTP/1 on one connection: hyper while there is work, the bare stream while there is none.
//!
//! hyper's connection is created at the first byte of a head. After `park_after` of idleness it is
//! taken apart again, so an idle connection holds neither hyper's two buffers of 8 KiB nor its
//! state; the price is one copy of the first bytes of a request after a long pause. Only hyper
//! knows whether it is idle, so it is told to shut down: an idle connection then completes at the
//! next poll with nothing unwritten, a busy one stays pending and runs to its end.
//!
//! If any request asked for an upgrade, refused or not, hyper's upgradeable connection gives the
//! stream away at its end, together with what it has not written yet. So a connection is made
//! upgradeable only when a 101 is about to be sent.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::BytesMut;
use hyper::server::conn::http1::{self, Connection, Parts, UpgradeableConnection};

use crate::connection::{
    Handle, Protocol,
    io::Io,
    linger,
    requests::Requests,
    serve::{BUFFER_BYTES, Driver, Ended, Transport},
    sniff::poll_first,
    timer::Expired,
};

/// How waiting for the first byte ended.
enum Waited {
    /// The first bytes are there.
    Began(Protocol),
    /// A head has begun but was not completed in time.
    Late,
    /// The client left, or the connection is to close.
    Over,
}

// === impl Driver ===

impl Driver {
    /// Waits for the first bytes of a head; hyper reads them again. `None`: the connection is over.
    pub(super) async fn wait<S>(&mut self, io: &mut Io<S>, may_be_h2: bool) -> Option<Protocol>
    where
        S: Transport,
    {
        if io.has_read_ahead() {
            return Some(Protocol::H1);
        }
        self.timer.set_parkable(false);
        let mut read = BytesMut::new();
        match poll_fn(|cx| self.poll_wait(cx, io, &mut read, may_be_h2)).await {
            Waited::Began(protocol) => {
                io.read_again(read.freeze());
                Some(protocol)
            }
            Waited::Late => {
                Box::pin(self.answer_timeout(io)).await;
                None
            }
            Waited::Over => {
                Box::pin(linger::close(io.stream_mut(), &self.settings)).await;
                None
            }
        }
    }

    fn poll_wait<S>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut Io<S>,
        read: &mut BytesMut,
        may_be_h2: bool,
    ) -> Poll<Waited>
    where
        S: Transport,
    {
        // Register first: a request to close that comes after this wakes the task again.
        self.register(cx);
        let first: Poll<io::Result<_>> =
            poll_first(io.stream_mut(), cx, read, may_be_h2, self.state());
        if let Poll::Ready(first) = first {
            return Poll::Ready(first.ok().flatten().map_or(Waited::Over, Waited::Began));
        }
        if self.state().is_cut() {
            return Poll::Ready(Waited::Over);
        }
        loop {
            match self.poll_timer(cx, None) {
                Some(Expired::Header) => return Poll::Ready(Waited::Late),
                Some(Expired::Age) => self.state().ask_to_close(),
                Some(Expired::KeepAlive) => {
                    if !self.state().is_closing() {
                        self.outcomes.keepalive_timeout.add(1);
                    }
                    return Poll::Ready(Waited::Over);
                }
                Some(Expired::SendIdle) => return Poll::Ready(Waited::Over),
                Some(Expired::Park) => {}
                None if self.is_to_close() => return Poll::Ready(Waited::Over),
                None => return Poll::Pending,
            }
        }
    }

    /// Runs hyper until the connection is over, or idle and handed back.
    pub(super) async fn serve_h1<S, H>(
        &mut self,
        mut io: Io<S>,
        requests: Requests<H>,
    ) -> Option<(Io<S>, Requests<H>)>
    where
        S: Transport,
        H: Handle,
    {
        self.timer.set_parkable(true);
        io.begin_h1();
        let mut conn = http1::Builder::new()
            .half_close(true)
            .header_read_timeout(None)
            .max_header_size(self.settings.header_bytes)
            .max_buf_size(self.settings.header_bytes.max(BUFFER_BYTES))
            .serve_connection(io, requests);
        let mut ended = self.run(Pin::new(&mut conn), Connection::graceful_shutdown).await;
        if matches!(ended, Ended::Expired(Expired::Park)) {
            match poll_fn(|cx| Poll::Ready(self.poll_park(cx, &mut conn))).await {
                Poll::Ready(Ok(())) => return Some(self.take_back(conn.into_parts())),
                Poll::Ready(result) => ended = Ended::Over(result),
                Poll::Pending => {
                    self.timer.set_parkable(false);
                    ended = self.run(Pin::new(&mut conn), Connection::graceful_shutdown).await;
                }
            }
        }
        if matches!(ended, Ended::Switching) {
            return Box::pin(self.switch(conn.with_upgrades())).await;
        }
        if matches!(ended, Ended::Over(Ok(()))) && !self.state().is_shut_down() {
            // A refused upgrade made hyper stop before its shutdown. It has forgotten the upgrade
            // by now.
            ended = self.run(Pin::new(&mut conn), Connection::graceful_shutdown).await;
        }
        let Parts { io, service, .. } = conn.into_parts();
        if let Ended::Over(Err(error)) = &ended {
            self.outcomes.tell(error, &service.peer);
        }
        self.finish(io, &ended).await;
        None
    }

    /// Sends a 101. After that there are no parts to take back: the tunnel owns them.
    async fn switch<S, H>(
        &mut self,
        mut conn: UpgradeableConnection<Io<S>, Requests<H>>,
    ) -> Option<(Io<S>, Requests<H>)>
    where
        S: Transport,
        H: Handle,
    {
        self.timer.set_parkable(false);
        let tell = UpgradeableConnection::graceful_shutdown;
        let ended = self.run(Pin::new(&mut conn), tell).await;
        if let Some(parts) = conn.into_parts() {
            self.finish(parts.io, &ended).await;
        }
        None
    }

    /// Ready if hyper was idle: it is finished then, and the stream is unchanged.
    fn poll_park<S, H>(
        &self,
        cx: &mut Context<'_>,
        conn: &mut Connection<Io<S>, Requests<H>>,
    ) -> Poll<hyper::Result<()>>
    where
        S: Transport,
        H: Handle,
    {
        self.state().set_parking(true);
        Pin::new(&mut *conn).graceful_shutdown();
        let polled = Pin::new(conn).poll(cx);
        self.state().set_parking(false);
        polled
    }

    /// Keeps what hyper has read of the next head; its buffers and state are freed.
    fn take_back<S, H>(&self, parts: Parts<Io<S>, Requests<H>>) -> (Io<S>, Requests<H>) {
        let Parts { mut io, read_buf, service, .. } = parts;
        if !read_buf.is_empty() {
            self.state().begin_head();
            io.read_again(read_buf);
        }
        self.registered().note_freed();
        (io, service)
    }

    /// Writes a final answer if there is one, and closes the stream.
    async fn finish<S>(&self, mut io: Io<S>, ended: &Ended)
    where
        S: Transport,
    {
        let has_to_discard = match ended {
            // hyper closed on its own: the client may still be sending a body that nobody reads.
            Ended::Over(Ok(())) => !self.is_told,
            Ended::Over(Err(error)) => error.is_parse(),
            Ended::Expired(_)
            | Ended::Resets
            | Ended::Gone { .. }
            | Ended::Switching
            | Ended::Cut { .. } => false,
        } && !self.state().is_read_closed();
        let is_broken_off = match ended {
            Ended::Over(Err(error)) => error.is_user(),
            Ended::Expired(expired) => *expired == Expired::SendIdle,
            Ended::Cut { is_broken_off } | Ended::Gone { is_broken_off } => *is_broken_off,
            _ => false,
        };
        if is_broken_off {
            // A body that lasts until the connection closes would look complete.
            io.stream_mut().abort();
        } else if matches!(ended, Ended::Expired(Expired::Header)) {
            self.answer_timeout(&mut io).await;
        } else if has_to_discard {
            linger::discard(io.stream_mut(), &self.settings).await;
        } else if matches!(ended, Ended::Gone { .. } | Ended::Over(Err(_))) {
            // The answer before this request may have been posted.
            linger::flush(io.stream_mut(), &self.settings).await;
        }
    }

    /// Answers 408: the head did not arrive in time.
    async fn answer_timeout<S>(&self, io: &mut Io<S>)
    where
        S: Transport,
    {
        self.outcomes.head_timed_out();
        tracing::debug!("connection closed: no complete head in time");
        linger::answer_timeout(io.stream_mut(), &self.settings).await;
    }
}
