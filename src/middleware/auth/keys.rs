//! Turns a JWK set (RFC 7517) into the keys that verify signatures. Pure.
//!
//! What a key may be used for is decided here, when it is loaded, and never by a token: a [`Key`]
//! has the algorithms that its type and curve allow, its own `alg` names, and its issuer lists. So
//! `RS256` bytes cannot become an `HS256` secret, whatever a header says.
//!
//! An unusable key (another type, `use: enc`, too short) does not invalidate its set (RFC 7517, 5):
//! it is skipped, and [`KeySet::skipped`] says why.

use serde_json::{Map, Value};

use super::{
    algorithm::{Algorithm, Algorithms},
    json,
    material::{Material, text},
};

/// The keys of one issuer.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    skipped: Vec<Skipped>,
}

/// A key that verifies signatures.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<Box<str>>,
    algorithms: Algorithms,
    material: Material,
    generation: u64,
}

/// A key in a set that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// Its index in the set.
    pub index: usize,
    /// Its `kid`, if readable.
    pub kid: Option<Box<str>>,
    /// A sentence that contains no value of the key.
    pub reason: &'static str,
}

/// Not a key set at all.
#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    /// Not JSON, or with a duplicate member.
    #[error("it is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Without `keys`.
    #[error("it is not a JWK set: `keys` is not a list of objects")]
    Shape,
}

/// Why no key was found for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKey {
    /// No key has this `kid`; a newer set may.
    Unknown,
    /// The key with this `kid` is for other algorithms: the token lies about one of the two.
    OtherAlgorithm,
    /// The token names no key, and not exactly one key fits.
    Ambiguous,
}

// === impl KeySet ===

impl KeySet {
    /// The keys of this JWK set that may verify one of the `allowed` algorithms.
    pub fn parse(bytes: &[u8], allowed: Algorithms) -> Result<Self, KeySetError> {
        let Value::Object(set) = json::parse(bytes)? else { return Err(KeySetError::Shape) };
        let Some(Value::Array(list)) = set.get("keys") else { return Err(KeySetError::Shape) };
        let mut keys: Vec<Key> = Vec::with_capacity(list.len());
        let mut skipped = Vec::new();
        for (index, jwk) in list.iter().enumerate() {
            let Value::Object(jwk) = jwk else { return Err(KeySetError::Shape) };
            let parsed = Key::parse(jwk, allowed).and_then(|key| {
                if keys.iter().any(|known| known.rivals(&key)) {
                    return Err("another key has its kid and algorithm");
                }
                Ok(key)
            });
            match parsed {
                Ok(key) => keys.push(key),
                Err(reason) => {
                    let kid = jwk.get("kid").and_then(Value::as_str).map(Box::from);
                    skipped.push(Skipped { index, kid, reason });
                }
            }
        }
        Ok(Self { keys, skipped })
    }

    /// One shared secret, its bytes used unchanged.
    pub fn secret(secret: &[u8], allowed: Algorithms) -> Self {
        let key = Key {
            kid: None,
            algorithms: allowed.and(Algorithms::HMAC),
            material: Material::secret(secret),
            generation: 0,
        };
        Self { keys: vec![key], skipped: Vec::new() }
    }

    /// The usable keys; a set without any is valid and admits nobody.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Keys of the set that are not used.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The key for a token with this header. A token without `kid` gets the only key that fits; so
    /// does one with a `kid` if no key of the set has one.
    pub fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, NoKey> {
        let Some(kid) = kid else {
            let fitting = self.keys.iter().filter(|key| key.algorithms.contains(algorithm));
            return only(fitting).ok_or(NoKey::Ambiguous);
        };
        let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
        if named.peek().is_some() {
            return named
                .find(|key| key.algorithms.contains(algorithm))
                .ok_or(NoKey::OtherAlgorithm);
        }
        if self.keys.iter().any(|key| key.kid.is_some()) {
            return Err(NoKey::Unknown);
        }
        let fitting = self.keys.iter().filter(|key| key.algorithms.contains(algorithm));
        only(fitting).ok_or(NoKey::Unknown)
    }

    /// Whether the key with this generation is in the set.
    pub fn has(&self, generation: u64) -> bool {
        self.keys.iter().any(|key| key.generation == generation)
    }

    /// Gives each key the generation that an equal one had in `previous`, and new keys generations
    /// from `next` on. Returns the first unused one.
    pub(super) fn follow(&mut self, previous: Option<&Self>, mut next: u64) -> u64 {
        for key in &mut self.keys {
            let known = previous.and_then(|set| set.keys.iter().find(|known| *known == key));
            key.generation = known.map_or(next, |known| known.generation);
            next += u64::from(known.is_none());
        }
        next
    }
}

/// Whether both accept the same tokens.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys
    }
}

fn only<'a>(mut keys: impl Iterator<Item = &'a Key>) -> Option<&'a Key> {
    let first = keys.next()?;
    keys.next().is_none().then_some(first)
}

// === impl Key ===

impl Key {
    fn parse(jwk: &Map<String, Value>, allowed: Algorithms) -> Result<Self, &'static str> {
        let kid = text(jwk, "kid", "its kid is not a text")?.map(Box::from);
        if text(jwk, "use", "its use is not a text")?.is_some_and(|usage| usage != "sig") {
            return Err("it is not for signatures: `use`");
        }
        let verifies =
            |ops: &Value| ops.as_array().is_some_and(|l| l.iter().any(|op| op == "verify"));
        if jwk.get("key_ops").is_some_and(|ops| !verifies(ops)) {
            return Err("it is not for verifying: `key_ops`");
        }
        let (possible, material) = Material::parse(jwk)?;
        let own = match text(jwk, "alg", "its alg is not a text")? {
            None => possible,
            Some(name) => match Algorithm::parse(name) {
                Some(algorithm) => possible.and(Algorithms::of([algorithm])),
                None => return Err("its alg is no signature algorithm that is known"),
            },
        };
        if own.is_empty() {
            return Err("its alg is not one for its kty and crv");
        }
        let algorithms = own.and(allowed);
        if algorithms.is_empty() {
            return Err("the issuer's `algorithms` do not list one that it can be used with");
        }
        Ok(Self { kid, algorithms, material, generation: 0 })
    }

    /// Its `kid`.
    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The algorithms it may verify.
    pub fn algorithms(&self) -> Algorithms {
        self.algorithms
    }

    /// Its identity across the sets of one issuer: never reused for another key.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether a token could mean either key.
    fn rivals(&self, other: &Self) -> bool {
        self.kid.is_some()
            && self.kid == other.kid
            && !self.algorithms.and(other.algorithms).is_empty()
    }

    /// Whether `signature`, in unpadded base64url, is this key's signature of `message`. Also
    /// `false` if the algorithm is not the key's.
    pub fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        if !self.algorithms.contains(algorithm) {
            return false;
        }
        self.material.verifies(algorithm, message, signature)
    }
}

/// Ignores the generation.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.kid == other.kid
            && self.algorithms == other.algorithms
            && self.material == other.material
    }
}

#[cfg(test)]
mod tests;
