//! Semantics 7, and the claims groups of semantics 3: who may come, end to end.

use std::{fmt::Write as _, fs, path::Path};

use aws_lc_rs::{
    digest, hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluicegate::{config, gateway::Options, telemetry::clock};

use crate::harness::{self, Message, Origin, Running, eventually};

const SECRET: &str = "a secret of more than thirty-two bytes";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn now() -> u64 {
    clock::since_epoch(clock::now()).as_secs()
}

/// Claims for the issuer `shop`, with these in addition or instead.
fn claims(more: Value) -> Value {
    let mut claims =
        json!({ "iss": "https://id", "sub": "alice", "aud": "orders", "exp": now() + 300 });
    let Value::Object(more) = more else { panic!("an object") };
    claims.as_object_mut().unwrap().extend(more);
    claims
}

fn hs256(claims: &Value) -> String {
    let signed = format!("{}.{}", encode(r#"{"alg":"HS256"}"#), encode(claims.to_string()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes())))
}

/// A key, as an issuer publishes it and signs with it.
struct Ec(EcdsaKeyPair, &'static str);

impl Ec {
    fn new(kid: &'static str) -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid)
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "kid": self.1, "x": encode(x), "y": encode(y) })
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": self.1 }).to_string();
        let signed = format!("{}.{}", encode(header), encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature))
    }
}

fn publish(path: &Path, keys: &[&Ec]) {
    let keys: Vec<_> = keys.iter().map(|key| key.jwk()).collect();
    fs::write(path, json!({ "keys": keys }).to_string()).unwrap();
}

/// An issuer `shop` with a secret, and these routes.
fn with_secret(folder: &Path, routes: &str) -> String {
    let secret = folder.join("secret");
    fs::write(&secret, SECRET).unwrap();
    format!(
        "issuers:\n  shop: {{ issuer: \"https://id\", audience: [orders], algorithms: [HS256], \
         jwks: {{ secret: \"file:{}\" }} }}\n{routes}",
        secret.display()
    )
}

async fn get(gateway: &Running, target: &str, fields: &str) -> Message {
    let head = format!("GET {target} HTTP/1.1\nHost: a{fields}");
    gateway.client().await.request(&head, "").await
}

async fn with_token(gateway: &Running, target: &str, token: &str) -> Message {
    get(gateway, target, &format!("\nAuthorization: Bearer {token}")).await
}

/// Whether this happened exactly once.
async fn counted(gateway: &Running, series: &str) -> bool {
    (gateway.metric(series).await - 1.0).abs() < f64::EPSILON
}

fn code(message: &Message) -> String {
    let problem: Value = serde_json::from_slice(&message.body).expect("a problem body");
    problem["code"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_is_asked_for_verified_and_passed_on() {
    let (folder, origin) = (tempfile::tempdir().unwrap(), Origin::ok("fine").await);
    let yaml = with_secret(
        folder.path(),
        &format!(
            "workers: 1\nupstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\nroutes:\n  - name: all\n    \
             auth: {{ jwt: {{ issuers: [shop], scopes: [read] }} }}\n    \
             claim_headers: {{ x-user: sub, x-roles: roles, x-none: none }}\n    upstream: origin\n",
            origin.address()
        ),
    );
    let gateway = Running::start(&yaml);
    let good = hs256(&claims(json!({ "scope": "read write", "roles": ["a", "b"] })));
    let forged = "\nX-User: root\nX-Roles: admin\nX-None: x\nx_user: root";
    for _ in 0..2 {
        let fields = format!("\nAuthorization: Bearer {good}{forged}");
        assert_eq!(get(&gateway, "/", &fields).await.status(), 200);
    }
    for seen in origin.requests() {
        assert_eq!(seen.all("x-user"), ["alice"]);
        assert_eq!(seen.all("x-roles"), ["a,b"]);
        assert!(seen.all("x-none").is_empty() && seen.all("x_user").is_empty());
        assert_eq!(seen.field("authorization"), Some(format!("Bearer {good}").as_str()));
    }
    assert!(counted(&gateway, "sluice_auth_total{scheme=\"jwt\",outcome=\"verified\"}").await);
    assert!(counted(&gateway, "sluice_auth_total{scheme=\"jwt\",outcome=\"cached\"}").await);

    let answer = get(&gateway, "/", "").await;
    assert_eq!((answer.status(), code(&answer).as_str()), (401, "auth-missing"));
    assert_eq!(answer.field("www-authenticate"), Some("Bearer"));
    let refused = |more: Value| hs256(&claims(more));
    for (token, status, reason) in [
        ("nonsense".to_owned(), 401, "auth-malformed"),
        (refused(json!({ "scope": "read", "exp": now() - 61 })), 401, "auth-expired"),
        (refused(json!({ "scope": "read", "nbf": now() + 90 })), 401, "auth-not-yet"),
        (refused(json!({ "scope": "read", "iss": "x" })), 401, "auth-issuer"),
        (refused(json!({ "scope": "read", "aud": "x" })), 401, "auth-audience"),
        (good.replacen("ey", "eyA", 1), 401, "auth-malformed"),
        (format!("{}{}", &good[..good.len() - 43], encode([0; 32])), 401, "auth-signature"),
        (refused(json!({ "scope": "write" })), 403, "scope-denied"),
    ] {
        let answer = with_token(&gateway, "/", &token).await;
        assert_eq!((answer.status(), code(&answer).as_str()), (status, reason), "{token}");
        let challenge = answer.field("www-authenticate").unwrap();
        let error = if status == 403 { "insufficient_scope" } else { "invalid_token" };
        assert!(challenge.starts_with(&format!("Bearer error=\"{error}\"")), "{challenge}");
        assert!(challenge.contains("error_description="), "{challenge}");
    }
    assert_eq!(origin.requests().len(), 2, "nobody else came through");
}

#[tokio::test]
async fn a_token_may_be_in_a_cookie_or_the_query_and_never_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("access.log");
    let yaml = with_secret(
        folder.path(),
        "routes:\n  - name: all\n    \
         auth: { jwt: { issuers: [shop], from: [header, \"cookie:sid\", \"query:t\"] } }\n    \
         respond: { body: fine }\n",
    );
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\nadmin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: \"{}\", query: true }} }}\n{yaml}",
        log.display()
    );
    let gateway = Running::start_with(harness::parse(&text), Options::default());
    let good = hs256(&claims(json!({})));
    assert_eq!(get(&gateway, "/", &format!("\nCookie: a=b; sid={good}")).await.status(), 200);
    assert_eq!(get(&gateway, &format!("/?a=b&t={good}"), "").await.status(), 200);
    assert_eq!(get(&gateway, &format!("/?t={good}&t={good}"), "").await.status(), 401);
    let lines = || fs::read_to_string(&log).unwrap_or_default();
    eventually("three log lines", || lines().lines().count() == 3).await;
    let lines = lines();
    assert!(!lines.contains(&good), "{lines}");
    assert!(lines.contains("a=b&t=[redacted]"), "{lines}");
    assert!(lines.contains("\"principal\":\"shop:alice\""), "{lines}");
}

#[tokio::test]
async fn routes_that_differ_in_claims_are_chosen_after_auth() {
    let folder = tempfile::tempdir().unwrap();
    let route = |name: &str, claims: &str| {
        format!(
            "  - {{ name: {name}, match: {{ path: /x, claims: {claims} }}, \
             auth: {{ jwt: {{ issuers: [shop] }} }}, respond: {{ body: {name} }} }}\n"
        )
    };
    let yaml = with_secret(
        folder.path(),
        &[
            "routes:\n",
            &route("acme", "{ tenant: acme }"),
            &route("gold", "{ tenant: acme, plan: gold }"),
            &route("member", "{ roles: member }"),
        ]
        .concat(),
    );
    let gateway = Running::start(&yaml);
    for (more, expected) in [
        (json!({ "tenant": "acme", "plan": "gold" }), "gold"),
        (json!({ "tenant": "acme", "roles": ["member"] }), "acme"),
        (json!({ "roles": ["guest", "member"] }), "member"),
    ] {
        let answer = with_token(&gateway, "/x", &hs256(&claims(more))).await;
        assert_eq!(answer.text(), expected);
    }
    let answer = with_token(&gateway, "/x", &hs256(&claims(json!({})))).await;
    assert_eq!((answer.status(), code(&answer).as_str()), (404, "route-none"));
    assert_eq!(get(&gateway, "/x", "").await.status(), 401, "who it is comes first");
    let gold = "sluice_requests_total{route=\"gold\",status=\"2xx\"}";
    assert!(counted(&gateway, gold).await, "the member is counted, not the group");
}

#[tokio::test]
async fn api_keys_are_verified_and_the_file_is_watched() {
    let folder = tempfile::tempdir().unwrap();
    let digest = |key: &str| {
        let mut hex = String::new();
        for byte in digest::digest(&digest::SHA256, key.as_bytes()).as_ref() {
            write!(hex, "{byte:02x}").unwrap();
        }
        hex
    };
    let list = |keys: &[(&str, &str, &str)]| {
        let mut text = String::new();
        for (id, key, more) in keys {
            writeln!(text, "- {{ id: {id}, sha256: \"{}\"{more} }}", digest(key)).unwrap();
        }
        fs::write(folder.path().join("keys.yaml"), text).unwrap();
    };
    list(&[
        ("acme", "k-1", ", scopes: [read], expires: 2099-01-01"),
        ("old", "k-2", ", scopes: [read], expires: 2020-01-01"),
        ("poor", "k-3", ""),
    ]);
    let file = folder.path().join("gateway.yaml");
    let text = "listeners: [{ name: web, address: 127.0.0.1:0 }]\nadmin: { address: 127.0.0.1:0 }\n\
         telemetry: { access_log: { path: off } }\napi_keys: { partners: { file: keys.yaml } }\n\
         routes:\n  - name: all\n    auth: { api_key: { sets: [partners], scopes: [read] } }\n    \
         respond: { body: fine }\n";
    fs::write(&file, text).unwrap();
    let loaded = config::load(&file).unwrap();
    let watched = loaded.watched;
    let options = Options { source: Some(file), watched, ..Options::default() };
    let gateway = Running::start_with(loaded.config, options);
    for (fields, status, reason) in [
        ("\nX-Api-Key: k-1", 200, ""),
        ("\nX-Api-Key: k-2", 401, "auth-expired"),
        ("\nX-Api-Key: k-3", 403, "scope-denied"),
        ("\nX-Api-Key: k-4", 401, "auth-signature"),
        ("\nX-Api-Key: k-1\nX-Api-Key: k-1", 401, "auth-malformed"),
        ("", 401, "auth-missing"),
    ] {
        let answer = get(&gateway, "/", fields).await;
        assert_eq!(answer.status(), status, "{fields}");
        if status == 401 {
            assert_eq!(answer.field("www-authenticate"), Some("ApiKey"));
        }
        assert!(status == 200 || code(&answer) == reason, "{fields}: {}", answer.text());
    }
    list(&[("new", "k-4", ", scopes: [read]")]);
    let reloads = async || gateway.metric("sluice_config_reloads_total").await >= 1.0;
    harness::within("the reload", async {
        while !reloads().await {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(get(&gateway, "/", "\nX-Api-Key: k-4").await.status(), 200);
    assert_eq!(get(&gateway, "/", "\nX-Api-Key: k-1").await.status(), 401, "it is gone");
}

#[tokio::test]
async fn a_key_file_that_changes_takes_its_tokens_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (old, kept, new) = (Ec::new("old"), Ec::new("kept"), Ec::new("new"));
    let keys = folder.path().join("keys.json");
    publish(&keys, &[&old, &kept]);
    let file = folder.path().join("gateway.yaml");
    let text = "listeners: [{ name: web, address: 127.0.0.1:0 }]\nadmin: { address: 127.0.0.1:0 }\n\
         telemetry: { access_log: { path: off } }\n\
         issuers: { shop: { issuer: \"https://id\", audience: [orders], algorithms: [ES256], jwks: { file: keys.json } } }\n\
         routes: [{ name: all, auth: { jwt: { issuers: [shop] } }, respond: { body: fine } }]\n";
    fs::write(&file, text).unwrap();
    let options = Options { source: Some(file.clone()), ..Options::default() };
    let gateway = Running::start_with(config::load(&file).unwrap().config, options);
    let tokens = [&old, &kept, &new].map(|key| key.token(&claims(json!({}))));
    let statuses = async || {
        let mut statuses = Vec::new();
        for token in &tokens {
            statuses.push(with_token(&gateway, "/", token).await.status());
        }
        statuses
    };
    assert_eq!(statuses().await, [200, 200, 401]);
    publish(&keys, &[&new, &kept]);
    gateway.gateway().reload().await.unwrap();
    assert_eq!(statuses().await, [401, 200, 200]);
}

#[tokio::test]
async fn explain_says_what_auth_would() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = with_secret(
        folder.path(),
        "routes:\n  - { name: acme, match: { path: /x, claims: { tenant: acme } }, auth: { jwt: { issuers: [shop] } }, respond: { status: 201 } }\n  \
         - { name: rest, match: { path: /x }, auth: { jwt: { issuers: [shop] } }, respond: { status: 202 } }\n",
    );
    let gateway = Running::start(&yaml);
    let explain = async |headers: Vec<String>| {
        let call = json!({ "method": "GET", "url": "/x", "headers": headers }).to_string();
        gateway.admin_with("POST", "/v1/explain", &call).await.text()
    };
    let told = explain(vec![]).await;
    assert!(told.contains("401 auth-missing"), "{told}");
    assert!(!told.contains("respond"), "it comes no further: {told}");
    let token = hs256(&claims(json!({ "tenant": "acme" })));
    let told = explain(vec![format!("authorization: Bearer {token}")]).await;
    assert!(told.contains("`shop:alice` by jwt"), "{told}");
    assert!(told.contains("route `acme`") && told.contains("201"), "{told}");
    let token = hs256(&claims(json!({ "tenant": "other" })));
    let told = explain(vec![format!("authorization: Bearer {token}")]).await;
    assert!(told.contains("route `rest`") && told.contains("202"), "{told}");
}
