//! The step behind `auth`: selects the member of a claims group, and passes claims to the upstream
//! as fields.
//!
//! Routes that differ only in `match.claims` are one route up to `auth`. Here the first member
//! whose claims the principal has takes over, and its half of the stack runs; if there is none, 404
//! `route-none`. Writes the member into the context, and `claim_headers` into the request; the
//! client's own copies were removed at the edge. A route that is alone and asks for no claim costs
//! one comparison, otherwise one look-up per claim and an allocation per field. Dropping the future
//! drops the member's.

use std::{
    borrow::Cow,
    future::{self, Ready},
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use tower::Service;

use crate::{
    error::{Error, Kind},
    http::{Next, Request, Response, context::RouteInfo, selector},
};

/// The claims that one route requires of a token, and those it passes on.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `match.claims`: all of these are required.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// `claim_headers`: the field, and the claim it is filled with.
    pub headers: Vec<(HeaderName, Box<str>)>,
}

/// A route of a group, behind its authentication.
#[derive(Clone, Debug)]
pub struct Member<S> {
    /// `None` if it asks for no claims and passes none on.
    settings: Option<Arc<Settings>>,
    /// `None` if the route is alone: then it is in the context already.
    info: Option<Arc<RouteInfo>>,
    inner: S,
}

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct Members<S>(Box<[Member<S>]>);

// === impl Settings ===

impl Settings {
    /// Whether `claims` satisfy the route.
    pub fn takes(&self, claims: Option<&Value>) -> bool {
        self.claims.iter().all(|(name, wanted)| {
            let claim = claims.and_then(|claims| selector::claim(claims, name));
            claim.is_some_and(|claim| is(claim, wanted))
        })
    }

    /// A copy that shares no memory: cloning a shared field name would update, for every request, a
    /// reference count that all workers use.
    fn own(&self) -> Self {
        let own = |(name, claim): &(HeaderName, Box<str>)| {
            Some((HeaderName::from_bytes(name.as_str().as_bytes()).ok()?, claim.clone()))
        };
        Self { claims: self.claims.clone(), headers: self.headers.iter().filter_map(own).collect() }
    }

    fn write(&self, claims: &Value, headers: &mut HeaderMap) {
        for (name, claim) in &self.headers {
            let value = selector::claim(claims, claim).and_then(text);
            // A claim that no field can hold counts as absent: the upstream sees no field.
            if let Some(value) =
                value.and_then(|text| HeaderValue::from_bytes(text.as_bytes()).ok())
            {
                headers.insert(name, value);
            }
        }
    }
}

/// Whether a claim equals `wanted`, or is a list that contains it.
fn is(claim: &Value, wanted: &str) -> bool {
    match claim {
        Value::Array(list) => {
            list.iter().filter_map(selector::scalar).any(|entry| *entry == *wanted)
        }
        claim => selector::scalar(claim).is_some_and(|value| *value == *wanted),
    }
}

/// A claim as a field value: lists are joined with commas, unless an entry contains one.
fn text(claim: &Value) -> Option<Cow<'_, str>> {
    let whole = |value| selector::scalar(value).filter(|text| arrives_whole(text));
    let Value::Array(list) = claim else { return whole(claim) };
    let entry = |value| whole(value).filter(|entry| !entry.contains(','));
    let entries: Vec<_> = list.iter().map(entry).collect::<Option<_>>()?;
    (!entries.is_empty()).then(|| Cow::Owned(entries.join(",")))
}

/// Whether an upstream reads this text unchanged: white space around a value is not part of it (RFC
/// 9110, 5.5), so ` admin` would become somebody else.
fn arrives_whole(text: &str) -> bool {
    !text.is_empty() && text.trim_matches([' ', '\t']).len() == text.len()
}

// === impl Member ===

impl<S> Member<S> {
    /// A route; `info` is given if it may share its group with others.
    pub fn new(settings: &Settings, info: Option<Arc<RouteInfo>>, inner: S) -> Self {
        let is_needed = !settings.claims.is_empty() || !settings.headers.is_empty();
        Self { settings: is_needed.then(|| Arc::new(settings.own())), info, inner }
    }

    fn takes(&self, claims: Option<&Value>) -> bool {
        self.settings.as_ref().is_none_or(|settings| settings.takes(claims))
    }
}

// === impl Members ===

impl<S> Members<S> {
    /// The members of a group, in the order in which their claims are checked.
    pub fn new(members: impl IntoIterator<Item = Member<S>>) -> Self {
        Self(members.into_iter().collect())
    }
}

