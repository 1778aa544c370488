//! An exchange with room for everything it may write: **room first**.
//!
//! Everything that can refuse a request because of its events is here, and happens before a byte of
//! it is sent.

use std::{sync::Arc, time::Duration};

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderMap, request};
use serde_json::Value;
use uuid::Uuid;

use super::{
    layer::Publication,
    making::{self, Content, Keys, LATE_KEY_BYTES, Origin, Texts},
    settings::{Ack, Data, Mode, Settings},
};
use crate::{
    error::{Error, Kind, QueueFault},
    events::{
        event::new_id,
        ingress::{About, Ingress, Key, Owed, Room, refused, uncertain_kind_bytes},
        queue::log::{Permit, Purpose},
    },
    http::{Context, Request, context::GoesOn, selector::Input},
    telemetry::tracing::Trace,
};

/// How much an event may grow when it becomes uncertain or truncated, plus the overhead of its
/// record.
const GROWTH: u64 = 512;

/// A request with room for its events.
pub(super) struct Plan {
    /// In the order of the route.
    pub(super) items: Vec<Item>,
    /// Room for intents, if any event has one.
    pub(super) room: Option<Room>,
    /// The request's idempotency key.
    pub(super) key: Option<Arc<Key>>,
    pub(super) request: Kept,
}

/// One event that may follow.
pub(super) struct Item {
    pub(super) publication: Arc<Publication>,
    /// Its index among the route's events, from 0.
    pub(super) number: usize,
    /// Its ID.
    pub(super) id: Uuid,
    /// As far as the request determines it. Boxed: it is large, and moved a dozen times.
    pub(super) owed: Box<Owed>,
    pub(super) permit: Permit,
    /// The request's storable body, if the answer's is added to it.
    pub(super) content: Option<Content>,
    /// Whether nobody knows if it happened; the event says so.
    pub(super) is_uncertain: bool,
}

/// What is still needed of the request when its answer arrives.
pub(super) struct Kept {
    pub(super) cx: Context,
    /// The target, if something is recorded before the request is sent; the body's digest is beside
    /// it.
    pub(super) target: String,
    pub(super) digest: Option<[u8; 32]>,
    /// For keys that are taken from both request and answer.
    pub(super) late: Option<Box<(HeaderMap, Option<Value>)>>,
    /// For a sampled request: its spans get what they report when this is dropped.
    _goes_on: Option<GoesOn>,
}

// === impl Plan ===

impl Plan {
    /// Reserves room for all events of `request`, or says why there is none.
    pub(super) fn new(
        publications: &[Arc<Publication>],
        source: &str,
        ingress: &Ingress,
        request: &Request,
        now: Duration,
    ) -> Result<Self, Error> {
        let (parts, cx) = (&*request.parts, &request.cx);
        let key = key_of(cx);
        let whole = request.body.is_in_memory();
        let nothing = Bytes::new();
        let body = request.body.as_full().unwrap_or(&nothing);
        let needs_json = publications.iter().any(|it| it.settings.selects_json());
        let json = if needs_json { making::parse(body) } else { None };
        let mut items = Vec::with_capacity(publications.len());
        for (index, publication) in publications.iter().enumerate() {
            let id = match &key {
                Some(key) => key.event_id(index),
                None => new_id(making::millis(now)),
            };
            let origin = Origin { source, now, number: index };
            items.push(Item::new(publication, origin, id, (parts, cx), (body, json.as_ref()))?);
        }
        let has_about = key.is_some() || items.iter().any(Item::has_intent);
        let is_late = publications.iter().any(|it| !it.settings.has_early_keys());
        let late = is_late.then(|| Box::new((parts.headers.clone(), json)));
        // Only records written before the request is sent name the request.
        let target = if has_about { target_of(parts, cx) } else { String::new() };
        let digest = (has_about && whole).then(|| sha256(body));
        let goes_on = cx.trace().is_some_and(Trace::is_sampled).then(|| cx.go_on());
        let kept = Kept { cx: cx.clone(), target, digest, late, _goes_on: goes_on };
        let room = Self::room(&items, ingress, &kept, key.clone())?;
        Ok(Self { items, room, key, request: kept })
    }

    /// Whether something is written before the request is sent.
    pub(super) fn writes_first(&self) -> bool {
        self.room.is_some() || self.items.iter().any(Item::comes_first)
    }

