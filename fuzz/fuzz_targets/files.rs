//! The head of a log file, CHECKPOINT, META, and what is derived from a log file.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::events::queue::codec::{Checkpoint, Fields, Index, KeysHead, Lookup, Meta, SegmentHeader};

fuzz_target!(|data: &[u8]| {
    let _ = SegmentHeader::decode(data);
    let _ = Checkpoint::decode(data);
    if let Ok(meta) = Meta::decode(data) {
        assert!(meta.topics.len() + meta.subscriptions.len() <= data.len());
    }
    if let Some(fields) = Fields::from_encoded(data.to_vec().into()) {
        assert!(fields.iter().map(|field| field.value.len()).sum::<usize>() <= data.len());
    }
    if let Ok(index) = Index::decode(data) {
        assert!(index.blocks().len() <= data.len());
    }
    if let Ok(head) = KeysHead::decode(data) {
        if let Some(section) = data.get(head.dedup_range()) {
            let _ = head.dedup(section);
        }
        let _ = head.find(Lookup::Correlation, 1 << 90, 100, |buffer, position| {
            let from = usize::try_from(position).unwrap_or(usize::MAX).min(data.len());
            let count = buffer.len().min(data.len() - from);
            buffer[..count].copy_from_slice(&data[from..from + count]);
            Ok(count)
        });
    }
});
