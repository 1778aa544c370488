//! The first bytes of a connection, all of them and as they come in.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::listener::proxy_protocol::{Decoded, MAX_HEADER, decode};

fuzz_target!(|data: &[u8]| {
    let whole = decode(data);
    if let Decoded::Header { length, .. } = whole {
        assert!(length <= data.len() && length <= MAX_HEADER);
        // What follows is the client's and changes nothing.
        assert_eq!(decode(&data[..length]), whole);
    }
    // Whatever was said of fewer bytes still holds when more have come, and no more than a header's
    // bytes are waited for.
    let last = data.len().min(MAX_HEADER);
    for end in [1, 6, 12, 13, 16, 28, 52, 107, last / 2, last] {
        let Some(start) = data.get(..end) else { continue };
        match decode(start) {
            Decoded::Incomplete => assert!(end < MAX_HEADER),
            told => assert_eq!(told, whole),
        }
    }
});
