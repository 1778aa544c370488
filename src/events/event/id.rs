//! Derived IDs, of which the same input always gives the same one, and the text of IDs.

use aws_lc_rs::digest;
use uuid::{Builder, Uuid};

/// UUIDv5 (RFC 9562, 5.5) of `namespace` and the parts, each with its length, so that `a`, `bc` and
/// `ab`, `c` give different IDs.
pub fn derived_id(namespace: Uuid, parts: &[&str]) -> Uuid {
    let mut name = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    name.update(namespace.as_bytes());
    for part in parts {
        name.update(&(part.len() as u64).to_le_bytes());
        name.update(part.as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&name.finish().as_ref()[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid()
}

/// Both digits of each byte.
const DIGITS: [[u8; 2]; 256] = {
    let (mut all, mut byte) = ([[0; 2]; 256], 0);
    while byte < 256 {
        all[byte] = [b"0123456789abcdef"[byte >> 4], b"0123456789abcdef"[byte & 15]];
        byte += 1;
    }
    all
};
/// Where the digits of each byte are in the text of an ID.
const PLACES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// As `Uuid::hyphenated`, by table: it is needed twice for each event.
pub fn id_text(id: Uuid) -> [u8; 36] {
    let mut text = [b'-'; 36];
    for (byte, at) in id.as_bytes().iter().zip(PLACES) {
        text[at..at + 2].copy_from_slice(&DIGITS[usize::from(*byte)]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_id_is_the_usual_one() {
        for id in
            [Uuid::nil(), Uuid::max(), Uuid::from_u128(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210)]
        {
            assert_eq!(id_text(id), id.to_string().as_bytes());
        }
    }

    #[test]
    fn a_derived_id_never_changes_and_parts_stay_apart() {
        let namespace = Uuid::from_u128(7);
        let id = derived_id(namespace, &["a", "bc"]);
        assert_eq!(id, derived_id(namespace, &["a", "bc"]));
        assert_ne!(id, derived_id(namespace, &["ab", "c"]));
        assert_ne!(id, derived_id(Uuid::from_u128(8), &["a", "bc"]));
        assert_eq!((id.get_version_num(), id.get_variant()), (5, uuid::Variant::RFC4122));
    }
}
