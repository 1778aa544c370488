//! A frame and its records: the first 16 bytes are the epoch and the offset that are expected.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::events::queue::{
    Offset,
    codec::{Record, find_frame, parse_frame, parse_head},
};

fn ask(record: &Record<'_>) {
    let _ = (record.id(), record.source(), record.event_type(), record.subject(), record.time());
    let _ = (record.not_before(), record.expiry(), record.depth(), record.cause());
    let _ = (record.correlation(), record.causation(), record.principal(), record.dedup_key());
    let _ = (record.trace_context(), record.trace_state(), record.content_type());
    let copy = record.to_draft();
    assert!(copy.encoded_bytes() <= record.encoded_bytes() + 64);
    let _ = record.attributes().count();
}

fuzz_target!(|data: &[u8]| {
    let Some((numbers, bytes)) = data.split_first_chunk::<16>() else { return };
    let epoch = u64::from_le_bytes(numbers[..8].try_into().unwrap_or_default());
    let base = Offset(u64::from_le_bytes(numbers[8..].try_into().unwrap_or_default()));
    let _ = parse_head(bytes, epoch);
    let _ = find_frame(bytes, epoch, base);
    if let Ok(frame) = parse_frame(bytes, epoch, base) {
        let _ = frame.verify();
        for (_, record) in frame.records() {
            if let Ok(record) = record {
                ask(&record);
            }
        }
    }
});
