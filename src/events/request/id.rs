//! The ID of a stored request: it encodes where the request is, and proves that this store issued
//! it.
//!
//! `base32(version, store, topic, route, partition, offset, time, secret, MAC)`. The record is
//! found without an index, and so is the route whose `auth` applies, before anything is read. An ID
//! cannot be guessed: 96 bits are random and repeated in the record, and the MAC (HMAC-SHA256 under
//! the store's secret, RFC 2104, cut to 80 bits) keeps guessers from causing reads. Store and topic
//! are represented by their last bits, which are random in every UUID they have, the route by a
//! hash of its name: enough to tell those of one gateway apart, and the record is compared as well.

use std::fmt;

use aws_lc_rs::{constant_time::verify_slices_are_equal, digest, hmac};
use uuid::Uuid;

use super::base32;
use crate::events::queue::{LogId, Offset, StoreId};

/// Random bytes in each ID and its record.
pub const SECRET_BYTES: usize = 12;
/// Version of the ID's form.
const VERSION: u8 = 1;
/// Bytes of the MAC.
const MAC: usize = 10;
/// All bytes before the MAC.
const SAID: usize = 1 + STORE + TOPIC + ROUTE + 2 + 8 + 6 + SECRET_BYTES;
/// Bytes that represent the store, the topic and the route.
const STORE: usize = 6;
const TOPIC: usize = 5;
const ROUTE: usize = 5;
/// Length of the text. A multiple of 5 bytes is encoded, so each ID has exactly one text.
const TEXT: usize = (SAID + MAC) / 5 * 8;
/// Domain separation: another use of the secret gives other bytes.
const PURPOSE: &[u8] = b"sluice request 1";

/// The position of a stored request: its identity inside the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The topic.
    pub topic: LogId,
    /// The record.
    pub offset: Offset,
}

/// The public ID of a stored request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// See [`RequestId::is_of`].
    topic: [u8; TOPIC],
    /// The route that accepted it.
    pub route: RouteTag,
    /// The partition.
    pub partition: u16,
    /// The record.
    pub offset: Offset,
    /// When it was stored, in milliseconds since 1970, as its record says.
    pub time: u64,
    /// The random bytes in its record.
    pub secret: [u8; SECRET_BYTES],
}

/// Represents the name of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteTag([u8; ROUTE]);

/// A text that is not a request ID of this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnId {
    /// No gateway has issued it.
    #[error("this is no ID of a request")]
    Malformed,
    /// Another store has issued it: the client asks the wrong gateway.
    #[error("this ID was given out by another gateway")]
    OtherStore,
}

/// Creates and reads the IDs of one store.
#[derive(Clone)]
pub struct RequestIds {
    key: hmac::Key,
    store: [u8; STORE],
}

// === impl RequestId ===

impl RequestId {
    /// For the record at `place`, stored at `time`.
    pub fn new(
        Place { topic, offset }: Place,
        partition: u16,
        route: RouteTag,
        (time, secret): (u64, [u8; SECRET_BYTES]),
    ) -> Self {
        Self { topic: end_of(topic.0), route, partition, offset, time, secret }
    }

    /// Whether its record may be in this topic.
    pub fn is_of(&self, topic: LogId) -> bool {
        self.topic == end_of(topic.0)
    }
}

// === impl RouteTag ===

