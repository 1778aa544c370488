//! One worker's part of tracing: which trace a request belongs to, whether it is sampled, and the
//! queue to the exporter.
//!
//! A request that is not sampled only gets IDs: there is no span, and the cost is reading
//! `traceparent`, or making one if there is none. The spans of a sampled request are made from its
//! [`Context`] when it is over; the worker puts them into a bounded queue and never waits.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, uri::PathAndQuery};
use opentelemetry::trace::{SpanId, TraceId};

use super::{
    propagation::{SAMPLED, TRACEPARENT, TRACESTATE, TraceParent, is_valid_state},
    queue::{Encoded, Full, SpanQueue},
};
use crate::{
    http::Context,
    telemetry::metrics::{Cells, Counter, SPANS_LOST},
};

/// One worker's part of tracing under one configuration.
#[derive(Debug)]
pub struct Tracer {
    ratio: Ratio,
    queue: SpanQueue,
    lost: Counter,
}

/// The trace of one request, and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    id: TraceId,
    /// The caller's span, if there is one.
    parent: Option<SpanId>,
    /// Our own span; only a number if the request is not sampled.
    span: SpanId,
    flags: u8,
}

/// The data of a sampled request that its context does not keep.
#[derive(Clone, Debug)]
pub struct Noted {
    pub(super) user_agent: Option<HeaderValue>,
    pub(super) state: Option<HeaderValue>,
}

/// A sampled request that is over, with all the data for its spans.
#[derive(Debug)]
pub struct Finished {
    /// What is known about it.
    pub cx: Context,
    /// Its trace.
    pub trace: Trace,
    /// What was noted when it began.
    pub noted: Box<Noted>,
    /// The target as the client sent it.
    pub target: Option<PathAndQuery>,
    /// The status of the answer; `None` if the client left before.
    pub status: Option<StatusCode>,
    /// The time to the end of the response body.
    pub took: Duration,
    /// Why it failed.
    pub reason: Option<&'static str>,
    /// Whether the response body failed after its head was sent.
    pub is_broken_off: bool,
}

/// A share of all traces, by their IDs: everybody with the same rule decides the same.
#[derive(Clone, Copy, Debug)]
struct Ratio(u64);

// === impl Tracer ===

impl Tracer {
    pub(super) fn new(sample: f64, queue: SpanQueue, cells: &Cells) -> Self {
        Self { ratio: Ratio::new(sample), queue, lost: cells.counter(&SPANS_LOST, &["queue-full"]) }
    }

    /// Finds or begins the trace of a request with these fields, and updates the fields.
    pub fn begin(&self, headers: &mut HeaderMap) -> Trace {
        let trace = match parent(headers) {
            Some(parent) => Trace {
                id: parent.trace_id,
                parent: Some(parent.span_id),
                span: fastrand::u64(..).max(1).into(),
                flags: parent.flags,
            },
            None => self.fresh(),
        };
        // The client's own `traceparent` stays if it is not sampled: replacing it by a span that is
        // never exported would break the chain for those who record behind us.
        if trace.is_sampled() || trace.parent.is_none() {
            headers.insert(TRACEPARENT, trace.as_parent(trace.span).encode());
        }
        trace
    }

    fn fresh(&self) -> Trace {
        // Zero is not a valid ID; excluding it with a range would cost a division of 128 bits.
        let id = TraceId::from(fastrand::u128(..).max(1));
        let flags = if self.samples(id) { SAMPLED } else { 0 };
        Trace { id, parent: None, span: fastrand::u64(..).max(1).into(), flags }
    }

    /// Whether a trace that begins here is sampled.
    pub(super) fn samples(&self, id: TraceId) -> bool {
        self.ratio.takes(id)
    }

    /// Queues a sampled request, or counts its spans as lost if the exporter is behind.
    pub fn finish(&self, finished: &Finished) {
        self.put(finished.spans(), || finished.encode());
    }

    /// Queues the result of `encode`, or counts `spans` as lost.
    pub(super) fn put(&self, spans: u64, encode: impl FnOnce() -> Encoded) {
        if self.queue.put(encode) == Err(Full) {
            self.lost.add(spans);
        }
    }
}

/// The caller's trace, if it names a valid one. What is left of `tracestate` belongs to that: without
/// a valid `traceparent` it has no meaning (W3C, 2.3 and 4.3).
fn parent(headers: &mut HeaderMap) -> Option<TraceParent> {
    // Most clients send neither: looking at the names costs less than looking for each.
    if !headers.keys().any(|name| name.as_str().starts_with("trace")) {
        return None;
    }
    let parent = TraceParent::of(headers);
    if parent.is_none() || !is_valid_state(headers) {
        headers.remove(TRACESTATE);
    }
    parent
}

// === impl Trace ===

impl Trace {
    /// The trace ID.
    pub fn id(&self) -> TraceId {
        self.id
    }

    /// Whether spans are recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Keeps what its spans say of a request with these fields, if it is sampled.
    pub fn note(&self, headers: &HeaderMap) -> Option<Box<Noted>> {
        self.is_sampled().then(|| {
            Box::new(Noted {
                user_agent: headers.get(http::header::USER_AGENT).cloned(),
                state: headers.get(TRACESTATE).cloned(),
            })
        })
    }