impl<S: Next> Service<Request> for Members<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _: &mut Task<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let principal = request.cx.principal();
        let claims = principal.map(|principal| &principal.claims);
        let Some(member) = self.0.iter_mut().find(|member| member.takes(claims)) else {
            let error = Error::new(Kind::RouteNotFound).with_detail("no route takes these claims");
            return Either::Right(future::ready(Err(error)));
        };
        if let (Some(claims), Some(settings)) = (claims, &member.settings) {
            settings.write(claims, &mut request.parts.headers);
        }
        if let Some(info) = &member.info {
            request.cx.set_member(info.clone());
        }
        Either::Left(member.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::{Body, Principal},
        middleware::testing::get,
        telemetry::metrics::Metrics,
    };

    fn settings(claims: &[(&str, &str)]) -> Settings {
        let claims = claims.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Settings { claims: claims.collect(), headers: Vec::new() }
    }

    #[test]
    fn all_claims_must_be_exact_or_in_a_list() {
        let claims =
            json!({"tenant": "acme", "n": 7, "on": true, "roles": ["a", "b"], "x": {"y": "z"}});
        for (wanted, takes) in [
            (&[][..], true),
            (&[("tenant", "acme")], true),
            (&[("tenant", "acm")], false),
            (&[("tenant", "acme"), ("n", "7"), ("on", "true")], true),
            (&[("tenant", "acme"), ("n", "8")], false),
            (&[("roles", "b")], true),
            (&[("roles", "c")], false),
            (&[("x.y", "z")], true),
            (&[("x", "z")], false),
            (&[("none", "")], false),
        ] {
            assert_eq!(settings(wanted).takes(Some(&claims)), takes, "{wanted:?}");
        }
        assert!(settings(&[]).takes(None));
        assert!(!settings(&[("tenant", "acme")]).takes(None));
    }

    #[test]
    fn claims_become_fields_that_cannot_break_out() {
        let headers = [("x-user", "sub"), ("x-n", "n"), ("x-roles", "roles"), ("x-bad", "bad")]
            .into_iter()
            .chain([("x-comma", "comma"), ("x-map", "map"), ("x-none", "none")])
            .map(|(name, claim)| (HeaderName::from_static(name), claim.into()))
            .collect();
        let settings = Settings { claims: Vec::new(), headers };
        let claims = json!({
            "sub": "zoë", "n": 7, "roles": ["a", "b"], "bad": "a\r\nx-admin: 1", "comma": ["a,b"],
            "map": {},
        });
        let mut fields = HeaderMap::new();
        fields.insert("x-user", HeaderValue::from_static("other"));
        settings.write(&claims, &mut fields);
        assert_eq!(fields.len(), 3);
        assert_eq!(fields["x-user"].as_bytes(), "zoë".as_bytes());
        assert_eq!(fields["x-n"], "7");
        assert_eq!(fields["x-roles"], "a,b");
    }

    #[test]
    fn a_claim_that_would_arrive_as_another_leaves_its_field_out() {
        for (claim, field) in [
            (json!("admin"), Some("admin")),
            (json!("ad min"), Some("ad min")),
            (json!("a,b"), Some("a,b")),
            (json!(""), None),
            (json!(" admin"), None),
            (json!("admin "), None),
            (json!("\tadmin"), None),
            (json!(["a", "b c"]), Some("a,b c")),
            (json!(["a", " admin"]), None),
            (json!(["a", ""]), None),
            (json!([]), None),
        ] {
            let headers = vec![(HeaderName::from_static("x-user"), "c".into())];
            let settings = Settings { claims: Vec::new(), headers };
            let mut fields = HeaderMap::new();
            settings.write(&json!({ "c": claim }), &mut fields);
            assert_eq!(fields.get("x-user").map(|it| it.to_str().unwrap()), field, "{claim}");
        }
    }

    #[tokio::test]
    async fn the_first_member_whose_claims_fit_takes_the_request() {
        let cells = Metrics::new().thread();
        let inner = service_fn(async |request: Request| {
            Ok(Response::new(Body::full(request.cx.route().unwrap().name.to_string())))
        });
        let member = |name: &str, claims: &[(&str, &str)]| {
            let path = "/".into();
            let info = RouteInfo { name: name.into(), path, metrics: cells.route(name) };
            Member::new(&settings(claims), Some(Arc::new(info)), inner)
        };
        let members = Members::new([
            member("both", &[("tenant", "acme"), ("plan", "gold")]),
            member("acme", &[("tenant", "acme")]),
        ]);
        for (claims, expected) in [
            (json!({"tenant": "acme", "plan": "gold"}), Some("both")),
            (json!({"tenant": "acme"}), Some("acme")),
            (json!({"tenant": "other"}), None),
        ] {
            let request = get("/");
            request.cx.set_principal(Arc::new(Principal {
                name: "p".into(),
                claims,
                scopes: None,
            }));
            let taken = members.clone().oneshot(request).await;
            let taken = taken.map(|response| response.into_body().as_full().unwrap().clone());
            match expected {
                Some(name) => assert_eq!(taken.unwrap(), name),
                None => assert_eq!(taken.unwrap_err().kind().reason(), "route-none"),
            }
        }
    }
}