impl RouteTag {
    /// For the route of this name.
    pub fn of(name: &str) -> Self {
        let hash = digest::digest(&digest::SHA256, name.as_bytes());
        Self(hash.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

// === impl RequestIds ===

impl RequestIds {
    /// For the store with this secret.
    pub fn new(store: StoreId, secret: &[u8]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), store: end_of(store.0) }
    }

    /// The text of an ID.
    pub fn text(&self, id: &RequestId) -> String {
        let mut bytes = Vec::with_capacity(SAID + MAC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.store);
        bytes.extend_from_slice(&id.topic);
        bytes.extend_from_slice(&id.route.0);
        bytes.extend_from_slice(&id.partition.to_be_bytes());
        bytes.extend_from_slice(&id.offset.0.to_be_bytes());
        bytes.extend_from_slice(&id.time.to_be_bytes()[2..]);
        bytes.extend_from_slice(&id.secret);
        let mac = self.mac(&bytes);
        bytes.extend_from_slice(&mac.as_ref()[..MAC]);
        base32::encode(&bytes)
    }

    /// Reads an ID, if this store has issued it.
    pub fn read(&self, text: &str) -> Result<RequestId, NotAnId> {
        if text.len() != TEXT {
            return Err(NotAnId::Malformed);
        }
        let bytes = base32::decode(text).ok_or(NotAnId::Malformed)?;
        self.read_bytes(&bytes).ok_or(NotAnId::Malformed)?
    }

    fn read_bytes(&self, bytes: &[u8]) -> Option<Result<RequestId, NotAnId>> {
        let (said, mac) = bytes.split_at_checked(SAID)?;
        let (version, rest) = said.split_first()?;
        if *version != VERSION {
            return None;
        }
        let (store, rest) = rest.split_first_chunk()?;
        if *store != self.store {
            return Some(Err(NotAnId::OtherStore));
        }
        let own = self.mac(said);
        // In constant time: otherwise a MAC could be guessed byte by byte.
        verify_slices_are_equal(&own.as_ref()[..MAC], mac).ok()?;
        let (topic, rest) = rest.split_first_chunk()?;
        let (route, rest) = rest.split_first_chunk()?;
        let (partition, rest) = rest.split_first_chunk()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (time, secret) = rest.split_first_chunk::<6>()?;
        let mut millis = [0; 8];
        millis[2..].copy_from_slice(time);
        Some(Ok(RequestId {
            topic: *topic,
            route: RouteTag(*route),
            partition: u16::from_be_bytes(*partition),
            offset: Offset(u64::from_be_bytes(*offset)),
            time: u64::from_be_bytes(millis),
            secret: secret.try_into().ok()?,
        }))
    }

    fn mac(&self, said: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(PURPOSE);
        context.update(said);
        context.sign()
    }
}

impl fmt::Debug for RequestIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestIds").finish_non_exhaustive()
    }
}

fn end_of<const N: usize>(uuid: Uuid) -> [u8; N] {
    uuid.as_bytes().last_chunk().copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOPIC: LogId = LogId(Uuid::from_u128(0x0197_0000_0000_7000_8123_4567_89ab_cdef));

    fn ids(store: u128) -> RequestIds {
        RequestIds::new(StoreId(Uuid::from_u128(store)), b"0123456789abcdef")
    }

    fn id() -> RequestId {
        let place = Place { topic: TOPIC, offset: Offset(77) };
        RequestId::new(place, 3, RouteTag::of("orders"), (1_785_000_000_000, *b"twelve bytes"))
    }

    #[test]
    fn an_id_stands_for_its_record_in_its_store_only() {
        let text = ids(1).text(&id());
        assert_eq!(ids(1).read(&text), Ok(id()));
        assert!(id().is_of(TOPIC) && !id().is_of(LogId(Uuid::from_u128(1))));
        assert_eq!(ids(2).read(&text), Err(NotAnId::OtherStore));
        let same_name = RequestIds::new(StoreId(Uuid::from_u128(1)), b"another secret..");
        assert_eq!(same_name.read(&text), Err(NotAnId::Malformed));
        assert_eq!(text, GOLDEN, "on the wire");
    }

    const GOLDEN: &str =
        "aeaaaaaaaaawpcnlzxxryfuk3maaaayaaaaaaaaaabgqdh42jj5aa5dxmvwhmzjamj4xizltef2frvm7ufmqjuty";

    #[test]
    fn routes_are_told_apart() {
        assert_eq!(id().route, RouteTag::of("orders"));
        assert_ne!(id().route, RouteTag::of("order"));
    }

    #[test]
    fn a_changed_id_stands_for_nothing() {
        let bytes = base32::decode(&ids(1).text(&id())).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ids(1).read(&base32::encode(&changed)).is_err(), "{bit}");
        }
        let text = ids(1).text(&id());
        for other in [&text[1..], "", &text.to_uppercase(), &format!("{text}a"), &"a".repeat(999)] {
            assert_eq!(ids(1).read(other), Err(NotAnId::Malformed), "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_just_no_id(text in "[a-z2-7]{88}|.*") {
            prop_assert!(ids(1).read(&text).is_err());
        }

        #[test]
        fn what_is_made_is_read(
            offset: u64, partition: u16, time in 0..1_u64 << 48, secret: [u8; SECRET_BYTES]
        ) {
            let place = Place { topic: TOPIC, offset: Offset(offset) };
            let id = RequestId::new(place, partition, RouteTag::of("a"), (time, secret));
            prop_assert_eq!(ids(1).read(&ids(1).text(&id)), Ok(id));
        }
    }
}
