//! The end of an exchange: its access log line and its metrics, whatever way it ended.
//!
//! An [`Exchange`] is begun with the request and owned by whoever can tell how it ended: first by
//! the access log's future, then by the response body. It is written down exactly once: by
//! [`Exchange::finish`], or when it is dropped before that, which only a client that left can do.
//!
//! Cost: one allocation per request; counting is a few additions to this worker's own cells; the
//! one lock, of the reasons, is taken for failed requests only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{StatusCode, request::Parts, uri::PathAndQuery};
use parking_lot::Mutex;

use crate::{
    error::Kind,
    http::{Context, body::End},
    telemetry::{
        access_log::{Line, Sink},
        clock,
        metrics::{Cells, Counter, REFUSALS, RouteMetrics},
        trace_id::TraceId,
    },
};

/// The label of requests that no route took.
const UNROUTED: &str = "none";

/// Where one worker writes its exchanges down.
#[derive(Debug)]
pub struct Recorder {
    sink: Sink,
    cells: Cells,
    unrouted: RouteMetrics,
    /// One entry per reason word, a closed list; made when the first request fails for it.
    refusals: Mutex<HashMap<&'static str, Counter>>,
}

/// One request and what becomes of it. Owned by the response body as a guard once there is one.
#[derive(Debug)]
pub struct Exchange {
    recorder: Arc<Recorder>,
    cx: Context,
    target: Option<PathAndQuery>,
    trace_id: Option<TraceId>,
    status: Option<StatusCode>,
    is_written: bool,
}

// === impl Recorder ===

impl Recorder {
    /// Counts in `cells` and writes lines to `sink`, both this worker's own.
    pub fn new(cells: &Cells, sink: Sink) -> Self {
        Self {
            sink,
            cells: cells.clone(),
            unrouted: cells.route(UNROUTED),
            refusals: Mutex::new(HashMap::new()),
        }
    }

    fn count(&self, cx: &Context, status: StatusCode, sent: u64, took: Duration) {
        let metrics = cx.route().map_or(&self.unrouted, |route| &route.metrics);
        let class = usize::from(status.as_u16() / 100);
        metrics.statuses[class.clamp(1, 5) - 1].add(1);
        metrics.duration.record(took);
        metrics.request_bytes.add(cx.received());
        metrics.response_bytes.add(sent);
    }

    fn count_refusal(&self, reason: &'static str) {
        let mut refusals = self.refusals.lock();
        refusals.entry(reason).or_insert_with(|| self.cells.counter(&REFUSALS, &[reason])).add(1);
    }
}

// === impl Exchange ===

impl Exchange {
    /// A request with this head has come in.
    pub fn begin(recorder: Arc<Recorder>, cx: Context, head: &Parts) -> Box<Self> {
        Box::new(Self {
            recorder,
            cx,
            target: head.uri.path_and_query().cloned(),
            trace_id: TraceId::of(&head.headers),
            status: None,
            is_written: false,
        })
    }

    /// It is answered with this status; the body is to follow.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The body is over: `sent` bytes of it were handed on.
    pub fn finish(mut self: Box<Self>, sent: u64, end: End) {
        self.write(sent, end);
    }

    fn write(&mut self, sent: u64, end: End) {
        if std::mem::replace(&mut self.is_written, true) {
            return;
        }
        let client_closed = Kind::ClientClosed;
        let reason = self.cx.reason().or(match end {
            End::Complete => None,
            End::Failed(reason) => Some(reason),
            End::Dropped => Some(client_closed.reason()),
        });
        let status = self.status.unwrap_or_else(|| client_closed.status());
        let took = self.cx.started().elapsed();
        self.recorder.count(&self.cx, status, sent, took);
        if let Some(reason) = reason {
            self.recorder.count_refusal(reason);
        }
        self.recorder.sink.write(&Line {
            time: clock::at(self.cx.started()),
            cx: &self.cx,
            target: self.target.as_ref(),
            trace_id: self.trace_id,
            status,
            sent,
            took,
            reason,
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Dropped before a response body took it over: the client left before it was answered.
        self.write(0, End::Dropped);
    }
}
