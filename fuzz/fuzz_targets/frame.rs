//! A frame and its records, found in the bytes and at the beginning of them.

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

/// The number where a frame has it: so a file that is a frame is a seed.
fn number(bytes: &[u8], at: usize) -> u64 {
    let number = bytes.get(at..).and_then(|rest| rest.first_chunk().copied());
    u64::from_le_bytes(number.unwrap_or_default())
}

fuzz_target!(|bytes: &[u8]| {
    let (epoch, base) = (number(bytes, 16), Offset(number(bytes, 24)));
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
