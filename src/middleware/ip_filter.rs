//! `allow_ips` and `deny_ips`: who may come here at all.
//!
//! Touches the requests of routes that have either list; refuses with 403 `ip-denied`. Reads the
//! client's address from the context, so that a trusted proxy's word counts and nobody else's.
//! Costs one pass over the lists, no lock, no allocation. It is the first layer of a route: nothing
//! may be spent on, or told to, an address that is not welcome.

use std::{
    future::{self, Ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::Either;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind},
    http::{Cidrs, ClientIp, Next, Request, Response},
};

/// `routes[].allow_ips` and `deny_ips`; a denial wins.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only these; empty is everybody.
    pub allow: Cidrs,
    /// Not these.
    pub deny: Cidrs,
}

/// Makes [`IpFilter`]s; without settings they let everybody in.
#[derive(Clone, Debug)]
pub struct IpFilterLayer(Option<Arc<Settings>>);

/// See the module's documentation.
#[derive(Clone, Debug)]
pub struct IpFilter<S> {
    settings: Option<Arc<Settings>>,
    inner: S,
}

// === impl Settings ===

impl Settings {
    /// Whether a client may come in. One without an address is in no network: it passes unless
    /// only certain networks may.
    pub fn admits(&self, client: ClientIp) -> bool {
        match client {
            ClientIp::Ip(ip) => {
                !self.deny.contains(ip) && (self.allow.is_empty() || self.allow.contains(ip))
            }
            ClientIp::Unix => self.allow.is_empty(),
        }
    }
}

// === impl IpFilterLayer ===

impl IpFilterLayer {
    /// A layer of these settings; `None`: everybody may come in.
    pub fn new(settings: Option<Settings>) -> Self {
        Self(settings.map(Arc::new))
    }
}

impl<S> Layer<S> for IpFilterLayer {
    type Service = IpFilter<S>;

    fn layer(&self, inner: S) -> Self::Service {
        IpFilter { settings: self.0.clone(), inner }
    }
}

// === impl IpFilter ===

impl<S: Next> Service<Request> for IpFilter<S> {
    type Response = Response;
    type Error = Error;
    type Future = Either<S::Future, Ready<Result<Response, Error>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // A client that nobody found the address of is a bug of ours: the filter stays shut.
        let admitted = self.settings.as_ref().is_none_or(|settings| {
            request.cx.client_ip().is_some_and(|client| settings.admits(client))
        });
        if admitted {
            Either::Left(self.inner.call(request))
        } else {
            Either::Right(future::ready(Err(Kind::IpDenied.into())))
        }
    }
}
