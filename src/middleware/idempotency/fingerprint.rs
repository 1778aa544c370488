//! The fingerprint of a keyed request: what its key is used for. Pure.

use aws_lc_rs::digest;
use http::Method;

/// SHA-256 of method, normalised target and body, each with its length.
pub fn fingerprint(method: &Method, target: &str, body: &[u8]) -> [u8; 32] {
    let mut hash = digest::Context::new(&digest::SHA256);
    for part in [method.as_str().as_bytes(), target.as_bytes(), body] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(hash.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_fingerprint_stay_apart() {
        let of = |method: &Method, target, body: &str| fingerprint(method, target, body.as_bytes());
        let first = of(&Method::POST, "/a", "bc");
        assert_eq!(first, of(&Method::POST, "/a", "bc"));
        for other in [
            of(&Method::PATCH, "/a", "bc"),
            of(&Method::POST, "/ab", "c"),
            of(&Method::POST, "/a", ""),
        ] {
            assert_ne!(first, other);
        }
    }
}
