//! The checks of a route, and the order in which they are tried.
//!
//! A [`Check`] looks at a request's head and says whom it is from. All are synchronous except two
//! that may have to ask: an issuer whose key is missing, and another service. [`Checks`] tries each
//! in turn. A check whose credential is absent is skipped. If all others fail, the first failure is
//! the answer; but if one could not decide (no keys, no answer from the service), the answer is
//! 503, because the client may well be right.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderValue, request::Parts};

use super::{
    api_key::ApiKeys,
    certificate::{self, Pattern},
    credential::{self, Place},
    issuer::{Bearer, Issuers, Stop},
    jwt,
    key_source::{Answer, Waiting},
    outcomes::{Outcome, Scheme},
};
use crate::{
    error::{self, AuthFault, AuthRefusal, Error, Kind},
    http::{Context, Principal, peer::Certified},
    telemetry::clock,
};

/// One way to authenticate a request.
#[derive(Debug)]
pub enum Check {
    /// A JWT.
    Jwt {
        /// The accepted issuers.
        issuers: Issuers,
        /// Required scopes, all of them.
        scopes: Box<[Box<str>]>,
        /// Where the token may be.
        places: Box<[Place]>,
    },
    /// An API key.
    ApiKey {
        /// The accepted files.
        sets: Box<[Arc<ApiKeys>]>,
        /// Required scopes, all of them.
        scopes: Box<[Box<str>]>,
    },
    /// A client certificate with a name that any of these patterns matches.
    Mtls(Box<[Pattern]>),
    /// The decision of another service.
    Forward(Arc<dyn Decide>),
}

/// Another service that decides.
pub trait Decide: fmt::Debug + Send + Sync {
    /// Admits a request with this head, perhaps changing its fields, or fails, also if nobody
    /// answers. Dropping the future cancels the question.
    fn decide<'a>(&'a self, parts: &'a mut Parts, cx: &'a Context) -> Deciding<'a>;
}

/// A decision in progress.
pub type Deciding<'a> = Pin<Box<dyn Future<Output = error::Result<()>> + Send + 'a>>;

/// The checks of a route; one success admits the request.
#[derive(Debug)]
pub struct Checks(Box<[Check]>);

/// How far the checks of a request have got.
#[derive(Debug, Default)]
pub struct Progress {
    /// The index of the next check.
    at: usize,
    /// The result of the check's wait for a key.
    answer: Option<Answer>,
    /// The failed check that determines the refusal, and why it failed.
    fault: Option<(usize, AuthFault)>,
    /// The refusal by another service.
    denial: Option<Error>,
}

/// The next step for a request.
pub enum Step<'a> {
    /// Admitted by this check; `None`: without a principal.
    Admitted(Option<Arc<Principal>>, Scheme, Outcome),
    /// Refused.
    Refused(Error, Scheme, Outcome),
    /// Wait, then call [`Progress::waited`].
    Wait(Waiting),
    /// Ask the service: on success the request is admitted, else call [`Progress::denied`].
    Ask(&'a Arc<dyn Decide>),
}

// === impl Check ===

impl Check {
    /// Its label in metrics.
    pub fn scheme(&self) -> Scheme {
        match self {
            Self::Jwt { .. } => Scheme::Jwt,
            Self::ApiKey { .. } => Scheme::ApiKey,
            Self::Mtls(_) => Scheme::Mtls,
            Self::Forward(_) => Scheme::Forward,
        }
    }

    /// The challenge for a client without a credential (RFC 9110, 11.6.1).
    fn challenge(&self) -> &'static str {
        match self {
            Self::Jwt { .. } => "Bearer",
            Self::ApiKey { .. } => "ApiKey",
            Self::Mtls(_) => "ClientCertificate",
            Self::Forward(_) => "Forward",
        }
    }

    /// The challenge for a client whose credential failed (RFC 6750, 3).
    fn refusal(&self, fault: AuthFault) -> Option<String> {
        let title = fault.title();
        let scopes = match self {
            Self::Jwt { scopes, .. } => scopes,
            Self::ApiKey { .. } | Self::Mtls(_) | Self::Forward(_) => {
                return (fault != AuthFault::Scope).then(|| self.challenge().to_owned());
            }
        };
        Some(match fault {
            AuthFault::KeysUnavailable => return None,
            AuthFault::Missing => "Bearer".to_owned(),
            AuthFault::Scope => {
                let scope = scopes.join(" ");
                format!(
                    "Bearer error=\"insufficient_scope\", error_description=\"{title}\", \
                     scope=\"{scope}\""
                )
            }
            _ => format!("Bearer error=\"invalid_token\", error_description=\"{title}\""),
        })
    }

    fn jwt(
        check: (&Issuers, &[Box<str>], &[Place]),
        parts: &Parts,
        cx: &Context,
        now: Duration,
        answer: Option<Answer>,
    ) -> Result<(Arc<Principal>, Outcome), Stop> {
        let (issuers, scopes, places) = check;
        let query = cx.target().and_then(|target| target.query());
        let token = credential::token(places, &parts.headers, query).map_err(Stop::Refused)?;
        let token = token.ok_or(Stop::Refused(AuthFault::Missing))?;
        let Bearer { principal, is_cached } = issuers.check(&token, now, answer)?;
        if !scopes.iter().all(|scope| jwt::has_scope(&principal.claims, scope)) {
            return Err(Stop::Refused(AuthFault::Scope));
        }
        Ok((principal, if is_cached { Outcome::Cached } else { Outcome::Verified }))
    }

    fn api_key(
        sets: &[Arc<ApiKeys>],
        scopes: &[Box<str>],
        parts: &Parts,
        now: Duration,
    ) -> Result<Arc<Principal>, AuthFault> {
        let mut fault = AuthFault::Missing;
        for set in sets {
            let mut shown = parts.headers.get_all(set.header()).iter();
            let Some(key) = shown.next() else { continue };
            if shown.next().is_some() {
                return Err(AuthFault::Malformed);
            }
            match set.find(key.as_bytes(), now) {
                Ok(held) if held.has_scopes(scopes) => return Ok(held.principal().clone()),
                Ok(_) => return Err(AuthFault::Scope),
                Err(why) => fault = why,
            }
        }
        Err(fault)
    }

    fn mtls(allow: &[Pattern], cx: &Context) -> Result<Arc<Principal>, AuthFault> {
        let tls = cx.peer().tls.as_ref().ok_or(AuthFault::Missing)?;
        let der = tls.client_certificate.as_ref().ok_or(AuthFault::Missing)?;
        let certified = tls.certified.get_or_init(|| {
            let names = certificate::names(der)?;
            let principal = Arc::new(Principal::named(names.first()?.clone()));
            Some(Certified { principal, names })
        });
        let Certified { principal, names } = certified.as_ref().ok_or(AuthFault::Malformed)?;
        let is_allowed = names.iter().any(|name| allow.iter().any(|pattern| pattern.takes(name)));
        if is_allowed { Ok(principal.clone()) } else { Err(AuthFault::Scope) }
    }
}

