//! Refuses ambiguous requests, and removes from the others everything that must not be believed.
//!
//! Touches every request. Refuses with 400 `bad-framing` or `bad-target`, 405 for CONNECT, 431
//! `header-count`. Writes client IP, host, scheme and target to the context. Afterwards the head has no
//! hop-by-hop field, no field with an underscore and none reserved for the gateway; it has one
//! `Host`, one `Cookie`, a target in origin form, and our word on the client. `Upgrade` stays only
//! if a tunnel is asked for. Counts `sluice_fields_dropped_total`.
//!
//! Costs a few passes over the names; allocates the target. The host and its forwarded form are
//! computed once per connection, for the host that its first request names. First below `respond`:
//! nothing may look at a request before this layer.

use std::{
    sync::Arc,
    task::{Context as Task, Poll},
};

use futures_util::future::{Either, Ready, ready};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri, Version,
    header::{COOKIE, EXPECT, HOST},
    request::Parts,
    uri::PathAndQuery,
};
use smallvec::SmallVec;
use tower::{Layer, Service};

use crate::{
    error::{Error, Kind, Result},
    http::{
        ClientIp, Context, Next, Request, Response, Target, fields, hop_by_hop,
        identity::{Identity, Suspect},
        peer::KnownHost,
    },
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
    identity: Arc<Identity>,
    underscores: Counter,
    identities: Counter,
}

/// Which of the fields that do not pass a head has: nearly every head has none.
#[derive(Default)]
struct Found {
    is_hop_by_hop: bool,
    is_suspect: bool,
    is_expecting: bool,
}

// === impl EdgeLayer ===

impl EdgeLayer {
    /// Applies `settings` and counts in `cells`, the worker's own.
    pub fn new(settings: Settings, cells: &Cells) -> Self {
        let underscores = cells.counter(&FIELDS_DROPPED, &["underscore"]);
        let identities = cells.counter(&FIELDS_DROPPED, &["identity"]);
        let identity = Arc::new(Identity::new(settings.stripped.clone()));
        Self { shared: Arc::new(Shared { settings, identity, underscores, identities }) }
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
        let Request { parts: head, body, cx } = request;
        let peer = cx.peer();
        // First, and from the original fields: a refusal's log line needs it too.
        cx.set_client_ip(ClientIp::find(peer, &head.headers, &self.settings.trusted_proxies));
        let host = framing::check(head, peer.host.get().map(|known| &known.value))?.cloned();

        let found = self.look(&head.headers);
        if found.is_hop_by_hop {
            hop_by_hop::strip_request(&mut head.headers, head.version == Version::HTTP_11);
        }
        if found.is_suspect {
            self.remove_identity(&mut head.headers);
        }
        if found.is_expecting {
            fields::take(&mut head.headers, &EXPECT);
        }
        if !body.is_in_memory() {
            body.guard_identity(self.identity.clone());
        }

        let host = host.or_else(|| take_authority(head));
        let forwarded = settle_words(cx, host.as_ref());
        let target = to_origin_form(&mut head.uri);
        let target = Target::parse(target).map_err(|_| Kind::BadTarget)?;
        if target.is_asterisk() && head.method != Method::OPTIONS {
            return Err(Kind::BadTarget);
        }
        cx.set_target(target);
        if head.version == Version::HTTP_2 {
            join_cookies(&mut head.headers);
        }
        let headers = &mut head.headers;
        cx.set_scheme(forwarded::set(headers, peer, host.as_ref(), forwarded, head.version));
        Ok(())
    }

    /// One pass over the names for all that is removed next.
    fn look(&self, headers: &HeaderMap) -> Found {
        let mut found = Found::default();
        for name in headers.keys() {
            found.is_hop_by_hop |= hop_by_hop::is_always(name.as_str());
            found.is_suspect |= self.identity.suspect(name).is_some();
            found.is_expecting |= *name == EXPECT;
        }
        found
    }

    /// Fields that only the gateway may set, and names that some upstreams read like them.
    fn remove_identity(&self, headers: &mut HeaderMap) {
        let suspects: SmallVec<[(HeaderName, Suspect); 4]> = headers
            .keys()
            .filter_map(|name| Some((name.clone(), self.identity.suspect(name)?)))
            .collect();
        for (name, suspect) in &suspects {
            headers.remove(name);
            match suspect {
                Suspect::Underscore => self.underscores.add(1),
                Suspect::Identity => self.identities.add(1),
            }
        }
    }
}

