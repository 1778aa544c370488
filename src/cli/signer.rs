//! A key that can sign tokens, from any form: a secret, a private JWK, a PEM file.
//!
//! Only `sluice token` signs. The gateway only verifies, with keys it is given, and never comes
//! here.

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    rsa::{KeyPairComponents, PublicKeyComponents},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384,
        RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::{Map, Value, json};

/// A private key and the algorithm it signs with.
pub(super) struct Signer {
    algorithm: &'static str,
    kid: Option<String>,
    key: Key,
}

enum Key {
    Hmac(Box<hmac::Key>),
    Rsa(Box<RsaKeyPair>, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// The algorithms of one kind of key, each with its form for the provider.
type Hmacs = [(&'static str, hmac::Algorithm); 3];
type Rsas = [(&'static str, &'static dyn RsaEncoding); 6];
type Ecs = [(&'static str, &'static str, &'static EcdsaSigningAlgorithm); 2];

const HMACS: Hmacs =
    [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)];
const EDDSA: &str = "EdDSA";

fn rsas() -> Rsas {
    [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ]
}

fn ecs() -> Ecs {
    [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
    ]
}

// === impl Signer ===

impl Signer {
    /// A shared secret; signs with the first HS* of `allowed`.
    pub(super) fn from_secret(secret: &[u8], allowed: &[&str]) -> Result<Self, String> {
        let (algorithm, hmac) = pick(allowed, &HMACS, |entry| entry.0)
            .ok_or("the issuer's `algorithms` have no HS*, and a secret signs with nothing else")?;
        Ok(Self { algorithm, kid: None, key: Key::Hmac(Box::new(hmac::Key::new(*hmac, secret))) })
    }

    /// The first private key of a key set that fits one of `allowed`; with `kid`, only that one.
    pub(super) fn from_jwks(
        document: &[u8],
        allowed: &[&str],
        kid: Option<&str>,
    ) -> Result<Self, String> {
        let set: Value =
            serde_json::from_slice(document).map_err(|error| format!("it is not JSON: {error}"))?;
        let keys =
            set.get("keys").and_then(Value::as_array).ok_or("it is no key set: no `keys`")?;
        let mut why = "it has no private key (with `d`), only public ones".to_owned();
        for key in keys.iter().filter_map(Value::as_object) {
            if kid.is_some() && key.get("kid").and_then(Value::as_str) != kid {
                continue;
            }
            if !key.contains_key("d") && !key.contains_key("k") {
                continue;
            }
            match Self::from_jwk(key, allowed) {
                Ok(signer) => return Ok(signer),
                Err(error) => why = error,
            }
        }
        match kid {
            Some(kid) => Err(format!("no usable private key `{kid}`: {why}")),
            None => Err(why),
        }
    }

    fn from_jwk(jwk: &Map<String, Value>, allowed: &[&str]) -> Result<Self, String> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str).unwrap_or_default();
        let bytes = |name: &str| {
            URL_SAFE_NO_PAD
                .decode(text(name))
                .map_err(|_| format!("a private key's `{name}` is not base64url"))
        };
        // Those of the key's algorithms that the issuer allows.
        let own = text("alg");
        let allowed: Vec<&str> =
            allowed.iter().copied().filter(|name| own.is_empty() || *name == own).collect();
        let unfit =
            || format!("a {} key signs with none of the issuer's `algorithms`", text("kty"));
        let kid = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
        let (algorithm, key) = match text("kty") {
            "oct" => {
                let signer = Self::from_secret(&bytes("k")?, &allowed)?;
                (signer.algorithm, signer.key)
            }
            "RSA" => {
                let (algorithm, encoding) =
                    *pick(&allowed, &rsas(), |entry| entry.0).ok_or_else(unfit)?;
                let components = KeyPairComponents {
                    public_key: PublicKeyComponents { n: bytes("n")?, e: bytes("e")? },
                    d: bytes("d")?,
                    p: bytes("p")?,
                    q: bytes("q")?,
                    dP: bytes("dp")?,
                    dQ: bytes("dq")?,
                    qInv: bytes("qi")?,
                };
                let pair = RsaKeyPair::from_components(&components).map_err(|_| {
                    "a private RSA key needs consistent n, e, d, p, q, dp, dq, qi of 2048 bits or more"
                })?;
                (algorithm, Key::Rsa(Box::new(pair), encoding))
            }
            "EC" => {
                let fits =
                    ecs().into_iter().filter(|entry| entry.1 == text("crv")).collect::<Vec<_>>();
                let (algorithm, _, signing) =
                    *pick(&allowed, &fits, |entry| entry.0).ok_or_else(unfit)?;
                let point = [&[4], &bytes("x")?[..], &bytes("y")?[..]].concat();
                let pair =
                    EcdsaKeyPair::from_private_key_and_public_key(signing, &bytes("d")?, &point)
                        .map_err(|_| "a private EC key's d, x and y do not belong together")?;
                (algorithm, Key::Ec(pair))
            }
            "OKP" if text("crv") == "Ed25519" && allowed.contains(&EDDSA) => {
                let pair = Ed25519KeyPair::from_seed_and_public_key(&bytes("d")?, &bytes("x")?)
                    .map_err(|_| "a private Ed25519 key's d and x do not belong together")?;
                (EDDSA, Key::Ed(pair))
            }
            _ => return Err(unfit()),
        };
        Ok(Self { algorithm, kid, key })
    }

    /// A PEM private key (PKCS#8, PKCS#1 or SEC 1); signs with the first of `allowed` that it can.
    pub(super) fn from_pem(pem: &[u8], allowed: &[&str]) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| "it is no PEM file with a PRIVATE KEY section")?;
        let bytes = der.secret_der();
        let rsa = || match &der {
            PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(bytes).ok(),
            PrivateKeyDer::Pkcs8(_) => RsaKeyPair::from_pkcs8(bytes).ok(),
            _ => None,
        };
        let ready = |algorithm, key| Ok(Self { algorithm, kid: None, key });
        if let Some(pair) = rsa()
            && let Some((algorithm, encoding)) = pick(allowed, &rsas(), |entry| entry.0)
        {
            return ready(algorithm, Key::Rsa(Box::new(pair), *encoding));
        }
        for (algorithm, _, signing) in ecs() {
            if allowed.contains(&algorithm)
                && let Ok(pair) = EcdsaKeyPair::from_private_key_der(signing, bytes)
            {
                return ready(algorithm, Key::Ec(pair));
            }
        }
        if allowed.contains(&EDDSA)
            && let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(bytes)
        {
            return ready(EDDSA, Key::Ed(pair));
        }
        Err(format!("this key signs with none of the issuer's algorithms: {}", allowed.join(", ")))
    }

    /// Names this key in the header.
    pub(super) fn set_kid(&mut self, kid: String) {
        self.kid = Some(kid);
    }

    /// A compact JWS (RFC 7515, 3.1) of `claims`.
    pub(super) fn sign(&self, claims: &Value) -> Result<String, String> {
        let mut header = json!({ "alg": self.algorithm, "typ": "JWT" });
        if let Some(kid) = &self.kid {
            header["kid"] = json!(kid);
        }
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.signature(message.as_bytes())?;
        Ok(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |_| "the key could not sign".to_owned();
        Ok(match &self.key {
            Key::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Key::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), message, &mut signature)
                    .map_err(failed)?;
                signature
            }
            Key::Ec(pair) => {
                pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec()
            }
            Key::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

/// The first of `allowed` that is in `known`.
fn pick<'a, T>(
    allowed: &[&str],
    known: &'a [T],
    name: impl Fn(&T) -> &'static str,
) -> Option<&'a T> {
    allowed.iter().find_map(|allowed| known.iter().find(|entry| name(entry) == *allowed))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::{encoding::AsBigEndian as _, rsa::KeySize, signature::KeyPair as _};

    use super::*;
    use crate::middleware::auth::{
        algorithm::{Algorithm, Algorithms},
        keys::KeySet,
    };

    fn b64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The gateway's judgement: whether the public key of this JWK signed the token.
    fn is_verified(jwk: &Value, token: &str) -> bool {
        let (message, signature) = token.rsplit_once('.').unwrap();
        let header: Value = serde_json::from_slice(
            &URL_SAFE_NO_PAD.decode(message.split('.').next().unwrap()).unwrap(),
        )
        .unwrap();
        let algorithm = Algorithm::parse(header["alg"].as_str().unwrap()).unwrap();
        let document = json!({ "keys": [jwk] }).to_string();
        let all: Algorithms = Algorithm::all().collect();
        let set = KeySet::parse(document.as_bytes(), all).unwrap();
        let key = set.find(header["kid"].as_str(), algorithm).unwrap();
        key.verifies(algorithm, message.as_bytes(), signature)
    }

    fn set(jwk: &Value) -> Vec<u8> {
        json!({ "keys": [jwk] }).to_string().into_bytes()
    }

    fn ec(curve: &str, algorithm: &'static EcdsaSigningAlgorithm) -> (Value, EcdsaKeyPair) {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(point.len() / 2);
        let d = pair.private_key().as_be_bytes().unwrap();
        let jwk = json!({
            "kty": "EC", "crv": curve, "kid": "e", "x": b64(x), "y": b64(y), "d": b64(d.as_ref()),
        });
        (jwk, pair)
    }

    fn pem(section: &str, der: &[u8]) -> Vec<u8> {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        let lines: Vec<_> = body.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        format!("-----BEGIN {section}-----\n{}\n-----END {section}-----\n", lines.join("\n"))
            .into_bytes()
    }

    /// The content of the first DER value, and what follows it.
    fn first(der: &[u8]) -> (&[u8], &[u8]) {
        let (length, at) = match usize::from(der[1]) {
            short @ 0..=127 => (short, 2),
            long => {
                let count = long - 128;
                (der[2..2 + count].iter().fold(0, |n, b| n << 8 | usize::from(*b)), 2 + count)
            }
        };
        der[at..].split_at(length)
    }

    /// The RSAPrivateKey (RFC 8017, A.1.2) in a PrivateKeyInfo (RFC 5208, 5).
    fn pkcs1(pkcs8: &[u8]) -> &[u8] {
        let (_, after_version) = first(first(pkcs8).0);
        let (_, after_algorithm) = first(after_version);
        first(after_algorithm).0
    }

    /// Its numbers, without their sign byte.
    fn integers(pkcs1: &[u8]) -> Vec<Vec<u8>> {
        let mut rest = first(pkcs1).0;
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (value, more) = first(rest);
            found.push(value.iter().copied().skip_while(|byte| *byte == 0).collect());
            rest = more;
        }
        found
    }

