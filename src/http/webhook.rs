//! Signatures of Standard Webhooks 1.0: `v1,` and the base64 of HMAC-SHA256 over
//! `id.timestamp.body`.
//!
//! With several keys there is one signature per key, so that during rotation a receiver may know
//! the old secret or the new one.

use std::{fmt, sync::Arc};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderValue;

/// The prefix of a secret, by which people and scanners recognise it.
const PREFIX: &str = "whsec_";
/// The minimum number of bytes of a secret, as the specification recommends.
const LEAST: usize = 24;
const MOST: usize = 64;

/// A secret for signing deliveries. Clones share it; no output shows it.
#[derive(Clone)]
pub struct SigningKey(Arc<Secret>);

struct Secret {
    bytes: Box<[u8]>,
    key: hmac::Key,
}

/// Why a text is not a secret. It does not repeat the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSecret {
    /// Not base64.
    #[error("this is not `whsec_` and base64")]
    NotBase64,
    /// This number of bytes is too small or too large.
    #[error("this secret has {0} bytes; Standard Webhooks ask for 24 to 64")]
    Length(usize),
}

// === impl SigningKey ===

impl SigningKey {
    /// Parses a key: base64, with or without the prefix `whsec_`.
    pub fn parse(text: &[u8]) -> Result<Self, BadSecret> {
        let encoded = text.strip_prefix(PREFIX.as_bytes()).unwrap_or(text);
        let bytes = STANDARD.decode(encoded).map_err(|_| BadSecret::NotBase64)?;
        if !(LEAST..=MOST).contains(&bytes.len()) {
            return Err(BadSecret::Length(bytes.len()));
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        Ok(Self(Arc::new(Secret { bytes: bytes.into(), key })))
    }

    /// The signature of a message.
    fn sign(&self, id: &str, timestamp: u64, body: &[u8], out: &mut String) {
        let mut context = hmac::Context::with_key(&self.0.key);
        context.update(id.as_bytes());
        context.update(b".");
        context.update(itoa::Buffer::new().format(timestamp).as_bytes());
        context.update(b".");
        context.update(body);
        out.push_str("v1,");
        STANDARD.encode_string(context.sign(), out);
    }
}

impl PartialEq for SigningKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for SigningKey {}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// The `webhook-signature` of a message: one signature per key. `None` without keys.
pub fn signature(
    keys: &[SigningKey],
    id: &str,
    timestamp: u64,
    body: &[u8],
) -> Option<HeaderValue> {
    let mut text = String::with_capacity(keys.len() * 48);
    for key in keys {
        if !text.is_empty() {
            text.push(' ');
        }
        key.sign(id, timestamp, body, &mut text);
    }
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;
    use standardwebhooks::Webhook;

    use super::*;
    use crate::telemetry::clock;

    const OLD: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const NEW: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    fn keys(secrets: &[&str]) -> Vec<SigningKey> {
        secrets.iter().map(|secret| SigningKey::parse(secret.as_bytes()).unwrap()).collect()
    }

    fn signed(secrets: &[&str], id: &str, body: &[u8]) -> HeaderMap {
        let now = clock::since_epoch(clock::now()).as_secs();
        let mut headers = HeaderMap::new();
        headers.insert("webhook-id", id.parse().unwrap());
        headers.insert("webhook-timestamp", now.into());
        headers.extend(
            signature(&keys(secrets), id, now, body)
                .map(|it| (http::HeaderName::from_static("webhook-signature"), it)),
        );
        headers
    }

    /// The example of the specification.
    #[test]
    fn a_signature_is_that_of_the_specification() {
        let body = br#"{"test": 2432232314}"#;
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let signature = signature(&keys(&[OLD]), id, 1_614_265_330, body).unwrap();
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_of_two_secrets_verifies_while_they_are_exchanged() {
        let headers = signed(&[NEW, OLD], "1", b"{}");
        for secret in [OLD, NEW] {
            Webhook::new(secret).unwrap().verify(b"{}", &headers).unwrap();
        }
        let other = Webhook::new("whsec_////////////////////////////////").unwrap();
        assert!(other.verify(b"{}", &headers).is_err());
        assert!(Webhook::new(NEW).unwrap().verify(b"{ }", &headers).is_err());
        assert!(signature(&[], "1", 1, b"").is_none());
    }

    #[test]
    fn a_secret_is_base64_of_enough_bytes_and_is_never_shown() {
        let bare = OLD.strip_prefix(PREFIX).unwrap();
        assert_eq!(keys(&[OLD]), keys(&[bare]));
        assert_ne!(keys(&[OLD]), keys(&[NEW]));
        assert_eq!(SigningKey::parse(b"whsec_???"), Err(BadSecret::NotBase64));
        assert_eq!(SigningKey::parse(b"whsec_AAEC"), Err(BadSecret::Length(3)));
        assert!(!format!("{:?}", keys(&[OLD])).contains(&bare[..8]));
    }

    proptest! {
        #[test]
        fn any_message_verifies(id in "[A-Za-z0-9_-]{1,128}", body in "\\PC{0,200}") {
            let headers = signed(&[NEW], &id, body.as_bytes());
            prop_assert!(Webhook::new(NEW).unwrap().verify(body.as_bytes(), &headers).is_ok());
        }
    }
}
