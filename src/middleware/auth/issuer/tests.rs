//! Tokens against keys that come, go and are missing.

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::middleware::auth::{
    algorithm::{Algorithm, Algorithms},
    key_source::Published,
    keys::KeySet,
    testing::Signer,
    verified::Limits,
};

const NOW: u64 = 1_700_000_000;

/// Keys that a test changes, and the answer about missing ones.
#[derive(Debug, Default)]
struct Scripted {
    published: Published,
    answers: Mutex<Vec<Missing>>,
    asked: Mutex<Vec<Option<String>>>,
}

impl KeySource for Scripted {
    fn published(&self) -> &Published {
        &self.published
    }

    fn missing(&self, kid: Option<&str>) -> Missing {
        self.asked.lock().push(kid.map(ToOwned::to_owned));
        self.answers.lock().pop().unwrap_or(Missing::Now(Answer::Unknown))
    }
}

fn all() -> Algorithms {
    Algorithm::all().collect()
}

fn set(signers: &[&Signer]) -> KeySet {
    let keys: Vec<_> = signers.iter().map(|signer| signer.jwk()).collect();
    KeySet::parse(json!({ "keys": keys }).to_string().as_bytes(), all()).unwrap()
}

fn issuer(name: &str, identity: u64, source: &Arc<Scripted>) -> Arc<Issuer> {
    let settings = jwt::Settings {
        name: name.into(),
        issuer: "https://id.example".into(),
        audience: [name.into()].into(),
        algorithms: all(),
        clock_skew: Duration::ZERO,
        require: [].into(),
    };
    Arc::new(Issuer::new(Arc::new(settings), identity, source.clone()))
}

fn cache() -> Arc<VerifiedTokens> {
    Arc::new(VerifiedTokens::new(Limits::default()))
}

fn claims(audience: &str) -> Value {
    json!({ "iss": "https://id.example", "sub": "alice", "aud": audience, "exp": NOW + 60 })
}

fn check(issuers: &Issuers, token: &str, now: u64, answer: Option<Answer>) -> Result<bool, String> {
    match issuers.check(token.as_bytes(), Duration::from_secs(now), answer) {
        Ok(bearer) => Ok(bearer.is_cached),
        Err(Stop::Refused(fault)) => Err(fault.reason().to_owned()),
        Err(Stop::Wait(_)) => Err("wait".to_owned()),
    }
}

#[test]
fn a_token_is_verified_once_until_it_ends() {
    let (signer, source) = (Signer::es256("e"), Arc::new(Scripted::default()));
    source.published.publish(set(&[&signer]));
    let issuers = Issuers::new([issuer("shop", 1, &source)], cache());
    let token = signer.token(&claims("shop"));
    assert_eq!(check(&issuers, &token, NOW, None), Ok(false));
    assert_eq!(check(&issuers, &token, NOW + 59, None), Ok(true));
    assert_eq!(check(&issuers, &token, NOW + 60, None), Err("auth-expired".into()));
}

#[test]
fn a_token_ends_with_its_key_and_not_with_another() {
    let (kept, gone, new) = (Signer::es256("a"), Signer::es256("b"), Signer::es256("c"));
    let source = Arc::new(Scripted::default());
    source.published.publish(set(&[&kept, &gone]));
    let issuers = Issuers::new([issuer("shop", 1, &source)], cache());
    let tokens = [kept.token(&claims("shop")), gone.token(&claims("shop"))];
    for token in &tokens {
        assert_eq!(check(&issuers, token, NOW, None), Ok(false));
    }
    source.published.publish(set(&[&new, &kept]));
    assert_eq!(check(&issuers, &tokens[0], NOW, None), Ok(true));
    assert_eq!(check(&issuers, &tokens[1], NOW, None), Err("auth-kid-unknown".into()));
    source.published.withdraw();
    source.answers.lock().push(Missing::Now(Answer::Unavailable));
    assert_eq!(check(&issuers, &tokens[0], NOW, None), Err("auth-keys-unavailable".into()));
}

#[test]
fn what_was_verified_for_other_settings_is_verified_again() {
    let (signer, source) = (Signer::es256("e"), Arc::new(Scripted::default()));
    source.published.publish(set(&[&signer]));
    let cache = cache();
    let token = signer.token(&claims("shop"));
    let before = Issuers::new([issuer("shop", 1, &source)], cache.clone());
    assert_eq!(check(&before, &token, NOW, None), Ok(false));
    let changed = Issuers::new([issuer("other", 2, &source)], cache.clone());
    assert_eq!(check(&changed, &token, NOW, None), Err("auth-audience".into()));
    assert_eq!(check(&before, &token, NOW, None), Ok(true), "it is still known where it is good");
}

