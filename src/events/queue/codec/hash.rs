//! Keyed hashes, which represent dedup keys, IDs and correlation IDs in tables and files.
//!
//! With a secret key, so that nobody who chooses IDs can choose which of them collide.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

/// The secret key of a store's hashes; stored in its META.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u8; 16]);

/// What is hashed: the same bytes in another role have another hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// An explicit dedup key.
    Dedup,
    /// Source and ID, without an explicit dedup key.
    SourceAndId,
    /// An ID.
    Id,
    /// A correlation ID.
    Correlation,
    /// Route, principal and idempotency key.
    Idempotency,
    /// The name of a principal.
    Principal,
}

// === impl HashKey ===

impl HashKey {
    /// SipHash-1-3 with 128 bits, over the role and the parts, each with its length.
    pub fn hash(&self, role: Role, parts: &[&[u8]]) -> u128 {
        let mut hasher = SipHasher13::new_with_key(&self.0);
        hasher.write_u8(role.number());
        for part in parts {
            hasher.write_u64(part.len() as u64);
            hasher.write(part);
        }
        hasher.finish128().as_u128()
    }
}

impl std::fmt::Debug for HashKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(..)")
    }
}

// === impl Role ===

impl Role {
    const fn number(self) -> u8 {
        match self {
            Self::Dedup => 1,
            Self::SourceAndId => 2,
            Self::Id => 3,
            Self::Correlation => 4,
            Self::Idempotency => 5,
            Self::Principal => 6,
        }
    }
}

/// A checksum of type and body, which tells events with the same dedup key apart; it is on disk, so
/// it can never change. Other attributes may differ between two attempts to publish one event. Not
/// proof against malice: whoever chooses a dedup key only deceives himself.
#[expect(clippy::cast_possible_truncation, reason = "bodies are far shorter")]
pub fn digest(event_type: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(body.len() as u32, body), event_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On disk: a change would forget every dedup key that is stored.
    #[test]
    fn hashes_never_change() {
        let key = HashKey(*b"0123456789abcdef");
        assert_eq!(
            key.hash(Role::Dedup, &[b"order-1"]),
            137_194_366_487_330_035_608_132_988_765_986_032_905
        );
        assert_eq!(
            key.hash(Role::SourceAndId, &[b"/shop", b"1"]),
            335_541_520_983_485_992_473_795_701_975_434_640_500
        );
        assert_eq!(digest(b"", b"body"), 1_562_245_283);
        assert_ne!(digest(b"made", b"body"), digest(b"gone", b"body"));
    }

    #[test]
    fn parts_and_roles_tell_apart() {
        let key = HashKey([7; 16]);
        let all = [
            key.hash(Role::SourceAndId, &[b"a", b"bc"]),
            key.hash(Role::SourceAndId, &[b"ab", b"c"]),
            key.hash(Role::Id, &[b"abc"]),
            key.hash(Role::Correlation, &[b"abc"]),
            HashKey([8; 16]).hash(Role::Id, &[b"abc"]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
    }
}
