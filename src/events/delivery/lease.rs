//! Lease tokens: a token names an attempt, and proves that this store issued it.
//!
//! `base64url(place, epoch, attempt, MAC)`; the MAC is HMAC-SHA256 (RFC 2104) under the store's
//! secret over the subscription and the fields before it. So tokens need no memory: one is valid,
//! across restarts too, while its attempt is the event's latest and the event is not settled.

use std::fmt;

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use super::{
    encoding::Encoding,
    subscription::{Place, Token},
};

/// Longer texts are not decoded.
const MAX_TEXT: usize = 128;
/// Bytes of the MAC.
const MAC: usize = 32;
/// Domain separation: another use of the secret gives other bytes.
const PURPOSE: &[u8] = b"sluice lease 1";

/// Makes and checks the tokens of one subscription.
#[derive(Clone)]
pub struct Tokens {
    key: hmac::Key,
    subscription: Uuid,
}

// === impl Tokens ===

impl Tokens {
    /// For a subscription of the store with this secret.
    pub fn new(secret: &[u8], subscription: Uuid) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), subscription }
    }

    /// The token text for an attempt.
    pub fn make(&self, token: &Token) -> String {
        let mut bytes = Vec::with_capacity(64);
        put(token, &mut bytes);
        let mac = self.mac(&bytes);
        bytes.extend_from_slice(mac.as_ref());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The attempt that a text stands for, if [`Tokens::make`] made it for this subscription.
    pub fn check(&self, text: &str) -> Option<Token> {
        if text.len() > MAX_TEXT {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (mut said, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC)?)?;
        hmac::verify(&self.key, &self.said(said), mac).ok()?;
        let token = take(&mut said)?;
        said.is_empty().then_some(token)
    }

    fn mac(&self, said: &[u8]) -> hmac::Tag {
        hmac::sign(&self.key, &self.said(said))
    }

    fn said(&self, said: &[u8]) -> Vec<u8> {
        [PURPOSE, self.subscription.as_bytes(), said].concat()
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

fn put(token: &Token, out: &mut Vec<u8>) {
    token.place.put(out);
    token.epoch.put(out);
    token.attempt.put(out);
}

fn take(bytes: &mut &[u8]) -> Option<Token> {
    let place = Place::take(bytes).ok()?;
    let epoch = u32::take(bytes).ok()?;
    let attempt = u32::take(bytes).ok()?;
    Some(Token { place, epoch, attempt })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::events::{
        delivery::subscription::{LaneId, Partition},
        queue::Offset,
    };

    fn tokens(subscription: u128) -> Tokens {
        Tokens::new(b"0123456789abcdef", Uuid::from_u128(subscription))
    }

    fn token(offset: u64) -> Token {
        let partition = Partition { generation: 1, number: 3 };
        let place = Place { lane: LaneId(2), partition, offset: Offset(offset) };
        Token { place, epoch: 4, attempt: 5 }
    }

    #[test]
    fn a_token_stands_for_its_attempt_in_its_subscription_only() {
        let text = tokens(1).make(&token(77));
        assert_eq!(tokens(1).check(&text), Some(token(77)));
        assert_eq!(tokens(2).check(&text), None, "another subscription's");
        let other = Tokens::new(b"another store's", Uuid::from_u128(1));
        assert_eq!(other.check(&text), None, "another store's");
        assert_eq!(text, "AgEDTQQFGJBjoIxwyCTBNe39_eTvBi92imwJaZW2vJKDVp5foaU", "on the wire");
    }

    #[test]
    fn a_changed_token_stands_for_nothing() {
        let text = tokens(1).make(&token(77));
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(tokens(1).check(&URL_SAFE_NO_PAD.encode(changed)), None, "{at}");
        }
        assert_eq!(tokens(1).check(&text[1..]), None);
        assert_eq!(tokens(1).check(&"A".repeat(1_000)), None);
        assert_eq!(tokens(1).check(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_just_no_token(text in ".*") {
            prop_assert_eq!(tokens(1).check(&text), None);
        }

        #[test]
        fn every_attempt_has_its_own_text(a: u64, b: u64) {
            let (first, second) = (tokens(1).make(&token(a)), tokens(1).make(&token(b)));
            prop_assert_eq!(first == second, a == b);
            prop_assert!(first.len() <= MAX_TEXT);
        }
    }
}
