//! Fields of a request that are read before anybody is known: who the client is, an idempotency key, how
//! long to wait.

#![no_main]

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use sluicegate::http::{
    Cidrs, ClientIp, Peer, hop_by_hop, idempotency, peer::Address, retry_after::retry_after,
};

const NAMES: [&str; 6] =
    ["x-forwarded-for", "forwarded", "connection", "idempotency-key", "retry-after", "te"];

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    for (line, name) in data.split(|byte| *byte == b'\n').zip(NAMES.into_iter().cycle()) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let address = Address::Inet(SocketAddr::from(([127, 0, 0, 1], 1)));
    let mut peer = Peer::new(Arc::from("a"), address.clone(), address);
    peer.trusted = true;
    let trusted = Cidrs::new(["127.0.0.0/8".parse().expect("a network")]);
    let _ = ClientIp::find(&peer, &headers, &trusted).limiter_key();
    let _ = idempotency::key(&headers, &HeaderName::from_static("idempotency-key"));
    if let Some(value) = headers.get("retry-after") {
        let _ = retry_after(value, SystemTime::UNIX_EPOCH);
    }
    hop_by_hop::strip(&mut headers);
});
