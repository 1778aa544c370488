//! Requests with credentials of each kind, through the layer.

use std::time::Duration;

use http::{HeaderValue, StatusCode, header, request::Parts};
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::{
    error::{AuthRefusal, Kind},
    http::Body,
    middleware::{
        auth::{
            Check, Issuer, Issuers, VerifiedTokens,
            algorithm::{Algorithm, Algorithms},
            api_key::{self, ApiKey, ApiKeys},
            check::{Decide, Deciding},
            credential::Place,
            jwt,
            key_source::{Answer, Fixed, KeySource, Missing, Published},
            keys::KeySet,
            testing::Signer,
            verified::Limits,
        },
        testing::get,
    },
    telemetry::{clock, metrics::Metrics},
};

fn set(signer: &Signer) -> KeySet {
    let keys = json!({ "keys": [signer.jwk()] });
    KeySet::parse(keys.to_string().as_bytes(), Algorithm::all().collect()).unwrap()
}

fn jwt_check(source: Arc<dyn KeySource>, scopes: &[&str]) -> Check {
    let settings = jwt::Settings {
        name: "shop".into(),
        issuer: "https://id.example".into(),
        audience: ["orders".into()].into(),
        algorithms: Algorithms::of([Algorithm::Es256]),
        clock_skew: Duration::ZERO,
        require: [].into(),
    };
    let issuer = Arc::new(Issuer::new(Arc::new(settings), 1, source));
    Check::Jwt {
        issuers: Issuers::new([issuer], Arc::new(VerifiedTokens::new(Limits::default()))),
        scopes: scopes.iter().map(|scope| (*scope).into()).collect(),
        places: [Place::Header].into(),
    }
}

fn key_check() -> Check {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"k-1");
    let key = ApiKey {
        id: "acme".into(),
        sha256: digest.as_ref().try_into().unwrap(),
        scopes: [].into(),
        expires: None,
    };
    let header = header::HeaderName::from_static("x-api-key");
    let settings = api_key::Settings { name: "partners".into(), header, keys: vec![key] };
    Check::ApiKey { sets: [Arc::new(ApiKeys::new(&settings))].into(), scopes: [].into() }
}

fn token(signer: &Signer, scope: &str) -> String {
    let exp = clock::since_epoch(clock::now()).as_secs() + 60;
    signer.token(&json!({
        "iss": "https://id.example", "sub": "alice", "aud": "orders", "exp": exp, "scope": scope,
    }))
}

