//! A request as a record of a topic, and back. Pure.
//!
//! It is also an event for those who look at the topic from outside: with an ID, a source, the type
//! [`TYPE`] and the body as its data. What it takes to send it is in fields of its own, as they were to
//! go upstream: the target after `rewrite`, the fields after `request_headers`, `Host` only where the
//! route keeps it.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{self, CONTENT_TYPE},
    uri::PathAndQuery,
};

use super::{
    RequestId,
    id::{Place, RouteTag, SECRET_BYTES},
};
use crate::{
    events::queue::codec::{Draft, Fields, FieldsBuilder, Flags, HashKey, Kind, Record, Role, Tag},
    http::is_repeatable,
};

/// CloudEvents `type` of a stored request.
pub const TYPE: &str = "sluice.request";

// Numbers are on disk: none is ever given another meaning.
const METHOD: Tag = Tag(1100);
const TARGET: Tag = Tag(1101);
/// Name, 0, value; any number of them.
const FIELD: Tag = Tag(1102);
const SECRET: Tag = Tag(1103);
const ROUTE: Tag = Tag(1104);
const PRINCIPAL: Tag = Tag(1105);
/// Milliseconds since 1970, u64.
const STATUS_UNTIL: Tag = Tag(1106);
/// The upstream honours the key: it may be sent again.
const REDELIVER: Tag = Tag(1107);
/// The name of the field of the key, where it is not `idempotency-key`.
const KEY_FIELD: Tag = Tag(1108);

/// Who sent a request, as far as it takes to know him again: a hash under the store's secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 16]);

/// A request that is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRequest {
    /// Its method.
    pub method: Method,
    /// What is asked for.
    pub target: PathAndQuery,
    /// Its fields, without credentials and framing. `Host` is there only if it is to be sent as it is.
    pub headers: HeaderMap,
    /// All of it.
    pub body: Bytes,
    /// The order domain.
    pub key: Option<Bytes>,
    /// What makes two requests the same one; `None`: nothing does.
    pub dedup_key: Option<Bytes>,
    /// The route that took it.
    pub route: Box<str>,
    /// CloudEvents `source`.
    pub source: Box<str>,
    /// Who sent it.
    pub principal: Fingerprint,
    /// What its ID has of chance.
    pub secret: [u8; SECRET_BYTES],
    /// When it was stored, in milliseconds since 1970.
    pub time: u64,
    /// How long its status can be asked for, in milliseconds since 1970.
    pub status_until: u64,
    /// Its upstream honours the key: what may have been seen is sent again.
    pub may_redeliver: bool,
    /// The field that has the key.
    pub key_field: HeaderName,
}

