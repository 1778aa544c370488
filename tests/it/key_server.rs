//! Semantics 7: a key server that does everything wrong costs no valid token its way, and is not
//! asked more often for it.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use sluicegate::{
    gateway::Options,
    middleware::auth::{jwks::Timing, settings::KeysFrom},
};

use crate::harness::{
    self, Message, Origin, Running,
    issuer::{Behaviour, KeyServer, SigningKey, claims, quick, response, set},
    within,
};

const ISSUER: &str = "https://id.shop.example";

fn yaml(keys: &str, more: &str) -> String {
    format!(
        "workers: 2\n\
         issuers:\n  shop: {{ issuer: \"{ISSUER}\", audience: [orders], algorithms: [ES256], jwks: {{ {keys} }}{more} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, auth: {{ jwt: {{ issuers: [shop] }} }}, respond: {{ body: in }} }}]\n"
    )
}

fn start(yaml: &str, timing: &Timing) -> Running {
    let mut config = harness::config(yaml);
    for issuer in &mut config.issuers {
        if let KeysFrom::Network(keys) = &mut issuer.keys {
            keys.timing = timing.clone();
        }
    }
    Running::start_with(config, Options::default())
}

/// As it is, for a machine that is busy with a thousand handshakes of its own.
fn patient() -> Timing {
    let long = Duration::from_secs(20);
    Timing { wait: long, fetch: long, ..Timing::default() }
}

async fn ask(gateway: &Running, token: &str) -> Message {
    let head = format!("GET / HTTP/1.1\nHost: a\nAuthorization: Bearer {token}");
    gateway.client().await.request(&head, "").await
}

/// As many requests at once, on connections of their own.
async fn ask_all(gateway: &Running, tokens: &[String]) -> Vec<Message> {
    within("all answers", join_all(tokens.iter().map(|token| ask(gateway, token)))).await
}

async fn fetches(gateway: &Running, outcome: &str) -> f64 {
    let series = format!("sluice_jwks_fetches_total{{issuer=\"shop\",outcome=\"{outcome}\"}}");
    gateway.metric(&series).await
}

#[tokio::test]
async fn a_thousand_requests_at_the_start_are_one_fetch() {
    let key = SigningKey::generate("a");
    let server = KeyServer::start(Behaviour::Keys(set(&[&key]))).await;
    let gateway = start(&yaml(&format!("url: \"{}\"", server.url()), ""), &patient());
    let answers = ask_all(&gateway, &vec![key.token(ISSUER); 1000]).await;
    for answer in answers {
        assert_eq!(answer.status(), 200, "{}", answer.text());
    }
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn a_thousand_requests_with_random_keys_are_one_fetch() {
    let key = SigningKey::generate("a");
    let server = KeyServer::start(Behaviour::Keys(set(&[&key]))).await;
    let gateway = start(&yaml(&format!("url: \"{}\"", server.url()), ""), &patient());
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.status(), 200);
    let random: Vec<_> =
        (0..1000).map(|number| key.sign(&format!("random-{number}"), &claims(ISSUER))).collect();
    for answer in ask_all(&gateway, &random).await {
        assert_eq!(answer.status(), 401);
        assert!(answer.text().contains("auth-kid-unknown"), "{}", answer.text());
    }
    assert_eq!(server.asked(), 2, "the first fetch, and one for all of them");
    let last = server.requests().pop().unwrap();
    assert_eq!(last.field("cache-control"), Some("no-cache"));
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.status(), 200);
}

