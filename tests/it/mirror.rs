//! `mirror`: copies of requests, which never touch what becomes of the requests themselves.

use crate::harness::{Origin, Reply, Running, eventually};

fn mirrored(origin: &Origin, next: &Origin, more: &str) -> String {
    format!(
        "upstreams:\n  \
           origin: {{ endpoints: [\"{}\"] }}\n  \
           next: {{ endpoints: [\"{}\"] }}\n\
         routes:\n  \
           - name: all\n    \
             match: {{ path: \"/orders/{{*rest}}\" }}\n    \
             upstream: origin\n    \
             rewrite: {{ path: \"/v2/{{rest}}\" }}\n    \
             mirror: {{ upstream: next, percent: 100% }}\n    \
             {more}\n",
        origin.address(),
        next.address()
    )
}

#[tokio::test]
async fn a_copy_is_rewritten_marked_and_without_credentials() {
    let (origin, next) = (Origin::ok("fine").await, Origin::ok("ignored").await);
    let set = "request_headers: { set: { authorization: \"Bearer ours\", x-tier: gold } }";
    let gateway = Running::start(&mirrored(&origin, &next, set));
    let head = "GET /orders/7?a=b HTTP/1.1\nHost: a\nAuthorization: Bearer t\nCookie: s=1\n\
                X-API-Key: k\nX-Other: 1";
    let answer = gateway.client().await.request(head, "").await;
    assert_eq!(answer.text(), "fine");
    next.wait_for(1).await;
    let copy = &next.requests()[0];
    assert_eq!(copy.target(), origin.requests()[0].target());
    assert!(copy.target().starts_with("/v2/7"), "{}", copy.target());
    for name in ["authorization", "cookie", "x-api-key"] {
        assert_eq!(copy.field(name), None, "{name}");
    }
    assert_eq!(copy.field("x-sluice-mirror"), Some("1"));
    assert_eq!((copy.field("x-other"), copy.field("x-tier")), (Some("1"), Some("gold")));
    assert_eq!(copy.field("host"), Some(&*next.address().to_string()));
    let original = &origin.requests()[0];
    assert_eq!(original.field("authorization"), Some("Bearer ours"));
    assert_eq!(original.field("x-sluice-mirror"), None);
    let series = "sluice_mirrored_total{upstream=\"next\",outcome=\"answered\"}";
    let gateway = &gateway;
    for _ in 0..1_000 {
        if gateway.metric(series).await >= 1.0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the copy's answer was not counted");
}

#[tokio::test]
async fn a_mirror_that_hangs_or_fails_changes_nothing_for_clients() {
    for reply in [|| Reply::Hang, || Reply::Reset] {
        let origin = Origin::ok("fine").await;
        let next = Origin::start(move |_, _| reply()).await;
        let gateway = Running::start(&mirrored(&origin, &next, ""));
        let mut client = gateway.client().await;
        for _ in 0..20 {
            let answer = client.get("/orders/7").await;
            assert_eq!((answer.status(), answer.text().as_str()), (200, "fine"));
        }
        next.wait_for(20).await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_the_copy() {
    let origin = Origin::start(|_, _| Reply::Hang).await;
    let next = Origin::ok("ignored").await;
    let gateway = Running::start(&mirrored(&origin, &next, ""));
    let mut client = gateway.client().await;
    client.send("GET /orders/7 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.wait_for(1).await;
    drop(client);
    next.wait_for(1).await;
    assert_eq!(next.requests().len(), 1);
}

#[tokio::test]
async fn a_body_that_streams_is_not_copied_and_is_counted() {
    let (origin, next) = (Origin::ok("fine").await, Origin::ok("ignored").await);
    let gateway = Running::start(&mirrored(&origin, &next, ""));
    let post = "POST /orders/7 HTTP/1.1\nHost: a\nContent-Length: 2";
    let answer = gateway.client().await.request(post, "hi").await;
    assert_eq!(answer.text(), "fine");
    let series = "sluice_mirrored_total{upstream=\"next\",outcome=\"not-in-memory\"}";
    assert!(gateway.metric(series).await >= 1.0);
    eventually("nothing", || next.requests().is_empty()).await;
}
