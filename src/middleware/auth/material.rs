//! The bytes of a JWK (RFC 7518, 6 and RFC 8037, 2): checked when loaded, then used to verify.
//! Pure.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED,
        EcdsaVerificationAlgorithm, ParsedPublicKey, UnparsedPublicKey,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};

use super::algorithm::{Algorithm, Algorithms};

/// The bytes of a key, and how they verify.
#[derive(Clone)]
pub(super) struct Material {
    key: Verifier,
    /// A digest of it: `jsonwebtoken` does not compare its keys.
    identity: [u8; 32],
}

#[derive(Clone)]
enum Verifier {
    Known(DecodingKey),
    /// An uncompressed point. `jsonwebtoken` lacks this curve, but its provider has it.
    P521(Box<[u8]>),
}

/// RFC 7518, 3.3 and 3.5 require 2048 bits or more.
const MIN_RSA_BITS: usize = 2048;
/// The provider's maximum; more is only slow.
const MAX_RSA_BITS: usize = 8192;

// === impl Material ===

impl Material {
    /// The algorithms that the key's type and curve allow, and its bytes.
    pub(super) fn parse(jwk: &Map<String, Value>) -> Result<(Algorithms, Self), &'static str> {
        let curve = jwk.get("crv").and_then(Value::as_str);
        match (jwk.get("kty").and_then(Value::as_str), curve) {
            (Some("RSA"), _) => rsa(jwk).map(|key| (Algorithms::RSA, key)),
            (Some("EC"), Some("P-256")) => {
                let point = point(jwk, 32, &ECDSA_P256_SHA256_FIXED)?;
                let key = Verifier::Known(DecodingKey::from_ec_der(&point));
                Ok((Algorithms::of([Algorithm::Es256]), Self::new(key, &[b"P-256", &point])))
            }
            (Some("EC"), Some("P-384")) => {
                let point = point(jwk, 48, &ECDSA_P384_SHA384_FIXED)?;
                let key = Verifier::Known(DecodingKey::from_ec_der(&point));
                Ok((Algorithms::of([Algorithm::Es384]), Self::new(key, &[b"P-384", &point])))
            }
            (Some("EC"), Some("P-521")) => {
                let point = point(jwk, 66, &ECDSA_P521_SHA512_FIXED)?;
                let key = Verifier::P521(point.as_slice().into());
                Ok((Algorithms::of([Algorithm::Es512]), Self::new(key, &[b"P-521", &point])))
            }
            (Some("OKP"), Some("Ed25519")) => match bytes(jwk, "x")? {
                x if x.len() == 32 => {
                    let key = Verifier::Known(DecodingKey::from_ed_der(&x));
                    Ok((Algorithms::of([Algorithm::EdDsa]), Self::new(key, &[b"Ed25519", &x])))
                }
                _ => Err("its x has the wrong length"),
            },
            (Some("EC" | "OKP"), _) => Err("its crv is not P-256, P-384, P-521 or Ed25519"),
            (Some("oct"), _) => match bytes(jwk, "k")? {
                // RFC 7518, 3.2: as long as the hash, or longer.
                k if k.len() < 32 => Err("its k is shorter than 256 bits"),
                k => Ok((hmac(k.len()), Self::secret(&k))),
            },
            _ => Err("its kty is not RSA, EC, OKP or oct"),
        }
    }

    /// A secret, its bytes used unchanged.
    pub(super) fn secret(secret: &[u8]) -> Self {
        Self::new(Verifier::Known(DecodingKey::from_secret(secret)), &[b"oct", secret])
    }

    /// Whether `signature`, in unpadded base64url, is this key's signature of `message`.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        match (&self.key, known(algorithm)) {
            (Verifier::Known(key), Some(algorithm)) => {
                jsonwebtoken::crypto::verify(signature, message, key, algorithm).unwrap_or(false)
            }
            (Verifier::P521(point), None) => URL_SAFE_NO_PAD.decode(signature).is_ok_and(|bytes| {
                let key = UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, point);
                key.verify(message, &bytes).is_ok()
            }),
            (Verifier::Known(_), None) | (Verifier::P521(_), Some(_)) => false,
        }
    }

    fn new(key: Verifier, parts: &[&[u8]]) -> Self {
        let mut whole = Vec::new();
        for part in parts {
            whole.extend_from_slice(&part.len().to_be_bytes());
            whole.extend_from_slice(part);
        }
        let mut identity = [0; 32];
        identity.copy_from_slice(digest(&SHA256, &whole).as_ref());
        Self { key, identity }
    }
}

