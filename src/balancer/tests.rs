//! Groups with a scripted resolver, and the layer over a transport that only records where requests
//! were sent.

use std::{
    collections::HashMap,
    future::{self, Future},
    net::IpAddr,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use http::{Method, Version};
use parking_lot::Mutex;
use tokio::{sync::watch, time};
use tower::{Service as _, service_fn};

use super::{
    resolver::{Answer, Family, Lookup, ResolveError, Service},
    *,
};
use crate::{
    error::{Error, Kind, Result, Sent},
    http::{self as ours, Body, Context, Peer, Request, Response},
    telemetry::{metrics::Metrics, task::Spawner},
    upstream::{Call, Pools},
};

/// What each name resolves to; other names cannot be resolved.
#[derive(Default)]
struct Script {
    hosts: Mutex<HashMap<String, Vec<IpAddr>>>,
    /// Lookups of addresses in these families fail.
    failing: Mutex<Vec<Family>>,
    /// Lookups of addresses in this family are never answered.
    lost: Option<Family>,
    services: Vec<Service>,
}

impl Script {
    fn say(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
        self.hosts.lock().insert(host.to_owned(), addresses);
    }

    fn fall_silent(&self) {
        self.hosts.lock().clear();
    }
}

impl Resolve for Script {
    fn names(&self, name: &str) -> Vec<Box<str>> {
        vec![name.into()]
    }

    fn addresses<'a>(&'a self, host: &'a str, family: Family) -> Lookup<'a, IpAddr> {
        Box::pin(async move {
            if self.lost == Some(family) {
                future::pending::<()>().await;
            }
            let hosts = self.hosts.lock();
            let records = hosts.get(host).ok_or_else(|| ResolveError("silent".to_owned()))?;
            if self.failing.lock().contains(&family) {
                return Err(ResolveError("one fails".to_owned()));
            }
            let of_family = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
            let records = records.iter().filter(of_family).copied().collect();
            Ok(Answer { records, ttl: Duration::from_mins(10) })
        })
    }

    fn services<'a>(&'a self, _: &'a str) -> Lookup<'a, Service> {
        Box::pin(async move { Ok(Answer { records: self.services.clone(), ttl: Duration::ZERO }) })
    }
}

fn settings(sources: &[&str], policy: Policy) -> Settings {
    let source = |text: &&str| {
        let address = if let Some(name) = text.strip_prefix("srv:") {
            SourceAddress::Srv(name.into())
        } else {
            let (host, port) = text.rsplit_once(':').unwrap();
            SourceAddress::Host { host: host.into(), port: port.parse().unwrap() }
        };
        Source { address, weight: 1, priority: 0 }
    };
    Settings {
        name: "orders".into(),
        sources: sources.iter().map(source).collect(),
        policy,
        max_in_flight: 4,
        health_check: None,
        outlier: outlier::Settings::default(),
        breaker: None,
        panic_threshold: 0.5,
        slow_start: Duration::from_secs(30),
        transport: upstream::Settings {
            name: "orders".into(),
            protocol: upstream::Protocol::H1,
            tls: None,
            connect_timeout: Duration::from_secs(3),
            max_idle: 128,
            idle_timeout: Duration::from_secs(55),
            response_idle_timeout: Duration::from_mins(1),
            send_idle_timeout: Duration::from_mins(1),
            half_close_timeout: Duration::from_mins(1),
            probe_idle_after: Duration::from_secs(1),
            max_h2_connections: 4,
        },
    }
}

fn group(settings: Settings, previous: Option<&Arc<Group>>, script: &Arc<Script>) -> Arc<Group> {
    let resolver: Arc<dyn Resolve> = script.clone();
    let group = Group::new(settings, previous, &resolver, &Metrics::new().thread()).unwrap();
    group.take_effect();
    group
}

fn handle(group: &Group) -> GroupHandle {
    let (_, deadline) = watch::channel(None);
    group.worker(&Pools::new(Metrics::new().thread(), Spawner::new(), deadline))
}

fn request() -> Request {
    let peer =
        Arc::new(Peer::new("test".into(), ours::peer::Address::Unix, ours::peer::Address::Unix));
    let parts = http::Request::new(()).into_parts().0;
    let cx = Context::new(peer, Method::GET, Version::HTTP_11);
    Request::new(parts, Body::empty(), cx)
}

/// Sends through a transport that answers with `outcome`; returns the endpoint it was given.
async fn send(
    handle: &GroupHandle,
    request: Request,
    outcome: impl Fn() -> Result<Response> + Clone + Send + 'static,
) -> Result<String> {
    let chosen: Arc<Mutex<String>> = Arc::default();
    let told = chosen.clone();
    let transport = service_fn(move |call: Call| {
        *told.lock() = call.flight.local().label().to_string();
        let outcome = outcome();
        async move {
            drop(call);
            outcome
        }
    });
    let mut balance = Balance::new(vec![handle.clone()], transport);
    balance.call(request).await?;
    let chosen = chosen.lock().clone();
    Ok(chosen)
}

#[expect(clippy::unnecessary_wraps, reason = "one of the outcomes of a transport")]
fn ok() -> Result<Response> {
    Ok(http::Response::new(Body::empty()))
}

fn addresses(group: &Group) -> Vec<String> {
    group.snapshot().endpoints.into_iter().map(|endpoint| endpoint.address).collect()
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_the_first_resolution() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1"]);
    let group = group(settings(&["orders.internal:80"], Policy::P2cEwma), None, &script);
    assert!(addresses(&group).is_empty());
    let chosen = send(&handle(&group), request(), ok).await.unwrap();
    assert_eq!(chosen, "orders/10.0.0.1:80");
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_is_a_dns_failure_and_none_is_none() {
    let script = Arc::new(Script::default());
    let silent = group(settings(&["orders.internal:80"], Policy::P2cEwma), None, &script);
    let mut error = send(&handle(&silent), request(), ok).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamDns), "{error}");
    assert!(error.take_unsent().is_some_and(|unsent| unsent.into_request().is_some()));

    let none = group(settings(&[], Policy::P2cEwma), None, &script);
    let error = send(&handle(&none), request(), ok).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamNone), "{error}");
}

