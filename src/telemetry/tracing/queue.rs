//! Spans on their way to the exporter: encoded, and bounded in number and in bytes.
//!
//! The data of a span is in its request's buffers, heads of 32 KiB among them, and a stranger may
//! decide whether it is sampled. Kept in that form, it would hold all those buffers while the
//! collector is gone. So whoever ends a span encodes it, if there is a place for it; waiting
//! entries have memory of their own and nothing else.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::{
    tonic::trace::v1::{ScopeSpans, Span},
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::trace::SpanData;
use prost::{Message as _, encode_length_delimiter};
use tokio::sync::{Semaphore, mpsc};

use super::span::SCOPE;

/// The maximum number of entries: requests or deliveries.
pub(super) const ENTRIES: usize = 4096;
/// Their maximum size in bytes.
pub(super) const BYTES: usize = 8 << 20;

// Keys of Protobuf fields that have a length.
/// `ExportTraceServiceRequest.resource_spans`
const RESOURCE_SPANS: u8 = 1 << 3 | 2;
/// `ResourceSpans.scope_spans`
const SCOPE_SPANS: u8 = 2 << 3 | 2;
/// `ScopeSpans.spans`
const SPANS: u8 = 2 << 3 | 2;

/// Some spans, encoded for a `ScopeSpans`.
#[derive(Debug, Default)]
pub(super) struct Encoded {
    bytes: Vec<u8>,
    spans: u64,
}

/// The sending end.
#[derive(Clone, Debug)]
pub(super) struct SpanQueue {
    places: mpsc::Sender<Encoded>,
    room: Arc<Semaphore>,
}

/// The receiving end, for the exporter.
#[derive(Debug)]
pub(super) struct Waiting {
    entries: mpsc::Receiver<Encoded>,
    room: Arc<Semaphore>,
}

/// There is no place. Encoding was wasted only if the entry is larger than the room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// What surrounds the spans of every message.
#[derive(Debug)]
pub(super) struct Envelope {
    /// A `ResourceSpans` without its `scope_spans`.
    resource: Vec<u8>,
    /// A `ScopeSpans` without its `spans`.
    scope: Vec<u8>,
}

/// A queue with this capacity.
pub(super) fn bounded(entries: usize, bytes: usize) -> (SpanQueue, Waiting) {
    let (places, entries) = mpsc::channel(entries);
    let room = Arc::new(Semaphore::new(bytes));
    (SpanQueue { places, room: room.clone() }, Waiting { entries, room })
}

// === impl SpanQueue ===

impl SpanQueue {
    /// Adds the result of `encode`, if there is a place for it.
    pub(super) fn put(&self, encode: impl FnOnce() -> Encoded) -> Result<(), Full> {
        let place = self.places.try_reserve().map_err(|_| Full)?;
        let encoded = encode();
        let bytes = u32::try_from(encoded.bytes.len()).map_err(|_| Full)?;
        // Given back by the receiver.
        self.room.try_acquire_many(bytes).map_err(|_| Full)?.forget();
        place.send(encoded);
        Ok(())
    }

    /// The number of waiting entries.
    pub(super) fn len(&self) -> usize {
        self.places.max_capacity() - self.places.capacity()
    }
}

// === impl Waiting ===

impl Waiting {
    /// The next entry; `None`: all senders are gone. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Encoded> {
        let entry = self.entries.recv().await?;
        Some(self.took(entry))
    }

    /// The next entry, if there is one.
    pub(super) fn take(&mut self) -> Option<Encoded> {
        let entry = self.entries.try_recv().ok()?;
        Some(self.took(entry))
    }

    fn took(&self, entry: Encoded) -> Encoded {
        self.room.add_permits(entry.bytes.len());
        entry
    }
}

// === impl Encoded ===

impl Encoded {
    /// Adds a span.
    pub(super) fn push(&mut self, span: SpanData) {
        self.bytes.push(SPANS);
        // Writing to a vector cannot fail.
        Span::from(span).encode_length_delimited(&mut self.bytes).ok();
        self.spans += 1;
    }

    /// The number of spans.
    pub(super) fn spans(&self) -> u64 {
        self.spans
    }