#[tokio::test]
async fn whatever_the_key_server_does_valid_tokens_pass() {
    let key = Arc::new(SigningKey::generate("a"));
    let elsewhere = Origin::start(|_, _| harness::Reply::Close).await;
    let server = KeyServer::start(Behaviour::Keys(set(&[&key]))).await;
    let gateway = start(&yaml(&format!("url: \"{}\"", server.url()), ""), &quick());
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.status(), 200);

    let json = "content-type: application/json\r\n";
    let keys = set(&[&key]).to_string();
    let huge = " ".repeat(10 << 20);
    let away = format!("location: http://{}/keys\r\n", elsewhere.address());
    let truncated = format!("HTTP/1.1 200 OK\r\n{json}content-length: 999\r\n\r\n{keys}");
    for (outcome, behaviour) in [
        ("timeout", Behaviour::Hang),
        ("broken", Behaviour::Reset),
        ("status", Behaviour::Bytes(response("500 Internal Server Error", json, &keys))),
        ("redirect", Behaviour::Bytes(response("302 Found", &away, ""))),
        ("too-large", Behaviour::Bytes(response("200 OK", json, &huge))),
        ("type", Behaviour::Bytes(response("200 OK", "content-type: text/html\r\n", &keys))),
        ("invalid", Behaviour::Bytes(response("200 OK", json, &keys[..keys.len() / 2]))),
        ("invalid", Behaviour::Bytes(response("200 OK", json, "[]"))),
        ("empty", Behaviour::Bytes(response("200 OK", json, r#"{"keys":[]}"#))),
        ("broken", Behaviour::Bytes(truncated.into_bytes())),
        ("broken", Behaviour::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec())),
    ] {
        let before = fetches(&gateway, outcome).await;
        server.set(behaviour);
        // Not the first: that one may have been on its way before.
        server.suffered(3).await;
        for _ in 0..5 {
            let answer = ask(&gateway, &key.token(ISSUER)).await;
            assert_eq!(answer.status(), 200, "{outcome}: {}", answer.text());
        }
        assert!(fetches(&gateway, outcome).await > before, "{outcome}");
    }
    assert_eq!(elsewhere.connections(), 0, "nobody followed the redirect");

    // And it is believed again once it comes to its senses.
    let next = SigningKey::generate("b");
    server.set(Behaviour::Keys(set(&[&next])));
    server.suffered(2).await;
    assert_eq!(ask(&gateway, &next.token(ISSUER)).await.status(), 200);
    let removed = ask(&gateway, &key.token(ISSUER)).await;
    assert_eq!(removed.status(), 401, "a key the issuer took back is refused");
}

#[tokio::test]
async fn a_rotated_key_is_accepted_with_its_first_token() {
    let (old, new) = (SigningKey::generate("old"), SigningKey::generate("new"));
    let server = KeyServer::start(Behaviour::Keys(set(&[&old]))).await;
    let gateway = start(&yaml(&format!("url: \"{}\"", server.url()), ""), &patient());
    assert_eq!(ask(&gateway, &old.token(ISSUER)).await.status(), 200);
    server.set(Behaviour::Keys(set(&[&old, &new])));
    let answers = ask_all(&gateway, &vec![new.token(ISSUER); 100]).await;
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(server.asked(), 2);
}

#[tokio::test]
async fn without_any_key_set_requests_are_refused_quickly_and_say_why() {
    let key = SigningKey::generate("a");
    let server = KeyServer::start(Behaviour::Reset).await;
    let gateway =
        start(&yaml(&format!("url: \"{}\"", server.url()), ", on_start: require"), &quick());
    server.suffered(1).await;
    let refused = ask(&gateway, &key.token(ISSUER)).await;
    assert_eq!(refused.status(), 503, "{}", refused.text());
    assert!(refused.text().contains("auth-keys-unavailable"), "{}", refused.text());
    assert!(refused.field("retry-after").is_some());
    let ready = gateway.admin("GET", "/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.text().contains("issuer `shop` has no key set yet"), "{}", ready.text());

    server.set(Behaviour::Keys(set(&[&key])));
    within("readiness", async { while gateway.admin("GET", "/readyz").await.status() != 200 {} })
        .await;
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.status(), 200);
}

/// What the issuer's configuration says about discovery, and where its keys are.
async fn discovering(
    document: impl Fn(&str) -> String + Send + Sync + 'static,
    key: &SigningKey,
) -> Origin {
    let keys = set(&[key]).to_string();
    Origin::start(move |_, message| {
        let host = message.field("host").unwrap_or_default();
        let body = match message.target() {
            "/realm/.well-known/openid-configuration" => document(&format!("http://{host}")),
            "/realm/keys" => keys.clone(),
            _ => return harness::Reply::Answer(response("404 Not Found", "", "")),
        };
        harness::Reply::Answer(response("200 OK", "content-type: application/json\r\n", &body))
    })
    .await
}

#[tokio::test]
async fn discovery_finds_the_keys_of_the_issuer_that_says_its_name() {
    let key = SigningKey::generate("a");
    for (name, status) in [("/realm", 200), ("/realm/", 503), ("/other", 503)] {
        let document = move |host: &str| {
            format!(r#"{{"issuer":"{host}{name}","jwks_uri":"{host}/realm/keys","more":[1]}}"#)
        };
        let server = discovering(document, &key).await;
        let issuer = format!("http://{}/realm", server.address());
        let yaml = yaml("discover: true", "").replace(ISSUER, &issuer);
        let gateway = start(&yaml, &patient());
        let answer = ask(&gateway, &key.token(&issuer)).await;
        assert_eq!(answer.status(), status, "{name}: {}", answer.text());
        let expected = if status == 200 { 2 } else { 1 };
        assert_eq!(server.requests().len(), expected, "{name}");
    }
}

/// What is done with requests for a discovery document; without anything it is as it should be.
type Hostile = Arc<Mutex<Option<Behaviour>>>;

/// An issuer whose keys are always there, if its document says where.
async fn issuer(hostile: &Hostile, key: &SigningKey) -> Origin {
    let (hostile, keys) = (hostile.clone(), set(&[key]).to_string());
    Origin::start(move |_, message| {
        let json = "content-type: application/json\r\n";
        if message.target() == "/keys" {
            return harness::Reply::Answer(response("200 OK", json, &keys));
        }
        match hostile.lock().clone() {
            None => {
                let home = format!("http://{}", message.field("host").unwrap_or_default());
                let good = format!(r#"{{"issuer":"{home}","jwks_uri":"{home}/keys"}}"#);
                harness::Reply::Answer(response("200 OK", json, &good))
            }
            Some(Behaviour::Bytes(bytes)) => harness::Reply::AnswerThenClose(bytes),
            Some(Behaviour::Reset) => harness::Reply::Reset,
            Some(_) => harness::Reply::Hang,
        }
    })
    .await
}

#[tokio::test]
async fn whatever_the_discovery_document_says_valid_tokens_pass_and_its_keys_are_not_asked_for() {
    let key = SigningKey::generate("a");
    let elsewhere = Origin::start(|_, _| harness::Reply::Close).await;
    let document = Hostile::default();
    let server = issuer(&document, &key).await;
    let issuer = format!("http://{}", server.address());
    let gateway = start(&yaml("discover: true", "").replace(ISSUER, &issuer), &quick());
    assert_eq!(ask(&gateway, &key.token(&issuer)).await.status(), 200);

    let json = "content-type: application/json\r\n";
    let answer = |status: &str, fields: &str, body: &str| {
        Some(Behaviour::Bytes(response(status, &format!("{fields}{json}"), body)))
    };
    let says = |issuer: &str, keys: &str| {
        answer("200 OK", "", &format!(r#"{{"issuer":"{issuer}","jwks_uri":"{keys}"}}"#))
    };
    let away = elsewhere.address();
    let location = format!("location: http://{away}/.well-known/openid-configuration\r\n");
    for (outcome, hostile) in [
        ("timeout", Some(Behaviour::Hang)),
        ("broken", Some(Behaviour::Reset)),
        ("status", answer("503 Service Unavailable", "", "{}")),
        ("too-large", answer("200 OK", "", &" ".repeat(10 << 20))),
        ("redirect", answer("302 Found", &location, "")),
        ("redirect", answer("302 Found", "location: /.well-known/openid-configuration\r\n", "")),
        ("type", Some(Behaviour::Bytes(response("200 OK", "content-type: text/html\r\n", "<p>")))),
        ("discovery", answer("200 OK", "", "[]")),
        ("discovery", answer("200 OK", "", r#"{"issuer":"#)),
        ("discovery", says("https://evil.example", &format!("{issuer}/keys"))),
        ("discovery", says(&issuer, &format!("http://localhost:{}/keys", away.port()))),
        ("discovery", says(&issuer, &format!("ftp://{away}/keys"))),
        ("discovery", says(&issuer, &format!("http://user@{away}/keys"))),
    ] {
        let before = fetches(&gateway, outcome).await;
        *document.lock() = hostile;
        let asked = server.requests().len();
        // Not the first: that one may have been on its way before.
        server.wait_for(asked + 3).await;
        for _ in 0..5 {
            let answer = ask(&gateway, &key.token(&issuer)).await;
            assert_eq!(answer.status(), 200, "{outcome}: {}", answer.text());
        }
        assert!(fetches(&gateway, outcome).await > before, "{outcome}");
        let asked = server.requests().split_off(asked + 2);
        assert!(asked.iter().all(|it| it.target() != "/keys"), "{outcome}: asked for its keys");
    }
    assert_eq!(elsewhere.connections(), 0, "nobody went where a stranger pointed");
}

#[tokio::test]
async fn a_thousand_requests_with_random_keys_are_one_discovery() {
    let key = SigningKey::generate("a");
    let document =
        |host: &str| format!(r#"{{"issuer":"{host}/realm","jwks_uri":"{host}/realm/keys"}}"#);
    let server = discovering(document, &key).await;
    let issuer = format!("http://{}/realm", server.address());
    let gateway = start(&yaml("discover: true", "").replace(ISSUER, &issuer), &patient());
    assert_eq!(ask(&gateway, &key.token(&issuer)).await.status(), 200);
    let random: Vec<_> =
        (0..1000).map(|number| key.sign(&format!("random-{number}"), &claims(&issuer))).collect();
    for answer in ask_all(&gateway, &random).await {
        assert_eq!(answer.status(), 401);
    }
    assert_eq!(server.requests().len(), 4, "document and keys, at the start and for all of them");
}

#[tokio::test]
async fn a_reload_keeps_the_keys_of_an_issuer_that_is_the_same() {
    let key = SigningKey::generate("a");
    let server = KeyServer::start(Behaviour::Keys(set(&[&key]))).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let write = |audience: &str, body: &str| {
        let yaml = yaml(&format!("url: \"{}\"", server.url()), "")
            .replace("[orders]", audience)
            .replace("body: in", body);
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0 }}]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{yaml}"
        );
        std::fs::write(&file, text).unwrap();
    };
    write("[orders]", "body: one");
    let config = sluicegate::config::load(&file).unwrap_or_else(|e| panic!("{e}")).config;
    let options = Options { source: Some(file.clone()), ..Options::default() };
    let gateway = Running::start_with(config, options);
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.text(), "one");

    write("[orders]", "body: two");
    gateway.gateway().reload().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.text(), "two");
    assert_eq!(server.asked(), 1, "the keys were there");

    // The server is gone for good: what an issuer asks of its tokens has nothing to do with its keys.
    server.set(Behaviour::Reset);
    write("[more, orders]", "body: three");
    gateway.gateway().reload().await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ask(&gateway, &key.token(ISSUER)).await.text(), "three");
    write("[other]", "body: four");
    gateway.gateway().reload().await.unwrap_or_else(|e| panic!("{e}"));
    let refused = ask(&gateway, &key.token(ISSUER)).await;
    assert_eq!(refused.status(), 401, "what was verified before is judged anew");
    assert_eq!(server.asked(), 1);
}
