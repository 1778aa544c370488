//! What `auth` says to a request that is being explained: the real checks, with their own context.

use std::sync::Arc;

use http::{HeaderName, Version, request::Parts};

use crate::{
    config::{Config, Route},
    gateway::{
        Asked,
        credentials::{Credentials, Issuers},
    },
    http::{Context, Peer, Principal, peer::Address},
    middleware::auth::{
        Settings, VerifiedTokens,
        check::{Progress, Step},
        settings::Scheme,
        verified::Limits,
    },
    telemetry::metrics::Metrics,
};

/// The result.
pub(super) enum Admission {
    /// The route has no `auth`.
    Open,
    /// Admitted; the text is a sentence.
    Admitted(Option<Arc<Principal>>, String),
    /// Refused; the text is a sentence.
    Refused(String),
    /// Depends on an answer from somebody else.
    Depends(String),
}

/// Judges a request by the `auth` of `route`, with the current keys of `issuers`.
pub(super) fn admission(
    config: &Config,
    issuers: &Issuers,
    route: &Route,
    asked: &Asked,
) -> Admission {
    let Some(settings) = &route.auth else { return Admission::Open };
    let verified = Arc::new(VerifiedTokens::new(Limits { entries: 1, bytes: 0 }));
    let cells = Metrics::new().thread();
    let checks = Credentials::new(config, issuers, &verified, &cells, &[]).checks(settings);
    let (parts, cx) = request(asked);
    match checks.step(&parts, &cx, &mut Progress::default()) {
        Step::Admitted(principal, scheme, _) => {
            let who = principal.as_ref().map_or("", |principal| &principal.name);
            let told = format!("`{who}` by {}", scheme.name());
            Admission::Admitted(principal, told)
        }
        Step::Refused(error, ..) => {
            let kind = error.kind();
            let (status, reason, title) = (kind.status().as_u16(), kind.reason(), kind.title());
            Admission::Refused(format!("{status} {reason}: {title}"))
        }
        Step::Wait(_) => Admission::Depends("on a key that the issuer would be asked for".into()),
        Step::Ask(_) => Admission::Depends(question(settings)),
    }
}

/// What the service of `forward` would be asked, and what its answer would mean.
fn question(settings: &Settings) -> String {
    let mut services = settings.any_of.iter().filter_map(|scheme| match scheme {
        Scheme::Forward(service) => Some(service),
        Scheme::Jwt { .. } | Scheme::ApiKey { .. } | Scheme::Mtls(_) => None,
    });
    let Some(service) = services.next() else { return "on another service".to_owned() };
    let mut told = format!(
        "on GET {} within {:?}: 2xx passes, any other status is the answer",
        service.url, service.timeout
    );
    for (names, what) in [
        (&service.request_headers, "it sees"),
        (&service.response_headers, "the upstream gets its"),
    ] {
        if !names.is_empty() {
            let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
            told = format!("{told}; {what} {}", names.join(", "));
        }
    }
    told
}

/// The request after `edge`; the connection has no certificate.
fn request(asked: &Asked) -> (Parts, Context) {
    let (mut parts, ()) = http::Request::new(()).into_parts();
    parts.method = asked.method.clone();
    parts.headers = asked.headers.clone();
    let peer = Peer::new("explain".into(), Address::Unix, Address::Unix);
    let cx = Context::new(Arc::new(peer), asked.method.clone(), Version::HTTP_11);
    cx.set_target(asked.target.clone());
    (parts, cx)
}
