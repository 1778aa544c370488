//! Derived IDs: the same input always gives the same ID.

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

#[cfg(test)]
mod tests {
    use super::*;

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