    /// Sets the field for an upstream: its parent is the span of this attempt, counted from 1. Does
    /// nothing if the route removes the field.
    pub fn stamp(&self, headers: &mut HeaderMap, attempt: usize) {
        if self.is_sampled()
            && let Some(value) = headers.get_mut(TRACEPARENT)
        {
            *value = self.as_parent(self.attempt(attempt)).encode();
        }
    }

    pub(super) fn span(&self) -> SpanId {
        self.span
    }

    pub(super) fn parent(&self) -> Option<SpanId> {
        self.parent
    }

    /// The span of the attempt with this number: derived, so that nothing needs to be stored.
    pub(super) fn attempt(&self, number: usize) -> SpanId {
        self.derived(number as u64)
    }

    /// The span in which the event with this number, from 0, is published.
    pub fn publishing(&self, number: usize) -> TraceParent {
        // No request has that many attempts.
        self.as_parent(self.derived(u64::MAX - number as u64))
    }

    fn derived(&self, number: u64) -> SpanId {
        // The finaliser of splitmix64 (Steele, Lea, Flood 2014): distinct for distinct numbers.
        let step = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut mixed = u64::from_be_bytes(self.span.to_bytes()).wrapping_add(step);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        SpanId::from((mixed ^ (mixed >> 31)).max(1))
    }

    fn as_parent(&self, span_id: SpanId) -> TraceParent {
        TraceParent { trace_id: self.id, span_id, flags: self.flags }
    }
}

// === impl Finished ===

impl Finished {
    /// The number of its spans.
    pub(super) fn spans(&self) -> u64 {
        let publishings = self.cx.with_publishings(<[_]>::len);
        (1 + self.cx.with_attempts(<[_]>::len) + publishings) as u64
    }
}

// === impl Ratio ===

