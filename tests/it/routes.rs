//! Semantics 3: which route takes a request, end to end.

use crate::harness::{Origin, Running, proxy_to};

fn respond(name: &str, matching: &str, more: &str) -> String {
    format!("  - {{ name: {name}, match: {{ {matching} }}, respond: {{ body: {name} }}{more} }}\n")
}

#[tokio::test]
async fn the_most_specific_route_answers() {
    let yaml = [
        "routes:\n".to_owned(),
        respond("any", "path: \"/{*rest}\"", ""),
        respond("exact", "path: /orders/new", ""),
        respond("template", "path: \"/orders/{id}\"", ""),
        respond("below", "path: \"/orders/{*rest}\"", ""),
        respond("host", "host: shop.example.com", ""),
        respond("wild", "host: \"*.example.com\"", ""),
        respond("header", "path: /h, headers: { x-beta: \"1\" }", ""),
        respond("plain", "path: /h", ""),
        respond("query", "path: /q, query: { v: \"2\" }", ""),
        respond("first", "path: \"/p/{*rest}\"", ", priority: 10"),
        respond("never", "path: /p/x", ""),
    ]
    .concat();
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    for (host, target, header, expected) in [
        ("a", "/", "", "any"),
        ("a", "/orders/new", "", "exact"),
        ("a", "/orders/7", "", "template"),
        ("a", "/orders/7/items", "", "below"),
        ("a", "/orders/", "", "below"),
        ("a", "/orders", "", "any"),
        ("shop.example.com", "/orders/new", "", "host"),
        ("SHOP.example.com:8080", "/", "", "host"),
        ("a.b.example.com", "/orders/new", "", "wild"),
        ("example.com", "/", "", "any"),
        ("a", "/h", "\nX-Beta: 1", "header"),
        ("a", "/h", "\nX-Beta: 2", "plain"),
        ("a", "/q?v=2", "", "query"),
        ("a", "/q?v=3", "", "any"),
        ("a", "/p/x", "", "first"),
        ("a", "//orders///new", "", "exact"),
        ("a", "/x/../orders/new", "", "exact"),
    ] {
        let head = format!("GET {target} HTTP/1.1\nHost: {host}{header}");
        let answer = client.request(&head, "").await;
        assert_eq!(answer.text(), expected, "{head}");
    }
}

#[tokio::test]
async fn no_route_is_404_and_another_method_405_with_allow() {
    let yaml = "routes:\n".to_owned()
        + &respond("get", "path: /a, methods: [GET, DELETE]", "")
        + &respond("other", "path: \"/a/{*rest}\"", "");
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    let answer = client.get("/b").await;
    assert_eq!(answer.status(), 404);
    assert!(answer.text().contains("route-none"), "{}", answer.text());
    let answer = client.request("POST /a HTTP/1.1\nHost: a\nContent-Length: 0", "").await;
    assert_eq!(answer.status(), 405);
    let allow = answer.field("allow").unwrap();
    assert!(allow.contains("GET") && allow.contains("DELETE"), "{allow}");
}

#[tokio::test]
async fn redirects_fill_their_placeholders_in_safely() {
    let yaml = "routes:\n  - { name: r, match: { path: \"/hi/{name}\" }, redirect: { location: \"/hello/{name}?{query}\", status: 308 } }\n";
    let gateway = Running::start(yaml);
    let mut client = gateway.client().await;
    let answer = client.get("/hi/a%0d%0aSet-Cookie:x?y=1").await;
    assert_eq!(answer.status(), 308);
    assert_eq!(answer.field("location"), Some("/hello/a%0D%0ASet-Cookie:x?y=1"));
    assert_eq!(answer.field("set-cookie"), None);
}

#[tokio::test]
async fn split_keeps_its_shares() {
    let (one, two) = (Origin::ok("one").await, Origin::ok("two").await);
    let yaml = format!(
        "upstreams: {{ one: {{ endpoints: [\"{}\"] }}, two: {{ endpoints: [\"{}\"] }} }}\n\
         routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, split: [{{ upstream: one, weight: 80 }}, {{ upstream: two, weight: 20 }}] }}]\n",
        one.address(),
        two.address()
    );
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    for _ in 0..500 {
        assert_eq!(client.get("/").await.status(), 200);
    }
    let share = two.requests().len();
    // Binomial(500, 0.2): six standard deviations around 100.
    assert!((46..=154).contains(&share), "{share} of 500 went to the second");
}

#[tokio::test]
async fn rewrite_and_headers_change_what_goes_upstream_and_comes_back() {
    let origin = Origin::ok("fine").await;
    let yaml = format!(
        "upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         routes:\n  - name: all\n    match: {{ path: \"/shop/{{id}}/{{*rest}}\" }}\n    upstream: origin\n    \
         rewrite: {{ path: \"/v2/{{rest}}?id={{id}}&{{query}}\" }}\n    \
         request_headers: {{ set: {{ x-tier: gold }}, add: {{ x-more: a }}, remove: [x-debug] }}\n    \
         response_headers: {{ set: {{ x-from: sluice }}, remove: [content-type] }}\n    preserve_host: true\n",
        origin.address()
    );
    let gateway = Running::start(&yaml);
    let answer = gateway
        .client()
        .await
        .request("GET /shop/7/a/b?c=d HTTP/1.1\nHost: shop\nX-Tier: tin\nX-Debug: 1\nX-More: b", "")
        .await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.field("x-from"), Some("sluice"));
    let seen = &origin.requests()[0];
    assert_eq!(seen.target(), "/v2/a/b?id=7&c=d");
    assert_eq!(seen.field("host"), Some("shop"));
    assert_eq!(seen.all("x-tier"), ["gold"]);
    assert_eq!(seen.all("x-more"), ["b", "a"]);
    assert_eq!(seen.field("x-debug"), None);
}

