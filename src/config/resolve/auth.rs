//! `routes[].auth`, `claim_headers` and `match.claims`: who may come, and what of it is used.

use http::{HeaderName, header};

use super::{Resolver, policies::FRAMING, rate_limits::RateLimits, upstreams::Upstreams};
use crate::{
    config::{
        Listener, Route,
        file::{
            self,
            auth::{ApiKeyAuth, Auth, JwtAuth, MtlsAuth},
        },
        value::{Fault, Name, Text, did_you_mean},
        written::{Entries, Placed, Written},
    },
    http::names::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_REQUEST_ID},
    listener::ClientAuth,
    middleware::auth::{
        Settings, api_key,
        certificate::Pattern,
        claims,
        credential::Place,
        settings::{Issuer, Scheme},
    },
    routing::Table,
};

/// What routes may refer to.
pub(super) struct Credentials {
    pub(super) issuers: Vec<Issuer>,
    pub(super) api_keys: Vec<api_key::Settings>,
}

/// Fields that a claim cannot be written to, for the gateway needs the client's own.
const NEEDED: [&str; 5] = ["host", "authorization", "cookie", "origin", "content-type"];
/// Fields that tell of the way here, which the gateway writes or appends to.
const OF_THE_WAY: [HeaderName; 6] = [
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    X_REQUEST_ID,
    header::FORWARDED,
    header::VIA,
];
/// How the names in certificates begin that are URIs.
const URI_SCHEMES: [&str; 4] = ["spiffe", "urn", "http", "https"];

// === impl Credentials ===

impl Credentials {
    /// Whether a service of `auth.forward` says by this field who the client is. Credentials are
    /// none: whoever reads one verifies it, and checks beside that service need the client's own.
    pub(super) fn is_identity(&self, name: &HeaderName) -> bool {
        !self.needs(name) && !OF_THE_WAY.contains(name) && *name != header::SET_COOKIE
    }

    /// Whether the gateway needs what the client sends under this name.
    fn needs(&self, name: &HeaderName) -> bool {
        NEEDED.contains(&name.as_str()) || self.api_keys.iter().any(|set| set.header == *name)
    }
}

// === impl Resolver ===

