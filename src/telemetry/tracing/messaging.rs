//! Spans of events: one for the publish by a request, one for each delivery to a webhook.
//!
//! They follow the OpenTelemetry semantic conventions for messaging. The span of the publish is a
//! producer in the request's trace, and its context travels with the event. A delivery is a
//! consumer with its own trace, *linked* to that one: it may come days later, and more than once.
//! Whether it is recorded was decided with the request; for an event without a trace each delivery
//! is sampled on its own. These conventions are not stable yet, so their names are defined here.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, StatusCode};
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::SpanData;
use opentelemetry_semantic_conventions::attribute::HTTP_RESPONSE_STATUS_CODE;
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    propagation::{SAMPLED, TraceParent},
    queue::Encoded,
    span::{Attributes, cut, data},
    tracer::{Finished, Tracer},
};
use crate::telemetry::clock;

const SYSTEM: (&str, &str) = ("messaging.system", "sluice");
const OPERATION: &str = "messaging.operation.name";
const OPERATION_TYPE: &str = "messaging.operation.type";
/// `topics.*`
const TOPIC: &str = "messaging.destination.name";
const PARTITION: &str = "messaging.destination.partition.id";
/// `subscriptions[].name`
const SUBSCRIPTION: &str = "messaging.destination.subscription.name";
const MESSAGE_ID: &str = "messaging.message.id";
const BODY_SIZE: &str = "messaging.message.body.size";
/// The number of this attempt of the delivery, from 1.
const ATTEMPT: &str = "sluice.attempt";

/// An event that a sampled request led to.
#[derive(Clone, Debug)]
pub struct Publishing {
    /// Its number in the request: determines its span's ID ([`super::Trace::publishing`]).
    pub number: usize,
    /// The topic it was published to.
    pub topic: Arc<str>,
    /// Its ID.
    pub id: Uuid,
    /// The size of its data.
    pub bytes: usize,
    /// When the request began to wait for it, ...
    pub started: Instant,
    /// ... and for how long.
    pub took: Duration,
    /// Why it is not stored, as a reason word.
    pub reason: Option<&'static str>,
}

/// What is delivered, for an event whose publish was sampled or has no trace.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The span that published it, if there was one.
    pub context: Option<TraceParent>,
    /// Its topic.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: u16,
    /// The subscription it is sent for.
    pub subscription: Arc<str>,
    /// Its ID.
    pub id: Box<str>,
    /// The size of its data.
    pub bytes: usize,
    /// The number of the attempt, from 1.
    pub attempt: u32,
}

/// A delivery in progress, with its own trace.
#[derive(Debug)]
pub struct Delivery {
    origin: Box<Origin>,
    context: TraceParent,
    started: Instant,
}

/// The result of a delivery.
#[derive(Clone, Debug, Default)]
pub struct Delivered {
    /// The endpoint's address, if it got that far.
    pub address: Option<Box<str>>,
    /// The status of the answer.
    pub status: Option<StatusCode>,
    /// Why there is no complete answer, as a reason word.
    pub reason: Option<&'static str>,
}

// === impl Delivery ===

impl Delivery {
    /// The field for the receiver, with this delivery as the parent.
    pub fn traceparent(&self) -> HeaderValue {
        self.context.encode()
    }

    fn span(&self, end: &Delivered) -> SpanData {
        let origin = &*self.origin;
        let mut attributes = Attributes(Vec::with_capacity(16));
        attributes.push_event("deliver", "process", (&origin.topic, &origin.id), origin.bytes);
        attributes.push(PARTITION, origin.partition.to_string());
        attributes.push_text(SUBSCRIPTION, &origin.subscription);
        attributes.push(ATTEMPT, i64::from(origin.attempt));
        if let Some(address) = &end.address {
            attributes.push_endpoint(address);
        }
        if let Some(status) = end.status {
            attributes.push(HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
        }
        let is_error = end.reason.is_some() || end.status.is_none_or(|it| !it.is_success());
        if is_error {
            attributes.push_error(end.reason, end.status);
        }
        let times = (clock::at(self.started), clock::at(Instant::now()));
        let name = format!("deliver {}", cut(&origin.topic));
        let context = local(self.context);
        let mut span = data(context, SpanKind::Consumer, name.into(), times, attributes, is_error);
        if let Some(TraceParent { trace_id, span_id, flags }) = origin.context {
            let flags = TraceFlags::new(flags);
            let linked = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
            span.links.links.push(Link::new(linked, Vec::new(), 0));
        }
        span
    }
}

fn local(TraceParent { trace_id, span_id, flags }: TraceParent) -> SpanContext {
    SpanContext::new(trace_id, span_id, TraceFlags::new(flags), false, TraceState::NONE)
}

// === impl Tracer ===

impl Tracer {
    /// A delivery that begins now, with its own trace; `None`: it is not sampled.
    pub fn deliver(&self, origin: Box<Origin>) -> Option<Delivery> {
        let trace_id = TraceId::from(fastrand::u128(..).max(1));
        let is_sampled = origin.context.is_some() || self.samples(trace_id);
        is_sampled.then(|| {
            let span_id = SpanId::from(fastrand::u64(..).max(1));
            let context = TraceParent { trace_id, span_id, flags: SAMPLED };
            Delivery { origin, context, started: Instant::now() }
        })
    }

    /// Queues a finished delivery, or counts its span as lost if the exporter is behind.
    pub fn delivered(&self, delivery: &Delivery, end: &Delivered) {
        self.put(1, || {
            let mut encoded = Encoded::default();
            encoded.push(delivery.span(end));
            encoded
        });
    }
}

// === impl Finished ===

impl Finished {
    pub(super) fn publishing(&self, publishing: &Publishing) -> SpanData {
        let Publishing { number, topic, id, bytes, started, took, reason } = publishing;
        let mut attributes = Attributes(Vec::with_capacity(8));
        attributes.push_event("publish", "send", (topic, &id.to_string()), *bytes);
        if reason.is_some() {
            attributes.push_error(*reason, None);
        }
        let context = self.context(self.trace.publishing(*number).span_id);
        let name = format!("publish {}", cut(topic));
        let times = (clock::at(*started), clock::at(*started + *took));
        let kind = SpanKind::Producer;
        let span = data(context, kind, name.into(), times, attributes, reason.is_some());
        SpanData { parent_span_id: self.trace.span(), ..span }
    }
}

// === impl Attributes ===

impl Attributes {
    fn push_event(
        &mut self,
        operation: &'static str,
        kind: &'static str,
        (topic, id): (&str, &str),
        bytes: usize,
    ) {
        self.push(SYSTEM.0, SYSTEM.1);
        self.push(OPERATION, operation);
        self.push(OPERATION_TYPE, kind);
        self.push_text(TOPIC, topic);
        self.push_text(MESSAGE_ID, id);
        self.push(BODY_SIZE, i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}