/// Makes the authority the request's one `Host`: on HTTP/2 it may come alone.
fn take_authority(head: &mut Parts) -> Option<HeaderValue> {
    let host = HeaderValue::from_str(head.uri.authority()?.as_str()).ok()?;
    head.headers.insert(HOST, host.clone());
    Some(host)
}

/// Notes the host as routes match it, and returns our element of `Forwarded`: both from the
/// connection if its first request named the same host, else computed anew.
fn settle_words(cx: &Context, host: Option<&HeaderValue>) -> HeaderValue {
    let peer = cx.peer();
    let Some(host) = host else {
        cx.set_host(Arc::default());
        return forwarded::element(peer, None);
    };
    let make = || KnownHost {
        value: owned(host),
        normal: framing::parse(host.as_bytes())
            .map_or_else(Arc::default, |authority| authority.normal_host()),
        forwarded: forwarded::element(peer, Some(host)),
    };
    let known = peer.host.get_or_init(make);
    if known.value == host {
        cx.set_known_host();
        return known.forwarded.clone();
    }
    let other = make();
    cx.set_host(other.normal);
    other.forwarded
}

/// A copy with memory of its own: the original is part of the buffer that the head was read into,
/// and would keep all of it alive as long as the connection.
fn owned(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Scheme and authority were compared with Host and are no longer needed.
fn to_origin_form(uri: &mut Uri) -> PathAndQuery {
    let is_absolute = uri.authority().is_some() || uri.scheme().is_some();
    let target = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if is_absolute {
        *uri = Uri::from(target.clone());
    }
    target
}

/// HTTP/2 may send each cookie in a field of its own; others expect one field (RFC 9113, 8.2.3).
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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use http::header::{CONNECTION, TE, UPGRADE};
    use parking_lot::Mutex;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{
        http::{
            Body, Cidrs, Context, Scheme,
            peer::{Address, Peer},
        },
        telemetry::metrics::Metrics,
    };

    /// The outcome for a request: its head as the next layer saw it, or the refusal.
    type Outcome = std::result::Result<(Parts, Context), Kind>;

    struct Edged {
        metrics: Metrics,
        settings: Settings,
        trusted: bool,
    }

    impl Edged {
        fn new() -> Self {
            Self { metrics: Metrics::new(), settings: Settings::default(), trusted: false }
        }

        async fn send(&self, builder: http::request::Builder) -> Outcome {
            let head = builder.body(()).unwrap().into_parts().0;
            let remote = Address::Inet(SocketAddr::from(([192, 0, 2, 7], 4711)));
            let peer = Peer::new(Arc::from("web"), remote, Address::Unix);
            let peer = Peer { trusted: self.trusted, ..peer };
            let cx = Context::new(Arc::new(peer), head.method.clone(), head.version);
            let seen = Arc::new(Mutex::new(None));
            let inner = service_fn({
                let seen = seen.clone();
                move |request: Request| {
                    *seen.lock() = Some((*request.parts, request.cx));
                    ready(Ok(Response::new(Body::empty())))
                }
            });
            let layer = EdgeLayer::new(self.settings.clone(), &self.metrics.thread());
            let request = Request::new(head, Body::empty(), cx);
            match layer.layer(inner).oneshot(request).await {
                Ok(_) => Ok(seen.lock().take().unwrap()),
                Err(error) => Err(error.kind().clone()),
            }
        }

        async fn head(&self, builder: http::request::Builder) -> Parts {
            self.send(builder).await.unwrap().0
        }
    }

    fn get(uri: &str) -> http::request::Builder {
        http::Request::get(uri).header(HOST, "shop.example")
    }

    fn h2(uri: &str) -> http::request::Builder {
        http::Request::get(uri).version(Version::HTTP_2)
    }

    async fn reason(builder: http::request::Builder) -> &'static str {
        Edged::new().send(builder).await.unwrap_err().reason()
    }

    #[tokio::test]
    async fn an_ordinary_request_passes() {
        let (head, cx) = Edged::new().send(get("/a/../b?c=d")).await.unwrap();
        assert_eq!(head.uri, "/a/../b?c=d");
        assert_eq!(cx.host(), Some("shop.example"));
        assert_eq!(cx.client_ip(), Some(ClientIp::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))));
        assert_eq!(cx.target().unwrap().path(), "/b");
    }

    #[tokio::test]
    async fn the_connection_keeps_no_part_of_the_buffer_a_head_came_in() {
        let (head, cx) = Edged::new().send(get("/")).await.unwrap();
        let known = cx.peer().host.get().unwrap();
        assert_eq!(known.value, "shop.example");
        assert_ne!(known.value.as_bytes().as_ptr(), head.headers[HOST].as_bytes().as_ptr());
    }

    #[tokio::test]
    async fn a_refusal_closes_the_connection_and_knows_the_client() {
        let kind = Edged::new().send(http::Request::get("/")).await.unwrap_err();
        assert_eq!(kind.reason(), "bad-framing");
        assert!(kind.closes_connection());
    }

    #[tokio::test]
    async fn connect_is_refused_with_405() {
        let kind = Edged::new().send(get("/").method("CONNECT")).await.unwrap_err();
        assert_eq!(kind.status(), 405);
    }

    #[tokio::test]
    async fn over_100_fields_are_refused() {
        let with = |count: usize| {
            (1..count).fold(get("/"), |builder, n| builder.header(format!("x-{n}"), "v"))
        };
        assert!(Edged::new().send(with(100)).await.is_ok());
        assert_eq!(reason(with(101)).await, "header-count");
        let repeated = (0..100).fold(get("/"), |builder, _| builder.header("x-same", "v"));
        assert_eq!(reason(repeated).await, "header-count");
    }

    #[tokio::test]
    async fn a_target_without_a_normal_form_is_refused() {
        assert_eq!(reason(get("/%00")).await, "bad-target");
    }

    #[tokio::test]
    async fn the_asterisk_is_for_options_only() {
        assert!(Edged::new().send(get("*").method(Method::OPTIONS)).await.is_ok());
        for method in [Method::GET, Method::HEAD, Method::POST] {
            assert_eq!(reason(get("*").method(method)).await, "bad-target");
        }
    }

    #[tokio::test]
    async fn absolute_form_becomes_origin_form() {
        let head = Edged::new().head(get("http://shop.example/a?b")).await;
        assert_eq!(head.uri, "/a?b");
        let head = Edged::new().head(get("http://shop.example")).await;
        assert_eq!(head.uri, "/");
    }

    #[tokio::test]
    async fn h2_authority_becomes_host() {
        let (head, cx) = Edged::new().send(h2("https://Shop.Example:8443/a")).await.unwrap();
        assert_eq!(head.headers[HOST], "Shop.Example:8443");
        assert_eq!(cx.host(), Some("shop.example"));
        assert_eq!(head.uri, "/a");
    }

    #[tokio::test]
    async fn host_is_known_in_lower_case_without_port_and_final_dot() {
        let request = http::Request::get("/").header(HOST, "Shop.Example.:8080");
        let (head, cx) = Edged::new().send(request).await.unwrap();
        assert_eq!(cx.host(), Some("shop.example"));
        assert_eq!(head.headers[HOST], "Shop.Example.:8080", "the field stays as it was");
    }

    #[tokio::test]
    async fn http_10_may_go_without_host() {
        let (_, cx) =
            Edged::new().send(http::Request::get("/").version(Version::HTTP_10)).await.unwrap();
        assert_eq!(cx.host(), Some(""));
    }

    #[tokio::test]
    async fn upgrade_to_h2c_is_dropped_and_a_websocket_passes() {
        let request = get("/")
            .header(CONNECTION, "Upgrade, HTTP2-Settings")
            .header(UPGRADE, "h2c")
            .header("http2-settings", "AAMAAABkAAQAAP__");
        let head = Edged::new().head(request).await;
        for name in ["connection", "upgrade", "http2-settings"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        let websocket = || get("/").header(CONNECTION, "Upgrade").header(UPGRADE, "websocket");
        assert_eq!(Edged::new().head(websocket()).await.headers[UPGRADE], "websocket");
        let old = Edged::new().head(websocket().version(Version::HTTP_10)).await;
        assert!(!old.headers.contains_key(UPGRADE));
    }

    #[tokio::test]
    async fn te_trailers_passes() {
        let head = Edged::new().head(get("/").header(TE, "trailers, deflate")).await;
        assert_eq!(head.headers[TE], "trailers");
    }

    #[tokio::test]
    async fn connection_cannot_take_back_what_the_gateway_says() {
        let names = "close, host, x-forwarded-for, x-request-id, forwarded, via, x-hop";
        let request = get("/")
            .header(CONNECTION, names)
            .header("x-request-id", "set-above")
            .header("x-hop", "1");
        let head = Edged::new().head(request).await;
        for name in ["host", "x-forwarded-for", "x-request-id", "forwarded", "via"] {
            assert!(head.headers.contains_key(name), "{name}");
        }
        assert!(!head.headers.contains_key("x-hop"));
        assert!(!head.headers.contains_key(CONNECTION));
    }

    #[tokio::test]
    async fn identity_fields_are_removed_from_every_peer() {
        for trusted in [false, true] {
            let mut edged = Edged::new();
            edged.trusted = trusted;
            edged.settings.stripped = vec![HeaderName::from_static("x-user")];
            edged.settings.trusted_proxies = Cidrs::new(["192.0.2.0/24".parse().unwrap()]);
            let request = get("/")
                .header("X-User", "root")
                .header("X-User", "admin")
                .header("x-sluice-attempt", "7")
                .header("x-sluice-anything", "1")
                .header("x-kept", "1");
            let head = edged.head(request).await;
            for name in ["x-user", "x-sluice-attempt", "x-sluice-anything"] {
                assert!(!head.headers.contains_key(name), "{name}");
            }
            assert!(head.headers.contains_key("x-kept"));
            let line = "sluice_fields_dropped_total{cause=\"identity\"} 3\n";
            assert!(edged.metrics.render().contains(line));
        }
    }

    #[tokio::test]
    async fn field_names_with_underscores_are_dropped_and_counted() {
        let edged = Edged::new();
        let request = get("/").header("x_user", "root").header("content_length", "5");
        let head = edged.head(request).await;
        assert!(!head.headers.keys().any(|name| name.as_str().contains('_')));
        let line = "sluice_fields_dropped_total{cause=\"underscore\"} 2\n";
        assert!(edged.metrics.render().contains(line));
    }

    #[tokio::test]
    async fn expect_is_consumed() {
        for expectation in ["100-continue", "something-else"] {
            let head = Edged::new().head(get("/").header(EXPECT, expectation)).await;
            assert!(!head.headers.contains_key(EXPECT));
        }
    }

    #[tokio::test]
    async fn h2_cookies_are_joined() {
        let request = h2("https://shop.example/").header(COOKIE, "a=1").header(COOKIE, "b=2; c=3");
        let head = Edged::new().head(request).await;
        let cookies: Vec<_> = head.headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2; c=3"]);
    }

    #[tokio::test]
    async fn forwarding_fields_follow_trust() {
        let request = || get("/").header("x-forwarded-for", "203.0.113.9");
        let mut edged = Edged::new();
        let (head, cx) = edged.send(request()).await.unwrap();
        assert_eq!(head.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(cx.scheme(), Scheme::Http);
        assert_eq!(cx.client_ip(), Some(ClientIp::Ip(IpAddr::from([192, 0, 2, 7]))));

        edged.trusted = true;
        edged.settings.trusted_proxies = Cidrs::new(["192.0.2.0/24".parse().unwrap()]);
        let told = request().header("x-forwarded-proto", "https");
        let (head, cx) = edged.send(told).await.unwrap();
        assert_eq!(head.headers["x-forwarded-for"], "203.0.113.9, 192.0.2.7");
        assert_eq!(cx.client_ip(), Some(ClientIp::Ip(IpAddr::from([203, 0, 113, 9]))));
        assert_eq!(cx.scheme(), Scheme::Https);
    }

    #[test]
    fn what_a_connection_knows_of_its_host_is_not_said_of_another() {
        let words = |peer: &Arc<Peer>, host: &'static str| {
            let cx = Context::new(peer.clone(), Method::GET, Version::HTTP_11);
            let forwarded = settle_words(&cx, Some(&HeaderValue::from_static(host)));
            (cx, forwarded.to_str().unwrap().to_owned())
        };
        let said =
            |(cx, forwarded): &(Context, String)| (cx.host().map(str::to_owned), forwarded.clone());
        let remote = Address::Inet(SocketAddr::from(([192, 0, 2, 7], 4711)));
        let new = || Arc::new(Peer::new(Arc::from("web"), remote, Address::Unix));
        let peer = new();
        for host in ["Shop.example", "admin.example:81", "Shop.example"] {
            assert_eq!(said(&words(&peer, host)), said(&words(&new(), host)), "{host}");
        }
        let (first, again) = (words(&peer, "Shop.example").0, words(&peer, "Shop.example").0);
        let text = |cx: &Context| cx.host().unwrap().as_ptr();
        assert_eq!(text(&first), text(&again), "worked out once");
        assert_eq!(peer.host.get().unwrap().value, "Shop.example", "the first one is kept");
    }
}
