//! The end of an exchange: its access log line and its metrics, however it ended.
//!
//! An [`Exchange`] begins with the request and is owned by whoever can tell how it ended: first the
//! access log's future, then the response body. It is recorded exactly once: by
//! [`Exchange::finish`], or when it is dropped before that, because the client left or a drain cut
//! off the connection.
//!
//! If traces are configured, it also finds or begins the request's trace, and sends a sampled one
//! to the exporter at its end.
//!
//! Cost: a few additions to this worker's own cells; the one lock, for the reasons, is taken for
//! failed requests only.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::{StatusCode, request::Parts};
use parking_lot::Mutex;

use crate::{
    error::Kind,
    http::{Context, body::End, context::Asked},
    telemetry::{
        access_log::{Line, Sink},
        clock,
        metrics::{Cells, Counter, REFUSALS, RouteMetrics},
        tracing::{Finished, Tracer, propagation::TraceParent},
    },
};

/// Records one worker's exchanges.
#[derive(Debug)]
pub struct Recorder {
    sink: Sink,
    cells: Cells,
    unrouted: RouteMetrics,
    tracer: Option<Tracer>,
    /// One entry per reason word, a closed list; created when the first request fails for it.
    refusals: Mutex<HashMap<&'static str, Counter>>,
}

/// One request and its result. Owned by the response body as a guard once there is one.
#[derive(Debug)]
pub struct Exchange {
    recorder: Arc<Recorder>,
    cx: Context,
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
            unrouted: cells.unrouted(),
            tracer: None,
            refusals: Mutex::new(HashMap::new()),
        }
    }

    /// Records traces with `tracer`, the worker's own.
    #[must_use]
    pub fn with_tracer(self, tracer: Option<Tracer>) -> Self {
        Self { tracer, ..self }
    }

    fn count(&self, cx: &Context, status: StatusCode, sent: u64, took: Duration) {
        let metrics = cx.route().map_or(&self.unrouted, |route| &route.metrics);
        metrics.count(status.as_u16(), took, cx.received(), sent);
    }

    fn count_refusal(&self, reason: &'static str) {
        let mut refusals = self.refusals.lock();
        refusals.entry(reason).or_insert_with(|| self.cells.counter(&REFUSALS, &[reason])).add(1);
    }
}

// === impl Exchange ===

impl Exchange {
    /// Begins with a request with this head. If traces are configured, the head names its trace
    /// from now on.
    pub fn begin(recorder: Arc<Recorder>, cx: Context, head: &mut Parts) -> Self {
        let tracer = recorder.tracer.as_ref();
        let trace = tracer.map(|tracer| tracer.begin(&mut head.headers));
        let trace_id = match &trace {
            Some(trace) => Some(trace.id()),
            None => TraceParent::of(&head.headers).map(|parent| parent.trace_id),
        };
        let noted = trace.and_then(|trace| trace.note(&head.headers));
        let target = head.uri.path_and_query().cloned();
        cx.set_asked(Asked { target, trace_id, trace, noted });
        Self { recorder, cx, status: None, is_written: false }
    }

    /// Sets the status of the answer; the body follows.
    pub fn set_status(&mut self, status: StatusCode) {
        self.status = Some(status);
    }

    /// The answer begins; its body has to be waited for.
    pub fn begin_answer(&self) {
        self.cx.begin_answer();
    }

    /// The body is over, after `sent` bytes were passed on.
    pub fn finish(mut self, sent: u64, end: End) {
        self.write(sent, end);
    }

