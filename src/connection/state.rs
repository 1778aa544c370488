//! The state that the parts of one connection share: its I/O wrapper, its requests, its timer and the
//! worker's set of connections.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
};

use parking_lot::Mutex;

use crate::http::upload::Uploads;

/// State of one connection, shared by its wrapper, its service, its timer and the worker's set of
/// connections.
///
/// Every access is Relaxed: all but [`State::ask_to_close`] come from the connection's own task and
/// its streams and bodies, and each value is judged on its own.
#[derive(Debug, Default)]
pub(super) struct State {
    exchanges: AtomicUsize,
    uploads: Arc<Uploads>,
    requests: AtomicU64,
    written: AtomicU64,
    /// When the last request began.
    written_before: AtomicU64,
    head_begun: AtomicBool,
    write_pending: AtomicBool,
    read_closed: AtomicBool,
    gone: AtomicBool,
    /// hyper waits for bytes.
    waits: AtomicBool,
    aborted: AtomicU64,
    closing: AtomicBool,
    /// Closing does not wait for a first request.
    closing_now: AtomicBool,
    /// Closing does not wait for anything.
    cut: AtomicBool,
    /// hyper's shutdown must not shut down the stream.
    is_parking: AtomicBool,
    shut_down: AtomicBool,
    switch_asked: AtomicBool,
    switch_granted: AtomicBool,
    idle_since: AtomicU64,
    /// Of the connection's task; `None` before its first poll.
    waker: Mutex<Option<Waker>>,
}

/// What the timer looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each was seen for itself")]
pub(super) struct Seen {
    /// A request runs, or its body or its response's body is not over.
    pub(super) is_running: bool,
    /// Bytes arrived while no request ran.
    pub(super) has_head_begun: bool,
    /// Requests so far.
    pub(super) requests: u64,
    /// A write is pending.
    pub(super) is_write_pending: bool,
    /// Bytes written so far.
    pub(super) written: u64,
    /// The connection is to end.
    pub(super) is_closing: bool,
}

// === impl State ===

impl State {
    /// Begins a request, which runs until [`State::end_request`]. Returns its number, from 1.
    pub(super) fn begin_request(&self) -> u64 {
        self.head_begun.store(false, Ordering::Relaxed);
        let number = self.requests.load(Ordering::Relaxed) + 1;
        self.requests.store(number, Ordering::Relaxed);
        self.written_before.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
        self.change_exchanges(1);
        number
    }

    /// A request and its response are over.
    pub(super) fn end_request(&self) {
        self.change_exchanges(-1);
    }

    /// Requests begin and end on the connection's own thread: no read-modify-write needed.
    fn change_exchanges(&self, by: isize) {
        let exchanges = self.exchanges.load(Ordering::Relaxed).wrapping_add_signed(by);
        self.exchanges.store(exchanges, Ordering::Relaxed);
    }

    /// The bodies of its requests.
    pub(super) fn uploads(&self) -> &Arc<Uploads> {
        &self.uploads
    }

    fn is_running(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0 || self.uploads.running() > 0
    }

    /// A request or its response was dropped before its end.
    pub(super) fn note_aborted(&self) {
        self.aborted.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    /// How many were dropped.
    pub(super) fn aborted(&self) -> u64 {
        self.aborted.load(Ordering::Relaxed)
    }

    /// Wakes the connection, which closes as soon as no request runs.
    pub(super) fn ask_to_close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Like [`State::ask_to_close`], without waiting for a first request.
    pub(super) fn close_now(&self) {
        self.closing_now.store(true, Ordering::Relaxed);
        self.ask_to_close();
    }

    /// Ends the connection whatever it is doing: its time is over.
    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
        self.close_now();
    }

    /// Whether [`State::cut`] was called.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed)
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Whether an idle h1 connection is to close at once. One that was just accepted first gets the
    /// time to send the request that is on its way.
    pub(super) fn may_close_idle(&self) -> bool {
        self.is_closing()
            && (self.requests.load(Ordering::Relaxed) > 0
                || self.closing_now.load(Ordering::Relaxed))
    }

