//! One worker's view of the issuers, and the whole check of a token: cache, keys, claims.
//!
//! Synchronous: if a key is missing and may be fetched, the caller gets a future to wait for, and
//! checks again with its answer.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;

use super::{
    jwt::{self, Token, Verdict, Verified},
    key_source::{Answer, KeySource, Missing, View, Waiting},
    verified::{Grounds, Standing, VerifiedTokens},
};
use crate::{error::AuthFault, http::Principal};

/// One worker's view of an issuer.
#[derive(Debug)]
pub struct Issuer {
    settings: Arc<jwt::Settings>,
    /// Changes with the settings or the source of the keys.
    identity: u64,
    keys: View,
}

/// The issuers that a route accepts, and the worker's verified tokens.
#[derive(Debug)]
pub struct Issuers {
    accepted: Box<[Arc<Issuer>]>,
    verified: Arc<VerifiedTokens>,
}

/// The holder of a valid token.
#[derive(Debug)]
pub struct Bearer {
    /// Who it is.
    pub principal: Arc<Principal>,
    /// Whether the signature had been verified before.
    pub is_cached: bool,
}

/// Why a token was not accepted.
pub enum Stop {
    /// It is invalid.
    Refused(AuthFault),
    /// Its key is missing: wait for the answer, then check again with it.
    Wait(Waiting),
}

// === impl Issuer ===

impl Issuer {
    /// An issuer with these settings, whose keys come from `source`.
    pub fn new(settings: Arc<jwt::Settings>, identity: u64, source: Arc<dyn KeySource>) -> Self {
        Self { settings, identity, keys: View::new(source) }
    }

    /// Whether the key in `grounds` is still published.
    fn has(&self, grounds: &mut Grounds) -> bool {
        if self.keys.changes() == grounds.changes {
            return true;
        }
        self.keys.with(|set, changes| {
            grounds.changes = changes;
            set.is_some_and(|set| set.has(grounds.key))
        })
    }

    fn check(&self, token: &Token<'_>, now: Duration) -> Result<(Verified, Grounds), Verdict> {
        self.keys.with(|set, changes| {
            let verified = token.check(&self.settings, set.ok_or(Verdict::KeyMissing)?, now)?;
            let grounds = Grounds { issuer: self.identity, key: verified.key, changes };
            Ok((verified, grounds))
        })
    }
}

// === impl Issuers ===

impl Issuers {
    /// Accepts tokens from these issuers.
    pub fn new(
        accepted: impl IntoIterator<Item = Arc<Issuer>>,
        verified: Arc<VerifiedTokens>,
    ) -> Self {
        Self { accepted: accepted.into_iter().collect(), verified }
    }

    /// Checks `token` at `now` since 1970. `answer` is the result of waiting for its key.
    pub fn check(
        &self,
        token: &[u8],
        now: Duration,
        answer: Option<Answer>,
    ) -> Result<Bearer, Stop> {
        let known = self.verified.get(token, now.as_secs_f64(), |grounds| {
            match self.accepted.iter().find(|issuer| issuer.identity == grounds.issuer) {
                Some(issuer) if issuer.has(grounds) => Standing::Holds,
                Some(_) => Standing::Gone,
                None => Standing::Elsewhere,
            }
        });
        if let Some(principal) = known {
            return Ok(Bearer { principal, is_cached: true });
        }
        let text = str::from_utf8(token).map_err(|_| Stop::Refused(AuthFault::Malformed))?;
        let decoded = Token::decode(text).map_err(Stop::Refused)?;
        let lacking = match self.verify(&decoded, now) {
            Ok((Verified { name, claims, until, .. }, grounds)) => {
                let principal = Arc::new(Principal { name, claims, scopes: None });
                let valid = (now.as_secs_f64(), until);
                self.verified.insert(token, grounds, valid, principal.clone());
                return Ok(Bearer { principal, is_cached: false });
            }
            Err(Unverified::Refused(fault)) => return Err(Stop::Refused(fault)),
            Err(Unverified::KeyMissing(lacking)) => lacking,
        };
        // After a wait, the newest set has just been looked at.
        match (answer, answer.map_or_else(|| ask(&lacking, decoded.kid()), Missing::Now)) {
            (_, Missing::Wait(waiting)) => Err(Stop::Wait(waiting)),
            (None, Missing::Now(Answer::Published)) => {
                self.check(token, now, Some(Answer::Published))
            }
            (Some(_), Missing::Now(Answer::Published)) | (_, Missing::Now(Answer::Unknown)) => {
                Err(Stop::Refused(AuthFault::KidUnknown))
            }
            (_, Missing::Now(Answer::Unavailable)) => {
                Err(Stop::Refused(AuthFault::KeysUnavailable))
            }
        }
    }

    /// The first issuer with this `iss` that accepts it; several may have the same `iss`.
    fn verify(
        &self,
        token: &Token<'_>,
        now: Duration,
    ) -> Result<(Verified, Grounds), Unverified<'_>> {
        let named = |issuer: &&Arc<Issuer>| token.issuer() == Some(&*issuer.settings.issuer);
        let mut fault = AuthFault::Issuer;
        let mut lacking = Vec::new();
        for issuer in self.accepted.iter().filter(named) {
            match issuer.check(token, now) {
                Ok(verified) => return Ok(verified),
                Err(Verdict::KeyMissing) => lacking.push(&**issuer),
                Err(Verdict::Refused(why)) => fault = why,
            }
        }
        Err(match lacking.as_slice() {
            [] => Unverified::Refused(fault),
            _ => Unverified::KeyMissing(lacking),
        })
    }
}

/// Why no issuer accepted a token.
enum Unverified<'a> {
    Refused(AuthFault),
    /// These issuers lack its key.
    KeyMissing(Vec<&'a Issuer>),
}

/// What to do about a key that all of these lack. All are asked at once, because any may have it by
/// now, so the wait is no longer than for one.
fn ask(lacking: &[&Issuer], kid: Option<&str>) -> Missing {
    if let [one] = lacking {
        return one.keys.missing(kid);
    }
    let (mut gravest, mut is_settled, mut waits) = (Answer::Published, true, Vec::new());
    for issuer in lacking {
        match issuer.keys.missing(kid) {
            Missing::Now(answer) => {
                is_settled &= answer != Answer::Published;
                gravest = gravest.max(answer);
            }
            Missing::Wait(waiting) => waits.push(waiting),
        }
    }
    if is_settled && waits.is_empty() {
        return Missing::Now(gravest);
    }
    // After the wait all sets are looked at again, whatever the answer.
    Missing::Wait(Box::pin(
        async move { join_all(waits).await.into_iter().fold(gravest, Answer::max) },
    ))
}

#[cfg(test)]
mod tests;
