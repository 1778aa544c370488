//! Builds the webhook request of an event: CloudEvents 1.0 in one of three forms, signed as in
//! Standard Webhooks.

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{CONTENT_TYPE, USER_AGENT},
};
use uuid::{Builder, Uuid};

use std::{sync::Arc, time::Duration};

use crate::{
    events::{
        delivery::subscription::Place,
        event::Event,
        settings::{Format, Push},
        wire::{self, binary, structured},
    },
    http::{
        sink::{Parcel, Target},
        webhook::signature,
    },
    telemetry::tracing::{
        Origin,
        propagation::{TRACEPARENT, TraceParent},
    },
};

/// The same for every delivery of one event, in any subscription.
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Seconds since 1970, of this attempt.
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Number of the attempt, from 1; attempts that were given back count too, because they may have
/// been seen.
const ATTEMPT: HeaderName = HeaderName::from_static("sluice-attempt");
/// The event's position; opaque.
const SEQUENCE: HeaderName = HeaderName::from_static("sluice-sequence");
/// The key, percent-encoded like an attribute in a field.
const KEY: HeaderName = HeaderName::from_static("sluice-key");
/// `true` if a job delivers it.
const REPLAY: HeaderName = HeaderName::from_static("sluice-replay");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("sluice/", env!("CARGO_PKG_VERSION")));

/// Namespace for long IDs; a random constant.
const NAMESPACE: Uuid = Uuid::from_u128(0x6a1f_4b0e_90cd_4f5c_b1a8_52a9_e2fd_3c77);
/// The longest event ID that is used as the webhook ID unchanged.
const ID_BYTES: usize = 128;

/// What the delivery adds to its event.
#[derive(Clone, Debug)]
pub struct Addressed {
    /// The subscription.
    pub subscription: Arc<str>,
    /// The topic it is in.
    pub topic: Arc<str>,
    /// The event's position.
    pub place: Place,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// How much of the answer's body to read, in bytes.
    pub max_answer: usize,
    /// Since 1970.
    pub now: Duration,
}

/// The event as it is sent to a webhook at `url`.
pub fn parcel(event: &Event, url: &Uri, push: &Push, addressed: &Addressed) -> Parcel {
    let (mut headers, body) = form(event, push.format);
    let id = webhook_id(&event.source, &event.id);
    let timestamp = addressed.now.as_secs();
    if let Some(signature) = signature(&push.secrets, &id, timestamp, &body) {
        headers.insert(WEBHOOK_SIGNATURE, signature);
    }
    headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
    // A short visible text or a UUID.
    headers.extend(HeaderValue::try_from(id).ok().map(|id| (WEBHOOK_ID, id)));
    let Place { lane, partition, offset } = addressed.place;
    let sequence = format!("{}.{}:{offset}", partition.generation, partition.number);
    headers.extend(HeaderValue::try_from(sequence).ok().map(|value| (SEQUENCE, value)));
    headers.insert(ATTEMPT, addressed.attempt.into());
    if let Some(key) = &event.key {
        headers.insert(KEY, binary::encode(key));
    }
    if !lane.is_live() {
        headers.insert(REPLAY, HeaderValue::from_static("true"));
    }
    let context = event.trace_context.as_deref();
    let trace = context.and_then(|context| HeaderValue::from_str(context).ok());
    headers.extend(trace.map(|trace| (TRACEPARENT, trace)));
    let context = context.and_then(|context| TraceParent::parse(context.as_bytes()));
    let origin = context.is_none_or(|it| it.is_sampled()).then(|| {
        Box::new(Origin {
            context,
            topic: addressed.topic.clone(),
            partition: partition.number,
            subscription: addressed.subscription.clone(),
            id: event.id.as_str().into(),
            bytes: event.data.len(),
            attempt: addressed.attempt,
        })
    });
    headers.insert(USER_AGENT, AGENT);
    Parcel {
        target: Target::Url(url.clone()),
        subscription: addressed.subscription.clone(),
        origin,
        method: Method::POST,
        headers,
        body,
        timeout: push.timeout,
        max_answer: addressed.max_answer,
    }
}

fn form(event: &Event, format: Format) -> (HeaderMap, Bytes) {
    match format {
        Format::Structured => {
            let mut body = Vec::new();
            structured::write(event, &mut body);
            let mut headers = HeaderMap::with_capacity(16);
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(wire::STRUCTURED));
            (headers, body.into())
        }
        Format::Binary => (binary::fields(event), event.data.clone()),
        Format::Raw => {
            let kind = event.content_type.as_deref().and_then(|it| it.parse().ok());
            let mut headers = HeaderMap::with_capacity(16);
            headers.extend(kind.map(|kind| (CONTENT_TYPE, kind)));
            (headers, event.data.clone())
        }
    }
}

/// The event's ID if a receiver can use it unchanged; else a UUIDv5 (RFC 9562, 5.5) of source and
/// ID, which is just as stable and unique.
fn webhook_id(source: &str, id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=ID_BYTES).contains(&id.len()) && id.bytes().all(is_plain) {
        return id.to_owned();
    }
    let mut name = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    name.update(NAMESPACE.as_bytes());
    name.update(&(source.len() as u64).to_le_bytes());
    name.update(source.as_bytes());
    name.update(id.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&name.finish().as_ref()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid().to_string()
}
