//! `sluice token`: what it signs, the gateway lets in; what it cannot sign, it explains.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sluicegate::{config, gateway::Options};

use crate::harness::{Message, Running, issuer::SigningKey};

const YAML: &str = "
listeners: [{ name: web, address: \"127.0.0.1:0\" }]
admin: { address: \"127.0.0.1:0\" }
telemetry: { access_log: { path: off } }
issuers:
  shop: { issuer: \"https://id.shop.example\", audience: [orders, other], algorithms: [HS256], jwks: { secret: \"file:secret\" } }
  own: { issuer: own, audience: [orders], algorithms: [RS256, ES256], jwks: { file: private.json }, require: [exp, sub, tenant] }
  public: { issuer: public, audience: [orders], algorithms: [ES256], jwks: { file: public.json } }
  away: { issuer: away, audience: [orders], algorithms: [ES256], jwks: { url: \"http://127.0.0.1:9/keys\" } }
routes:
  - name: all
    match: { path: \"/{*rest}\" }
    auth: { jwt: { issuers: [shop, own, public], scopes: [\"orders:read\"] } }
    respond: { body: in }
";

/// A folder with the configuration, and the keys it names.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("gateway.yaml", YAML);
    write("secret", "a secret of more than thirty-two bytes\n");
    let (own, public) = (SigningKey::generate("own-1"), SigningKey::generate("public-1"));
    write("private.json", &json!({ "keys": [own.private_jwk()] }).to_string());
    write("public.json", &json!({ "keys": [public.jwk()] }).to_string());
    write("public.pem", &public.pem());
    folder
}

fn sluice(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .arg("token")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

fn token(folder: &Path, arguments: &[&str]) -> String {
    let output = sluice(folder, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let token = text.strip_suffix('\n').expect("one line");
    assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)), "{token}");
    token.to_owned()
}

async fn ask(gateway: &Running, token: &str) -> Message {
    let head = format!("GET / HTTP/1.1\nHost: a\nAuthorization: Bearer {token}");
    gateway.client().await.request(&head, "").await
}

#[tokio::test]
async fn the_gateway_lets_in_what_it_signs() {
    let folder = folder();
    let at = folder.path();
    let loaded = config::load(&at.join("gateway.yaml")).unwrap_or_else(|e| panic!("{e}"));
    let gateway = Running::start_with(loaded.config, Options::default());
    let scope = ["--sub", "alice", "--scope", "orders:read"];
    for arguments in [
        &["--issuer", "shop"][..],
        &["--issuer", "shop", "--kid", "k1"],
        &["--issuer", "shop", "--audience", "other", "--ttl", "90s", "--scope", "a b"],
        &["--issuer", "own", "--claim", "tenant=acme"],
        &["--issuer", "own", "--claim", "tenant={\"id\":7}", "--kid", "own-1"],
        &["--issuer", "public", "--key", "public.pem", "--kid", "public-1"],
    ] {
        let token = token(at, &[arguments, &scope].concat());
        let answer = ask(&gateway, &token).await;
        assert_eq!(answer.status(), 200, "{arguments:?}: {}", answer.text());
    }
    let without = token(at, &["--issuer", "shop", "--sub", "alice"]);
    assert_eq!(ask(&gateway, &without).await.status(), 403, "no scope was asked for");
    let stranger = ["--issuer", "shop", "--audience", "elsewhere"];
    let stranger = token(at, &[&stranger[..], &scope].concat());
    assert_eq!(ask(&gateway, &stranger).await.status(), 401);
}

#[test]
fn the_header_names_the_key_that_is_asked_for() {
    let folder = folder();
    for arguments in [
        &["--issuer", "shop"][..],
        &["--issuer", "own", "--claim", "tenant=1"],
        &["--issuer", "public", "--key", "public.pem"],
    ] {
        let named = [arguments, &["--sub", "alice", "--kid", "own-1"]].concat();
        let token = token(folder.path(), &named);
        let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
        let header: Value = serde_json::from_slice(&header).unwrap();
        assert_eq!(header["kid"], "own-1", "{arguments:?}");
    }
}

#[test]
fn what_it_cannot_sign_it_explains() {
    let folder = folder();
    for (arguments, told) in [
        (&["--issuer", "shops"][..], "there is shop, own, public, away"),
        (&["--issuer", "away"], "--key FILE signs with a private key in PEM"),
        (&["--issuer", "public"], "only public ones; --key FILE"),
        (&["--issuer", "own"], "add --claim tenant=VALUE"),
        (&["--issuer", "own", "--claim", "tenant"], "write --claim NAME=VALUE"),
        (&["--issuer", "own", "--claim", "tenant=1", "--kid", "x"], "no usable private key `x`"),
        (&["--issuer", "shop", "--key", "public.pem"], "signs with none of the issuer's"),
        (&["--issuer", "public", "--key", "gone.pem"], "gone.pem cannot be read"),
        (&["--issuer", "public", "--key", "secret"], "PRIVATE KEY"),
    ] {
        let output = sluice(folder.path(), &[arguments, &["--sub", "alice"]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        assert!(error.contains(told), "{arguments:?}: {error}");
        assert!(output.stdout.is_empty());
        assert!(!error.contains("thirty-two"), "a secret is shown");
    }
    for ttl in ["0s", "soon", "500ms"] {
        let arguments = ["--issuer", "shop", "--sub", "alice", "--ttl", ttl];
        assert_eq!(sluice(folder.path(), &arguments).status.code(), Some(2), "{ttl}");
    }
    fs::write(folder.path().join("gateway.yaml"), "listeners: []\n").unwrap();
    let output = sluice(folder.path(), &["--issuer", "shop", "--sub", "alice"]);
    assert_eq!(output.status.code(), Some(78));
}