impl Resolver<'_> {
    pub(super) fn auth(
        &mut self,
        written: Option<&Placed<Auth>>,
        known: &Credentials,
        upstreams: &mut Upstreams,
    ) -> Option<Settings> {
        let written = written?;
        let mut any_of = Vec::new();
        self.schemes(written, known, upstreams, &mut any_of);
        Some(Settings { any_of })
    }

    fn schemes(
        &mut self,
        written: &Placed<Auth>,
        known: &Credentials,
        upstreams: &mut Upstreams,
        all: &mut Vec<Scheme>,
    ) {
        let Auth { jwt, api_key, mtls, forward, any_of } = &written.value;
        let given = [
            jwt.is_some(),
            api_key.is_some(),
            mtls.is_some(),
            forward.is_some(),
            any_of.as_ref().is_some_and(|list| !list.is_empty()),
        ];
        match given.iter().filter(|is_given| **is_given).count() {
            0 => {
                let fault = Fault::new("no credential would be accepted here")
                    .help("write one of `jwt`, `api_key`, `mtls`, `forward`, `any_of`");
                self.error(written.place, fault);
            }
            1 => {}
            _ => {
                let fault = Fault::new("only one kind of credential can stand here")
                    .help("to accept any of several: `any_of: [{ jwt: .. }, { api_key: .. }]`");
                self.error(written.place, fault);
            }
        }
        if let Some(jwt) = jwt {
            all.push(self.jwt(jwt, known));
        }
        if let Some(api_key) = api_key {
            all.push(self.api_key(api_key, known));
        }
        if let Some(MtlsAuth { allow }) = mtls {
            if allow.value.is_empty() {
                let fault =
                    Fault::new("the list is empty").help("`[\"*\"]` accepts every certificate");
                self.error(allow.place, fault);
            }
            let patterns = allow.value.iter().map(|pattern| Pattern::new(pattern.text.as_str()));
            all.push(Scheme::Mtls(patterns.collect()));
        }
        if let Some(forward) = forward {
            all.extend(self.forward_auth(forward, known, upstreams).map(Scheme::Forward));
        }
        for one in any_of.iter().flatten() {
            self.schemes(one, known, upstreams, all);
        }
    }

    fn jwt(&mut self, jwt: &JwtAuth, known: &Credentials) -> Scheme {
        let names: Vec<&str> = known.issuers.iter().map(|issuer| &*issuer.jwt.name).collect();
        Scheme::Jwt {
            issuers: self.named_all(&jwt.issuers, &names, "issuer"),
            scopes: self.scopes(jwt.scopes.as_deref()),
            places: match &jwt.from {
                None => [Place::Header].into(),
                Some(places) => {
                    places.iter().filter_map(|p| self.checked(p.place, place(&p.text))).collect()
                }
            },
        }
    }

    fn api_key(&mut self, api_key: &ApiKeyAuth, known: &Credentials) -> Scheme {
        let names: Vec<&str> = known.api_keys.iter().map(|set| &*set.name).collect();
        Scheme::ApiKey {
            sets: self.named_all(&api_key.sets, &names, "file of API keys"),
            scopes: self.scopes(api_key.scopes.as_deref()),
        }
    }

    /// Indexes of these names; at least one.
    fn named_all(
        &mut self,
        written: &Placed<Vec<Written<Name>>>,
        names: &[&str],
        what: &str,
    ) -> Vec<usize> {
        if written.value.is_empty() {
            let fault = Fault::new("the list is empty").help("it lets nobody in: add a name");
            self.error(written.place, fault);
        }
        let index = |name: &Written<Name>| {
            names.iter().position(|known| *known == name.text).ok_or_else(|| Fault {
                message: format!("no {what} named `{}`", name.text),
                help: did_you_mean(&name.text, names.iter().copied()),
            })
        };
        written.value.iter().filter_map(|name| self.checked(name.place, index(name))).collect()
    }

    /// RFC 6749, 3.3: visible characters but `"` and `\`.
    fn scopes(&mut self, written: Option<&[Written<Text>]>) -> Box<[Box<str>]> {
        let is_scope = |text: &str| {
            !text.is_empty()
                && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        for scope in written.unwrap_or_default() {
            if !is_scope(&scope.text) {
                let fault = Fault::new(format!("`{}` is not a scope", scope.text))
                    .help("a scope is one word; write several as a list");
                self.error(scope.place, fault);
            }
        }
        super::issuers::texts(written.unwrap_or_default())
    }

    /// `match.claims` and `claim_headers`, neither of which is anything without `auth`.
    pub(super) fn claims(&mut self, route: &file::Route, known: &Credentials) -> claims::Settings {
        let asked = route.matches.as_ref().and_then(|matches| matches.claims.as_ref());
        let headers = route.claim_headers.as_ref();
        if route.auth.is_none() {
            let fault = || {
                Fault::new("claims need `auth`, which this route does not have")
                    .help("add `auth: { jwt: .. }` to the route")
            };
            let first = asked.and_then(|claims| claims.iter().next());
            if let Some((name, _)) = first {
                self.error(name.place, fault());
            }
            let first = headers.and_then(|headers| headers.iter().next());
            if let Some((name, _)) = first {
                self.error(name.place, fault());
            }
        }
        let claim = |(name, value): &(Written<Text>, Written<Text>)| {
            (name.text.as_str().into(), value.text.as_str().into())
        };
        claims::Settings {
            claims: asked.into_iter().flat_map(Entries::iter).map(claim).collect(),
            headers: headers
                .into_iter()
                .flat_map(Entries::iter)
                .filter_map(|(name, claim)| {
                    Some((self.claim_header(name, known)?, claim.text.as_str().into()))
                })
                .collect(),
        }
    }

    fn claim_header(
        &mut self,
        written: &Written<HeaderName>,
        known: &Credentials,
    ) -> Option<HeaderName> {
        let name = self.value(written)?;
        let is_ours = name.as_str().starts_with("x-forwarded-") || name.as_str() == "x-request-id";
        let is_needed = known.needs(&name) || FRAMING.contains(&name);
        let why = if is_needed || is_ours {
            "the gateway removes such a header from every request, and it needs this one"
        } else if name.as_str().contains('_') {
            "headers with `_` in their name are removed; use `-`"
        } else {
            return Some(name);
        };
        let fault = Fault::new(format!("`{name}` cannot carry a claim")).help(why);
        self.error(written.place, fault);
        None
    }

    /// A principal is `<name>:<who>`, or the name in a certificate: no two of them read the same.
    pub(super) fn check_principals(&mut self, file: &file::File) {
        let issuers = || file.issuers.iter().flat_map(Entries::iter).map(|(name, _)| name);
        let sets = || file.api_keys.iter().flat_map(Entries::iter).map(|(name, _)| name);
        for name in issuers().chain(sets()) {
            let text = &name.text;
            if URI_SCHEMES.iter().any(|scheme| text.eq_ignore_ascii_case(scheme)) {
                let fault = Fault::new(format!(
                    "`{text}` cannot be a name: names in certificates begin with `{text}:`"
                ))
                .help("their principals would look the same; choose another name");
                self.error(name.place, fault);
            }
        }
        for name in sets().filter(|set| issuers().any(|issuer| issuer.text == set.text)) {
            let fault = Fault::new(format!("an issuer is called `{}` too", name.text))
                .help("their principals would look the same; choose another name");
            self.error(name.place, fault);
        }
    }

    /// Says which issuers and files of keys no route names.
    pub(super) fn warn_unused_credentials(&mut self, file: &file::File, auths: &[&Settings]) {
        let schemes = || auths.iter().flat_map(|auth| &auth.any_of);
        let names_issuer = |index| {
            schemes().any(
                |scheme| matches!(scheme, Scheme::Jwt { issuers, .. } if issuers.contains(&index)),
            )
        };
        let names_set = |index| {
            schemes().any(
                |scheme| matches!(scheme, Scheme::ApiKey { sets, .. } if sets.contains(&index)),
            )
        };
        for (index, (name, _)) in file.issuers.iter().flat_map(Entries::iter).enumerate() {
            if !names_issuer(index) {
                self.warn(name.place, Fault::new("no `auth` uses this issuer"));
            }
        }
        for (index, (name, _)) in file.api_keys.iter().flat_map(Entries::iter).enumerate() {
            if !names_set(index) {
                self.warn(name.place, Fault::new("no `auth` uses these API keys"));
            }
        }
    }

    /// A client shows its certificate to a listener that asks for it.
    pub(super) fn warn_unasked_certificates(
        &mut self,
        routes: &[Placed<file::Route>],
        listeners: &[Listener],
    ) {
        let asks = |listener: &Listener| {
            listener.socket.tls.as_ref().is_some_and(|tls| tls.client_auth != ClientAuth::Off)
        };
        if listeners.iter().any(asks) {
            return;
        }
        for auth in routes.iter().filter_map(|route| route.value.auth.as_ref()) {
            let any_of = auth.value.any_of.iter().flatten();
            for auth in [auth].into_iter().chain(any_of).filter(|auth| auth.value.mtls.is_some()) {
                let fault = Fault::new("no listener asks clients for a certificate")
                    .help("add `client_auth: { mode: request, ca: .. }` to a listener's `tls`");
                self.warn(auth.place, fault);
            }
        }
    }

    /// Routes that differ only in their claims are one as far as `auth`.
    pub(super) fn check_groups(
        &mut self,
        written: &[Placed<file::Route>],
        routes: &[Route],
        limits: &RateLimits,
    ) {
        let table = Table::new(routes.iter().map(|route| route.rule.clone()).collect());
        for (index, route) in routes.iter().enumerate() {
            let first = table.members(index).iter().copied().min().unwrap_or(index);
            if first == index {
                continue;
            }
            let (other, place) = (&routes[first], written[index].value.name.place);
            if let Some(what) = difference(other, route, limits) {
                let name = &other.rule.name;
                let fault = Fault::new(format!(
                    "it takes the same requests as `{name}`, up to `match.claims`, but has {what}"
                ))
                .help("such routes are one route until `auth` is done: write the same in both");
                self.error(place, fault);
            }
        }
    }
}