impl PartialEq for Material {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The algorithms for which a secret of `length` bytes is long enough.
fn hmac(length: usize) -> Algorithms {
    let least = [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)];
    least.into_iter().filter(|(_, least)| length >= *least).map(|(hs, _)| hs).collect()
}

fn rsa(jwk: &Map<String, Value>) -> Result<Material, &'static str> {
    let (n, e) = (bytes(jwk, "n")?, bytes(jwk, "e")?);
    // Some servers keep the sign byte of DER before the modulus.
    let strip = |bytes: &[u8]| bytes[bytes.iter().take_while(|b| **b == 0).count()..].to_vec();
    let (n, e) = (strip(&n), strip(&e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err("its modulus has less than 2048 bits or more than 8192");
    }
    let is_odd = e.last().is_some_and(|last| last % 2 == 1);
    if !is_odd || e == [1] || e.len() > 4 {
        return Err("its exponent is 1, even, or over 32 bits");
    }
    if is_roca(&n) {
        return Err("its modulus is one that can be factored (ROCA)");
    }
    let key = Verifier::Known(DecodingKey::from_rsa_raw_components(&n, &e));
    Ok(Material::new(key, &[b"RSA", &n, &e]))
}

/// Whether `n` shows the mark of one vendor's smart cards (CVE-2017-15361): modulo every small
/// prime it is a power of 65537. Only one in 2^27 other moduli does.
fn is_roca(n: &[u8]) -> bool {
    const PRIMES: [u64; 17] =
        [11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157];
    PRIMES.iter().all(|prime| {
        let rest = n.iter().fold(0, |rest, byte| (rest * 256 + u64::from(*byte)) % prime);
        let mut power = 1;
        (0..*prime).any(|_| {
            power = power * 65_537 % prime;
            power == rest
        })
    })
}

/// An uncompressed point of the curve.
fn point(
    jwk: &Map<String, Value>,
    length: usize,
    curve: &'static EcdsaVerificationAlgorithm,
) -> Result<Vec<u8>, &'static str> {
    let (x, y) = (bytes(jwk, "x")?, bytes(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err("its x or y has the wrong length for its curve");
    }
    let point = [&[4], &*x, &*y].concat();
    ParsedPublicKey::new(curve, &point).map_err(|_| "its x and y are no point of its curve")?;
    Ok(point)
}

/// A member that must be a string.
pub(super) fn text<'a>(
    jwk: &'a Map<String, Value>,
    name: &str,
    otherwise: &'static str,
) -> Result<Option<&'a str>, &'static str> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(otherwise),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = jwk.get(name).and_then(Value::as_str).ok_or("a part of it is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a part of it is not unpadded base64url")
}

/// The name in `jsonwebtoken`, which has no ES512.
fn known(algorithm: Algorithm) -> Option<jsonwebtoken::Algorithm> {
    use jsonwebtoken::Algorithm as Known;
    Some(match algorithm {
        Algorithm::Hs256 => Known::HS256,
        Algorithm::Hs384 => Known::HS384,
        Algorithm::Hs512 => Known::HS512,
        Algorithm::Rs256 => Known::RS256,
        Algorithm::Rs384 => Known::RS384,
        Algorithm::Rs512 => Known::RS512,
        Algorithm::Ps256 => Known::PS256,
        Algorithm::Ps384 => Known::PS384,
        Algorithm::Ps512 => Known::PS512,
        Algorithm::Es256 => Known::ES256,
        Algorithm::Es384 => Known::ES384,
        Algorithm::EdDsa => Known::EdDSA,
        Algorithm::Es512 => return None,
    })
}