    #[test]
    fn every_kind_of_private_jwk_signs_what_its_public_half_verifies() {
        for (curve, name, algorithm) in [
            ("P-256", "ES256", &ECDSA_P256_SHA256_FIXED_SIGNING),
            ("P-384", "ES384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ] {
            let (jwk, _) = ec(curve, algorithm);
            let signer = Signer::from_jwks(&set(&jwk), &["RS256", name], None).unwrap();
            assert!(is_verified(&jwk, &signer.sign(&json!({})).unwrap()), "{curve}");
        }

        let pair = Ed25519KeyPair::generate().unwrap();
        let seed = pair.seed().unwrap().as_be_bytes().unwrap();
        let x = b64(pair.public_key().as_ref());
        let jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "d": b64(seed.as_ref()) });
        let signer = Signer::from_jwks(&set(&jwk), &["EdDSA"], None).unwrap();
        assert!(is_verified(&jwk, &signer.sign(&json!({})).unwrap()));

        let jwk = json!({ "kty": "oct", "kid": "h", "k": b64(&[7; 64]) });
        let signer = Signer::from_jwks(&set(&jwk), &["HS512"], None).unwrap();
        assert!(is_verified(&jwk, &signer.sign(&json!({})).unwrap()));
    }

    #[test]
    fn an_rsa_key_signs_with_the_algorithm_its_issuer_lists() {
        use aws_lc_rs::encoding::AsDer as _;

        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pkcs1 = pkcs1(pkcs8.as_ref());
        let parts = integers(pkcs1);
        let names = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];
        let mut jwk = json!({ "kty": "RSA", "kid": "r" });
        for (name, part) in names.iter().zip(&parts[1..]) {
            jwk[*name] = json!(b64(part));
        }
        for name in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"] {
            for signer in [
                Signer::from_jwks(&set(&jwk), &[name], Some("r")).unwrap(),
                Signer::from_pem(&pem("PRIVATE KEY", pkcs8.as_ref()), &[name]).unwrap(),
                Signer::from_pem(&pem("RSA PRIVATE KEY", pkcs1), &[name]).unwrap(),
            ] {
                assert!(is_verified(&jwk, &signer.sign(&json!({})).unwrap()), "{name}");
            }
        }
        jwk["dp"] = json!("AQAB");
        assert!(Signer::from_jwks(&set(&jwk), &["RS256"], None).is_err());
    }

    #[test]
    fn a_pem_key_is_known_by_what_it_can_sign() {
        let (jwk, pair) = ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = pair.to_pkcs8v1().unwrap();
        let mut signer =
            Signer::from_pem(&pem("PRIVATE KEY", pkcs8.as_ref()), &["RS256", "ES256"]).unwrap();
        signer.set_kid("e".to_owned());
        assert!(is_verified(&jwk, &signer.sign(&json!({})).unwrap()));

        let error =
            Signer::from_pem(&pem("PRIVATE KEY", pkcs8.as_ref()), &["ES384"]).err().unwrap();
        assert!(error.contains("ES384"), "{error}");
        assert!(Signer::from_pem(b"no key", &["ES256"]).is_err());
    }

    #[test]
    fn what_cannot_sign_says_why() {
        let (mut jwk, _) = ec("P-256", &ECDSA_P256_SHA256_FIXED_SIGNING);
        let why = |jwk: &Value, allowed: &[&str], kid: Option<&str>| {
            Signer::from_jwks(&set(jwk), allowed, kid).err().unwrap_or_default()
        };
        assert!(why(&jwk, &["RS256"], None).contains("`algorithms`"));
        assert!(why(&jwk, &["ES256"], Some("other")).contains("`other`"));
        jwk["alg"] = json!("ES384");
        assert!(why(&jwk, &["ES256"], None).contains("`algorithms`"));
        jwk.as_object_mut().unwrap().remove("d");
        assert!(why(&jwk, &["ES256"], None).contains("only public"));
        assert!(Signer::from_jwks(b"{}", &["ES256"], None).is_err());
        assert!(Signer::from_secret(b"s", &["ES256"]).is_err());
    }
}
