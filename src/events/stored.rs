//! Converts events to records of a log and back; every attribute survives unchanged.

use bytes::Bytes;

use crate::events::{
    event::{Attribute, Event, EventRef},
    queue::codec::{Draft, Fields, FieldsBuilder, Flags, Kind, Record, Tag, Value},
};

/// The record of an event, to be appended.
pub fn draft(event: EventRef<'_>) -> Draft {
    let texts = [
        (Tag::ID, Some(event.id)),
        (Tag::SOURCE, Some(event.source)),
        (Tag::TYPE, Some(event.kind)),
        (Tag::SUBJECT, event.subject),
        (Tag::TIME, event.time),
        (Tag::CONTENT_TYPE, event.content_type),
        (Tag::CORRELATION, event.correlation),
        (Tag::CAUSATION, event.causation),
        (Tag::TRACE_PARENT, event.trace_context),
        (Tag::PRINCIPAL, event.principal),
    ];
    let texts = texts.iter().filter_map(|(tag, text)| Some((*tag, (*text)?)));
    let depth = (event.depth > 0).then_some(u32::from(event.depth));
    let numbers = [event.expiry.map(|_| size_of::<u64>()), depth.map(|_| size_of::<u32>())];
    let lengths = texts.clone().map(|(_, text)| text.len()).chain(numbers.into_iter().flatten());
    // Exact if there are no attributes: spare capacity would cost another allocation.
    let mut fields = Fields::with_room(lengths.map(Fields::bytes_of).sum());
    for (tag, text) in texts {
        fields = fields.field(tag, text.as_bytes());
    }
    fields = fields.maybe(event.expiry, FieldsBuilder::expiry).maybe(depth, FieldsBuilder::depth);
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
