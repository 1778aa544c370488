//! What a client proves itself with, and what it was handed out: tokens, key sets, lease tokens, IDs of
//! stored requests.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::{
    events::{
        delivery::lease::Tokens,
        queue::StoreId,
        request::RequestIds,
    },
    http::webhook::SigningKey,
    middleware::auth::{
        algorithm::Algorithms,
        jwt::{Jws, Token},
        keys::KeySet,
    },
};
use uuid::Uuid;

fuzz_target!(|data: &[u8]| {
    let _ = SigningKey::parse(data);
    if let Ok(set) = KeySet::parse(data, Algorithms::RSA) {
        assert!(set.keys().len() + set.skipped().len() <= data.len());
    }
    let Ok(text) = str::from_utf8(data) else { return };
    let keys = KeySet::secret(&[7; 32], Algorithms::HMAC);
    if let Ok(token) = Token::decode(text) {
        let _ = (token.issuer(), token.kid());
    }
    if let Ok(jws) = Jws::decode(text) {
        let _ = jws.verify(Algorithms::HMAC, &keys);
    }
    let id = Uuid::from_u128(1);
    let _ = Tokens::new(&[7; 32], id).check(text);
    let _ = RequestIds::new(StoreId(id), &[7; 32]).read(text);
});