impl Ratio {
    fn new(share: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of 2^63 is in range"
        )]
        Self((share.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64)
    }

    /// Like `TraceIdRatioBased` of the OpenTelemetry SDKs: by the low 63 of the right-most 64 bits.
    fn takes(self, id: TraceId) -> bool {
        let mut low = [0; 8];
        low.copy_from_slice(&id.to_bytes()[8..]);
        u64::from_be_bytes(low) >> 1 < self.0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::Method;
    use opentelemetry::trace::SpanKind;
    use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample};
    use tokio::time::Instant;

    use super::*;
    use crate::{
        http::{Peer, peer::Address},
        telemetry::{
            metrics::Metrics,
            tracing::queue::{self, Waiting},
        },
    };

    const SAMPLED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const UNSAMPLED_PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    fn tracer(sample: f64, places: usize) -> (Tracer, Waiting) {
        let (queue, out) = queue::bounded(places, 1 << 20);
        (Tracer::new(sample, queue, &Metrics::new().thread()), out)
    }

    fn context() -> Context {
        let peer = Peer::new("web".into(), Address::Unix, Address::Unix);
        Context::new(Arc::new(peer), Method::GET, http::Version::HTTP_11)
    }

    fn begin(sample: f64, fields: &[(&'static str, &str)]) -> (Trace, HeaderMap, bool) {
        let (tracer, _out) = tracer(sample, 1);
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let trace = tracer.begin(&mut headers);
        let noted = trace.note(&headers);
        (trace, headers, noted.is_some())
    }

    fn said(headers: &HeaderMap) -> TraceParent {
        TraceParent::of(headers).expect("one valid traceparent")
    }

    #[test]
    fn a_request_without_a_trace_begins_one() {
        for (sample, is_sampled) in [(0.0, false), (1.0, true)] {
            let (trace, headers, is_noted) = begin(sample, &[]);
            assert_eq!(said(&headers), trace.as_parent(trace.span()));
            assert_eq!(said(&headers).is_sampled(), is_sampled);
            assert_eq!(is_noted, is_sampled, "nothing is kept of an unsampled one");
            assert_eq!(trace.parent(), None);
        }
    }

    #[test]
    fn the_callers_flag_decides() {
        let (trace, headers, is_noted) = begin(0.0, &[("traceparent", SAMPLED_PARENT)]);
        assert!(is_noted);
        assert_eq!(trace.parent().unwrap().to_string(), "b7ad6b7169203331");
        assert_eq!(said(&headers).trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(said(&headers).span_id, trace.span(), "below, the parent is ours");
        let (_, headers, is_noted) = begin(1.0, &[("traceparent", UNSAMPLED_PARENT)]);
        assert!(!is_noted);
        assert_eq!(headers["traceparent"], UNSAMPLED_PARENT, "handed on as it came");
    }

    #[test]
    fn what_is_invalid_is_begun_anew_and_never_half_believed() {
        for invalid in ["nonsense", &SAMPLED_PARENT.to_uppercase(), &SAMPLED_PARENT[..54]] {
            let (trace, headers, _) =
                begin(0.0, &[("traceparent", invalid), ("tracestate", "a=1")]);
            assert_eq!(trace.parent(), None);
            assert_eq!(said(&headers).trace_id, trace.id());
            assert!(!headers.contains_key("tracestate"), "it spoke of another trace");
        }
        let twice = [("traceparent", SAMPLED_PARENT), ("traceparent", UNSAMPLED_PARENT)];
        let (trace, headers, _) = begin(0.0, &twice);
        assert_eq!(trace.parent(), None);
        assert_eq!(headers.get_all("traceparent").iter().count(), 1);
        let (_, headers, _) = begin(0.0, &[("tracestate", "a=1")]);
        assert!(!headers.contains_key("tracestate"));
    }

    #[test]
    fn a_valid_tracestate_goes_on_and_an_invalid_one_goes_alone() {
        for parent in [SAMPLED_PARENT, UNSAMPLED_PARENT] {
            let fields = [("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2")];
            let (_, headers, _) = begin(0.0, &fields);
            assert_eq!(headers.get_all("tracestate").iter().count(), 2);
            let fields = [("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "a=2")];
            let (trace, headers, _) = begin(0.0, &fields);
            assert!(!headers.contains_key("tracestate"));
            assert!(trace.parent().is_some());
        }
    }

    #[test]
    fn each_attempt_is_the_parent_of_what_it_calls() {
        let (trace, mut headers, _) = begin(0.0, &[("traceparent", SAMPLED_PARENT)]);
        let mut seen = vec![trace.span()];
        for number in 1..=4 {
            trace.stamp(&mut headers, number);
            let span = said(&headers).span_id;
            assert_eq!(span, trace.attempt(number));
            assert!(!seen.contains(&span));
            seen.push(span);
        }
        headers.remove("traceparent");
        trace.stamp(&mut headers, 5);
        assert!(headers.is_empty(), "a route that removes it is obeyed");
        let (trace, mut headers, _) = begin(0.0, &[]);
        trace.stamp(&mut headers, 1);
        assert_eq!(said(&headers).span_id, trace.span(), "unsampled: ours, as it stands");
    }

    #[test]
    fn the_share_is_decided_as_every_sdk_decides_it() {
        for share in [0.0, 0.01, 0.25, 0.5, 0.999, 1.0] {
            let sampler = Sampler::TraceIdRatioBased(share);
            let mut taken = 0;
            for _ in 0..2_000 {
                let id = TraceId::from(fastrand::u128(1..));
                let theirs = sampler.should_sample(None, id, "", &SpanKind::Server, &[], &[]);
                let is_taken = theirs.decision == SamplingDecision::RecordAndSample;
                assert_eq!(Ratio::new(share).takes(id), is_taken, "{share} {id}");
                taken += u32::from(is_taken);
            }
            assert!((f64::from(taken) / 2_000.0 - share).abs() < 0.06, "{taken} of {share}");
        }
    }

    #[test]
    fn what_waits_holds_nothing_of_its_request() {
        let (tracer, mut out) = tracer(1.0, 1);
        let cx = context();
        let head = Arc::new(vec![b'a'; 32 << 10]);
        let lent = Lent(head.clone());
        let agent = HeaderValue::from_maybe_shared(Bytes::from_owner(lent)).unwrap();
        let mut headers = HeaderMap::from_iter([(http::header::USER_AGENT, agent)]);
        let trace = tracer.begin(&mut headers);
        let noted = trace.note(&headers).unwrap();
        drop(headers);
        let finished = Finished {
            trace,
            cx,
            noted,
            target: None,
            status: Some(StatusCode::OK),
            took: Duration::ZERO,
            reason: None,
            is_broken_off: false,
        };
        assert_eq!(Arc::strong_count(&head), 2);
        tracer.finish(&finished);
        drop(finished);
        assert_eq!(Arc::strong_count(&head), 1);
        assert!(out.take().is_some_and(|entry| (1_024..4_096).contains(&entry.bytes())));
    }

    /// The bytes of a request's head.
    struct Lent(Arc<Vec<u8>>);

    impl AsRef<[u8]> for Lent {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn a_full_queue_loses_spans_and_counts_them() {
        let metrics = Metrics::new();
        let (queue, mut out) = queue::bounded(1, 1 << 20);
        let tracer = Tracer::new(1.0, queue, &metrics.thread());
        let finished = || {
            let cx = context();
            let trace = tracer.begin(&mut HeaderMap::new());
            let noted = trace.note(&HeaderMap::new()).unwrap();
            let now = Instant::now();
            cx.begin_attempt("a/b".into(), now).failed("upstream-connect", now);
            cx.begin_attempt("a/c".into(), now).answered(StatusCode::OK, now);
            Finished {
                trace,
                cx,
                noted,
                target: None,
                status: Some(StatusCode::OK),
                took: Duration::ZERO,
                reason: None,
                is_broken_off: false,
            }
        };
        for _ in 0..3 {
            tracer.finish(&finished());
        }
        assert_eq!(out.take().map(|entry| entry.spans()), Some(3));
        assert!(out.take().is_none());
        let lost = "sluice_spans_lost_total{cause=\"queue-full\"} 6";
        let rendered = metrics.render();
        assert!(rendered.lines().any(|line| line == lost), "{rendered}");
    }
}