    fn room(
        items: &[Item],
        ingress: &Ingress,
        kept: &Kept,
        key: Option<Arc<Key>>,
    ) -> Result<Option<Room>, Error> {
        if key.is_none() && !items.iter().any(Item::has_intent) {
            return Ok(None);
        }
        let about = kept.about();
        let own = key.as_ref().map(|key| (key.begin_bytes(about), Key::ANSWER_BYTES));
        let (mut begin, mut answer) = own.unwrap_or_default();
        for item in items.iter().filter(|item| item.has_intent()) {
            begin += item.owed.bytes(Some(about));
            answer += item.permit.bytes() + GROWTH;
        }
        match begin {
            0 => Ok(None),
            _ => ingress.reserve(begin, answer, key).map(Some).map_err(refused),
        }
    }
}

// === impl Item ===

impl Item {
    fn new(
        publication: &Arc<Publication>,
        origin: Origin<'_>,
        id: Uuid,
        of: (&request::Parts, &Context),
        (body, json): (&Bytes, Option<&Value>),
    ) -> Result<Self, Error> {
        let Publication { settings, target, .. } = &**publication;
        let (parts, cx) = of;
        let has_keys = settings.has_early_keys() && settings.has_keys();
        let input = has_keys.then(|| Input { body: json, ..Input::new(parts, cx) });
        let keys = input.as_ref().map(|input| Keys::of(settings, input, usize::MAX));
        let keys = keys.unwrap_or_default();
        if settings.is_key_required && keys.key.is_none() {
            return Err(Kind::Queue(QueueFault::KeyMissing).into());
        }
        let limit = target.max_event_bytes();
        let has_both = settings.data == Data::Both;
        let content = publication.content(has_both, body, &parts.headers);
        let payload = match settings.data {
            Data::Request => publication.request_payload(body, &parts.headers),
            data => making::early_payload(data, content.as_ref()),
        };
        let texts = Texts::new(id, origin, of);
        let event = making::of_request(settings, origin, &texts, cx, &keys, payload);
        let waits = publication.waits.as_ref().map(|waits| waits.end());
        let owed = Owed::preset(target.id(), target.end(), waits, (&publication.preset, event));
        let encoded = owed.record().encoded_bytes() as u64;
        // Encoded it is larger than by itself.
        let is_within = encoded <= limit || owed.event().bytes() as u64 <= limit;
        let bytes = owed.bytes(None);
        if !is_within || owed.record().check().is_err() {
            return Err(Kind::Queue(QueueFault::TooLarge).into());
        }
        let late_keys = if settings.has_early_keys() { 0 } else { 3 * LATE_KEY_BYTES as u64 };
        let grown = if settings.data.has_response() { limit.max(bytes) } else { bytes };
        let wanted = grown + GROWTH + late_keys + uncertain_kind_bytes(&settings.kind);
        let permit = publication.way().permit(Purpose::Publish, wanted).map_err(refused)?;
        Ok(Self {
            publication: publication.clone(),
            number: origin.number,
            id,
            owed: Box::new(owed),
            permit,
            content,
            is_uncertain: false,
        })
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.publication.settings
    }

    /// Whether it is appended before the request is sent.
    pub(super) fn comes_first(&self) -> bool {
        self.settings().mode == Mode::Before
    }

    /// Whether it is recorded before the request is sent, and again with the answer.
    pub(super) fn has_intent(&self) -> bool {
        let settings = self.settings();
        settings.has_intent && settings.mode == Mode::After && settings.ack == Ack::Durable
    }
}

// === impl Kept ===

impl Kept {
    pub(super) fn about(&self) -> About<'_> {
        About { method: self.cx.method().as_str(), target: &self.target, digest: self.digest }
    }
}

/// The request's idempotency key.
pub(super) fn key_of(cx: &Context) -> Option<Arc<Key>> {
    cx.rider().and_then(|rider| rider.clone().downcast().ok())
}

/// The normalised target of a request.
fn target_of(parts: &request::Parts, cx: &Context) -> String {
    cx.target().map_or_else(
        || parts.uri.path().to_owned(),
        |target| target.path_and_query(true).to_string(),
    )
}

fn sha256(bytes: &Bytes) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}
