//! Converts events to records of a log and back; every attribute survives unchanged.

use bytes::Bytes;

use crate::events::{
    event::{Attribute, Event, EventRef},
    queue::codec::{Draft, Fields, FieldsBuilder, Flags, Kind, Record, Tag, Value},
};

/// Source and type of many events, encoded once.
#[derive(Clone, Debug)]
pub struct Preset(Fields);

/// The record of an event, to be appended.
pub fn draft(event: EventRef<'_>) -> Draft {
    let (source, kind) = (event.source, event.kind);
    let bytes = Fields::bytes_of(source.len()) + Fields::bytes_of(kind.len());
    draft_from(event, bytes, |fields| fields.source(source).event_type(kind))
}

/// The record of an event whose source and type, of this many bytes as fields, are put by `put_preset`.
fn draft_from(
    event: EventRef<'_>,
    preset_bytes: usize,
    put_preset: impl FnOnce(FieldsBuilder) -> FieldsBuilder,
) -> Draft {
    let depth = (event.depth > 0).then_some(u32::from(event.depth));
    let text = |text: Option<&str>| text.map_or(0, |text| Fields::bytes_of(text.len()));
    // Exact if there are no attributes: spare capacity would cost another allocation.
    let room = text(Some(event.id))
        + preset_bytes
        + text(event.subject)
        + text(event.time)
        + text(event.content_type)
        + text(event.correlation)
        + text(event.causation)
        + text(event.trace_context)
        + text(event.principal)
        + event.expiry.map_or(0, |_| Fields::bytes_of(size_of::<u64>()))
        + depth.map_or(0, |_| Fields::bytes_of(size_of::<u32>()));
    let put = |tag| move |fields: FieldsBuilder, text: &str| fields.field(tag, text.as_bytes());
    let mut fields = put_preset(Fields::with_room(room).id(event.id))
        .maybe(event.subject, put(Tag::SUBJECT))
        .maybe(event.time, put(Tag::TIME))
        .maybe(event.content_type, put(Tag::CONTENT_TYPE))
        .maybe(event.correlation, put(Tag::CORRELATION))
        .maybe(event.causation, put(Tag::CAUSATION))
        .maybe(event.trace_context, put(Tag::TRACE_PARENT))
        .maybe(event.principal, put(Tag::PRINCIPAL))
        .maybe(event.expiry, FieldsBuilder::expiry)
        .maybe(depth, FieldsBuilder::depth);
    for (name, value) in event.attributes {
        let value = match value {
            Attribute::Boolean(truth) => Value::Boolean(*truth),
            Attribute::Integer(number) => Value::Integer(*number),
            Attribute::Text(text) => Value::String(text),
        };
        fields = fields.attribute(name, value);
    }
    let flags = if event.data.is_empty() { Flags::NO_DATA } else { Flags::NONE };
    Draft {
        flags,
        key: event.key,
        dedup: event.dedup_key,
        not_before: event.not_before,
        ..Draft::new(Kind::Event, fields.build(), event.data)
    }
}

/// The event in a record to be appended.
pub fn event_of(draft: &Draft) -> Event {
    let mut fields = Vec::new();
    let read = event(&draft.as_record(&mut fields), |_| Bytes::new());
    // The large parts are shared.
    Event {
        key: draft.key.clone(),
        dedup_key: draft.dedup.clone(),
        data: draft.body.clone(),
        ..read
    }
}

/// The event in a record. `own` makes its bytes outlive the record, with or without a copy.
pub fn event(record: &Record<'_>, own: impl Fn(&[u8]) -> Bytes) -> Event {
    let text = |text: Option<&str>| text.map(str::to_owned);
    let attributes = record.attributes().map(|attribute| {
        let value = match attribute.value {
            Value::Boolean(truth) => Attribute::Boolean(truth),
            Value::Integer(number) => Attribute::Integer(number),
            Value::String(text) => Attribute::Text(text.to_owned()),
        };
        (attribute.name.to_owned(), value)
    });
    Event {
        id: record.id().unwrap_or_default().to_owned(),
        source: record.source().unwrap_or_default().to_owned(),
        kind: record.event_type().unwrap_or_default().to_owned(),
        subject: text(record.subject()),
        time: text(record.time()),
        content_type: text(record.content_type()),
        key: record.key().map(&own),
        dedup_key: record.dedup_key().map(&own),
        not_before: record.not_before(),
        expiry: record.expiry(),
        correlation: text(record.correlation()),
        causation: text(record.causation()),
        depth: record.depth().unwrap_or(0).try_into().unwrap_or(u8::MAX),
        principal: text(record.principal()),
        trace_context: text(record.trace_context()),
        attributes: attributes.collect(),
        data: own(record.body()),
    }
}

// === impl Preset ===

impl Preset {
    /// Of events with this source and type.
    pub fn new(source: &str, kind: &str) -> Self {
        let bytes = Fields::bytes_of(source.len()) + Fields::bytes_of(kind.len());
        Self(Fields::with_room(bytes).source(source).event_type(kind).build())
    }

    /// The record of an event of this preset; its own source and type do not count.
    pub fn draft(&self, event: EventRef<'_>) -> Draft {
        draft_from(event, self.0.as_bytes().len(), |fields| fields.all(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::queue::{
        Offset,
        codec::{Closing, FrameWriter, Stamp, parse_frame},
    };

    #[test]
    fn every_attribute_comes_back_as_it_went_in() {
        let text = |text: &str| Some(text.to_owned());
        let full = Event {
            id: "1".into(),
            source: "/shop".into(),
            kind: "order.created".into(),
            subject: text("7"),
            time: text("2026-11-26T10:00:00+01:00"),
            content_type: text("application/json"),
            key: Some(Bytes::from_static(b"customer\xff")),
            dedup_key: Some(Bytes::from_static(b"d")),
            not_before: Some(5),
            expiry: Some(6),
            correlation: text("c"),
            causation: text("b"),
            depth: 3,
            principal: text("shop:alice"),
            trace_context: text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            attributes: vec![
                ("zeta".into(), Attribute::Integer(-7)),
                ("alpha".into(), Attribute::Boolean(true)),
                ("mid".into(), Attribute::Text("\u{e9}".into())),
            ],
            data: Bytes::from_static(b"{\"n\":1}"),
        };
        let bare =
            Event { id: "2".into(), source: "/".into(), kind: "k".into(), ..Event::default() };
        for original in [full, bare] {
            let mut writer = FrameWriter::new();
            writer.begin(9, Offset(4));
            let stamp = Stamp { generation: 1, partition: 2, published: 3 };
            let written = draft(original.borrowed());
            let preset = Preset::new(&original.source, &original.kind);
            assert_eq!(preset.draft(original.borrowed()), written);
            assert_eq!(event_of(&written), original);
            writer.push(&written, stamp).unwrap();
            let closing = Closing { previous_crc: 0, durable: Offset(4), wall: 1, mono: 1 };
            let bytes = writer.finish(&closing).bytes.to_vec();
            let frame = parse_frame(&bytes, 9, Offset(4)).unwrap();
            let (_, record) = frame.records().next().unwrap();
            assert_eq!(event(&record.unwrap(), Bytes::copy_from_slice), original);
        }
    }
}
