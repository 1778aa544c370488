//! A gateway in this process, bare and with what an API in production has.

use std::{fs, net::SocketAddr};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;
use sluicegate::{
    config,
    gateway::{Gateway, Options},
    telemetry::clock,
};
use tempfile::TempDir;

const COMMON: &str = "\
workers: 1
listeners: [{ name: web, address: 127.0.0.1:0, protocols: [h1] }]
admin: { address: 127.0.0.1:0 }
limits: { requests_per_connection: 1000000000 }
";

/// A gateway and where it listens.
pub(crate) struct Running {
    gateway: Gateway,
    pub(crate) address: SocketAddr,
    /// What requests have to come with, if anything.
    pub(crate) token: String,
    /// Its files; gone with it.
    _folder: TempDir,
}

/// One route, no policies, no access log.
pub(crate) fn bare(origin: SocketAddr) -> Running {
    let folder = tempfile::tempdir().unwrap();
    Running::start(
        folder,
        String::new(),
        &format!(
            "{COMMON}\
upstreams: {{ origin: {{ endpoints: [\"{origin}\"] }} }}
routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin }}]
telemetry: {{ access_log: {{ path: off }} }}
"
        ),
    )
}

/// What benches/compare calls `all policies`: tokens, a limit for each subject, retries armed, two
/// endpoints by latency, access log to a file, metrics. And a token to come with.
pub(crate) fn full(origin: SocketAddr) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let (token, keys) = token();
    fs::write(folder.path().join("jwks.json"), keys).unwrap();
    let log = folder.path().join("access.log");
    Running::start(
        folder,
        token,
        &format!(
            "{COMMON}\
issuers:
  bench:
    issuer: https://bench.example
    audience: [bench]
    algorithms: [RS256]
    jwks: {{ file: jwks.json }}
rate_limits: {{ per-subject: {{ key: \"claim:sub\", rate: 1000000/s, burst: 1000000 }} }}
upstreams:
  origin: {{ endpoints: [\"{origin}\", \"localhost:{}\"], balance: p2c_ewma }}
routes:
  - name: all
    match: {{ path: \"/{{*rest}}\" }}
    upstream: origin
    auth: {{ jwt: {{ issuers: [bench] }} }}
    rate_limit: [per-subject]
    retry: {{ attempts: 2, on: [connect, reset, 502, 503, 504] }}
telemetry: {{ access_log: {{ path: \"{}\" }}, metrics: {{ route_labels: true }} }}
",
            origin.port(),
            log.display()
        ),
    )
}

/// A token that is valid for an hour, and the key set it is of.
fn token() -> (String, String) {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let now = clock::since_epoch(clock::now()).as_secs();
    let header = json!({ "alg": "RS256", "typ": "JWT", "kid": "bench" });
    let claims = json!({
        "iss": "https://bench.example", "aud": "bench", "sub": "user-007", "iat": now, "exp": now + 3600
    });
    let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    let n = encode(key.public_key().modulus().big_endian_without_leading_zero());
    let jwk =
        json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": "bench", "e": "AQAB", "n": n });
    (format!("{signed}.{}", encode(&signature)), json!({ "keys": [jwk] }).to_string())
}

// === impl Running ===

impl Running {
    fn start(folder: TempDir, token: String, text: &str) -> Self {
        let (config, _) = config::parse(text, "gateway.yaml", folder.path(), &|_| None)
            .unwrap_or_else(|problems| panic!("{problems}"));
        let gateway = Gateway::start(config, Options::default()).unwrap();
        let address = gateway.listener_address("web").unwrap();
        Self { gateway, address, token, _folder: folder }
    }

    pub(crate) fn stop(self) {
        assert!(self.gateway.stop(), "the control thread died");
    }
}
