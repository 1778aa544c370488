//! The end of an h2 response that may be known to be whole before its upstream says so.
//!
//! A client over HTTP/1 that was told a length has all of the answer with its last byte, and one that asked
//! for the head alone has it at once: hyper drops the body there. Its stream is not over before `END_STREAM`,
//! which often comes in a frame of its own. Dropped with the body it would be reset, and servers count resets
//! against who sends them. So the end is read apart, for a moment; usually it is there already.

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
        body::{Carrier, Guard, Inner, Source, failing::client_failed},
    },
    telemetry::task,
};

/// How long the end may take to come after the last byte.
const PATIENCE: Duration = Duration::from_secs(1);

// === impl Body ===

impl Body {
    /// Gives the body up, of which nobody wants a byte. Its stream is not reset if it ends without one.
    pub fn read_end_apart(mut self) {
        self.if_any(Inner::await_end);
    }
}

// === impl Inner ===

impl Inner {
    /// Whether all that an h2 response promised has been handed on. If so, what is missing is its end, and
    /// that is read apart.
    pub(super) fn read_end(&mut self) -> bool {
        let is_whole =
            self.carrier == Carrier::H2Response && self.source.size_hint().exact() == Some(0);
        if is_whole {
            self.await_end();
        }
        is_whole
    }

    /// Takes the source, and what is to happen to the upstream's stream at its end.
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