// === impl Checks ===

impl Checks {
    /// Tries these checks, in this order.
    pub fn new(checks: impl IntoIterator<Item = Check>) -> Self {
        Self(checks.into_iter().collect())
    }

    /// Continues until the request is admitted or refused, or somebody has to be asked.
    pub fn step(&self, parts: &Parts, cx: &Context, progress: &mut Progress) -> Step<'_> {
        let now = clock::unix(cx.started());
        while let Some(check) = self.0.get(progress.at) {
            let verified = |principal| (principal, Outcome::Verified);
            let judged = match check {
                Check::Jwt { issuers, scopes, places } => {
                    let answer = progress.answer.take();
                    Check::jwt((issuers, scopes, places), parts, cx, now, answer)
                }
                Check::ApiKey { sets, scopes } => {
                    Check::api_key(sets, scopes, parts, now).map(verified).map_err(Stop::Refused)
                }
                Check::Mtls(allow) => Check::mtls(allow, cx).map(verified).map_err(Stop::Refused),
                Check::Forward(service) => return Step::Ask(service),
            };
            match judged {
                Ok((principal, outcome)) => {
                    return Step::Admitted(Some(principal), check.scheme(), outcome);
                }
                Err(Stop::Wait(waiting)) => return Step::Wait(waiting),
                Err(Stop::Refused(fault)) => progress.failed(fault),
            }
        }
        self.refuse(progress)
    }

    fn refuse(&self, progress: &mut Progress) -> Step<'_> {
        let is_shown = |(_, fault)| fault != AuthFault::Missing;
        if let Some(error) = progress.denial.take()
            && (is_undecided(&error) || !progress.fault.is_some_and(is_shown))
        {
            return Step::Refused(error, Scheme::Forward, Outcome::Denied);
        }
        let (at, fault) = progress.fault.unwrap_or((0, AuthFault::Missing));
        let Some(check) = self.0.get(at) else {
            let error = Error::new(Kind::Internal).with_detail("auth without a check");
            return Step::Refused(error, Scheme::Jwt, Outcome::Refused(fault));
        };
        let challenge = if fault == AuthFault::Missing {
            Some(self.0.iter().map(Check::challenge).collect::<Vec<_>>().join(", "))
        } else {
            check.refusal(fault)
        };
        // Scopes were checked with the configuration; the rest is our own text.
        let challenge = challenge.and_then(|text| HeaderValue::try_from(text).ok());
        let error = Kind::Auth(AuthRefusal { fault, challenge }).into();
        Step::Refused(error, check.scheme(), Outcome::Refused(fault))
    }
}

// === impl Progress ===

impl Progress {
    /// Stores the result of waiting for a missing key.
    pub fn waited(&mut self, answer: Answer) {
        self.answer = Some(answer);
    }

    /// Records that the other service did not admit the request.
    pub fn denied(&mut self, error: Error) {
        if is_undecided(&error) || self.denial.is_none() {
            self.denial = Some(error);
        }
        self.at += 1;
    }

    fn failed(&mut self, fault: AuthFault) {
        // Keep the first with a credential, but prefer one that could not decide.
        let is_undecided = fault == AuthFault::KeysUnavailable;
        if self.fault.is_none_or(|(_, before)| is_undecided || before == AuthFault::Missing) {
            self.fault = Some((self.at, fault));
        }
        self.at += 1;
        self.answer = None;
    }
}

/// Whether nobody answered: the service might have admitted the client.
fn is_undecided(denial: &Error) -> bool {
    matches!(denial.kind(), Kind::AuthUnavailable)
}