/// A record that is no stored request, or one that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no stored request: {0}")]
pub struct NotARequest(&'static str);

// === impl Fingerprint ===

impl Fingerprint {
    /// Of the principal of this name; empty without auth.
    pub fn of(hash_key: &HashKey, name: &str) -> Self {
        Self(hash_key.hash(Role::Principal, &[name.as_bytes()]).to_le_bytes())
    }
}

// === impl StoredRequest ===

impl StoredRequest {
    /// The record that is to be appended.
    pub fn draft(&self) -> Draft {
        let text =
            |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let mut fields = Fields::builder()
            .id(&self.event_id())
            .source(&self.source)
            .event_type(TYPE)
            .field(METHOD, self.method.as_str().as_bytes())
            .field(TARGET, self.target.as_str().as_bytes())
            .field(SECRET, &self.secret)
            .field(ROUTE, self.route.as_bytes())
            .field(PRINCIPAL, &self.principal.0)
            .field(STATUS_UNTIL, &self.status_until.to_le_bytes())
            .maybe(text(CONTENT_TYPE.as_str()), FieldsBuilder::content_type)
            .maybe(text("traceparent"), FieldsBuilder::trace_parent)
            .maybe(self.may_redeliver.then_some([1]), |fields, it| fields.field(REDELIVER, &it));
        if self.key_field != default_key_field() {
            fields = fields.field(KEY_FIELD, self.key_field.as_str().as_bytes());
        }
        for (name, value) in &self.headers {
            let field = [name.as_str().as_bytes(), b"\0", value.as_bytes()].concat();
            fields = fields.field(FIELD, &field);
        }
        let mut draft = Draft::new(Kind::Request, fields.build(), self.body.clone());
        draft.key.clone_from(&self.key);
        draft.dedup.clone_from(&self.dedup_key);
        draft.published = Some(self.time);
        if self.body.is_empty() {
            draft.flags = Flags::NO_DATA;
        }
        draft
    }

    /// The request in a record. `own` makes its bytes last, with or without a copy.
    pub fn read(record: &Record<'_>, own: impl Fn(&[u8]) -> Bytes) -> Result<Self, NotARequest> {
        if record.kind() != Kind::Request {
            return Err(NotARequest("it is of another kind"));
        }
        let method = record.field(METHOD).and_then(|it| Method::from_bytes(it).ok());
        let target = record.text(TARGET).and_then(|it| it.parse().ok());
        let key_field = match record.field(KEY_FIELD) {
            Some(name) => HeaderName::from_bytes(name).ok(),
            None => Some(default_key_field()),
        };
        let number = |tag| record.field(tag)?.try_into().ok().map(u64::from_le_bytes);
        let bytes = |tag| record.field(tag);
        let secret = bytes(SECRET).and_then(|it| it.try_into().ok());
        let principal = bytes(PRINCIPAL).and_then(|it| it.try_into().ok()).map(Fingerprint);
        Ok(Self {
            method: method.ok_or(NotARequest("it has no method"))?,
            target: target.ok_or(NotARequest("it has no target"))?,
            headers: headers(record)?,
            body: own(record.body()),
            key: record.key().map(&own),
            dedup_key: record.dedup_key().map(&own),
            route: record.text(ROUTE).ok_or(NotARequest("it has no route"))?.into(),
            source: record.source().unwrap_or_default().into(),
            principal: principal.ok_or(NotARequest("nobody has sent it"))?,
            secret: secret.ok_or(NotARequest("it has no secret"))?,
            time: record.published(),
            status_until: number(STATUS_UNTIL).ok_or(NotARequest("its status has no end"))?,
            may_redeliver: bytes(REDELIVER).is_some_and(|it| it == [1]),
            key_field: key_field.ok_or(NotARequest("its key has no field"))?,
        })
    }

    /// What it is called, at its place.
    pub fn id(&self, place: Place, partition: u16) -> RequestId {
        let route = RouteTag::of(&self.route);
        RequestId::new(place, partition, route, (self.time, self.secret))
    }

    /// What it is called as an event: constant, and not enough to ask for it.
    pub fn event_id(&self) -> String {
        let hash = digest::digest(&digest::SHA256, &self.secret);
        let mut id = String::with_capacity(32);
        for byte in &hash.as_ref()[..16] {
            // Writing to a string does not fail.
            write!(id, "{byte:02x}").ok();
        }
        id
    }

    /// Gives an unsafe request that has none the key that is the same however often it is sent: the text
    /// of its ID. Quoted, as the field has it.
    pub fn put_key(&mut self, id: &str) {
        if !is_repeatable(&self.method)
            && !self.headers.contains_key(&self.key_field)
            && let Ok(key) = HeaderValue::from_str(&format!("\"{id}\""))
        {
            self.headers.insert(self.key_field.clone(), key);
        }
    }
}

/// `Idempotency-Key`.
fn default_key_field() -> HeaderName {
    HeaderName::from_static("idempotency-key")
}

fn headers(record: &Record<'_>) -> Result<HeaderMap, NotARequest> {
    let mut headers = HeaderMap::new();
    for field in record.fields().filter(|field| field.tag == FIELD) {
        let bad = NotARequest("a field of it is none");
        let at = field.value.iter().position(|byte| *byte == 0).ok_or(bad)?;
        let name = HeaderName::from_bytes(&field.value[..at]).map_err(|_| bad)?;
        let value = HeaderValue::from_bytes(&field.value[at + 1..]).map_err(|_| bad)?;
        headers.try_append(name, value).map_err(|_| bad)?;
    }
    Ok(headers)
}

/// Fields that are not stored unless the route names them: whoever can read the disk could be whoever
/// sent them.
pub const CREDENTIALS: [HeaderName; 3] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::events::queue::{
        LogId, Offset, StoreId,
        codec::{Closing, FrameWriter, Stamp, parse_frame},
    };

    const EPOCH: u64 = 9;

    fn full() -> StoredRequest {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "application/json"),
            ("accept", "a"),
            ("accept", "b"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-latin", HeaderValue::from_bytes(b"\xe9").unwrap());
        StoredRequest {
            method: Method::POST,
            target: PathAndQuery::from_static("/orders?a=1"),
            headers,
            body: Bytes::from_static(b"{\"n\":1}"),
            key: Some(Bytes::from_static(b"customer\xff")),
            dedup_key: Some(Bytes::from_static(b"d")),
            route: "take-orders".into(),
            source: "/sluice/a/take-orders".into(),
            principal: Fingerprint::of(&HashKey([7; 16]), "shop:alice"),
            secret: *b"twelve bytes",
            time: 1_785_000_000_000,
            status_until: 1_785_086_400_000,
            may_redeliver: true,
            key_field: HeaderName::from_static("x-key"),
        }
    }

    fn bare() -> StoredRequest {
        StoredRequest {
            method: Method::DELETE,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            key: None,
            dedup_key: None,
            may_redeliver: false,
            key_field: default_key_field(),
            ..full()
        }
    }

    fn frame(drafts: &[Draft]) -> Vec<u8> {
        let mut writer = FrameWriter::new();
        writer.begin(EPOCH, Offset(4));
        for draft in drafts {
            writer.push(draft, Stamp { generation: 1, partition: 2, published: 3 }).unwrap();
        }
        let closing = Closing { previous_crc: 0, durable: Offset(4), wall: 1, mono: 1 };
        writer.finish(&closing).bytes.to_vec()
    }

    fn read(bytes: &[u8]) -> Vec<Result<StoredRequest, NotARequest>> {
        let frame = parse_frame(bytes, EPOCH, Offset(4)).unwrap();
        let records = frame.records().map(|(_, record)| record.unwrap());
        records.map(|it| StoredRequest::read(&it, Bytes::copy_from_slice)).collect()
    }

    #[test]
    fn every_part_comes_back_as_it_went_in() {
        let all = [full(), bare()];
        let drafts: Vec<_> = all.iter().map(StoredRequest::draft).collect();
        assert_eq!(read(&frame(&drafts)), all.map(Ok));
    }

    /// `SLUICE_GOLDEN=write` writes it: only ever for a format that has not been released.
    #[test]
    fn what_is_on_disk_is_read_and_written_the_same_for_ever() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/events/request/golden/requests");
        let bytes = frame(&[full().draft(), bare().draft()]);
        if std::env::var("SLUICE_GOLDEN").is_ok_and(|it| it == "write") {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap();
        assert!(golden == bytes, "it is not what it was: stored requests cannot be read");
        assert_eq!(read(&golden), [Ok(full()), Ok(bare())]);
    }

    #[test]
    fn from_outside_it_is_an_event_whose_id_is_not_enough_to_ask_for_it() {
        let bytes = frame(&[full().draft()]);
        let frame = parse_frame(&bytes, EPOCH, Offset(4)).unwrap();
        let record = frame.records().next().unwrap().1.unwrap();
        assert_eq!(record.event_type(), Some(TYPE));
        assert_eq!(record.source(), Some("/sluice/a/take-orders"));
        assert_eq!(record.content_type(), Some("application/json"));
        assert!(record.trace_context().is_some());
        assert_eq!(record.id(), Some("d4ce2c527afe674c7a086bd74e256019"));
    }

    #[test]
    fn a_record_that_lacks_something_is_no_request() {
        assert!(read(&frame(&[Draft { kind: Kind::Event, ..full().draft() }]))[0].is_err());
        let all = full().draft().fields;
        for gone in [METHOD, TARGET, SECRET, ROUTE, PRINCIPAL, STATUS_UNTIL] {
            let kept = all.iter().filter(|field| field.tag != gone);
            let fields = kept.fold(Fields::builder(), |all, it| all.field(it.tag, it.value));
            let draft = Draft { fields: fields.build(), ..full().draft() };
            assert!(read(&frame(&[draft]))[0].is_err(), "{gone:?}");
        }
    }

    #[test]
    fn an_unsafe_request_has_one_key_for_ever_and_the_clients_own_wins() {
        let place = Place { topic: LogId(uuid::Uuid::from_u128(1)), offset: Offset(4) };
        let ids = super::super::RequestIds::new(StoreId(uuid::Uuid::from_u128(2)), b"secret");
        let mut request = full();
        let id = ids.text(&request.id(place, 2));
        request.put_key(&id);
        assert_eq!(request.headers["x-key"], format!("\"{id}\""));
        let mut own = full();
        own.headers.insert("x-key", HeaderValue::from_static("mine"));
        own.put_key(&id);
        assert_eq!(own.headers["x-key"], "mine");
        let mut safe = bare();
        safe.put_key(&id);
        assert!(safe.headers.is_empty(), "DELETE may be repeated without");
    }

    #[test]
    fn principals_are_told_apart() {
        let of = |key: u8, name| Fingerprint::of(&HashKey([key; 16]), name);
        assert_eq!(of(1, "shop:alice"), of(1, "shop:alice"));
        for other in [of(1, "shop:bob"), of(1, ""), of(2, "shop:alice")] {
            assert_ne!(of(1, "shop:alice"), other);
        }
    }

    proptest! {
        #[test]
        fn any_fields_never_panic(
            fields in prop::collection::vec((1100..1109_u16, prop::collection::vec(any::<u8>(), 0..20)), 0..12)
        ) {
            let fields = fields.iter().fold(full().draft().fields.iter().fold(
                Fields::builder(), |all, it| all.field(it.tag, it.value),
            ), |all, (tag, value)| all.field(Tag(*tag), value));
            let draft = Draft { fields: fields.build(), ..full().draft() };
            let _ = read(&frame(&[draft]));
        }
    }
}
