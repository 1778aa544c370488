//! An issuer of tokens: keys made for the test, and a key server that misbehaves on order.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    encoding::AsBigEndian as _,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{Message, Origin, Reply, eventually};

/// An ES256 key with a name.
pub struct SigningKey {
    kid: String,
    pair: EcdsaKeyPair,
}

/// A key server that does what it is told to, and counts.
pub struct KeyServer {
    origin: Origin,
    state: Arc<State>,
}

struct State {
    behaviour: Mutex<Behaviour>,
    under_this: AtomicUsize,
}

/// What a key server does with a request.
#[derive(Clone)]
pub enum Behaviour {
    /// Serves these keys.
    Keys(Value),
    /// Answers with exactly these bytes, and closes the connection.
    Bytes(Vec<u8>),
    /// Says nothing.
    Hang,
    /// Resets the connection.
    Reset,
}

// === impl SigningKey ===

impl SigningKey {
    pub fn generate(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { kid: kid.to_owned(), pair }
    }

    /// The public key.
    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
        })
    }

    /// The private key.
    pub fn private_jwk(&self) -> Value {
        let mut jwk = self.jwk();
        let d = self.pair.private_key().as_be_bytes().unwrap();
        jwk["d"] = json!(BASE64URL.encode(d.as_ref()));
        jwk
    }

    /// The private key in PEM.
    pub fn pem(&self) -> String {
        let der = self.pair.to_pkcs8v1().unwrap();
        let body = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// A token of these claims, under the name `kid`.
    pub fn sign(&self, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": kid });
        let encode = |part: &Value| BASE64URL.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", BASE64URL.encode(signature))
    }

    /// A token of `issuer` for `orders` that is valid for an hour.
    pub fn token(&self, issuer: &str) -> String {
        self.sign(&self.kid, &claims(issuer))
    }
}

/// What an ordinary token says.
pub fn claims(issuer: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": issuer, "aud": "orders", "sub": "alice", "exp": now + 3600 })
}

/// A key set of these keys.
pub fn set(keys: &[&SigningKey]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() })
}

/// A whole response with this status line's rest, fields and body.
pub fn response(status: &str, fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{fields}content-length: {length}\r\n\r\n{body}").into_bytes()
}

// === impl KeyServer ===

impl KeyServer {
    pub async fn start(behaviour: Behaviour) -> Self {
        let state =
            Arc::new(State { behaviour: Mutex::new(behaviour), under_this: AtomicUsize::new(0) });
        let shared = state.clone();
        let origin = Origin::start(move |_, _: &Message| {
            shared.under_this.fetch_add(1, Ordering::SeqCst);
            match shared.behaviour.lock().clone() {
                Behaviour::Keys(keys) => Reply::Answer(response(
                    "200 OK",
                    "content-type: application/json\r\n",
                    &keys.to_string(),
                )),
                Behaviour::Bytes(bytes) => Reply::AnswerThenClose(bytes),
                Behaviour::Hang => Reply::Hang,
                Behaviour::Reset => Reply::Reset,
            }
        })
        .await;
        Self { origin, state }
    }

    pub fn address(&self) -> SocketAddr {
        self.origin.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}/keys", self.address())
    }

    /// Requests so far.
    pub fn asked(&self) -> usize {
        self.origin.requests().len()
    }

    pub fn requests(&self) -> Vec<Message> {
        self.origin.requests()
    }

    /// From now on it does this.
    pub fn set(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock() = behaviour;
        self.state.under_this.store(0, Ordering::SeqCst);
    }

    /// Waits until it was asked `n` times since it does what it does.
    pub async fn suffered(&self, n: usize) {
        eventually("requests at the key server", || {
            self.state.under_this.load(Ordering::SeqCst) >= n
        })
        .await;
    }
}

/// Timing for tests: what takes minutes takes milliseconds.
pub fn quick() -> sluicegate::middleware::auth::jwks::Timing {
    let ms = Duration::from_millis;
    sluicegate::middleware::auth::jwks::Timing {
        refresh: ms(30)..=ms(30),
        retry: ms(20)..=ms(30),
        refetch_every: ms(50),
        negative: ms(100),
        fetch: ms(200),
        ..Default::default()
    }
}