/// What of two routes of one group differs that must not.
fn difference(one: &Route, other: &Route, limits: &RateLimits) -> Option<&'static str> {
    let text = |value: &dyn std::fmt::Debug| format!("{value:?}");
    if one.rule.claims.is_empty() && other.rule.claims.is_empty() {
        return None;
    }
    let differs = |one: &dyn std::fmt::Debug, other: &dyn std::fmt::Debug| text(one) != text(other);
    if one.auth != other.auth {
        Some("another `auth`")
    } else if differs(&one.cors, &other.cors) {
        Some("other `cors`")
    } else if differs(&one.body_limit, &other.body_limit) {
        Some("other `limits`")
    } else if differs(&one.ip_filter, &other.ip_filter) {
        Some("other `allow_ips` or `deny_ips`")
    } else if differs(&one.concurrency_limit, &other.concurrency_limit) {
        Some("another `max_in_flight`")
    } else if limits.before_auth(&one.rate_limits) != limits.before_auth(&other.rate_limits) {
        Some("another `rate_limit` before `auth`")
    } else {
        None
    }
}

/// Fields that services of `auth.forward` send.
pub(super) fn told_by_services(routes: &[Route]) -> impl Iterator<Item = &HeaderName> {
    let schemes = routes.iter().filter_map(|route| route.auth.as_ref()).flat_map(|a| &a.any_of);
    schemes.flat_map(|scheme| match scheme {
        Scheme::Forward(service) => &*service.response_headers,
        Scheme::Jwt { .. } | Scheme::ApiKey { .. } | Scheme::Mtls(_) => &[],
    })
}

