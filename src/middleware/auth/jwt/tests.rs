//! Example vectors of the RFCs, and known attacks on token verifiers, each with its result.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::middleware::auth::testing::{Signer, encode};

const NOW: u64 = 1_700_000_000;
const A1_CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn all() -> Algorithms {
    Algorithm::all().collect()
}

fn set(keys: &[Value]) -> KeySet {
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), all()).unwrap()
}

/// Whether the only key of this set signed `jws`.
fn verifies(jws: &str, key: &Value) -> Result<(), Verdict> {
    let jws = Jws::decode(jws).map_err(Verdict::Refused)?;
    jws.verify(all(), &set(std::slice::from_ref(key))).map(drop)
}

#[test]
fn the_examples_of_rfc_7515_verify() {
    let a1 = json!({ "kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" });
    let jws = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{A1_CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    assert_eq!(verifies(&jws, &a1), Ok(()), "A.1, HS256");
    let token = Token::decode(&jws).unwrap();
    assert_eq!(token.issuer(), Some("joe"));
    assert_eq!(token.claims["http://example.com/is_root"], true);

    let a2 = json!({ "kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" });
    let jws = format!(
        "eyJhbGciOiJSUzI1NiJ9.{A1_CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
    );
    assert_eq!(verifies(&jws, &a2), Ok(()), "A.2, RS256");

    let a3 = json!({ "kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0" });
    let jws = format!(
        "eyJhbGciOiJFUzI1NiJ9.{A1_CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    assert_eq!(verifies(&jws, &a3), Ok(()), "A.3, ES256");

    let a4 = json!({ "kty": "EC", "crv": "P-521", "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk", "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2" });
    let jws = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
    assert_eq!(verifies(jws, &a4), Ok(()), "A.4, ES512");
    let changed = jws.replace(".UGF5bG9hZA.", ".UGF5bG9hZB.");
    assert!(verifies(&changed, &a4).is_err());

    let jws = format!("eyJhbGciOiJub25lIn0.{A1_CLAIMS}.");
    for key in [a1, a2, a3, a4] {
        assert_eq!(verifies(&jws, &key), Err(Verdict::Refused(AuthFault::Signature)), "A.5, none");
    }
}

#[test]
fn the_example_of_rfc_8037_verifies() {
    let key = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let jws = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(verifies(jws, &key), Ok(()), "A.4 and A.5, EdDSA");
    let changed = jws.replace(".RX", ".Rx");
    assert_eq!(verifies(&changed, &key), Err(Verdict::Refused(AuthFault::Signature)));
}

#[test]
fn the_example_sets_of_rfc_7517_are_read() {
    let a1 = json!({ "keys": [
        { "kty": "EC", "crv": "P-256", "use": "enc", "kid": "1", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" },
        { "kty": "RSA", "e": "AQAB", "alg": "RS256", "kid": "2011-04-29", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw" },
    ] });
    let set = KeySet::parse(a1.to_string().as_bytes(), all()).unwrap();
    let [key] = set.keys() else { panic!("{set:?}") };
    assert_eq!(key.kid(), Some("2011-04-29"));
    assert_eq!(key.algorithms(), Algorithms::of([Algorithm::Rs256]));
    assert!(set.skipped()[0].reason.contains("`use`"));

    let a3 = json!({ "keys": [
        { "kty": "oct", "alg": "A128KW", "k": "GawgguFyGrWKav7AX4VKUg" },
        { "kty": "oct", "kid": "HMAC key used in JWS spec Appendix A.1 example", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow" },
    ] });
    let set = KeySet::parse(a3.to_string().as_bytes(), all()).unwrap();
    assert_eq!((set.keys().len(), set.skipped().len()), (1, 1));
}

/// An issuer with a key of each kind, and its tokens.
struct Shop {
    settings: Settings,
    keys: KeySet,
    rsa: Signer,
    ec: Signer,
    ed: Signer,
}

impl Shop {
    fn new() -> Self {
        let (rsa, ec, ed) = (Signer::rs256("r"), Signer::es256("e"), Signer::eddsa("d"));
        let keys = set(&[rsa.jwk(), ec.jwk(), ed.jwk()]);
        let algorithms = Algorithms::of([Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa]);
        let settings = Settings {
            name: "shop".into(),
            issuer: "https://id.shop.example".into(),
            audience: ["orders".into(), "stock".into()].into(),
            algorithms,
            clock_skew: Duration::from_mins(1),
            require: ["exp".into(), "sub".into()].into(),
        };
        Self { settings, keys, rsa, ec, ed }
    }

    fn check(&self, token: &str) -> Result<Verified, Verdict> {
        let token = Token::decode(token).map_err(Verdict::Refused)?;
        token.check(&self.settings, &self.keys, Duration::from_secs(NOW))
    }

    fn with(&self, claim: &str, value: impl Into<Value>) -> String {
        let mut claims = claims();
        claims[claim] = value.into();
        self.ec.token(&claims)
    }

    fn without(&self, claim: &str) -> String {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(claim);
        self.ec.token(&claims)
    }

    /// A valid token with one more member in its header.
    fn header(&self, name: &str, value: impl Into<Value>) -> String {
        let mut header = json!({ "alg": "ES256", "kid": "e" });
        header[name] = value.into();
        self.ec.with_header(&header, &claims())
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://id.shop.example", "sub": "alice", "aud": "orders",
        "exp": NOW + 300, "nbf": NOW, "iat": NOW,
    })
}

#[test]
fn a_good_token_says_who_it_is() {
    let shop = Shop::new();
    for token in [shop.rsa.token(&claims()), shop.ec.token(&claims()), shop.ed.token(&claims())] {
        let verified = shop.check(&token).unwrap();
        assert_eq!(&*verified.name, "shop:alice");
        assert_eq!(verified.claims, claims());
        assert!((verified.until - (NOW + 360) as f64).abs() < 0.001, "with the skew");
    }
    for good in [
        shop.with("aud", json!(["other", "stock"])),
        shop.with("exp", NOW - 59),
        shop.with("exp", (NOW + 5) as f64 + 0.5),
        shop.with("nbf", NOW + 60),
        shop.without("nbf"),
        shop.without("iat"),
        shop.header("typ", "at+jwt"),
        // A token cannot say where keys are; it is signed by a known key.
        shop.header("jku", "https://evil.example/keys.json"),
        shop.header("x5u", "https://evil.example/cert.pem"),
        shop.header("x5c", json!(["MIIB"])),
        shop.header("jwk", Signer::es256("e").jwk()),
        shop.ec.with_header(&json!({ "alg": "ES256" }), &claims()),
    ] {
        assert!(shop.check(&good).is_ok(), "{good}: {:?}", shop.check(&good));
    }
    let mut anonymous = Shop::new();
    anonymous.settings.require = ["exp".into()].into();
    let verified = anonymous.check(&anonymous.without("sub")).unwrap();
    assert_eq!(&*verified.name, "", "a token without a subject names nobody");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn every_attack_has_its_answer() {
    let shop = Shop::new();
    let good = shop.ec.token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, body, signature) = (parts[0], parts[1], parts[2]);
    let stranger = Signer::es256("e");
    let public = |signer: &Signer, member: &str| {
        let bytes = URL_SAFE_NO_PAD.decode(signer.jwk()[member].as_str().unwrap()).unwrap();
        Signer::hs256("r", &bytes)
    };
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    let zeros = encode([0; 64]);
    let malformed = Verdict::Refused(AuthFault::Malformed);
    let unsigned = Verdict::Refused(AuthFault::Signature);
    let refused = Verdict::Refused;
    let deep = |depth| format!("{{\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    let named = |kid: &str| shop.ec.with_header(&json!({ "alg": "ES256", "kid": kid }), &claims());
    let mut table = vec![
        // Unsigned, or signed by somebody else.
        ("alg none", format!("{}.{body}.", encode(r#"{"alg":"none"}"#)), unsigned),
        (
            "alg none with a signature",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"none"}"#)),
            unsigned,
        ),
        ("no signature", format!("{head}.{body}."), unsigned),
        ("a stranger's signature", stranger.token(&claims()), unsigned),
        (
            "a stranger's embedded jwk",
            stranger.with_header(
                &json!({ "alg": "ES256", "kid": "e", "jwk": stranger.jwk() }),
                &claims(),
            ),
            unsigned,
        ),
        (
            "a stranger's jku",
            stranger.with_header(
                &json!({ "alg": "ES256", "kid": "e", "jku": "https://evil.example/" }),
                &claims(),
            ),
            unsigned,
        ),
        (
            "a stranger's x5u",
            stranger.with_header(
                &json!({ "alg": "ES256", "kid": "e", "x5u": "https://evil.example/" }),
                &claims(),
            ),
            unsigned,
        ),
        (
            "a stranger's x5c",
            stranger
                .with_header(&json!({ "alg": "ES256", "kid": "e", "x5c": ["MIIB"] }), &claims()),
            unsigned,
        ),
        // The public key as a shared secret.
        ("HS256 by the modulus", public(&shop.rsa, "n").token(&claims()), unsigned),
        (
            "HS256 by the JWK",
            Signer::hs256("r", shop.rsa.jwk().to_string().as_bytes()).token(&claims()),
            unsigned,
        ),
        (
            "HS256 by the point",
            public(&shop.ec, "x").with_header(&json!({ "alg": "HS256", "kid": "e" }), &claims()),
            unsigned,
        ),
        (
            "RS256 with the kid of another type",
            shop.rsa.with_header(&json!({ "alg": "RS256", "kid": "e" }), &claims()),
            unsigned,
        ),
        (
            "an algorithm that is not allowed",
            shop.rsa.with_header(&json!({ "alg": "PS256", "kid": "r" }), &claims()),
            unsigned,
        ),
        (
            "an unknown algorithm",
            shop.ec.with_header(&json!({ "alg": "ES256K", "kid": "e" }), &claims()),
            unsigned,
        ),
        // Signatures that are almost valid.
        ("r and s are zero", format!("{head}.{body}.{zeros}"), unsigned),
        ("a truncated signature", format!("{head}.{body}.{}", encode(&raw[..63])), unsigned),
        (
            "an extended signature",
            format!("{head}.{body}.{}", encode([&raw[..], &[0]].concat())),
            unsigned,
        ),
        (
            "a DER signature",
            format!(
                "{head}.{body}.{}",
                encode([&[0x30, 0x44, 0x02, 0x20], &raw[..32], &[0x02, 0x20], &raw[32..]].concat())
            ),
            unsigned,
        ),
        (
            "another header",
            format!("{}.{body}.{signature}", encode(r#"{"alg":"ES256","kid":"e","a":1}"#)),
            unsigned,
        ),
        (
            "other claims",
            format!(
                "{head}.{}.{signature}",
                encode(claims().to_string().replace("alice", "admin"))
            ),
            unsigned,
        ),
        // Encodings.
        ("padding", format!("{good}="), malformed),
        ("standard base64", format!("{head}.{body}.{}", "+/+/".repeat(21) + "+/"), malformed),
        ("trailing bits", format!("{head}.{body}.{}", with_trailing_bits(signature)), malformed),
        ("a space", format!(" {good}"), malformed),
        ("a line break inside", format!("{head}.\n{body}.{signature}"), malformed),
        ("two parts", format!("{head}.{body}"), malformed),
        ("four parts", format!("{good}.{signature}"), malformed),
        ("five parts, as of a JWE", format!("{good}.a.b"), malformed),
        ("nothing", String::new(), malformed),
        ("dots", "..".to_owned(), malformed),
        (
            "a JSON serialization",
            json!({ "protected": head, "payload": body, "signature": signature }).to_string(),
            malformed,
        ),
        ("8 KiB and more", shop.with("x", "x".repeat(8 * 1024)), malformed),
        // Headers.
        (
            "crit, unknown",
            shop.ec.with_header(
                &json!({ "alg": "ES256", "kid": "e", "crit": ["exp"], "exp": 1 }),
                &claims(),
            ),
            malformed,
        ),
        (
            "crit, b64",
            shop.ec.with_header(
                &json!({ "alg": "ES256", "kid": "e", "crit": ["b64"], "b64": false }),
                &claims(),
            ),
            malformed,
        ),
        ("crit, empty", shop.header("crit", json!([])), malformed),
        ("no alg", shop.ec.with_header(&json!({ "kid": "e" }), &claims()), malformed),
        (
            "alg is a list",
            shop.ec.with_header(&json!({ "alg": ["ES256"], "kid": "e" }), &claims()),
            malformed,
        ),
        (
            "kid is a number",
            shop.ec.with_header(&json!({ "alg": "ES256", "kid": 1 }), &claims()),
            malformed,
        ),
        ("kid is null", shop.header("kid", Value::Null), malformed),
        (
            "a header member twice",
            shop.ec.text(r#"{"alg":"ES256","kid":"e","alg":"none"}"#, &claims().to_string()),
            malformed,
        ),
        (
            "a header member twice, escaped",
            shop.ec.text(r#"{"alg":"ES256","kid":"e","\u0061lg":"none"}"#, &claims().to_string()),
            malformed,
        ),
        ("a header that is a list", shop.ec.text("[]", &claims().to_string()), malformed),
        ("a nested header", shop.ec.text(&deep(64), &claims().to_string()), malformed),
        (
            "a header with a BOM",
            shop.ec.text("\u{feff}{\"alg\":\"ES256\",\"kid\":\"e\"}", &claims().to_string()),
            malformed,
        ),
        // Claims.
        (
            "a claim twice",
            shop.ec.text(
                r#"{"alg":"ES256","kid":"e"}"#,
                &claims().to_string().replace('{', "{\"sub\":\"admin\","),
            ),
            malformed,
        ),
        ("nested claims", shop.ec.text(r#"{"alg":"ES256","kid":"e"}"#, &deep(64)), malformed),
        (
            "claims that are a text",
            shop.ec.text(r#"{"alg":"ES256","kid":"e"}"#, "\"alice\""),
            malformed,
        ),
        (
            "claims that are no JSON",
            shop.ec.text(r#"{"alg":"ES256","kid":"e"}"#, "{\"sub\":\"alice\""),
            malformed,
        ),
        (
            "claims that are no UTF-8",
            shop.ec.segments(head, &encode(b"{\"sub\":\"\xff\"}")),
            malformed,
        ),
        ("no exp", shop.without("exp"), malformed),
        ("exp is a text", shop.with("exp", "9999999999"), malformed),
        ("exp is null", shop.with("exp", Value::Null), malformed),
        ("nbf is a text", shop.with("nbf", "0"), malformed),
        ("iat is a text", shop.with("iat", "0"), malformed),
        ("sub is a list", shop.with("sub", json!(["alice"])), malformed),
        ("no sub, which is required", shop.without("sub"), malformed),
        ("expired", shop.with("exp", NOW - 60), refused(AuthFault::Expired)),
        ("expired long ago", shop.with("exp", -1), refused(AuthFault::Expired)),
        ("not yet", shop.with("nbf", NOW + 61), refused(AuthFault::NotYet)),
        ("no iss", shop.without("iss"), refused(AuthFault::Issuer)),
        ("another iss", shop.with("iss", "https://id.shop.example/"), refused(AuthFault::Issuer)),
        (
            "iss in other case",
            shop.with("iss", "https://ID.shop.example"),
            refused(AuthFault::Issuer),
        ),
        (
            "iss is a list",
            shop.with("iss", json!(["https://id.shop.example"])),
            refused(AuthFault::Issuer),
        ),
        ("no aud", shop.without("aud"), refused(AuthFault::Audience)),
        ("another aud", shop.with("aud", "order"), refused(AuthFault::Audience)),
        ("aud is empty", shop.with("aud", json!([])), refused(AuthFault::Audience)),
        ("aud is a map", shop.with("aud", json!({ "orders": true })), refused(AuthFault::Audience)),
    ];
    for none in ["None", "NONE", "nOnE", "none ", "\u{ff4e}one"] {
        let header = encode(json!({ "alg": none }).to_string());
        table.push(("alg none in another casing", format!("{header}.{body}."), unsigned));
    }
    for kid in [
        "",
        "unknown",
        "../../../../dev/null",
        "/dev/null",
        "e'; DROP TABLE keys; --",
        "e\u{0}",
        "E",
        "http://evil.example/e",
        "e|ls",
    ] {
        table.push(("kid traversal and injection", named(kid), Verdict::KeyMissing));
    }
    for (name, token, expected) in table {
        assert_eq!(shop.check(&token).err(), Some(expected), "{name}: {token}");
    }
}

/// The same bytes, spelled with trailing bits that should be zero.
fn with_trailing_bits(segment: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = segment.split_at(segment.len() - 1);
    let at = ALPHABET.find(last).unwrap();
    format!("{rest}{}", &ALPHABET[at + 1..at + 2])
}

/// Not forgery: anyone with a valid ECDSA signature can compute the other one with `n - s`, and JWS
/// does not require the lower one. It admits the same principal as the first, and nothing here is
/// keyed by signatures.
#[test]
fn the_other_ecdsa_signature_lets_in_the_same_principal() {
    let shop = Shop::new();
    let good = shop.ec.token(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let mut raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    // The order of P-256.
    let order: [u8; 32] = [
        0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
        0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
    ];
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(order[at]) - i16::from(raw[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        raw[32 + at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    let other = format!("{signed}.{}", encode(&raw));
    assert_ne!(other, good);
    assert_eq!(shop.check(&other).unwrap().name, shop.check(&good).unwrap().name);
}

#[test]
fn rsa_padding_is_checked_to_the_last_byte() {
    let shop = Shop::new();
    let good = shop.rsa.token(&claims());
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let raw = URL_SAFE_NO_PAD.decode(signature).unwrap();
    for changed in [
        vec![0; 256],
        [&[0; 255][..], &[1]].concat(),
        vec![0xff; 256],
        raw[1..].to_vec(),
        [&[0][..], &raw].concat(),
        [&raw[..], &[0]].concat(),
        {
            let mut flipped = raw.clone();
            flipped[255] ^= 1;
            flipped
        },
    ] {
        let token = format!("{signed}.{}", encode(&changed));
        assert_eq!(shop.check(&token).err(), Some(Verdict::Refused(AuthFault::Signature)));
    }
}

#[test]
fn a_secret_signs_only_for_its_own_issuer() {
    let secret = b"a secret that is long enough to be good";
    let signer = Signer::hs256("any", secret);
    let shop = Shop::new();
    let settings = Settings { algorithms: Algorithms::HMAC, ..shop.settings.clone() };
    let keys = KeySet::secret(secret, Algorithms::HMAC);
    let now = Duration::from_secs(NOW);
    let good = signer.token(&claims());
    assert!(Token::decode(&good).unwrap().check(&settings, &keys, now).is_ok());
    let hs384 = signer.with_header(&json!({ "alg": "HS384" }), &claims());
    assert!(Token::decode(&hs384).unwrap().check(&settings, &keys, now).is_err());
    assert!(shop.check(&good).is_err());
}

#[test]
fn scopes_are_words_or_a_list() {
    for (claims, has) in [
        (json!({ "scope": "a b:c d" }), true),
        (json!({ "scope": "b:c" }), true),
        (json!({ "scp": ["a", "b:c"] }), true),
        (json!({ "scp": "a b:c" }), true),
        (json!({ "scope": "a", "scp": ["b:c"] }), true),
        (json!({ "scope": "b:cd ab:c" }), false),
        (json!({ "scope": "B:C" }), false),
        (json!({ "scp": ["a b:c"] }), false),
        (json!({ "scope": 1, "scp": { "b:c": true } }), false),
        (json!({}), false),
    ] {
        assert_eq!(has_scope(&claims, "b:c"), has, "{claims}");
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(token: String) {
        drop(Token::decode(&token));
    }

    #[test]
    fn any_segments_never_panic(header: Vec<u8>, claims: Vec<u8>, signature: Vec<u8>) {
        let token = [encode(header), encode(claims), encode(signature)].join(".");
        drop(Token::decode(&token));
    }

    #[test]
    fn any_claims_never_panic(exp: f64, nbf: i64, aud: Vec<String>, iss: String) {
        let claims = json!({ "exp": exp, "nbf": nbf, "aud": aud, "iss": iss });
        let token = format!("{}.{}.", encode(r#"{"alg":"RS256"}"#), encode(claims.to_string()));
        let settings = Settings {
            name: "a".into(), issuer: iss.into(), audience: [].into(), algorithms: all(),
            clock_skew: Duration::ZERO, require: [].into(),
        };
        if let Ok(token) = Token::decode(&token) {
            let _judged = token.judge(&settings, 0.0);
        }
    }
}

/// The JSON Web Signature and JSON Web Key vectors of Wycheproof, from the folder in `WYCHEPROOF`
/// (`testvectors_v1` of the repository C2SP/wycheproof). Skipped without it: the files are not ours.
#[test]
fn wycheproof() {
    // Where we differ, on purpose. Signatures 346, 347, 350, 351: the key's own `alg` is another
    // one, or one that does not exist. 367, 370: identical to the valid 357. 372, 373: a character
    // that is not base64url. Keys 1, 4 are marked ambiguous: an issuer's `algorithms` decide which
    // keys of a mixed set are used, and of two keys with one name the first is.
    const KNOWN: [(&str, &[u64]); 2] = [
        ("json_web_signature_test", &[346, 347, 350, 351, 367, 370, 372, 373]),
        ("json_web_key_test", &[1, 4]),
    ];
    let Some(folder) = std::env::var_os("WYCHEPROOF") else { return };
    let mut report = Vec::new();
    for name in ["json_web_signature_test", "json_web_key_test"] {
        let path = std::path::Path::new(&folder).join(format!("{name}.json"));
        let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let (mut right, mut wrong) = (0, 0);
        for group in file["testGroups"].as_array().unwrap() {
            let keys = group.get("public").unwrap_or(&group["private"]);
            let keys =
                if keys.get("keys").is_some() { keys.clone() } else { json!({ "keys": [keys] }) };
            let keys = KeySet::parse(keys.to_string().as_bytes(), all());
            for test in group["tests"].as_array().unwrap() {
                let id = test["tcId"].as_u64().unwrap();
                let verified = Jws::decode(test["jws"].as_str().unwrap()).is_ok_and(|jws| {
                    keys.as_ref().is_ok_and(|keys| jws.verify(all(), keys).is_ok())
                });
                if verified == (test["result"] == "valid")
                    || KNOWN.iter().any(|(file, ids)| *file == name && ids.contains(&id))
                {
                    right += 1;
                } else {
                    wrong += 1;
                    report.push(format!("{name} {id} {} {}", group["comment"], test["comment"]));
                }
            }
        }
        println!("{name}: {right} as expected, {wrong} not");
    }
    assert!(report.is_empty(), "{report:#?}");
}
