//! The end of an h2 response that can be complete before its upstream says so.
//!
//! An HTTP/1 client that was told a length has the whole answer with its last byte, and one that
//! sent HEAD has it at once: hyper drops the body there. But the upstream's stream ends only with
//! `END_STREAM`, often in a frame of its own; dropped before, it is reset, and servers count resets
//! against the sender. So a task waits briefly for the end; usually it is there already.

use std::{
    future::poll_fn,
    mem,
    task::{Context, Waker},
    time::Duration,
};

use tokio::{runtime::Handle, time::timeout};

use crate::{
    http::{
        Body,
        body::{
            Guard, Inner,
            failing::client_failed,
            source::{Carrier, Source},
        },
    },
    telemetry::task,
};

/// How long after the last byte the end may come.
const PATIENCE: Duration = Duration::from_secs(1);

// === impl Body ===

impl Body {
    /// Discards the body, which nobody wants. Its stream is not reset if it ends without data.
    pub fn read_end_apart(mut self) {
        self.if_any(Inner::await_end);
    }
}

// === impl Inner ===

impl Inner {
    /// Whether all of an h2 response was passed on. If so, only its end is missing, and a task
    /// reads that.
    pub(super) fn read_end(&mut self) -> bool {
        let is_whole =
            self.carrier == Carrier::H2Response && self.source.size_hint().exact() == Some(0);
        if is_whole {
            self.await_end();
        }
        is_whole
    }

    /// Moves the source and the upstream's guard to a task that waits for the end.
    fn await_end(&mut self) {
        let mut source = mem::replace(&mut self.source, Source::Empty);
        let carrier = self.carrier;
        // A frame of data is one too many: the stream is reset.
        let mut poll =
            move |cx: &mut Context<'_>| source.poll(client_failed, carrier, cx).map(drop);
        if poll(&mut Context::from_waker(Waker::noop())).is_ready()
            || Handle::try_current().is_err()
        {
            return;
        }
        let is_upstream = |guard: &Guard| matches!(guard, Guard::Upstream(_));
        let upstream = self.guards.iter().position(is_upstream);
        let upstream = upstream.map(|index| self.guards.remove(index));
        task::spawn("end of a response", async move {
            let _upstream = upstream;
            // Too late or too much: the stream is reset after all.
            timeout(PATIENCE, poll_fn(poll)).await.unwrap_or_default();
        });
    }
}