    fn write(&mut self, sent: u64, end: End) {
        if std::mem::replace(&mut self.is_written, true) {
            return;
        }
        self.cx.end_answer();
        let left = if self.cx.peer().is_cut() { Kind::Draining } else { Kind::ClientClosed };
        let reason = self.cx.reason().or(match end {
            End::Complete => None,
            End::Failed(reason) => Some(reason),
            End::Dropped => Some(left.reason()),
        });
        // Not the time of the poll: computing within that counts.
        let took = self.cx.started().elapsed();
        self.trace(took, end, reason);
        let status = self.status.unwrap_or_else(|| left.status());
        self.recorder.count(&self.cx, status, sent, took);
        if let Some(reason) = reason {
            self.recorder.count_refusal(reason);
        }
        let asked = self.cx.asked();
        self.recorder.sink.write(|| Line {
            time: clock::unix(self.cx.started()),
            cx: &self.cx,
            target: asked.and_then(|asked| asked.target.as_ref()),
            trace_id: asked.and_then(|asked| asked.trace_id),
            status,
            sent,
            took,
            reason,
        });
    }

    /// Sends a sampled request to the exporter, once all the data of its spans is known.
    fn trace(&self, took: Duration, end: End, reason: Option<&'static str>) {
        let Some((asked, trace)) = self.cx.asked().zip(self.cx.trace()) else { return };
        let Some(noted) = asked.noted.clone() else { return };
        let finished = Finished {
            cx: self.cx.clone(),
            trace: *trace,
            noted,
            target: asked.target.clone(),
            status: self.status,
            took,
            reason,
            is_broken_off: matches!(end, End::Failed(_)),
        };
        let recorder = self.recorder.clone();
        self.cx.when_over(move || {
            if let Some(tracer) = &recorder.tracer {
                tracer.finish(&finished);
            }
        });
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Dropped before a response body took it over: it was never answered.
        self.write(0, End::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderValue;
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;
    use crate::{
        http::{Body, Peer, body::Guard, context::RouteInfo, peer::Address},
        telemetry::{
            AccessLogPath, AccessLogSettings,
            access_log::{AccessLog, writer::tests::Captured},
            metrics::Metrics,
        },
    };

    struct Setup {
        metrics: Metrics,
        log: AccessLog,
        out: Captured,
        recorder: Arc<Recorder>,
    }

    impl Setup {
        fn new() -> Self {
            let metrics = Metrics::new();
            let out = Captured::default();
            let log = AccessLog::start_with(Box::new(out.clone())).unwrap();
            let settings = AccessLogSettings {
                path: AccessLogPath::File("unused".into()),
                sample: 1.0,
                query: true,
                hidden: [].into(),
            };
            let cells = metrics.thread();
            let recorder = Arc::new(Recorder::new(&cells, log.sink(&settings, &cells)));
            Self { metrics, log, out, recorder }
        }

        fn begin(&self) -> (Context, Exchange) {
            let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
            let mut head = http::Request::get("/a?b=c")
                .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
                .body(())
                .unwrap()
                .into_parts()
                .0;
            let cx = Context::new(Arc::new(peer), head.method.clone(), head.version);
            cx.set_request_id(HeaderValue::from_static("id-1"));
            let metrics = self.metrics.thread().route("orders");
            let route = RouteInfo { name: "orders".into(), path: "/a".into(), metrics };
            cx.set_route(Arc::new(route), None);
            (cx.clone(), Exchange::begin(self.recorder.clone(), cx, &mut head))
        }

        fn response(&self, body: Body) -> (Context, Body) {
            let (cx, mut exchange) = self.begin();
            exchange.set_status(StatusCode::CREATED);
            let mut body = body;
            body.attach(Guard::Exchange(exchange));
            (cx, body)
        }

        /// The one line that was written.
        fn line(&self) -> Value {
            assert!(self.log.flush(Duration::from_secs(10)));
            let text = self.out.take();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            serde_json::from_str(&text).unwrap()
        }

        fn assert_metric(&self, line: &str) {
            let rendered = self.metrics.render();
            assert!(rendered.lines().any(|it| it == line), "no {line} in\n{rendered}");
        }
    }

    #[tokio::test]
    async fn the_end_of_the_body_logs_one_line() {
        let setup = Setup::new();
        let (cx, body) = setup.response(Body::full("hello"));
        cx.add_received(7);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
        let line = setup.line();
        assert_eq!(line["status"], 201);
        assert_eq!(line["bytes_in"], 7);
        assert_eq!(line["bytes_out"], 5);
        assert_eq!(line["route"], "orders");
        assert_eq!(line["query"], "b=c");
        assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(line.get("reason"), None);
        setup.assert_metric("sluice_requests_total{route=\"orders\",status=\"2xx\"} 1");
        setup.assert_metric("sluice_response_bytes_total{route=\"orders\"} 5");
        setup.assert_metric("sluice_request_bytes_total{route=\"orders\"} 7");
        setup.assert_metric("sluice_request_duration_seconds_count{route=\"orders\"} 1");
        assert!(!setup.metrics.render().contains("sluice_refusals_total"));
    }

    #[tokio::test]
    async fn a_body_that_is_empty_from_the_start_logs_one_complete_line() {
        let setup = Setup::new();
        drop(setup.response(Body::empty()));
        assert_eq!(setup.line().get("reason"), None);
    }

    #[tokio::test]
    async fn a_body_that_fails_logs_one_line_with_its_reason() {
        let setup = Setup::new();
        let frames = futures_util::stream::iter([
            Ok(http_body::Frame::data(Bytes::from_static(b"abc"))),
            Err(Kind::UpstreamBadResponse.into()),
        ]);
        let body = Body::boxed(http_body_util::StreamBody::new(frames));
        let (_, body) = setup.response(body);
        assert!(body.collect().await.is_err());
        let line = setup.line();
        assert_eq!(line["bytes_out"], 3);
        assert_eq!(line["status"], 201, "the head had been sent");
        assert_eq!(line["reason"], "upstream-bad-response");
        setup.assert_metric("sluice_refusals_total{reason=\"upstream-bad-response\"} 1");
    }

    #[tokio::test]
    async fn a_body_that_is_dropped_logs_one_line_client_closed() {
        let setup = Setup::new();
        let (_, body) = setup.response(Body::full("hello"));
        drop(body);
        let line = setup.line();
        assert_eq!(line["reason"], "client-closed");
        assert_eq!(line["bytes_out"], 0);
    }

    #[tokio::test]
    async fn a_request_that_is_never_answered_logs_one_line_499() {
        let setup = Setup::new();
        let (cx, exchange) = setup.begin();
        let now = cx.started();
        cx.begin_attempt("orders/127.0.0.1:1".into(), now).failed("upstream-connect", now);
        drop(exchange);
        let line = setup.line();
        assert_eq!(line["status"], 499);
        assert_eq!(line["reason"], "client-closed");
        assert_eq!(line["attempts"][0]["reason"], "upstream-connect");
        setup.assert_metric("sluice_requests_total{route=\"orders\",status=\"4xx\"} 1");
    }

    #[tokio::test]
    async fn what_a_drain_cuts_off_is_not_the_clients_doing() {
        let setup = Setup::new();
        let (cx, exchange) = setup.begin();
        cx.peer().cut();
        drop(exchange);
        let line = setup.line();
        assert_eq!((&line["status"], &line["reason"]), (&503.into(), &"draining".into()));
        setup.assert_metric("sluice_requests_total{route=\"orders\",status=\"5xx\"} 1");
        setup.assert_metric("sluice_refusals_total{reason=\"draining\"} 1");

        let (cx, body) = setup.response(Body::full("hello"));
        cx.peer().cut();
        drop(body);
        let line = setup.line();
        assert_eq!(line["status"], 201, "the head had been sent");
        assert_eq!(line["reason"], "draining");
    }

    #[tokio::test]
    async fn the_first_reason_holds() {
        let setup = Setup::new();
        let (cx, body) = setup.response(Body::full("{}"));
        cx.set_reason("ip-denied");
        drop(body);
        assert_eq!(setup.line()["reason"], "ip-denied");
    }
}