#[test]
fn of_issuers_with_one_name_any_may_find_it_good() {
    let (signer, source) = (Signer::es256("e"), Arc::new(Scripted::default()));
    source.published.publish(set(&[&signer]));
    let empty = Arc::new(Scripted::default());
    let (shop, admin) = (issuer("shop", 1, &source), issuer("admin", 2, &source));
    let issuers = Issuers::new([issuer("none", 3, &empty), shop, admin], cache());
    assert_eq!(check(&issuers, &signer.token(&claims("admin")), NOW, None), Ok(false));
    assert!(empty.asked.lock().is_empty());
}

#[test]
fn a_missing_key_is_asked_for_once() {
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let source = Arc::new(Scripted::default());
    source.published.publish(set(&[&old]));
    let issuers = Issuers::new([issuer("shop", 1, &source)], cache());
    let token = new.token(&claims("shop"));
    source.answers.lock().push(Missing::Wait(Box::pin(async { Answer::Published })));
    assert_eq!(check(&issuers, &token, NOW, None), Err("wait".into()));
    assert_eq!(*source.asked.lock(), [Some("new".to_owned())]);
    for (answer, reason) in [
        (Answer::Published, "auth-kid-unknown"),
        (Answer::Unknown, "auth-kid-unknown"),
        (Answer::Unavailable, "auth-keys-unavailable"),
    ] {
        assert_eq!(check(&issuers, &token, NOW, Some(answer)), Err(reason.into()));
    }
    assert_eq!(source.asked.lock().len(), 1, "whoever waited does not ask again");
    source.published.publish(set(&[&old, &new]));
    assert_eq!(check(&issuers, &token, NOW, Some(Answer::Published)), Ok(false));
}

#[tokio::test]
async fn of_issuers_with_one_name_each_is_asked_for_a_missing_key() {
    use Answer::{Published, Unavailable, Unknown};

    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    let (rotated, other) = (Arc::new(Scripted::default()), Arc::new(Scripted::default()));
    for source in [&rotated, &other] {
        source.published.publish(set(&[&old]));
    }
    let issuers = Issuers::new([issuer("shop", 1, &rotated), issuer("admin", 2, &other)], cache());
    let token = new.token(&claims("shop"));
    let wait = |answer| Missing::Wait(Box::pin(async move { answer }));
    for (first, second, answer, reason) in [
        (wait(Published), wait(Unknown), Some(Unknown), "auth-kid-unknown"),
        (wait(Unavailable), Missing::Now(Unknown), Some(Unavailable), "auth-keys-unavailable"),
        (Missing::Now(Unavailable), wait(Published), Some(Unavailable), "auth-keys-unavailable"),
        (Missing::Now(Published), Missing::Now(Unknown), Some(Unknown), "auth-kid-unknown"),
        (Missing::Now(Unavailable), Missing::Now(Unknown), None, "auth-keys-unavailable"),
        (Missing::Now(Unknown), Missing::Now(Unknown), None, "auth-kid-unknown"),
    ] {
        let case = format!("{first:?} {second:?}");
        rotated.answers.lock().push(first);
        other.answers.lock().push(second);
        match issuers.check(token.as_bytes(), Duration::from_secs(NOW), None) {
            Err(Stop::Wait(waiting)) => assert_eq!(Some(waiting.await), answer, "{case}"),
            Err(Stop::Refused(fault)) => {
                assert_eq!((None, reason), (answer, fault.reason()), "{case}");
            }
            Ok(bearer) => panic!("{case}: {bearer:?}"),
        }
        if answer.is_some() {
            assert_eq!(check(&issuers, &token, NOW, answer), Err(reason.into()), "{case}");
        }
    }
    assert_eq!((rotated.asked.lock().len(), other.asked.lock().len()), (6, 6));

    rotated.answers.lock().push(wait(Published));
    assert_eq!(check(&issuers, &token, NOW, None), Err("wait".into()));
    rotated.published.publish(set(&[&old, &new]));
    assert_eq!(check(&issuers, &token, NOW, Some(Unknown)), Ok(false));
}