#[tokio::test(start_paused = true)]
async fn names_are_resolved_again_and_serve_stale_only_while_the_resolver_errs() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1", "10.0.0.2"]);
    let group = group(settings(&["orders.internal:80"], Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(addresses(&group), ["10.0.0.1:80", "10.0.0.2:80"]);
    let handle = handle(&group);

    // A TTL of ten minutes is capped at 30 s.
    script.say("orders.internal", &["10.0.0.3"]);
    time::sleep(Duration::from_secs(31)).await;
    assert_eq!(send(&handle, request(), ok).await.unwrap(), "orders/10.0.0.3:80");

    script.fall_silent();
    time::sleep(Duration::from_mins(4)).await;
    assert_eq!(send(&handle, request(), ok).await.unwrap(), "orders/10.0.0.3:80");
    time::sleep(Duration::from_mins(3)).await;
    let error = send(&handle, request(), ok).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::UpstreamDns), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_error_with_one_family_takes_none_of_its_addresses_away() {
    for sources in [["orders.internal:80"], ["srv:_orders._tcp.internal"]] {
        for (family, alone) in [(Family::V4, "10.0.0.1"), (Family::V6, "fd00::1")] {
            let host = "orders.internal".into();
            let services = vec![Service { host, port: 80, priority: 0, weight: 1 }];
            let script = Arc::new(Script { services, ..Script::default() });
            script.say("orders.internal", &["10.0.0.1", "fd00::1"]);
            let group = group(settings(&sources, Policy::P2cEwma), None, &script);
            time::sleep(Duration::from_secs(1)).await;
            let both = ["10.0.0.1:80", "[fd00::1]:80"];
            assert_eq!(addresses(&group), both);

            script.failing.lock().push(family);
            time::sleep(Duration::from_mins(4)).await;
            assert_eq!(addresses(&group), both, "{family:?} of {sources:?}");
            let later = self::group(settings(&sources, Policy::P2cEwma), Some(&group), &script);
            time::sleep(Duration::from_secs(20)).await;
            assert_eq!(addresses(&later), both, "after a reload");
            time::sleep(Duration::from_mins(2)).await;
            assert_eq!(addresses(&later).len(), 1, "not for ever");

            // No addresses in the other family does not mean none for the name.
            script.failing.lock().clear();
            script.say("orders.internal", &[alone]);
            time::sleep(Duration::from_mins(1)).await;
            assert_eq!(addresses(&later).len(), 1);
            script.failing.lock().push(family);
            time::sleep(Duration::from_mins(4)).await;
            assert_eq!(addresses(&later).len(), 1, "{family:?} alone of {sources:?}");
            time::sleep(Duration::from_mins(2)).await;
            assert!(addresses(&later).is_empty(), "not for ever");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_server_that_never_answers_for_one_family_holds_up_nothing() {
    for (lost, there) in [(Family::V6, "10.0.0.1:80"), (Family::V4, "[fd00::1]:80")] {
        let script = Arc::new(Script { lost: Some(lost), ..Script::default() });
        script.say("orders.internal", &["10.0.0.1", "fd00::1"]);
        let group = group(settings(&["orders.internal:80"], Policy::P2cEwma), None, &script);
        time::sleep(Duration::from_secs(3)).await;
        assert_eq!(addresses(&group), [there]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_is_given_twice_is_one_endpoint() {
    let service =
        |host: &str, priority| Service { host: host.into(), port: 81, priority, weight: 1 };
    let services = vec![service("a", 1), service("a", 0), service("b", 0)];
    let script = Arc::new(Script { services, ..Script::default() });
    script.say("a", &["10.0.0.1"]);
    script.say("b", &["10.0.0.2"]);
    let group = group(settings(&["srv:_orders._tcp.internal"], Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_millis(10)).await;
    assert_eq!(addresses(&group), ["10.0.0.1:81", "10.0.0.2:81"]);
    assert!(group.snapshot().endpoints.iter().all(|endpoint| endpoint.priority == 0));
}

#[tokio::test(start_paused = true)]
async fn srv_records_bring_ports_weights_and_priorities() {
    let service =
        |host: &str, port, priority, weight| Service { host: host.into(), port, priority, weight };
    let services = vec![service("a", 81, 0, 5), service("b", 82, 1, 0), service("gone", 83, 0, 1)];
    let script = Arc::new(Script { services, ..Script::default() });
    script.say("a", &["10.0.0.1"]);
    script.say("b", &["10.0.0.2"]);
    let group = group(settings(&["srv:_orders._tcp.internal"], Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_millis(10)).await;
    let snapshot = group.snapshot();
    let seen: Vec<_> =
        snapshot.endpoints.iter().map(|e| (e.address.as_str(), e.weight, e.priority)).collect();
    assert_eq!(seen, [("10.0.0.1:81", 5, 0), ("10.0.0.2:82", 1, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_name_behind_an_srv_record_serves_stale_on_its_own() {
    let service = |host: &str, port| Service { host: host.into(), port, priority: 0, weight: 1 };
    let services = vec![service("a", 81), service("b", 82)];
    let script = Arc::new(Script { services, ..Script::default() });
    script.say("a", &["10.0.0.1"]);
    script.say("b", &["10.0.0.2"]);
    let group = group(settings(&["srv:_orders._tcp.internal"], Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_millis(10)).await;
    script.hosts.lock().remove("b");
    time::sleep(Duration::from_mins(4)).await;
    assert_eq!(addresses(&group), ["10.0.0.1:81", "10.0.0.2:82"]);
    time::sleep(Duration::from_mins(2)).await;
    assert_eq!(addresses(&group), ["10.0.0.1:81"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_what_was_measured_and_resolved() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1"]);
    let sources = ["orders.internal:80", "10.0.0.9:80"];
    let old = group(settings(&sources, Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_millis(10)).await;
    let bad = || Err(Kind::UpstreamReset(Sent::MaybeSeen).into());
    send(&handle(&old), request(), bad).await.unwrap_err();
    script.fall_silent();
    let new = group(settings(&sources, Policy::LeastRequest), Some(&old), &script);
    assert_eq!(addresses(&new), addresses(&old));
    let slow = |group: &Group| group.snapshot().endpoints.iter().any(|e| e.ewma_seconds > 4.0);
    assert!(slow(&old) && slow(&new));
}

#[tokio::test(start_paused = true)]
async fn a_reload_while_the_resolver_errs_keeps_its_last_answer_for_as_long_as_without() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1"]);
    let sources = ["orders.internal:80"];
    let old = group(settings(&sources, Policy::P2cEwma), None, &script);
    time::sleep(Duration::from_millis(10)).await;
    script.fall_silent();
    time::sleep(Duration::from_mins(3)).await;
    let new = group(settings(&sources, Policy::P2cEwma), Some(&old), &script);
    drop(old);
    time::sleep(Duration::from_mins(1)).await;
    assert_eq!(addresses(&new), ["10.0.0.1:80"]);
    time::sleep(Duration::from_mins(2)).await;
    assert!(addresses(&new).is_empty(), "five minutes, reload or not");
}

#[tokio::test(start_paused = true)]
async fn what_was_tried_is_avoided() {
    let script = Arc::new(Script::default());
    let mut settings = settings(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], Policy::RoundRobin);
    settings.sources[2].priority = 1;
    let handle = handle(&group(settings, None, &script));
    let asked = request();
    let again = |cx: &Context| Request { cx: cx.clone(), ..request() };
    let cx = asked.cx.clone();
    let mut seen = vec![send(&handle, asked, ok).await.unwrap()];
    for _ in 0..2 {
        seen.push(send(&handle, again(&cx), ok).await.unwrap());
    }
    // The lower priority is used only after all of the higher one were tried.
    assert_eq!(seen[2], "orders/10.0.0.3:80");
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3);
    let fourth = send(&handle, again(&cx), ok).await.unwrap();
    assert_ne!(fourth, "orders/10.0.0.3:80");
}

#[tokio::test(start_paused = true)]
async fn failures_attract_nobody() {
    let script = Arc::new(Script::default());
    let handle =
        handle(&group(settings(&["10.0.0.1:80", "10.0.0.2:80"], Policy::P2cEwma), None, &script));
    let bad = || {
        let mut response = http::Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        Ok(response)
    };
    let failed = send(&handle, request(), bad).await.unwrap();
    for _ in 0..50 {
        assert_ne!(send(&handle, request(), ok).await.unwrap(), failed);
    }
}

/// Waits `span` for a transport that never answers, then drops the request, given up for `reason`.
async fn abandon(
    handle: &GroupHandle,
    span: Duration,
    reason: Option<&'static str>,
) -> ours::context::Attempt {
    let transport = service_fn(|call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
        ok()
    });
    let request = request();
    let cx = request.cx.clone();
    let mut called = Box::pin(Balance::new(vec![handle.clone()], transport).call(request));
    time::timeout(span, &mut called).await.unwrap_err();
    if let Some(reason) = reason {
        cx.give_up_attempt(reason);
    }
    drop(called);
    cx.with_attempts(|attempts| attempts[0].clone())
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_answers_nobody_attracts_nobody() {
    let script = Arc::new(Script::default());
    let group = group(settings(&["10.0.0.1:80"], Policy::P2cEwma), None, &script);
    let metrics = Metrics::new();
    let (_, deadline) = watch::channel(None);
    let handle = group.worker(&Pools::new(metrics.thread(), Spawner::new(), deadline));
    let expected = || group.snapshot().endpoints[0].ewma_seconds;

    // A client that leaves blames nobody, but its waiting time counts.
    let left = abandon(&handle, Duration::from_secs(2), None).await;
    assert_eq!((left.took, left.reason), (Some(Duration::from_secs(2)), None));
    assert!((expected() - 2.0).abs() < 0.01, "{}", expected());
    abandon(&handle, Duration::from_millis(1), None).await;
    assert!((expected() - 2.0).abs() < 0.01, "a short wait says nothing");
    assert!(!metrics.render().contains("upstream-timeout-try"));

    let late = abandon(&handle, Duration::from_millis(1), Some("upstream-timeout-try")).await;
    assert_eq!(late.reason, Some("upstream-timeout-try"));
    assert!(late.took.is_some());
    assert!((expected() - 5.0).abs() < 0.01, "{}", expected());
    let rendered = metrics.render();
    let line = rendered.lines().find(|line| line.contains("upstream-timeout-try")).unwrap();
    assert!(line.ends_with(" 1"), "{line}");
}

#[tokio::test(start_paused = true)]
async fn the_group_takes_no_more_than_its_limit() {
    let script = Arc::new(Script::default());
    let group = group(settings(&["10.0.0.1:80"], Policy::LeastRequest), None, &script);
    let transport = service_fn(|call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
        Err::<Response, Error>(Kind::Internal.into())
    });
    let mut balance = Balance::new(vec![handle(&group)], transport);
    let mut held: Vec<_> = (0..4).map(|_| Box::pin(balance.call(request()))).collect();
    for future in &mut held {
        let polled = futures_util::poll!(future.as_mut());
        assert!(matches!(polled, Poll::Pending));
    }
    assert_eq!(group.snapshot().in_flight, 4);
    let error = balance.call(request()).await.unwrap_err();
    assert!(matches!(error.kind(), Kind::ConcurrencyFull), "{error}");
    drop(held);
    assert_eq!(group.snapshot().in_flight, 0);
    assert_eq!(group.snapshot().endpoints[0].in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_same_value_goes_to_the_same_endpoint() {
    let script = Arc::new(Script::default());
    let selector = Selector::parse("header:x-user").unwrap();
    let sources = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"];
    let handle = handle(&group(settings(&sources, Policy::Hash(selector)), None, &script));
    let of = |user: &str| {
        let mut request = request();
        request.parts.headers.insert("x-user", user.parse().unwrap());
        request
    };
    let mut seen = Vec::new();
    for user in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        let home = send(&handle, of(user), ok).await.unwrap();
        for _ in 0..5 {
            assert_eq!(send(&handle, of(user), ok).await.unwrap(), home);
        }
        seen.push(home);
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() > 1);
}

/// `Send`, so that the stack also runs on a multi-thread runtime.
#[tokio::test(start_paused = true)]
async fn futures_are_send() {
    fn is_send<F: Future + Send>(future: F) -> F {
        future
    }
    let script = Arc::new(Script::default());
    let handle = handle(&group(settings(&[], Policy::P2cEwma), None, &script));
    let mut balance = Balance::new(vec![handle], service_fn(|_: Call| async { ok() }));
    is_send(balance.call(request())).await.unwrap_err();
}

/// Sends, with an answer that depends on the endpoint; returns the endpoint.
async fn ask(
    handle: &GroupHandle,
    answer: impl Fn(&str) -> Result<Response> + Clone + Send + 'static,
) -> (String, Result<Response>) {
    let chosen: Arc<Mutex<String>> = Arc::default();
    let told = chosen.clone();
    let transport = service_fn(move |call: Call| {
        let label = call.flight.local().label().to_string();
        let answer = answer(&label);
        *told.lock() = label;
        async move {
            drop(call);
            answer
        }
    });
    let answered = Balance::new(vec![handle.clone()], transport).call(request()).await;
    let chosen = chosen.lock().clone();
    (chosen, answered)
}

#[expect(clippy::unnecessary_wraps, reason = "one of the outcomes of a transport")]
fn status(status: u16) -> Result<Response> {
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap();
    Ok(response)
}

/// How many of `times` requests went to an endpoint that ends in `to`.
async fn went(
    handle: &GroupHandle,
    times: usize,
    to: &str,
    answer: impl Fn(&str) -> Result<Response> + Clone + Send + 'static,
) -> usize {
    let mut went = 0;
    for _ in 0..times {
        went += usize::from(ask(handle, answer.clone()).await.0.ends_with(to));
    }
    went
}

fn three(policy: Policy) -> Settings {
    settings(&["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"], policy)
}

fn states(group: &Group) -> Vec<&'static str> {
    group.snapshot().endpoints.iter().map(|endpoint| endpoint.state).collect()
}

#[tokio::test(start_paused = true)]
async fn five_failures_in_a_row_eject_and_it_comes_back_slowly() {
    let group = group(three(Policy::RoundRobin), None, &Arc::default());
    let handle = handle(&group);
    let bad = |label: &str| status(if label.ends_with("1:80") { 500 } else { 200 });
    assert_eq!(went(&handle, 15, "1:80", bad).await, 5);
    assert_eq!(went(&handle, 30, "1:80", bad).await, 0, "ejected");
    let out = &group.snapshot().endpoints[0];
    assert_eq!((out.state, out.takes_requests, out.ejections), ("ejected", false, 1));
    assert!(out.why.as_ref().unwrap().contains("5 failures"), "{out:?}");
    assert!(out.since.is_some() && out.until > out.since);

    time::sleep(Duration::from_secs(9)).await;
    assert_eq!(went(&handle, 30, "1:80", |_| status(200)).await, 0, "not yet");
    time::sleep(Duration::from_secs(4)).await;
    assert_eq!(states(&group), ["ready"; 3]);
    assert!(group.snapshot().endpoints[0].slow_start_share.unwrap() < 0.2);
    let slow = went(&handle, 300, "1:80", |_| status(200)).await;
    assert!((5..40).contains(&slow), "{slow} of 300 with about a tenth of its weight");
    time::sleep(Duration::from_secs(31)).await;
    assert_eq!(went(&handle, 300, "1:80", |_| status(200)).await, 100);
}

#[tokio::test(start_paused = true)]
async fn failures_of_all_eject_only_as_many_as_may_be_out() {
    let group = group(three(Policy::RoundRobin), None, &Arc::default());
    let handle = handle(&group);
    went(&handle, 60, "", |_| status(503)).await;
    let ejected = states(&group).iter().filter(|state| **state == "ejected").count();
    assert_eq!(ejected, 1);

    let one = self::group(settings(&["10.0.0.1:80"], Policy::P2cEwma), None, &Arc::default());
    let single = self::handle(&one);
    assert_eq!(went(&single, 30, "1:80", |_| status(500)).await, 30, "never the only one");
}

#[tokio::test(start_paused = true)]
async fn refusals_and_successes_between_eject_nobody() {
    let group = group(three(Policy::RoundRobin), None, &Arc::default());
    let handle = handle(&group);
    went(&handle, 60, "", |_| status(429)).await;
    for _ in 0..10 {
        went(&handle, 12, "", |_| status(500)).await;
        went(&handle, 3, "", |_| status(200)).await;
    }
    assert_eq!(states(&group), ["ready"; 3]);
    // Bad answers and silence are counted separately, and any answer, good or bad, ends a silence.
    let lost = |_: &str| Err(Kind::UpstreamConnect.into());
    for _ in 0..10 {
        went(&handle, 12, "", lost).await;
        went(&handle, 3, "", |_| status(404)).await;
    }
    assert_eq!(states(&group), ["ready"; 3]);
    went(&handle, 15, "", lost).await;
    assert_eq!(states(&group).iter().filter(|state| **state == "ejected").count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_outlives_a_reload_and_late_failures_of_the_old_stack_are_heard() {
    let old = group(three(Policy::RoundRobin), None, &Arc::default());
    let old_handle = handle(&old);
    let bad = |label: &str| status(if label.ends_with("1:80") { 500 } else { 200 });
    let new = group(three(Policy::RoundRobin), Some(&old), &Arc::default());
    let new_handle = handle(&new);
    went(&old_handle, 15, "1:80", bad).await;
    // The new group's task hears of it.
    time::sleep(Duration::from_millis(1)).await;
    assert_eq!(went(&new_handle, 30, "1:80", bad).await, 0);
    let newest = group(three(Policy::LeastRequest), Some(&new), &Arc::default());
    assert_eq!(states(&newest), ["ejected", "ready", "ready"]);
    assert_eq!(went(&handle(&newest), 30, "1:80", bad).await, 0);
}

fn with_breaker(sources: &[&str]) -> Settings {
    let outlier = outlier::Settings { max_ejected: 0.0, ..outlier::Settings::default() };
    let breaker = Some(breaker::Settings::default());
    Settings { outlier, breaker, ..settings(sources, Policy::RoundRobin) }
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_not_picked_and_one_probe_closes_it() {
    let group = group(with_breaker(&["10.0.0.1:80", "10.0.0.2:80"]), None, &Arc::default());
    let handle = handle(&group);
    let bad = |label: &str| status(if label.ends_with("1:80") { 500 } else { 200 });
    let failed = went(&handle, 40, "1:80", bad).await;
    assert_eq!(failed, 5, "five samples, none of them good");
    assert_eq!(states(&group), ["breaker-open", "ready"]);
    assert_eq!(group.snapshot().endpoints[0].breaker, "open");
    time::sleep(Duration::from_millis(1501)).await;
    assert_eq!(group.snapshot().endpoints[0].breaker, "probing");
    assert_eq!(went(&handle, 20, "1:80", bad).await, 1, "one probe, which fails");
    time::sleep(Duration::from_millis(3001)).await;
    assert_eq!(ask(&handle, |_| status(200)).await.0, "orders/10.0.0.1:80");
    assert_eq!(states(&group), ["ready"; 2]);
}

#[tokio::test(start_paused = true)]
async fn all_breakers_open_is_503_with_a_time_to_come_back() {
    let group = group(with_breaker(&["10.0.0.1:80"]), None, &Arc::default());
    let handle = handle(&group);
    for _ in 0..5 {
        ask(&handle, |_| status(500)).await.1.unwrap();
    }
    let (_, refused) = ask(&handle, |_| status(200)).await;
    let mut error = refused.unwrap_err();
    assert!(matches!(error.kind(), Kind::BreakerOpen(_)), "{error}");
    assert!(error.kind().retry_after().unwrap() >= Duration::from_secs(1));
    assert!(error.take_unsent().is_some());
    time::sleep(Duration::from_millis(1501)).await;
    ask(&handle, |_| status(200)).await.1.unwrap();
    ask(&handle, |_| status(200)).await.1.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_client_leaves_gives_its_place_to_the_next() {
    let group = group(with_breaker(&["10.0.0.1:80"]), None, &Arc::default());
    let handle = handle(&group);
    went(&handle, 5, "", |_| status(500)).await;
    time::sleep(Duration::from_millis(1501)).await;
    let hung = service_fn(|call: Call| async move {
        std::future::pending::<()>().await;
        drop(call);
        ok()
    });
    let mut probe = Box::pin(Balance::new(vec![handle.clone()], hung).call(request()));
    assert!(matches!(futures_util::poll!(probe.as_mut()), Poll::Pending));
    let (_, refused) = ask(&handle, |_| status(200)).await;
    assert!(matches!(refused.unwrap_err().kind(), Kind::BreakerOpen(_)), "one probe at a time");
    drop(probe);
    ask(&handle, |_| status(200)).await.1.unwrap();
    assert_eq!(states(&group), ["ready"]);
    assert_eq!(group.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_takes_its_time_keeps_nobody_away_for_longer_than_its_time() {
    let group = group(with_breaker(&["10.0.0.1:80"]), None, &Arc::default());
    let handle = handle(&group);
    went(&handle, 5, "", |_| status(500)).await;
    time::sleep(Duration::from_millis(1501)).await;
    // Like an upload from a client that sends a little at a time.
    let slow = service_fn(|call: Call| async move {
        time::sleep(Duration::from_hours(1)).await;
        drop(call);
        status(500)
    });
    let mut probe = Box::pin(Balance::new(vec![handle.clone()], slow).call(request()));
    assert!(matches!(futures_util::poll!(probe.as_mut()), Poll::Pending));
    time::sleep(Duration::from_secs(29)).await;
    ask(&handle, |_| status(200)).await.1.unwrap_err();
    time::sleep(Duration::from_secs(1)).await;
    ask(&handle, |_| status(200)).await.1.unwrap();
    assert_eq!(states(&group), ["ready"]);
    // Its late failure changes nothing.
    probe.await.unwrap();
    assert_eq!(states(&group), ["ready"]);
}

#[tokio::test(start_paused = true)]
async fn a_reload_keeps_who_is_down_and_one_that_is_refused_changes_nothing() {
    let checked = |check: health::Check, interval: u64| {
        let health_check = Some(Arc::new(health::Settings {
            check,
            interval: Duration::from_secs(interval),
            changing_interval: Duration::from_secs(1),
            down_interval: Duration::from_secs(15),
            timeout: Duration::from_secs(2),
            fall: 3,
            rise: 2,
        }));
        // An address where nobody listens.
        Settings { health_check, ..settings(&["127.0.0.1:1"], Policy::RoundRobin) }
    };
    let path = |path: &str| health::Check::Http { path: path.into(), expect: vec![200..=200] };
    let old = group(checked(path("/a"), 5), None, &Arc::default());
    time::sleep(Duration::from_secs(30)).await;
    let known = |group: &Group| {
        let endpoint = &group.snapshot().endpoints[0];
        (endpoint.state, endpoint.since.clone(), endpoint.why.clone())
    };
    let before = known(&old);
    assert_eq!(before.0, "down");

    let resolver: Arc<dyn Resolve> = Arc::<Script>::default();
    let cells = Metrics::new().thread();
    let refused = Group::new(checked(path("/b"), 5), Some(&old), &resolver, &cells).unwrap();
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(known(&old), before, "not in force");
    drop(refused);
    assert_eq!(known(&old), before);

    let paced = group(checked(path("/a"), 6), Some(&old), &Arc::default());
    drop(old);
    assert_eq!(known(&paced), before, "the same is asked");
    let other = group(checked(path("/b"), 6), Some(&paced), &Arc::default());
    assert_eq!(states(&other), ["ready"], "nothing is known of what is asked now");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_added_starts_slowly_but_none_does_at_the_start() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1", "10.0.0.2"]);
    let group = group(settings(&["orders.internal:80"], Policy::RoundRobin), None, &script);
    time::sleep(Duration::from_secs(1)).await;
    let shares = |group: &Group| {
        let share = |endpoint: &EndpointSnapshot| endpoint.slow_start_share;
        group.snapshot().endpoints.iter().map(share).collect::<Vec<_>>()
    };
    assert_eq!(shares(&group), [None, None]);
    script.say("orders.internal", &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    time::sleep(Duration::from_secs(30)).await;
    assert_eq!(shares(&group), [None, None, Some(0.1)]);
    let few = went(&handle(&group), 210, "3:80", |_| status(200)).await;
    assert!((5..20).contains(&few), "{few} of 210");
    let later = self::group(three(Policy::P2cEwma), Some(&group), &script);
    assert_eq!(shares(&later), [None, None, Some(0.1)], "a reload goes on");
}

#[tokio::test(start_paused = true)]
async fn hash_keeps_its_mapping_while_one_is_out() {
    let selector = Selector::parse("header:x-user").unwrap();
    let group = group(three(Policy::Hash(selector)), None, &Arc::default());
    let handle = handle(&group);
    let home = async |user: &str, answer: u16| {
        let mut request = request();
        request.parts.headers.insert("x-user", user.parse().unwrap());
        send(&handle, request, move || status(answer)).await.unwrap()
    };
    let users: Vec<String> = (0..60).map(|user| format!("user-{user}")).collect();
    let mut before = Vec::new();
    for user in &users {
        before.push(home(user, 200).await);
    }
    let failing = before[0].clone();
    for _ in 0..5 {
        assert_eq!(home(&users[0], 500).await, failing);
    }
    for (user, before) in users.iter().zip(&before) {
        let now = home(user, 200).await;
        assert_ne!(now, failing);
        assert!(before == &failing || &now == before, "{user} moved without need");
    }
    time::sleep(Duration::from_secs(13)).await;
    for (user, before) in users.iter().zip(&before) {
        assert_eq!(&home(user, 200).await, before, "all are home again");
    }
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_that_there_is_has_a_gauge() {
    let script = Arc::new(Script::default());
    script.say("orders.internal", &["10.0.0.1", "10.0.0.2"]);
    let resolver: Arc<dyn Resolve> = script.clone();
    let metrics = Metrics::new();
    let settings = settings(&["orders.internal:80"], Policy::RoundRobin);
    let group = Group::new(settings, None, &resolver, &metrics.thread()).unwrap();
    group.take_effect();
    time::sleep(Duration::from_secs(1)).await;
    let gauges = || {
        let rendered = metrics.render();
        let gauge = |line: &str| line.strip_prefix("sluice_endpoint_ready").map(str::to_owned);
        let mut all: Vec<_> = rendered.lines().filter_map(gauge).collect();
        all.sort();
        all
    };
    let of = |last: u8, value: u8| {
        format!("{{upstream=\"orders\",endpoint=\"10.0.0.{last}:80\"}} {value}")
    };
    assert_eq!(gauges(), [of(1, 1), of(2, 1)]);
    let bad = |label: &str| status(if label.ends_with("1:80") { 500 } else { 200 });
    went(&handle(&group), 20, "", bad).await;
    assert_eq!(gauges(), [of(1, 0), of(2, 1)]);
    script.say("orders.internal", &["10.0.0.2"]);
    time::sleep(Duration::from_secs(31)).await;
    assert_eq!(gauges(), [of(2, 1)]);
    drop(group);
    time::sleep(Duration::from_millis(1)).await;
    assert!(gauges().is_empty(), "{:?}", gauges());
}
