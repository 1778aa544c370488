//! Refuses ambiguous requests, and leaves of the others only what may be believed.
//!
//! Touches every request. Refuses 400 `bad-framing` and `bad-target`, 405 for CONNECT, 431
//! `header-count`. Writes client IP, host and target to the context; afterwards the head has no
//! hop-by-hop field, no field with an underscore, none that is the gateway's to set, one `Host`, one
//! `Cookie`, a target in origin form, and our word on the client. `Upgrade` is left only where a
//! tunnel is asked for. Counts `sluice_fields_dropped_total`.
//!
//! Cost: a few passes over the names; allocates the values that are forwarded, the host and the
//! target. First below `respond`: nothing may look at a request before this has.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::{
    HeaderMap, HeaderName, HeaderValue, Uri, Version,
    header::{COOKIE, EXPECT, HOST},
    request::Parts,
    uri::PathAndQuery,
};
use smallvec::SmallVec;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, Result},
    http::{ClientIp, Next, Request, Response, Target, hop_by_hop},
    middleware::edge::{Settings, forwarded, framing},
    telemetry::metrics::{Cells, Counter, FIELDS_DROPPED},
};

/// Adds [`Edge`]. One per worker.
#[derive(Clone, Debug)]
pub struct EdgeLayer {
    shared: Arc<Shared>,
}

/// Refuses ambiguous requests and cleans the others.
#[derive(Clone, Debug)]
pub struct Edge<S> {
    shared: Arc<Shared>,
    inner: S,
}

/// A refusal, or what the inner service does.
pub type ResponseFuture<F> = Either<Ready<Result<Response>>, F>;

#[derive(Debug)]
struct Shared {
    settings: Settings,
    underscores: Counter,
    identities: Counter,
}

// === impl EdgeLayer ===

impl EdgeLayer {
    /// Follows `settings` and counts in `cells`, the worker's own.
    pub fn new(settings: Settings, cells: &Cells) -> Self {
        let underscores = cells.counter(&FIELDS_DROPPED, &["underscore"]);
        let identities = cells.counter(&FIELDS_DROPPED, &["identity"]);
        Self { shared: Arc::new(Shared { settings, underscores, identities }) }
    }
}

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { shared: self.shared.clone(), inner }
    }
}

// === impl Edge ===

impl<S: Next> Service<Request> for Edge<S> {
    type Response = Response;
    type Error = Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Task<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        match self.shared.clean(&mut request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(kind) => Either::Left(ready(Err(kind.into()))),
        }
    }
}

// === impl Shared ===

impl Shared {
    fn clean(&self, request: &mut Request) -> std::result::Result<(), Kind> {
        let Request { parts: head, cx, .. } = request;
        let peer = cx.peer();
        // Found first, and from the fields as they came: a refusal's log line has it too.
        cx.set_client_ip(ClientIp::find(peer, &head.headers, &self.settings.trusted_proxies));
        framing::check(head)?;

        let can_upgrade = head.version == Version::HTTP_11;
        hop_by_hop::strip_request(&mut head.headers, can_upgrade);
        self.remove_identity(&mut head.headers);
        head.headers.remove(EXPECT);

        let host = settle_host(head);
        cx.set_host(
            host.as_ref()
                .and_then(|host| framing::parse(host.as_bytes()))
                .map_or_else(Box::default, |authority| authority.normal_host()),
        );
        let target = to_origin_form(&mut head.uri);
        cx.set_target(Target::parse(&target).map_err(|_| Kind::BadTarget)?);
        if head.version == Version::HTTP_2 {
            join_cookies(&mut head.headers);
        }
        forwarded::set(&mut head.headers, peer, host.as_ref(), head.version);
        Ok(())
    }

    /// What only the gateway may say, and names that some upstreams read as others: CGI and its
    /// heirs turn `-` into `_`, so `x_user` would arrive as `x-user`.
    fn remove_identity(&self, headers: &mut HeaderMap) {
        let suspect: SmallVec<[HeaderName; 4]> = headers
            .keys()
            .filter(|name| {
                let name = name.as_str();
                name.starts_with("x-sluice-") || name.as_bytes().contains(&b'_')
            })
            .cloned()
            .collect();
        for name in &suspect {
            headers.remove(name);
            if name.as_str().contains('_') {
                self.underscores.add(1);
            } else {
                self.identities.add(1);
            }
        }
        for name in &self.settings.stripped {
            if headers.remove(name).is_some() {
                self.identities.add(1);
            }
        }
    }
}

/// The request's one `Host`, taken from the authority where HTTP/2 has only that.
fn settle_host(head: &mut Parts) -> Option<HeaderValue> {
    if let Some(host) = head.headers.get(HOST) {
        return Some(host.clone());
    }
    let host = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    head.headers.insert(HOST, host.clone());
    Some(host)
}

/// Scheme and authority have been compared with Host and say nothing more.
fn to_origin_form(uri: &mut Uri) -> PathAndQuery {
    let is_absolute = uri.authority().is_some() || uri.scheme().is_some();
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if is_absolute {
        *uri = Uri::from(target.clone());
    }
    target
}

/// HTTP/2 may send a cookie per field; everything else expects one (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut cookies = headers.get_all(COOKIE).iter();
    if cookies.next().is_none() || cookies.next().is_none() {
        return;
    }
    let crumbs: SmallVec<[&[u8]; 8]> =
        headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = crumbs.join(&b"; "[..]);
    drop(crumbs);
    if let Ok(joined) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}
