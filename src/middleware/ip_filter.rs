//! `allow_ips` and `deny_ips`: which client addresses a route accepts.
//!
//! Touches the requests of routes that have either list; refuses with 403 `ip-denied`. Uses the
//! client address in the context, so a trusted proxy's word counts and nobody else's. Costs one
//! pass over the lists, no lock, no allocation. The first layer of a route: an unwelcome address
//! must cost nothing and learn nothing.

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

/// `routes[].allow_ips` and `deny_ips`; `deny_ips` wins.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Only these networks; empty means all.
    pub allow: Cidrs,
    /// Not these networks.
    pub deny: Cidrs,
}

/// Makes [`IpFilter`]s; without settings they admit everybody.
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
    /// Whether a client is admitted. A client without an address is in no network: it passes only
    /// if `allow_ips` is empty.
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
    /// A layer with these settings; `None`: everybody is admitted.
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
        // A request without a client address is a bug of ours: refuse it.
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

#[cfg(test)]
mod tests {
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{http::Body, middleware::testing};

    fn cidrs(networks: &[&str]) -> Cidrs {
        Cidrs::new(networks.iter().map(|network| network.parse().unwrap()))
    }

    fn ip(ip: &str) -> ClientIp {
        ClientIp::Ip(ip.parse().unwrap())
    }

    #[test]
    fn a_denial_wins_and_an_empty_allow_list_is_everybody() {
        let both = Settings { allow: cidrs(&["10.0.0.0/8"]), deny: cidrs(&["10.1.0.0/16"]) };
        assert!(both.admits(ip("10.2.0.1")));
        assert!(!both.admits(ip("10.1.0.1")), "denied though allowed");
        assert!(!both.admits(ip("192.0.2.1")), "not among those allowed");

        let deny = Settings { allow: Cidrs::default(), deny: cidrs(&["2001:db8::/32"]) };
        assert!(deny.admits(ip("192.0.2.1")));
        assert!(!deny.admits(ip("2001:db8::1")));
        assert!(Settings::default().admits(ip("192.0.2.1")));
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let deny = Settings { allow: Cidrs::default(), deny: cidrs(&["192.0.2.0/24"]) };
        assert!(!deny.admits(ip("::ffff:192.0.2.7")));
    }

    #[test]
    fn a_unix_peer_passes_unless_only_networks_may() {
        let deny = Settings { allow: Cidrs::default(), deny: cidrs(&["0.0.0.0/0", "::/0"]) };
        assert!(deny.admits(ClientIp::Unix));
        let allow = Settings { allow: cidrs(&["0.0.0.0/0"]), deny: Cidrs::default() };
        assert!(!allow.admits(ClientIp::Unix));
    }

    #[tokio::test]
    async fn the_refused_never_reach_the_rest_of_the_stack() {
        let inner = service_fn(async |_: Request| Ok(Response::new(Body::empty())));
        let deny = Settings { allow: Cidrs::default(), deny: cidrs(&["192.0.2.0/24"]) };
        let filter = IpFilterLayer::new(Some(deny)).layer(inner);

        let welcome = testing::get("/");
        welcome.cx.set_client_ip(ip("198.51.100.1"));
        assert!(filter.clone().oneshot(welcome).await.is_ok());

        let refused = testing::get("/");
        refused.cx.set_client_ip(ip("192.0.2.1"));
        let error = filter.clone().oneshot(refused).await.unwrap_err();
        assert!(matches!(error.kind(), Kind::IpDenied));

        let unknown = filter.oneshot(testing::get("/")).await;
        assert!(unknown.is_err(), "without an address the filter stays shut");
        assert!(IpFilterLayer::new(None).layer(inner).oneshot(testing::get("/")).await.is_ok());
    }
}
