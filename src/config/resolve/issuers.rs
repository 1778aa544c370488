//! `issuers`: who signs JWTs, and the keys that are at hand.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::Resolver;
use crate::{
    config::{
        file::auth::{Issuer, Jwks},
        value::{Fault, Name, Text, did_you_mean},
        written::{Entries, Place, Placed, Written},
    },
    middleware::auth::{
        algorithm::{Algorithm, Algorithms},
        jwt,
        keys::{KeySet, KeySetError},
        settings::{self, AtHand, KeysFrom},
    },
};

const DEFAULT_SKEW: Duration = Duration::from_mins(1);
const MAX_SKEW: Duration = Duration::from_hours(1);

impl Resolver<'_> {
    pub(super) fn issuers(
        &mut self,
        written: Option<&Entries<Name, Placed<Issuer>>>,
    ) -> Vec<settings::Issuer> {
        let all = written.into_iter().flat_map(Entries::iter);
        all.map(|(name, issuer)| self.issuer(name, &issuer.value)).collect()
    }

    fn issuer(&mut self, name: &Written<Name>, issuer: &Issuer) -> settings::Issuer {
        let name = self.value(name).map_or_else(|| Arc::from(""), |Name(name)| name);
        let algorithms = self.algorithms(&issuer.algorithms);
        let empty = |what| Fault::new(format!("{what} is empty"));
        if issuer.issuer.text.is_empty() {
            self.error(issuer.issuer.place, empty("the issuer"));
        }
        if issuer.audience.value.is_empty() {
            let fault = empty("the list").help(
                "list at least one audience: otherwise tokens for any service would be accepted",
            );
            self.error(issuer.audience.place, fault);
        }
        let require = match &issuer.require {
            Some(require) => texts(require),
            None => ["exp".into(), "sub".into()].into(),
        };
        let range = Duration::ZERO..=MAX_SKEW;
        let clock_skew =
            self.in_range(issuer.clock_skew.as_ref(), DEFAULT_SKEW, range, |_| "at most 1h".into());
        let (keys, at_hand) = self.keys(&name, issuer, algorithms);
        settings::Issuer {
            jwt: jwt::Settings {
                name,
                issuer: issuer.issuer.text.as_str().into(),
                audience: texts(&issuer.audience.value),
                algorithms,
                clock_skew,
                require,
            },
            keys,
            at_hand,
        }
    }

    fn algorithms(&mut self, written: &Placed<Vec<Written<Text>>>) -> Algorithms {
        let mut all = Algorithms::default();
        for name in &written.value {
            if let Some(algorithm) = self.checked(name.place, algorithm(&name.text)) {
                all = all.iter().chain([algorithm]).collect();
            }
        }
        let symmetric = all.iter().filter(|algorithm| algorithm.is_symmetric()).count();
        if written.value.is_empty() {
            self.error(
                written.place,
                Fault::new("the list is empty")
                    .help("list at least one algorithm, such as `RS256`"),
            );
        } else if symmetric > 0 && symmetric < all.iter().count() {
            let fault = Fault::new("HS* cannot be combined with other algorithms")
                .help("HS* needs a secret, the others a public key: write two issuers");
            self.error(written.place, fault);
        }
        all
    }

    fn keys(
        &mut self,
        name: &Arc<str>,
        issuer: &Issuer,
        algorithms: Algorithms,
    ) -> (KeysFrom, AtHand) {
        let jwks = &issuer.jwks;
        let none = (KeysFrom::Here(Arc::default()), AtHand::Nothing);
        let Jwks { url, file, discover, secret } = &jwks.value;
        let places = [
            url.as_ref().map(|url| url.place),
            file.as_ref().map(|file| file.place),
            discover.as_ref().map(|discover| discover.place),
            secret.as_ref().map(|secret| secret.place),
        ];
        let given: Vec<Place> = places.into_iter().flatten().collect();
        if let [] | [_, _, ..] = given.as_slice() {
            let fault = Fault::new("an issuer's keys come from exactly one source")
                .help("write one of `url`, `file`, `discover`, `secret`");
            self.error(given.last().copied().unwrap_or(jwks.place), fault);
            return none;
        }
        let is_symmetric = !algorithms.is_empty() && algorithms.and(Algorithms::HMAC) == algorithms;
        if let Some(secret) = secret {
            if !is_symmetric {
                let fault = Fault::new("`secret` is only for HS256, HS384 and HS512")
                    .help("for a public key, use `file` with a JWK set");
                self.error(secret.place, fault);
            }
            let Some(value) = self.secret(secret) else { return none };
            // RFC 7518, 3.2: as long as the hash, or it is the weakest part.
            if value.expose().len() < 32 {
                let fault = Fault::new("this secret is shorter than 32 bytes")
                    .help("make one with `openssl rand -hex 32`");
                self.warn(secret.place, fault);
            }
            let keys = KeysFrom::Here(Arc::new(KeySet::secret(value.expose(), algorithms)));
            return (keys, AtHand::Secret(value));
        }
        if let Some(file) = file {
            let Some(set) = self.key_file(file, algorithms) else { return none };
            let path = self.base.join(&file.text);
            return (KeysFrom::Here(Arc::new(set)), AtHand::File(path));
        }
        if is_symmetric {
            let fault = Fault::new("HS* secrets cannot be fetched")
                .help("use `secret`: everybody who can read a key set could sign tokens");
            self.error(jwks.place, fault);
            return none;
        }
        match self.network_keys(name, issuer, algorithms) {
            Some(settings) => (KeysFrom::Network(Box::new(settings)), AtHand::Nothing),
            None => none,
        }
    }

    /// A JWK set in a file.
    fn key_file(&mut self, written: &Written<Text>, algorithms: Algorithms) -> Option<KeySet> {
        let bytes = self.read(written.place, &PathBuf::from(&written.text))?;
        let fault = |error: KeySetError| {
            Fault::new(format!("`{}` is not a JWK set", written.text)).help(error.to_string())
        };
        let set = self.checked(written.place, KeySet::parse(&bytes, algorithms).map_err(fault))?;
        if set.keys().is_empty() {
            let reason = set.skipped().first().map_or("it has no keys", |skipped| skipped.reason);
            let fault = Fault::new(format!("`{}` has no usable key", written.text));
            self.error(written.place, fault.help(reason));
        }
        Some(set)
    }
}

fn algorithm(name: &str) -> Result<Algorithm, Fault> {
    Algorithm::parse(name).ok_or_else(|| {
        if name.eq_ignore_ascii_case("none") {
            return Fault::new("`none` is not a signature")
                .help("use an algorithm such as `RS256`");
        }
        let all: Vec<_> = Algorithm::all().map(Algorithm::name).collect();
        let help = did_you_mean(name, all.iter().copied());
        let help = help.unwrap_or_else(|| format!("use one of {}", all.join(", ")));
        Fault::new(format!("`{name}` is not a signature algorithm")).help(help)
    })
}

/// All of them, as they are.
pub(super) fn texts(written: &[Written<Text>]) -> Box<[Box<str>]> {
    written.iter().map(|text| text.text.as_str().into()).collect()
}