    /// While set, a shutdown leaves the stream open.
    pub(super) fn set_parking(&self, is_parking: bool) {
        self.is_parking.store(is_parking, Ordering::Relaxed);
    }

    pub(super) fn is_parking(&self) -> bool {
        self.is_parking.load(Ordering::Relaxed)
    }

    /// The first byte of a head has arrived, whoever read it.
    pub(super) fn begin_head(&self) {
        self.head_begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_shut_down(&self) {
        self.shut_down.store(true, Ordering::Relaxed);
    }

    /// Whether the write side was shut down.
    pub(super) fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Relaxed)
    }

    /// A 101 is held back until [`State::grant_switch`].
    pub(super) fn ask_to_switch(&self) {
        self.switch_asked.store(true, Ordering::Relaxed);
    }

    /// Releases a 101 that is held back. `false`: there is none.
    pub(super) fn grant_switch(&self) -> bool {
        let is_asked = self.switch_asked.load(Ordering::Relaxed);
        is_asked && !self.switch_granted.swap(true, Ordering::Relaxed)
    }

    pub(super) fn is_switch_granted(&self) -> bool {
        self.switch_granted.load(Ordering::Relaxed)
    }

    /// Whether the client has shut down its side.
    pub(super) fn is_read_closed(&self) -> bool {
        self.read_closed.load(Ordering::Relaxed)
    }

    /// Whether the client left while its request ran.
    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    /// hyper is about to be polled.
    pub(super) fn begin_poll(&self) {
        self.note_waits(false);
    }

    /// Whether hyper waits for bytes, since its last read.
    pub(super) fn note_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Whether a request runs and nobody would notice that its client leaves: hyper has not asked
    /// for more in this poll. It has read the request to its end, or nobody wants its body yet.
    pub(super) fn is_unwatched(&self) -> bool {
        self.exchanges.load(Ordering::Relaxed) > 0
            && !self.waits.load(Ordering::Relaxed)
            && !self.is_switch_granted()
    }

    /// Whether the answer to the last request has begun.
    pub(super) fn is_answering(&self) -> bool {
        self.written.load(Ordering::Relaxed) != self.written_before.load(Ordering::Relaxed)
    }

    pub(super) fn note_gone(&self) {
        self.read_closed.store(true, Ordering::Relaxed);
        self.gone.store(true, Ordering::Relaxed);
    }

    /// When it became idle, on the scale of [`State::set_idle_since`]; 0 while busy.
    pub(super) fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    pub(super) fn set_idle_since(&self, at: u64) {
        self.idle_since.store(at, Ordering::Relaxed);
    }

    /// Whom to wake from now on.
    pub(super) fn set_waker(&self, waker: Option<Waker>) {
        *self.waker.lock() = waker;
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.lock() {
            waker.wake_by_ref();
        }
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            is_running: self.is_running(),
            has_head_begun: self.head_begun.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            is_write_pending: self.write_pending.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
            is_closing: self.is_closing(),
        }
    }

    /// `count` bytes arrived; 0 is the end of the stream.
    pub(super) fn note_read(&self, count: usize) {
        if count == 0 {
            self.read_closed.store(true, Ordering::Relaxed);
        } else if !self.is_running() {
            self.head_begun.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn note_write(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = polled {
            // Only one task writes this: no read-modify-write needed.
            let written = self.written.load(Ordering::Relaxed) + *count as u64;
            self.written.store(written, Ordering::Relaxed);
        }
        self.write_pending.store(polled.is_pending(), Ordering::Relaxed);
    }

    pub(super) fn note_flush(&self, polled: &Poll<io::Result<()>>) {
        self.write_pending.store(polled.is_pending(), Ordering::Relaxed);
    }
}
