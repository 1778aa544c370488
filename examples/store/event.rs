//! An event as a subscriber gets it: CloudEvents JSON with a signature as Standard Webhooks say.

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::HeaderMap;
use serde_json::Value;

/// What a subscriber needs of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// The same in every delivery of this event.
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// What a subscription and its service share.
#[derive(Clone, Debug)]
pub(crate) struct Secret {
    /// As `push.secrets` wants it: `whsec_` and base64.
    pub(crate) text: String,
    key: hmac::Key,
}

// === impl Event ===

impl Event {
    pub(crate) fn parse(event: &Value) -> Option<Self> {
        let text = |name: &str| event[name].as_str().map(ToOwned::to_owned);
        Some(Self { id: text("id")?, kind: text("type")?, data: event["data"].clone() })
    }
}

// === impl Secret ===

impl Secret {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let text = format!("whsec_{}", STANDARD.encode(bytes));
        Self { text, key: hmac::Key::new(hmac::HMAC_SHA256, bytes) }
    }

    /// Whether whoever knows the secret has sent this. During a rotation there are several signatures.
    pub(crate) fn has_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(at)) = (text("webhook-id"), text("webhook-timestamp")) else {
            return false;
        };
        let Some(signatures) = text("webhook-signature") else { return false };
        let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
        signatures
            .split(' ')
            .filter_map(|signature| signature.strip_prefix("v1,"))
            .filter_map(|signature| STANDARD.decode(signature).ok())
            .any(|signature| hmac::verify(&self.key, &signed, &signature).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    /// From the specification of Standard Webhooks.
    #[test]
    fn the_signature_of_the_specification_is_good() {
        let secret = Secret::new(&STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap());
        assert_eq!(secret.text, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let mut headers = HeaderMap::new();
        let fields = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,AAAA v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ];
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        assert!(secret.has_signed(&headers, br#"{"test": 2432232314}"#));
        assert!(!secret.has_signed(&headers, br#"{"test": 2432232315}"#));
        headers.remove("webhook-signature");
        assert!(!secret.has_signed(&headers, br#"{"test": 2432232314}"#));
    }
}
