//! What is behind a record's checksum: an event, a stored request, a dead letter, the records of
//! requests. Whoever writes these is this program; what reads them must not rely on it.
//!
//! Records one after the other: kind, then fields (which, length, value) until one of length 255, then
//! the body (length, bytes).

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use sluicegate::events::{
    delivery::dead_letter::{self, Death},
    ingress,
    queue::{
        Offset,
        codec::{Closing, Draft, Fields, FrameWriter, Kind, Record, Stamp, Tag, parse_frame},
    },
    request::StoredRequest,
    stored,
};

const KINDS: [Kind; 6] =
    [Kind::Event, Kind::Request, Kind::Intent, Kind::Answer, Kind::Outcome, Kind::Control];
const EPOCH: u64 = 9;
const MAX_RECORDS: usize = 64;

/// The first bytes of what is left, as many as it has.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = bytes.split_at(count.min(bytes.len()));
    *bytes = rest;
    taken
}

fn byte(bytes: &mut &[u8]) -> u8 {
    take(bytes, 1).first().copied().unwrap_or_default()
}

/// Below 20 the fields of all records, above those that kinds of records have of their own.
fn tag(number: u8) -> Tag {
    match number {
        0..20 => Tag(number.into()),
        _ => Tag(Tag::FIRST_FREE.0 + u16::from(number - 20)),
    }
}

fn draft(bytes: &mut &[u8]) -> Draft {
    let kind = KINDS[usize::from(byte(bytes)) % KINDS.len()];
    let mut fields = Fields::builder();
    while !bytes.is_empty() {
        let (which, length) = (byte(bytes), byte(bytes));
        if length == u8::MAX {
            break;
        }
        fields = fields.field(tag(which), take(bytes, length.into()));
    }
    let length = byte(bytes);
    Draft::new(kind, fields.build(), Bytes::copy_from_slice(take(bytes, length.into())))
}

fn ask(record: &Record<'_>) {
    let own = Bytes::copy_from_slice;
    let event = stored::event(record, own);
    assert!(event.data.len() <= record.encoded_bytes());
    let _ = stored::draft(&event);
    if let Ok(request) = StoredRequest::read(record, own) {
        let _ = (request.event_id(), request.draft());
    }
    if let Ok(death) = Death::read(record) {
        let _ = death.draft(record.to_draft());
    }
    let _ = dead_letter::event(record);
}

fuzz_target!(|data: &[u8]| {
    let mut rest = data;
    let mut writer = FrameWriter::new();
    writer.begin(EPOCH, Offset(100));
    for _ in 0..MAX_RECORDS {
        if rest.is_empty() {
            break;
        }
        let stamp = Stamp { generation: 0, partition: 0, published: 3 };
        if writer.push(&draft(&mut rest), stamp).is_err() {
            return;
        }
    }
    let closing = Closing { previous_crc: 0, durable: Offset(100), wall: 1, mono: 1 };
    let bytes = writer.finish(&closing).bytes.to_vec();
    let Ok(frame) = parse_frame(&bytes, EPOCH, Offset(100)) else { return };
    for (_, record) in frame.records() {
        if let Ok(record) = record {
            ask(&record);
        }
    }
    let whole = frame.records().filter_map(|(offset, record)| Some((offset, record.ok()?)));
    let _ = ingress::examine(whole);
});
