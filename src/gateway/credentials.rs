//! Who may come, from the configuration to what each worker checks with.
//!
//! An issuer lives on over a reload that does not change it: its keys, and with its identity every
//! token that workers have verified. A changed one is another issuer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    config::Config,
    middleware::auth::{
        self, AuthLayer, Check, Checks, Issuer, Issuers as Accepted, Outcomes, VerifiedTokens,
        api_key::ApiKeys,
        key_source::{Fixed, KeySource},
        settings::{self, KeysFrom, Scheme},
    },
    telemetry::metrics::Cells,
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
}

/// What one worker checks credentials with.
pub(super) struct Credentials {
    issuers: Vec<Arc<Issuer>>,
    api_keys: Vec<Arc<ApiKeys>>,
    verified: Arc<VerifiedTokens>,
    outcomes: Outcomes,
}

/// Identities given out so far. Relaxed: a number of its own is all that is asked of it.
static IDENTITIES: AtomicU64 = AtomicU64::new(0);

// === impl Issuers ===

impl Issuers {
    /// Those of `config`; one that `previous` has with the same settings is the same one.
    pub fn new(config: &Config, previous: Option<&Self>) -> Self {
        let known = |settings: &settings::Issuer| {
            previous?.0.iter().find(|signer| signer.settings == *settings).cloned()
        };
        let all = config.issuers.iter();
        Self(all.map(|settings| known(settings).unwrap_or_else(|| Signer::new(settings))).collect())
    }
}

// === impl Signer ===

impl Signer {
    fn new(settings: &settings::Issuer) -> Self {
        let source: Arc<dyn KeySource> = match &settings.keys {
            KeysFrom::Here(keys) => Arc::new(Fixed::new((**keys).clone())),
        };
        Self {
            settings: settings.clone(),
            jwt: Arc::new(settings.jwt.clone()),
            identity: IDENTITIES.fetch_add(1, Ordering::Relaxed),
            source,
        }
    }
}

// === impl Credentials ===

impl Credentials {
    /// What a worker with these `cells` checks by `config`; `verified` are the tokens it knows.
    pub(super) fn new(
        config: &Config,
        issuers: &Issuers,
        verified: &Arc<VerifiedTokens>,
        cells: &Cells,
    ) -> Self {
        let issuer = |signer: &Signer| {
            Arc::new(Issuer::new(signer.jwt.clone(), signer.identity, signer.source.clone()))
        };
        Self {
            issuers: issuers.0.iter().map(issuer).collect(),
            api_keys: config.api_keys.iter().map(|set| Arc::new(ApiKeys::new(set))).collect(),
            verified: verified.clone(),
            outcomes: Outcomes::new(cells),
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
        }
    }
}