    /// Its size in a message.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

// === impl Envelope ===

impl Envelope {
    /// Attributes all spans to this resource.
    pub(super) fn new(resource: &ResourceAttributesWithSchema) -> Self {
        let resource = group_spans_by_resource_and_scope(Vec::new(), resource);
        let resource = resource.first().map(prost::Message::encode_to_vec).unwrap_or_default();
        let scope = ScopeSpans {
            scope: Some((&*SCOPE, None).into()),
            schema_url: SCOPE.schema_url().unwrap_or_default().to_owned(),
            spans: Vec::new(),
        };
        Self { resource, scope: scope.encode_to_vec() }
    }

    /// An `ExportTraceServiceRequest` with these spans.
    pub(super) fn close(&self, entries: &[Encoded]) -> Bytes {
        let spans: usize = entries.iter().map(|entry| entry.bytes.len()).sum();
        // A key and two lengths of at most five bytes each.
        let mut scope = Vec::with_capacity(self.scope.len() + spans + 32 + self.resource.len());
        let begin = |out: &mut Vec<u8>, key: u8, length: usize| {
            out.push(key);
            encode_length_delimiter(length, out).ok();
        };
        let of_scope = self.scope.len() + spans;
        let mut head = Vec::with_capacity(6);
        begin(&mut head, SCOPE_SPANS, of_scope);
        begin(&mut scope, RESOURCE_SPANS, self.resource.len() + head.len() + of_scope);
        scope.extend_from_slice(&self.resource);
        scope.extend_from_slice(&head);
        scope.extend_from_slice(&self.scope);
        for entry in entries {
            scope.extend_from_slice(&entry.bytes);
        }
        scope.into()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use opentelemetry::trace::{SpanContext, SpanKind, TraceFlags, TraceState};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;

    use super::*;
    use crate::telemetry::tracing::{
        resource,
        span::{Attributes, data},
    };

    fn span(number: u64, bytes: usize) -> SpanData {
        let (id, span) = (u128::from(number).into(), number.into());
        let context = SpanContext::new(id, span, TraceFlags::SAMPLED, false, TraceState::NONE);
        let mut attributes = Attributes(Vec::new());
        attributes.push("number", i64::try_from(number).unwrap());
        let name = "x".repeat(bytes);
        let times = (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        data(context, SpanKind::Server, name.into(), times, attributes, false)
    }

    fn entry(spans: impl IntoIterator<Item = SpanData>) -> Encoded {
        let mut encoded = Encoded::default();
        spans.into_iter().for_each(|span| encoded.push(span));
        encoded
    }

    #[test]
    fn a_message_is_what_the_library_would_have_made_of_the_spans() {
        let resource = (&resource::detect()).into();
        let entries = [entry([span(1, 5), span(2, 300)]), entry([]), entry([span(3, 70_000)])];
        let message = Envelope::new(&resource).close(&entries);
        let spans = vec![span(1, 5), span(2, 300), span(3, 70_000)];
        let resource_spans = group_spans_by_resource_and_scope(spans, &resource);
        let decoded = ExportTraceServiceRequest::decode(message).unwrap();
        assert_eq!(decoded, ExportTraceServiceRequest { resource_spans });
        assert_eq!(entries.iter().map(Encoded::spans).sum::<u64>(), 3);
    }

    #[tokio::test]
    async fn what_waits_is_bounded_in_bytes_and_in_number() {
        let (queue, mut waiting) = bounded(3, 10_000);
        assert_eq!(queue.put(|| entry([span(1, 20_000)])), Err(Full));
        assert_eq!(queue.put(|| entry([span(1, 6_000)])), Ok(()));
        assert_eq!(queue.put(|| entry([span(2, 6_000)])), Err(Full));
        assert_eq!(queue.put(|| entry([span(2, 10)])), Ok(()));
        assert_eq!(queue.put(|| entry([span(3, 10)])), Ok(()));
        assert_eq!(queue.put(|| panic!("there is no place: nothing is encoded")), Err(Full));
        assert_eq!(queue.len(), 3);
        assert_eq!(waiting.next().await.unwrap().spans(), 1);
        assert_eq!(queue.put(|| entry([span(4, 6_000)])), Ok(()), "its room is given back");
        while waiting.take().is_some() {}
        assert_eq!((waiting.room.available_permits(), queue.len()), (10_000, 0));
    }
}
