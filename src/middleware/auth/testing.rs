//! Shared by the tests of this folder: a signer of tokens, valid and invalid.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::algorithm::Algorithm;

/// A private key and its public half.
pub(crate) struct Signer {
    kid: &'static str,
    key: Private,
}

enum Private {
    Hmac(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Base64url without padding.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

// === impl Signer ===

impl Signer {
    pub(crate) fn hs256(kid: &'static str, secret: &[u8]) -> Self {
        Self { kid, key: Private::Hmac(secret.to_vec()) }
    }

    pub(crate) fn rs256(kid: &'static str) -> Self {
        Self { kid, key: Private::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub(crate) fn es256(kid: &'static str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid, key: Private::Ec(key) }
    }

    pub(crate) fn eddsa(kid: &'static str) -> Self {
        Self { kid, key: Private::Ed(Ed25519KeyPair::generate().unwrap()) }
    }

    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.key {
            Private::Hmac(_) => Algorithm::Hs256,
            Private::Rsa(_) => Algorithm::Rs256,
            Private::Ec(_) => Algorithm::Es256,
            Private::Ed(_) => Algorithm::EdDsa,
        }
    }

    /// The public half.
    pub(crate) fn jwk(&self) -> Value {
        let kid = self.kid;
        match &self.key {
            Private::Hmac(secret) => json!({ "kty": "oct", "kid": kid, "k": encode(secret) }),
            Private::Rsa(key) => {
                let key = key.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                let (n, e) =
                    (n.big_endian_without_leading_zero(), e.big_endian_without_leading_zero());
                json!({ "kty": "RSA", "kid": kid, "n": encode(n), "e": encode(e) })
            }
            Private::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": encode(x), "y": encode(y) })
            }
            Private::Ed(key) => {
                let x = encode(key.public_key().as_ref());
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x })
            }
        }
    }

    /// A token with the usual header.
    pub(crate) fn token(&self, claims: &Value) -> String {
        self.with_header(&json!({ "alg": self.algorithm().name(), "kid": self.kid }), claims)
    }

    /// A token with this header.
    pub(crate) fn with_header(&self, header: &Value, claims: &Value) -> String {
        self.text(&header.to_string(), &claims.to_string())
    }

    /// A token with exactly these texts.
    pub(crate) fn text(&self, header: &str, claims: &str) -> String {
        self.segments(&encode(header), &encode(claims))
    }

    /// Signs exactly these segments.
    pub(crate) fn segments(&self, header: &str, claims: &str) -> String {
        let signed = format!("{header}.{claims}");
        let signature = encode(self.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Private::Hmac(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
                hmac::sign(&key, message).as_ref().to_vec()
            }
            Private::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Private::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Private::Ed(key) => key.sign(message).as_ref().to_vec(),
        }
    }
}
