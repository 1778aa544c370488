//! API keys: the presented key is hashed and compared with those in the file. Pure.
//!
//! Nothing here can be turned back into a key: files hold SHA-256 digests. That is enough for
//! random keys (slow hashes are for passwords that people choose). Candidates are found by the
//! first bytes of the digest, which nobody can steer, and compared in constant time.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_lc_rs::{
    constant_time,
    digest::{SHA256, digest},
};
use http::HeaderName;

use crate::{error::AuthFault, http::Principal};

/// A file of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// The field that carries a key.
    pub header: HeaderName,
    /// The keys in the file.
    pub keys: Vec<ApiKey>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Whose key it is.
    pub id: Box<str>,
    /// The digest of the key.
    pub sha256: [u8; 32],
    /// The scopes it grants.
    pub scopes: Box<[Box<str>]>,
    /// When it expires, since 1970.
    pub expires: Option<Duration>,
}

/// The keys of one file, indexed for one worker.
#[derive(Debug)]
pub struct ApiKeys {
    header: HeaderName,
    by_start: HashMap<[u8; 8], Vec<Held>>,
}

/// A key, and the principal it identifies.
#[derive(Debug)]
pub struct Held {
    key: ApiKey,
    principal: Arc<Principal>,
}

// === impl ApiKeys ===

impl ApiKeys {
    /// Indexes the keys of this file; principals are named `<set>:<id>`.
    pub fn new(settings: &Settings) -> Self {
        let mut by_start: HashMap<_, Vec<_>> = HashMap::with_capacity(settings.keys.len());
        for key in &settings.keys {
            let name = format!("{}:{}", settings.name, key.id);
            let scopes = Some(key.scopes.clone());
            let principal = Arc::new(Principal { scopes, ..Principal::named(name) });
            by_start
                .entry(start(&key.sha256))
                .or_default()
                .push(Held { key: key.clone(), principal });
        }
        Self { header: settings.header.clone(), by_start }
    }

    /// The field that carries a key.
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Looks up the presented key `shown`, at `now` since 1970.
    pub fn find(&self, shown: &[u8], now: Duration) -> Result<&Held, AuthFault> {
        let shown = digest(&SHA256, shown);
        let shown = shown.as_ref();
        let candidates = self.by_start.get(&start(shown)).map_or(&[][..], Vec::as_slice);
        let is_it =
            |held: &&Held| constant_time::verify_slices_are_equal(&held.key.sha256, shown).is_ok();
        let held = candidates.iter().find(is_it).ok_or(AuthFault::Signature)?;
        if held.key.expires.is_some_and(|expires| now >= expires) {
            return Err(AuthFault::Expired);
        }
        Ok(held)
    }
}

fn start(digest: &[u8]) -> [u8; 8] {
    digest.first_chunk().copied().unwrap_or_default()
}

// === impl Held ===

impl Held {
    /// The principal it identifies.
    pub fn principal(&self) -> &Arc<Principal> {
        &self.principal
    }

    /// Whether it grants all of `wanted`.
    pub fn has_scopes(&self, wanted: &[Box<str>]) -> bool {
        wanted.iter().all(|scope| self.key.scopes.contains(scope))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> ApiKeys {
        let key = |id: &str, key: &str, expires: Option<u64>| ApiKey {
            id: id.into(),
            sha256: digest(&SHA256, key.as_bytes()).as_ref().try_into().unwrap(),
            scopes: ["read".into(), "write".into()].into(),
            expires: expires.map(Duration::from_secs),
        };
        ApiKeys::new(&Settings {
            name: "partners".into(),
            header: HeaderName::from_static("x-api-key"),
            keys: vec![key("acme", "k-1", None), key("old", "k-2", Some(100))],
        })
    }

    #[test]
    fn a_key_is_found_by_its_digest_alone() {
        let keys = keys();
        let held = keys.find(b"k-1", Duration::ZERO).unwrap();
        assert_eq!(&*held.principal().name, "partners:acme");
        for other in [&b"k-3"[..], b"", b"K-1", b"k-1 "] {
            assert_eq!(keys.find(other, Duration::ZERO).unwrap_err(), AuthFault::Signature);
        }
    }

    #[test]
    fn a_key_ends_when_it_says() {
        let keys = keys();
        assert!(keys.find(b"k-2", Duration::from_millis(99_999)).is_ok());
        let error = keys.find(b"k-2", Duration::from_secs(100)).unwrap_err();
        assert_eq!(error, AuthFault::Expired);
    }

    #[test]
    fn all_scopes_are_asked_for() {
        let keys = keys();
        let held = keys.find(b"k-1", Duration::ZERO).unwrap();
        assert!(held.has_scopes(&["write".into(), "read".into()]));
        assert!(!held.has_scopes(&["write".into(), "admin".into()]));
        assert!(held.has_scopes(&[]));
    }
}