#[tokio::test]
async fn host_is_the_endpoints_own_unless_preserved() {
    let origin = Origin::ok("fine").await;
    let gateway = Running::start(&proxy_to(origin.address()));
    gateway.client().await.get("/").await;
    assert_eq!(origin.requests()[0].field("host"), Some(origin.address().to_string().as_str()));
}

#[tokio::test]
async fn a_host_that_the_route_sets_is_the_one_that_is_sent() {
    let origin = Origin::ok("fine").await;
    let yaml = proxy_to(origin.address()).replace(
        "upstream: origin }",
        "upstream: origin, request_headers: { set: { host: inner.example } } }",
    );
    let gateway = Running::start(&yaml);
    assert_eq!(gateway.client().await.get("/").await.status(), 200);
    assert_eq!(origin.requests()[0].all("host"), ["inner.example"]);
}

#[tokio::test]
async fn preflights_are_answered_and_refusals_carry_cors() {
    let origin = Origin::ok("fine").await;
    let yaml = format!(
        "upstreams: {{ origin: {{ endpoints: [\"{}\"] }} }}\n\
         limits: {{ body_bytes: 10 }}\n\
         routes:\n  - name: all\n    match: {{ path: /orders, methods: [POST, OPTIONS] }}\n    upstream: origin\n    \
         cors: {{ origins: [\"https://shop.example.com\"], methods: [POST], headers: [authorization], max_age: 10m }}\n",
        origin.address()
    );
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    let answer = client
        .request(
            "OPTIONS /orders HTTP/1.1\nHost: a\nOrigin: https://shop.example.com\n\
             Access-Control-Request-Method: POST\nAccess-Control-Request-Headers: authorization",
            "",
        )
        .await;
    assert!(answer.status() == 204 || answer.status() == 200);
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://shop.example.com"));
    assert_eq!(answer.field("access-control-max-age"), Some("600"));
    assert!(origin.requests().is_empty(), "a preflight went upstream");
    // Too large a body: the refusal is readable for the page that sent it.
    let answer = client
        .request(
            "POST /orders HTTP/1.1\nHost: a\nOrigin: https://shop.example.com\nContent-Length: 11",
            "01234567890",
        )
        .await;
    assert_eq!(answer.status(), 413);
    assert_eq!(answer.field("access-control-allow-origin"), Some("https://shop.example.com"));
    // An OPTIONS that is no preflight is an ordinary request.
    let mut client = gateway.client().await;
    let answer = client.request("OPTIONS /orders HTTP/1.1\nHost: a", "").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(origin.requests().len(), 1);
    // A stranger's page gets no leave.
    let answer = client
        .request(
            "POST /orders HTTP/1.1\nHost: a\nOrigin: https://evil.example\nContent-Length: 0",
            "",
        )
        .await;
    assert_eq!(answer.field("access-control-allow-origin"), None);
}

#[tokio::test]
async fn addresses_are_filtered() {
    let yaml = "routes:\n".to_owned()
        + &respond("denied", "path: /denied", ", deny_ips: [127.0.0.0/8]")
        + &respond("allowed", "path: /allowed", ", allow_ips: [127.0.0.1]")
        + &respond("others", "path: /others", ", allow_ips: [10.0.0.0/8]");
    let gateway = Running::start(&yaml);
    let mut client = gateway.client().await;
    assert_eq!(client.get("/denied").await.status(), 403);
    assert_eq!(client.get("/allowed").await.status(), 200);
    let answer = client.get("/others").await;
    assert_eq!(answer.status(), 403);
    assert!(answer.text().contains("ip-denied"));
}

#[tokio::test]
async fn a_route_sheds_over_its_own_limit() {
    let origin = Origin::start(|_, _| crate::harness::Reply::Hang).await;
    let yaml = proxy_to(origin.address())
        .replace("upstream: origin", "upstream: origin, max_in_flight: 1");
    let gateway = Running::start(&yaml);
    let mut first = gateway.client().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(1).await;
    let answer = gateway.client().await.get("/").await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.field("retry-after"), Some("1"));
    assert!(answer.text().contains("concurrency-full"));
}

#[tokio::test]
async fn what_a_route_answers_by_itself_has_its_response_headers() {
    let gateway = Running::start(
        "routes:\n\
         - name: said\n  match: { path: /said }\n  respond: { headers: { x-a: old, x-b: old }, body: hi }\n\
        \x20 response_headers: { set: { x-a: new }, add: { x-c: \"1\" }, remove: [x-b] }\n\
         - name: moved\n  match: { path: /moved }\n  redirect: { location: /said }\n\
        \x20 response_headers: { set: { x-a: new, location: /elsewhere } }\n",
    );
    let mut client = gateway.client().await;
    let said = client.get("/said").await;
    assert_eq!(
        (said.all("x-a"), said.field("x-b"), said.field("x-c")),
        (vec!["new"], None, Some("1"))
    );
    let moved = client.get("/moved").await;
    assert_eq!(
        (moved.status(), moved.all("x-a"), moved.all("location")),
        (308, vec!["new"], vec!["/said"])
    );
}
