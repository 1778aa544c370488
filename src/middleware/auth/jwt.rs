//! A compact JWS (RFC 7515) that is a JWT (RFC 7519): decoding, and every check. Pure.
//!
//! [`Token::decode`] parses what a stranger sent and trusts none of it. [`Token::check`] judges it
//! by an issuer's key and settings, at a time that is an argument: first the signature, so that an
//! unsigned token gets no other reason, then the claims. A header's statements about where keys are
//! (`jku`, `x5u`, `jwk`, `x5c`) are ignored.
//!
//! Allocates what it decodes; bounded by [`MAX_BYTES`].

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::{
    algorithm::{Algorithm, Algorithms},
    json,
    keys::{Key, KeySet, NoKey},
};
use crate::error::AuthFault;

/// The maximum length of a token, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;

/// What one issuer's tokens must satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The exact `iss`.
    pub issuer: Box<str>,
    /// `aud` must contain one of these.
    pub audience: Box<[Box<str>]>,
    /// The allowed algorithms.
    pub algorithms: Algorithms,
    /// The tolerated clock difference.
    pub clock_skew: Duration,
    /// Required claims; `exp` always is.
    pub require: Box<[Box<str>]>,
}

/// A signed text that is not verified yet.
#[derive(Debug)]
pub struct Jws<'a> {
    /// Header and payload, as signed.
    signed: &'a str,
    payload: Vec<u8>,
    /// Unpadded base64url.
    signature: &'a str,
    algorithm: Algorithm,
    kid: Option<Box<str>>,
}

/// A token that is not verified yet.
#[derive(Debug)]
pub struct Token<'a> {
    jws: Jws<'a>,
    claims: Map<String, Value>,
}

/// A valid token.
#[derive(Debug)]
pub struct Verified {
    /// `<issuer name>:<sub>`; empty without `sub`.
    pub name: Box<str>,
    /// All claims.
    pub claims: Value,
    /// When it expires, in seconds since 1970, including the clock skew.
    pub until: f64,
    /// The generation of the key that signed it.
    pub key: u64,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is invalid.
    Refused(AuthFault),
    /// This set does not have its key; another one might.
    KeyMissing,
}

// === impl Jws ===

impl<'a> Jws<'a> {
    /// Splits `text` into its parts. The error is what is wrong with its form.
    pub fn decode(text: &'a str) -> Result<Self, AuthFault> {
        if text.len() > MAX_BYTES {
            return Err(AuthFault::Malformed);
        }
        let mut dots = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (dots.next(), dots.next(), dots.next(), dots.next())
        else {
            return Err(AuthFault::Malformed);
        };
        let header = object(&bytes(header)?)?;
        // An extension that must be understood, and we know none (RFC 7515, 4.1.11).
        if header.contains_key("crit") {
            return Err(AuthFault::Malformed);
        }
        let name = header.get("alg").and_then(Value::as_str).ok_or(AuthFault::Malformed)?;
        // This covers `none`, however it is spelled: an unsigned token.
        let algorithm = Algorithm::parse(name).ok_or(AuthFault::Signature)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.as_str().into()),
            Some(_) => return Err(AuthFault::Malformed),
        };
        // A signature may have one spelling only, or one token could be written in many ways.
        bytes(signature)?;
        let signed = &text[..text.len() - signature.len() - 1];
        Ok(Self { signed, payload: bytes(payload)?, signature, algorithm, kid })
    }

    /// The key in `keys` that signed it with one of the `allowed` algorithms.
    pub fn verify<'k>(&self, allowed: Algorithms, keys: &'k KeySet) -> Result<&'k Key, Verdict> {
        let refused = Verdict::Refused(AuthFault::Signature);
        if !allowed.contains(self.algorithm) {
            return Err(refused);
        }
        let found = keys.find(self.kid.as_deref(), self.algorithm);
        let key = found.map_err(|none| match none {
            NoKey::OtherAlgorithm => refused,
            NoKey::Unknown | NoKey::Ambiguous => Verdict::KeyMissing,
        })?;
        let is_good = key.verifies(self.algorithm, self.signed.as_bytes(), self.signature);
        is_good.then_some(key).ok_or(refused)
    }
}

