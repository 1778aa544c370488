//! Which keys of a JWK set may verify what.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn all() -> Algorithms {
    Algorithm::all().collect()
}

fn parse(keys: &Value, allowed: Algorithms) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), allowed).unwrap()
}

fn oct(kid: Option<&str>) -> Value {
    let mut key = json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 64]) });
    if let Some(kid) = kid {
        key["kid"] = kid.into();
    }
    key
}

fn rsa() -> Value {
    json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xc5; 256]), "e": "AQAB" })
}

/// RFC 7515, A.3.
fn p256() -> Value {
    json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })
}

/// RFC 8037, A.2.
fn ed25519() -> Value {
    json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" })
}

fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
    key[name] = value.into();
    key
}

#[test]
fn a_key_can_what_its_type_its_alg_and_its_issuer_allow() {
    let es256 = Algorithms::of([Algorithm::Es256]);
    let rs256 = Algorithms::of([Algorithm::Rs256]);
    for (key, allowed, expected) in [
        (rsa(), all(), Algorithms::RSA),
        (rsa(), rs256, rs256),
        (with(rsa(), "alg", "RS256"), all(), rs256),
        (p256(), all(), es256),
        (ed25519(), all(), Algorithms::of([Algorithm::EdDsa])),
        (oct(None), all(), Algorithms::HMAC),
        (with(p256(), "use", "sig"), all(), es256),
        (with(p256(), "key_ops", json!(["verify"])), all(), es256),
    ] {
        let set = parse(&json!([key]), allowed);
        assert_eq!(set.keys().first().map(Key::algorithms), Some(expected), "{key} {set:?}");
    }
}

#[test]
fn what_cannot_be_used_is_left_out_and_told() {
    let short = URL_SAFE_NO_PAD.encode([0xc5; 128]);
    for (key, reason) in [
        (with(rsa(), "n", short), "2048"),
        (with(rsa(), "e", "AQ"), "exponent"),
        (with(rsa(), "e", "AQAA"), "exponent"),
        (with(rsa(), "n", "a+b"), "base64url"),
        (with(rsa(), "n", 7), "missing"),
        (with(rsa(), "alg", "HS256"), "kty and crv"),
        (with(rsa(), "alg", "RSA-OAEP"), "no signature algorithm"),
        (with(rsa(), "alg", "none"), "no signature algorithm"),
        (with(rsa(), "use", "enc"), "`use`"),
        (with(rsa(), "key_ops", json!(["encrypt"])), "`key_ops`"),
        (with(rsa(), "key_ops", "verify"), "`key_ops`"),
        (with(rsa(), "kid", 1), "kid"),
        (with(p256(), "y", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a1"), "base64url"),
        (with(p256(), "x", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"), "no point"),
        (with(p256(), "x", "f83O"), "length"),
        (with(p256(), "crv", "P-384"), "length"),
        (with(p256(), "crv", "secp256k1"), "crv"),
        (with(ed25519(), "crv", "Ed448"), "crv"),
        (with(ed25519(), "x", "11qY"), "length"),
        (json!({ "kty": "oct", "k": "" }), "256 bits"),
        (json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 31]) }), "256 bits"),
        (json!({ "kty": "oct", "alg": "HS512", "k": URL_SAFE_NO_PAD.encode([7; 63]) }), "kty"),
        (json!({ "kty": "AKP" }), "kty"),
        (json!({}), "kty"),
    ] {
        let set = parse(&json!([key, oct(Some("good"))]), all());
        assert_eq!(set.keys().len(), 1, "{key}");
        assert!(set.skipped()[0].reason.contains(reason), "{key}: {:?}", set.skipped());
    }
    let set = parse(&json!([rsa()]), Algorithms::HMAC);
    assert!(set.keys().is_empty() && set.skipped()[0].reason.contains("algorithms"));
}

#[test]
fn what_is_no_key_set_is_refused_whole() {
    for text in ["", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[1]}"#, r#"{"keys":[],"keys":[]}"#] {
        assert!(KeySet::parse(text.as_bytes(), all()).is_err(), "{text}");
    }
    assert!(KeySet::parse(br#"{"keys":[],"more":1}"#, all()).unwrap().keys().is_empty());
}

#[test]
fn a_token_finds_its_key_by_kid_and_algorithm() {
    let set = parse(&json!([with(rsa(), "kid", "r"), with(p256(), "kid", "e")]), all());
    let find = |kid, algorithm| set.find(kid, algorithm).map(|key| key.kid().unwrap());
    assert_eq!(find(Some("r"), Algorithm::Rs256), Ok("r"));
    assert_eq!(find(Some("r"), Algorithm::Es256), Err(NoKey::OtherAlgorithm));
    assert_eq!(find(Some("r"), Algorithm::Hs256), Err(NoKey::OtherAlgorithm), "confusion");
    assert_eq!(find(Some("../../dev/null"), Algorithm::Rs256), Err(NoKey::Unknown));
    assert_eq!(find(None, Algorithm::Rs256), Ok("r"), "the only one that fits");
    assert_eq!(find(None, Algorithm::Hs256), Err(NoKey::Ambiguous));

    let two = parse(&json!([with(rsa(), "kid", "1"), with(rsa(), "kid", "2")]), all());
    assert_eq!(two.find(None, Algorithm::Rs256), Err(NoKey::Ambiguous));

    let nameless = parse(&json!([rsa()]), all());
    assert!(nameless.find(Some("any"), Algorithm::Rs256).is_ok(), "nothing to disagree with");
    assert_eq!(nameless.find(Some("any"), Algorithm::Es256), Err(NoKey::Unknown));
}

#[test]
fn one_kid_may_name_keys_of_different_types_only() {
    let (one, other) = (with(rsa(), "kid", "k"), with(p256(), "kid", "k"));
    let set = parse(&json!([one, other]), all());
    assert!(set.find(Some("k"), Algorithm::Es256).is_ok());
    let set = parse(&json!([one, one]), all());
    assert_eq!((set.keys().len(), set.skipped().len()), (1, 1));
}

#[test]
fn a_key_never_verifies_for_another_algorithm() {
    let set = parse(&json!([rsa()]), all());
    let key = &set.keys()[0];
    for algorithm in Algorithm::all() {
        assert!(!key.verifies(algorithm, b"message", ""), "{algorithm}");
        assert!(!key.verifies(algorithm, b"message", "AAAA"), "{algorithm}");
        assert!(!key.verifies(algorithm, b"message", "not base64"), "{algorithm}");
    }
}

#[test]
fn no_key_is_shown() {
    let set = KeySet::secret(b"secret", Algorithms::HMAC);
    assert!(!format!("{set:?}").contains("115"), "{set:?}");
    assert!(format!("{set:?}").contains("[redacted]"));
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes: Vec<u8>) {
        drop(KeySet::parse(&bytes, all()));
    }

    #[test]
    fn any_members_never_panic(kty in "RSA|EC|OKP|oct", crv in "P-256|P-521|Ed25519", text: String) {
        let key = json!({
            "kty": kty, "crv": crv, "n": text, "e": text, "x": text, "y": text, "k": text,
        });
        parse(&json!([key]), all());
    }
}
