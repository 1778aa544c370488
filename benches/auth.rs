//! A token at the door: known to the worker, and new to it. Allocations are counted.
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod allocations;

use std::{hint::black_box, sync::Arc, time::Duration};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::Criterion;
use serde_json::{Value, json};
use sluicegate::middleware::auth::{
    Issuer, Issuers, VerifiedTokens, algorithm::Algorithm, jwt, key_source::Fixed, keys::KeySet,
    verified::Limits,
};

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// As identity providers write them: some ten claims, about 700 bytes.
fn signed(algorithm: &str) -> String {
    let claims = json!({
        "iss": "https://id.shop.example/realms/shop", "aud": ["orders", "account"],
        "sub": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "exp": NOW.as_secs() + 300,
        "iat": NOW.as_secs(), "jti": "3f0e6ad4-6f2f-4bd0-9e2a-2a0c2b7b3c11", "typ": "Bearer",
        "azp": "web", "scope": "openid email orders:read orders:write",
        "realm_access": { "roles": ["offline_access", "member", "buyer"] },
        "email": "alice@shop.example", "email_verified": true, "tenant": "acme",
    });
    let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "2026-11" });
    format!("{}.{}", encode(header.to_string()), encode(claims.to_string()))
}

fn rs256() -> (String, Value) {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let signed = signed("RS256");
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    let public = key.public_key();
    let n = encode(public.modulus().big_endian_without_leading_zero());
    let jwk = json!({ "kty": "RSA", "kid": "2026-11", "e": "AQAB", "n": n });
    (format!("{signed}.{}", encode(signature)), jwk)
}

fn es256() -> (String, Value) {
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let signed = signed("ES256");
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    let (x, y) = key.public_key().as_ref()[1..].split_at(32);
    let jwk =
        json!({ "kty": "EC", "crv": "P-256", "kid": "2026-11", "x": encode(x), "y": encode(y) });
    (format!("{signed}.{}", encode(signature)), jwk)
}

fn issuers(jwk: &Value, limits: Limits) -> Issuers {
    let keys = json!({ "keys": [jwk] }).to_string();
    let keys = KeySet::parse(keys.as_bytes(), Algorithm::all().collect()).unwrap();
    let settings = jwt::Settings {
        name: "shop".into(),
        issuer: "https://id.shop.example/realms/shop".into(),
        audience: ["orders".into()].into(),
        algorithms: Algorithm::all().collect(),
        clock_skew: Duration::from_mins(1),
        require: ["exp".into(), "sub".into()].into(),
    };
    let issuer = Issuer::new(Arc::new(settings), 1, Arc::new(Fixed::new(keys)));
    Issuers::new([Arc::new(issuer)], Arc::new(VerifiedTokens::new(limits)))
}

fn check(issuers: &Issuers, token: &str) -> bool {
    issuers.check(token.as_bytes(), NOW, None).is_ok_and(|bearer| bearer.is_cached)
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let (token, jwk) = rs256();
    let known = issuers(&jwk, Limits::default());
    assert!(!check(&known, &token));
    allocations::assert_at_most(0, "a token that is known", || assert!(check(&known, &token)));
    let mut group = criterion.benchmark_group("token");
    group.bench_function("known", |b| b.iter(|| check(black_box(&known), black_box(&token))));
    // Without room for a token each check is the first.
    let none = Limits { entries: 1, bytes: 0 };
    for (name, (token, jwk)) in [("new, RS256", (token, jwk)), ("new, ES256", es256())] {
        let new = issuers(&jwk, none);
        assert!(!check(&new, &token));
        allocations::assert_at_most(150, name, || check(&new, &token));
        group.bench_function(name, |b| b.iter(|| check(black_box(&new), black_box(&token))));
    }
    group.finish();
    criterion.final_summary();
}