fn request(fields: &[(&'static str, &str)]) -> Request {
    let mut request = get("/");
    for (name, value) in fields {
        request.parts.headers.append(*name, value.parse().unwrap());
    }
    request
}

/// The result for a request with these fields: its principal, or the refusal.
async fn send(
    checks: impl IntoIterator<Item = Check>,
    fields: &[(&'static str, &str)],
) -> Result<Option<String>, Error> {
    let outcomes = Outcomes::new(&Metrics::new().thread());
    let layer = AuthLayer::new(Some((Checks::new(checks), outcomes)));
    let request = request(fields);
    let cx = request.cx.clone();
    let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
    layer.layer(inner).oneshot(request).await?;
    Ok(cx.principal().map(|principal| principal.name.to_string()))
}

fn refusal(sent: Result<Option<String>, Error>) -> (StatusCode, &'static str, Option<String>) {
    let error = sent.unwrap_err();
    let Kind::Auth(AuthRefusal { challenge, .. }) = error.kind() else { panic!("{error}") };
    let challenge = challenge.as_ref().map(|value| value.to_str().unwrap().to_owned());
    (error.kind().status(), error.kind().reason(), challenge)
}

#[tokio::test]
async fn a_token_lets_in_and_its_absence_is_told() {
    let signer = Signer::es256("e");
    let check = |scopes: &[&str]| [jwt_check(Arc::new(Fixed::new(set(&signer))), scopes)];
    let good = format!("Bearer {}", token(&signer, "read write"));
    let sent = send(check(&["write"]), &[("authorization", &good)]).await;
    assert_eq!(sent.unwrap().as_deref(), Some("shop:alice"));

    let sent = send(check(&[]), &[]).await;
    assert_eq!(
        refusal(sent),
        (StatusCode::UNAUTHORIZED, "auth-missing", Some("Bearer".to_owned()))
    );
    for malformed in ["Bearer x", "Bearer \u{e9}", "Bearer a.b\tc.d"] {
        let (status, reason, challenge) =
            refusal(send(check(&[]), &[("authorization", malformed)]).await);
        assert_eq!((status, reason), (StatusCode::UNAUTHORIZED, "auth-malformed"));
        let expected =
            "Bearer error=\"invalid_token\", error_description=\"The credential is malformed.\"";
        assert_eq!(challenge.as_deref(), Some(expected));
    }

    let (status, reason, challenge) =
        refusal(send(check(&["admin", "write"]), &[("authorization", &good)]).await);
    assert_eq!((status, reason), (StatusCode::FORBIDDEN, "scope-denied"));
    let challenge = challenge.unwrap();
    assert!(challenge.starts_with("Bearer error=\"insufficient_scope\""), "{challenge}");
    assert!(challenge.ends_with("scope=\"admin write\""), "{challenge}");
}

#[tokio::test]
async fn of_several_ways_any_is_enough_and_the_first_shown_speaks() {
    let signer = Signer::es256("e");
    let checks = || [jwt_check(Arc::new(Fixed::new(set(&signer))), &[]), key_check()];
    let sent = send(checks(), &[("x-api-key", "k-1")]).await;
    assert_eq!(sent.unwrap().as_deref(), Some("partners:acme"));
    let sent = send(checks(), &[("authorization", "Bearer x"), ("x-api-key", "k-1")]).await;
    assert_eq!(sent.unwrap().as_deref(), Some("partners:acme"), "the other one is good");
    let sent = send(checks(), &[]).await;
    assert_eq!(refusal(sent).2.as_deref(), Some("Bearer, ApiKey"));
    let sent = send(checks(), &[("x-api-key", "k-2")]).await;
    assert_eq!(
        refusal(sent),
        (StatusCode::UNAUTHORIZED, "auth-signature", Some("ApiKey".to_owned()))
    );
    let sent = send(checks(), &[("x-api-key", "k-1"), ("x-api-key", "k-1")]).await;
    assert_eq!(refusal(sent).1, "auth-malformed");
}

/// Has no keys until somebody waits for them.
#[derive(Debug)]
struct Slow {
    published: Arc<Published>,
    keys: Value,
    answer: Answer,
}

impl KeySource for Slow {
    fn published(&self) -> &Published {
        &self.published
    }

    fn missing(&self, _: Option<&str>) -> Missing {
        let (published, keys, answer) = (self.published.clone(), self.keys.clone(), self.answer);
        Missing::Wait(Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let text = keys.to_string();
            if answer == Answer::Published {
                let all = Algorithm::all().collect();
                published.publish(KeySet::parse(text.as_bytes(), all).unwrap());
            }
            answer
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_waited_for() {
    let signer = Signer::es256("e");
    let good = format!("Bearer {}", token(&signer, ""));
    let slow = |answer| {
        let published = Arc::new(Published::default());
        let keys = json!({ "keys": [signer.jwk()] });
        [jwt_check(Arc::new(Slow { published, keys, answer }), &[]), key_check()]
    };
    let sent = send(slow(Answer::Published), &[("authorization", &good)]).await;
    assert_eq!(sent.unwrap().as_deref(), Some("shop:alice"));

    let sent = send(slow(Answer::Unavailable), &[("authorization", &good)]).await;
    let error = sent.unwrap_err();
    assert_eq!(error.kind().reason(), "auth-keys-unavailable");
    assert_eq!(error.kind().status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(error.kind().retry_after().is_some());

    let sent = send(slow(Answer::Unknown), &[("authorization", &good)]).await;
    assert_eq!(refusal(sent).1, "auth-kid-unknown");
    let fields = [("authorization", &*good), ("x-api-key", "k-1")];
    let sent = send(slow(Answer::Unavailable), &fields).await;
    assert_eq!(sent.unwrap().as_deref(), Some("partners:acme"), "the next way is tried");
}

/// Admits whoever says so.
#[derive(Debug)]
struct Word;

impl Decide for Word {
    fn decide<'a>(&'a self, parts: &'a mut Parts, _: &'a Context) -> Deciding<'a> {
        Box::pin(async {
            tokio::task::yield_now().await;
            if parts.headers.get("x-word").is_some_and(|word| word == "friend") {
                parts.headers.insert("x-user", HeaderValue::from_static("guest"));
                return Ok(());
            }
            if parts.headers.contains_key("x-silent") {
                return Err(Error::new(Kind::AuthUnavailable));
            }
            Err(Error::new(Kind::IpDenied))
        })
    }
}

#[tokio::test]
async fn another_service_may_decide() {
    let checks = || [key_check(), Check::Forward(Arc::new(Word))];
    assert_eq!(send(checks(), &[("x-word", "friend")]).await.unwrap(), None);
    let denied = send(checks(), &[]).await.unwrap_err();
    assert!(matches!(denied.kind(), Kind::IpDenied), "its own words: {denied}");
    let sent = send(checks(), &[("x-api-key", "k-2")]).await;
    assert_eq!(refusal(sent).1, "auth-signature", "a credential that was shown speaks first");
    let sent = send(checks(), &[("x-api-key", "k-1")]).await;
    assert_eq!(sent.unwrap().as_deref(), Some("partners:acme"), "nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn where_one_way_could_not_tell_nobody_is_told_that_a_credential_is_wrong() {
    let word = || Check::Forward(Arc::new(Word));
    let bad = [("x-api-key", "k-2"), ("x-silent", "1")];
    for checks in [[key_check(), word()], [word(), key_check()]] {
        let error = send(checks, &bad).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::AuthUnavailable), "{error}");
    }
    let signer = Signer::es256("e");
    let good = format!("Bearer {}", token(&signer, ""));
    let unknown = || {
        let published = Arc::new(Published::default());
        let (keys, answer) = (json!({ "keys": [signer.jwk()] }), Answer::Unavailable);
        jwt_check(Arc::new(Slow { published, keys, answer }), &[])
    };
    let bad = [("x-api-key", "k-2"), ("authorization", &*good)];
    for checks in [[key_check(), unknown()], [unknown(), key_check()]] {
        let error = send(checks, &bad).await.unwrap_err();
        assert_eq!(error.kind().reason(), "auth-keys-unavailable");
    }
}

#[tokio::test]
async fn without_checks_everybody_passes() {
    let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
    let passed = AuthLayer::new(None).layer(inner).oneshot(get("/")).await;
    assert!(passed.is_ok());
    let refused = send(std::iter::empty(), &[]).await.unwrap_err();
    assert!(matches!(refused.kind(), Kind::Internal), "nothing to check lets nobody in");
}