/// Query parameters that carry tokens: their values are nobody's to read in a log. The one of RFC
/// 6750, 2.3 is among them whether it is asked for or not.
pub(super) fn token_parameters<'a>(
    auths: impl IntoIterator<Item = &'a Settings>,
) -> Box<[Box<str>]> {
    let schemes = auths.into_iter().flat_map(|auth| &auth.any_of);
    let names = schemes.flat_map(|scheme| match scheme {
        Scheme::Jwt { places, .. } => &**places,
        Scheme::ApiKey { .. } | Scheme::Mtls(_) | Scheme::Forward(_) => &[],
    });
    let mut hidden: Vec<Box<str>> = vec!["access_token".into()];
    for place in names {
        if let Place::Query(name) = place
            && !hidden.contains(name)
        {
            hidden.push(name.clone());
        }
    }
    hidden.into()
}

/// `header`, `cookie:NAME`, `query:NAME`.
fn place(text: &str) -> Result<Place, Fault> {
    match text.split_once(':') {
        None if text == "header" => Ok(Place::Header),
        Some(("cookie", name)) if !name.is_empty() => Ok(Place::Cookie(name.into())),
        Some(("query", name)) if !name.is_empty() => Ok(Place::Query(name.into())),
        _ => Err(Fault::new(format!("`{text}` is not a place for a token"))
            .help("write `header`, `cookie:NAME` or `query:NAME`")),
    }
}
