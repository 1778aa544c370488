//! Delivery state: the steps of the journal, the state of a subscription, a snapshot.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::events::delivery::{journal, snapshot::Snapshot};

fuzz_target!(|data: &[u8]| {
    let _ = journal::decode(data);
    let _ = journal::decode_state(data);
    let _ = Snapshot::decode(data);
});
