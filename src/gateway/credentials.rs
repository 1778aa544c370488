//! Credentials, from the configuration to the checks of each worker.
//!
//! An issuer survives a reload that does not change it, with all its tokens that workers have
//! verified. One with other requirements for its tokens is a new issuer, but its keys from the
//! network are kept if they come from the same place for the same algorithms: that place may be
//! down just now.

use std::{
    future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    balancer::{Balance, GroupHandle},
    config::Config,
    gateway::keys::Keyring,
    middleware::auth::{
        self, AuthLayer, Check, Checks, Issuer, Issuers as Accepted, Outcomes, VerifiedTokens,
        api_key::ApiKeys,
        forward,
        jwks::KeyCache,
        key_source::{Fixed, KeySource, Missing, Published},
        settings::{self, KeysFrom, Scheme},
    },
    telemetry::metrics::Cells,
    upstream::Forward,
};

/// The issuers of a configuration, in its order. Cloning counts references.
#[derive(Clone, Debug)]
pub struct Issuers(Arc<[Signer]>);

#[derive(Clone, Debug)]
struct Signer {
    settings: settings::Issuer,
    jwt: Arc<auth::jwt::Settings>,
    identity: u64,
    source: Arc<dyn KeySource>,
    /// Set if the keys come from the network.
    cache: Option<Arc<KeyCache>>,
}

/// Keys on the network while a configuration is only inspected: nobody fetches them.
#[derive(Debug, Default)]
struct Unfetched(Published);

/// The inputs for one worker's checks.
pub(super) struct Credentials {
    issuers: Vec<Arc<Issuer>>,
    api_keys: Vec<Arc<ApiKeys>>,
    verified: Arc<VerifiedTokens>,
    outcomes: Outcomes,
    /// The worker's view of each upstream, among them the services that decide; empty if nobody
    /// will be asked.
    groups: Vec<GroupHandle>,
}

/// The number of identities given out. Relaxed: each only has to be unique.
static IDENTITIES: AtomicU64 = AtomicU64::new(0);

// === impl Issuers ===

impl Issuers {
    /// The issuers of `config`; one with the same settings in `previous` is kept. Keys from the
    /// network are fetched with `keyring` from now on, or not at all.
    pub(super) fn new(config: &Config, previous: Option<&Self>, keyring: Option<&Keyring>) -> Self {
        let before = previous.map_or(&[][..], |previous| &previous.0);
        let known = |settings: &settings::Issuer| {
            before.iter().find(|signer| signer.settings == *settings).cloned()
        };
        let signer =
            |settings| known(settings).unwrap_or_else(|| Signer::new(settings, before, keyring));
        Self(config.issuers.iter().map(signer).collect())
    }

    /// The key sets that come from the network.
    pub(super) fn caches(&self) -> impl Iterator<Item = &KeyCache> {
        self.0.iter().filter_map(|signer| signer.cache.as_deref())
    }

    /// Why readiness must wait for first keys, one sentence per issuer.
    pub(super) fn lacks(&self) -> impl Iterator<Item = String> {
        let is_required = |signer: &&Signer| match &signer.settings.keys {
            KeysFrom::Network(keys) => keys.is_required,
            KeysFrom::Here(_) => false,
        };
        let caches = self.0.iter().filter(is_required).filter_map(|signer| signer.cache.as_deref());
        caches.filter_map(KeyCache::lack)
    }
}

// === impl Signer ===

impl Signer {
    fn new(settings: &settings::Issuer, before: &[Self], keyring: Option<&Keyring>) -> Self {
        let (source, cache): (Arc<dyn KeySource>, _) = match &settings.keys {
            KeysFrom::Here(keys) => (Arc::new(Fixed::new((**keys).clone())), None),
            KeysFrom::Network(keys) => {
                let had = before.iter().filter_map(|signer| signer.cache.as_ref());
                let had = had.into_iter().find(|cache| cache.settings().is_same_set(keys)).cloned();
                let new = || keyring.map(|keyring| Arc::new(keyring.cache(keys)));
                match had.or_else(new) {
                    Some(cache) => (cache.source(), Some(cache)),
                    None => (Arc::<Unfetched>::default(), None),
                }
            }
        };
        Self {
            settings: settings.clone(),
            jwt: Arc::new(settings.jwt.clone()),
            identity: IDENTITIES.fetch_add(1, Ordering::Relaxed),
            source,
            cache,
        }
    }
}

// === impl Unfetched ===

impl KeySource for Unfetched {
    fn published(&self) -> &Published {
        &self.0
    }

    fn missing(&self, _: Option<&str>) -> Missing {
        Missing::Wait(Box::pin(future::pending()))
    }
}

// === impl Credentials ===

impl Credentials {
    /// The checks for a worker with these `cells`; `verified` are its verified tokens.
    pub(super) fn new(
        config: &Config,
        issuers: &Issuers,
        verified: &Arc<VerifiedTokens>,
        cells: &Cells,
        groups: &[GroupHandle],
    ) -> Self {
        let issuer = |signer: &Signer| {
            Arc::new(Issuer::new(signer.jwt.clone(), signer.identity, signer.source.clone()))
        };
        Self {
            issuers: issuers.0.iter().map(issuer).collect(),
            api_keys: config.api_keys.iter().map(|set| Arc::new(ApiKeys::new(set))).collect(),
            verified: verified.clone(),
            outcomes: Outcomes::new(cells),
            groups: groups.to_vec(),
        }
    }

    /// The layer of a route.
    pub(super) fn layer(&self, settings: Option<&auth::Settings>) -> AuthLayer {
        AuthLayer::new(settings.map(|settings| (self.checks(settings), self.outcomes.clone())))
    }

    /// The checks of a route.
    pub(super) fn checks(&self, settings: &auth::Settings) -> Checks {
        Checks::new(settings.any_of.iter().map(|scheme| self.check(scheme)))
    }

    fn check(&self, scheme: &Scheme) -> Check {
        match scheme {
            Scheme::Jwt { issuers, scopes, places } => {
                let accepted = issuers.iter().map(|&index| self.issuers[index].clone());
                Check::Jwt {
                    issuers: Accepted::new(accepted, self.verified.clone()),
                    scopes: scopes.clone(),
                    places: places.clone(),
                }
            }
            Scheme::ApiKey { sets, scopes } => Check::ApiKey {
                sets: sets.iter().map(|&index| self.api_keys[index].clone()).collect(),
                scopes: scopes.clone(),
            },
            Scheme::Mtls(allow) => Check::Mtls(allow.clone()),
            Scheme::Forward(settings) => {
                let group: Vec<_> =
                    self.groups.get(settings.upstream).cloned().into_iter().collect();
                // It is addressed by the host in its URL, whatever that resolves to.
                let service = Balance::new(group, Forward::new(true));
                Check::Forward(Arc::new(forward::Forward::new(settings.clone(), service)))
            }
        }
    }
}