// === impl Token ===

impl<'a> Token<'a> {
    /// Splits `token` into its parts. The error is what is wrong with its form.
    pub fn decode(token: &'a str) -> Result<Self, AuthFault> {
        let jws = Jws::decode(token)?;
        let claims = object(&jws.payload)?;
        Ok(Self { jws, claims })
    }

    /// The claimed issuer.
    pub fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    /// The key it names.
    pub fn kid(&self) -> Option<&str> {
        self.jws.kid.as_deref()
    }

    /// Checks it with the settings and keys of the issuer it names, at `now` since 1970.
    pub fn check(&self, by: &Settings, keys: &KeySet, now: Duration) -> Result<Verified, Verdict> {
        let key = self.jws.verify(by.algorithms, keys)?.generation();
        let until = self.judge(by, now.as_secs_f64()).map_err(Verdict::Refused)?;
        let name = match self.claims.get("sub").and_then(Value::as_str) {
            Some(subject) => format!("{}:{subject}", by.name).into(),
            None => "".into(),
        };
        Ok(Verified { name, claims: Value::Object(self.claims.clone()), until, key })
    }

    /// When it expires, if its claims are those that `by` requires.
    fn judge(&self, by: &Settings, now: f64) -> Result<f64, AuthFault> {
        if self.issuer() != Some(&*by.issuer) {
            return Err(AuthFault::Issuer);
        }
        let skew = by.clock_skew.as_secs_f64();
        let expires = self.time("exp")?.ok_or(AuthFault::Malformed)?;
        let until = expires + skew;
        if now >= until {
            return Err(AuthFault::Expired);
        }
        if self.time("nbf")?.is_some_and(|from| now + skew < from) {
            return Err(AuthFault::NotYet);
        }
        self.time("iat")?;
        if !self.is_for(&by.audience) {
            return Err(AuthFault::Audience);
        }
        if self.claims.get("sub").is_some_and(|subject| !subject.is_string()) {
            return Err(AuthFault::Malformed);
        }
        let is_there = |name: &str| self.claims.get(name).is_some_and(|value| !value.is_null());
        if !by.require.iter().all(|name| is_there(name)) {
            return Err(AuthFault::Malformed);
        }
        Ok(until)
    }

    /// A `NumericDate` (RFC 7519, 2).
    fn time(&self, name: &str) -> Result<Option<f64>, AuthFault> {
        match self.claims.get(name) {
            None => Ok(None),
            Some(value) => value.as_f64().map(Some).ok_or(AuthFault::Malformed),
        }
    }

    fn is_for(&self, audience: &[Box<str>]) -> bool {
        let is_one = |value: &Value| {
            value.as_str().is_some_and(|value| audience.iter().any(|known| **known == *value))
        };
        match self.claims.get("aud") {
            Some(Value::Array(list)) => list.iter().any(is_one),
            Some(value) => is_one(value),
            None => false,
        }
    }
}

/// Whether `claims` have the scope: a word of `scope` (RFC 8693, 4.2), or an entry of `scp`, which
/// some issuers write as a list and some as words.
pub fn has_scope(claims: &Value, wanted: &str) -> bool {
    ["scope", "scp"].into_iter().filter_map(|name| claims.get(name)).any(|value| match value {
        Value::String(words) => words.split(' ').any(|word| word == wanted),
        Value::Array(list) => list.iter().any(|entry| entry == wanted),
        _ => false,
    })
}

/// Decodes a segment.
fn bytes(segment: &str) -> Result<Vec<u8>, AuthFault> {
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| AuthFault::Malformed)
}

fn object(text: &[u8]) -> Result<Map<String, Value>, AuthFault> {
    match json::parse(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) | Err(_) => Err(AuthFault::Malformed),
    }
}

#[cfg(test)]
mod tests;
