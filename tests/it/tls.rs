//! TLS on the listener: names, client certificates, files that change; and the PROXY protocol.

use std::{net::SocketAddr, path::Path, sync::Arc};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use sluicegate::gateway::Options;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

use crate::harness::{Message, Origin, Running, eventually, parse, proxy_to, within};

const RESPOND: &str = "routes: [{ name: a, match: { path: /a }, respond: { body: a } }]\n";

/// Writes a self-signed certificate for `name` and its key; gives the certificate.
fn certificate(folder: &Path, file: &str, name: &str) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    std::fs::write(folder.join(format!("{file}.pem")), made.cert.pem()).unwrap();
    std::fs::write(folder.join(format!("{file}.key")), made.signing_key.serialize_pem()).unwrap();
    made.cert.der().clone()
}

fn gateway(folder: &Path, tls: &str, routes: &str) -> Running {
    let folder = folder.display();
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, protocols: [h1, h2], tls: {{ {} }} }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n{routes}",
        tls.replace("DIR", &folder.to_string())
    );
    Running::start_with(parse(&text), Options::default())
}

async fn connect(
    address: SocketAddr,
    name: &str,
    trusted: &[CertificateDer<'static>],
    client: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
    alpn: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match client {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    within("a TLS handshake", TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

async fn get(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin)) -> Option<Message> {
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: shop\r\n\r\n").await.ok()?;
    within("an answer", Message::read_response(stream, &mut Vec::new(), "GET")).await
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_and_the_protocol_by_alpn() {
    let folder = tempfile::tempdir().unwrap();
    let shop = certificate(folder.path(), "shop", "shop.example.com");
    let wild = certificate(folder.path(), "wild", "*.example.org");
    let gateway = gateway(
        folder.path(),
        "certificates: [{ cert: DIR/shop.pem, key: DIR/shop.key }, { cert: DIR/wild.pem, key: DIR/wild.key }]",
        RESPOND,
    );
    for (name, expected) in
        [("shop.example.com", &shop), ("a.example.org", &wild), ("localhost", &shop)]
    {
        let stream =
            connect(gateway.address(), name, &[shop.clone(), wild.clone()], None, &["http/1.1"])
                .await;
        if name == "localhost" {
            // The first certificate serves unknown names; the client is right to refuse it.
            assert!(stream.is_err());
            continue;
        }
        let mut stream = stream.unwrap();
        let (_, session) = stream.get_ref();
        assert_eq!(&session.peer_certificates().unwrap()[0], expected, "{name}");
        assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(get(&mut stream).await.unwrap().text(), "a");
    }
    let stream = connect(gateway.address(), "shop.example.com", &[shop], None, &["h2", "http/1.1"])
        .await
        .unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("https://shop.example.com/a").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(within("an h2 answer", response).await.unwrap().status(), 200);
    driver.abort();
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_configured() {
    let folder = tempfile::tempdir().unwrap();
    let shop = certificate(folder.path(), "shop", "shop.example.com");
    let client = certificate(folder.path(), "client", "client.example.com");
    let stranger = certificate(folder.path(), "stranger", "stranger.example.com");
    let key = |file: &str| {
        PrivateKeyDer::from_pem_file(folder.path().join(format!("{file}.key"))).unwrap()
    };
    for (mode, without, with, foreign) in
        [("off", true, true, true), ("request", true, true, false), ("require", false, true, false)]
    {
        let tls = format!(
            "certificates: [{{ cert: DIR/shop.pem, key: DIR/shop.key }}], client_auth: {{ mode: {mode}, ca: DIR/client.pem }}"
        );
        let gateway = gateway(folder.path(), &tls, RESPOND);
        for (identity, allowed) in [
            (None, without),
            (Some((client.clone(), key("client"))), with),
            (Some((stranger.clone(), key("stranger"))), foreign),
        ] {
            let is_stranger = identity.as_ref().is_some_and(|(cert, _)| *cert == stranger);
            let stream = connect(
                gateway.address(),
                "shop.example.com",
                std::slice::from_ref(&shop),
                identity,
                &["http/1.1"],
            )
            .await;
            // With TLS 1.3 the refusal comes after the client thinks it is done.
            let served = match stream {
                Ok(mut stream) => get(&mut stream).await.is_some(),
                Err(_) => false,
            };
            assert_eq!(served, allowed, "{mode}, stranger: {is_stranger}");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_says_who_comes() {
    let folder = tempfile::tempdir().unwrap();
    let shop = certificate(folder.path(), "shop", "shop.example.com");
    let client = certificate(folder.path(), "client", "client.example.com");
    let key = PrivateKeyDer::from_pem_file(folder.path().join("client.key")).unwrap();
    let log = folder.path().join("access.log");
    let tls = "certificates: [{ cert: DIR/shop.pem, key: DIR/shop.key }], \
               client_auth: { mode: request, ca: DIR/client.pem }";
    let text = format!(
        "listeners: [{{ name: web, address: 127.0.0.1:0, protocols: [h1], tls: {{ {} }} }}]\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: \"{}\" }} }}\n\
         routes:\n  \
         - {{ name: a, match: {{ path: /a }}, auth: {{ mtls: {{ allow: [\"client.*\"] }} }}, respond: {{ body: a }} }}\n  \
         - {{ name: b, match: {{ path: /b }}, auth: {{ mtls: {{ allow: [\"other.*\"] }} }}, respond: {{ body: b }} }}\n",
        tls.replace("DIR", &folder.path().display().to_string()),
        log.display()
    );
    let gateway = Running::start_with(parse(&text), Options::default());
    let open = async |identity| {
        let trusted = std::slice::from_ref(&shop);
        connect(gateway.address(), "shop.example.com", trusted, identity, &[]).await.unwrap()
    };
    let answer = get(&mut open(None).await).await.unwrap();
    assert_eq!(answer.status(), 401, "{}", answer.text());
    assert!(answer.text().contains("auth-missing"));
    assert_eq!(answer.field("www-authenticate"), Some("ClientCertificate"));

    let mut known = open(Some((client, key))).await;
    for _ in 0..2 {
        assert_eq!(get(&mut known).await.unwrap().text(), "a");
    }
    known.write_all(b"GET /b HTTP/1.1\r\nHost: shop\r\n\r\n").await.unwrap();
    let mut buffer = Vec::new();
    let refused = Message::read_response(&mut known, &mut buffer, "GET");
    let refused = within("an answer", refused).await.unwrap();
    assert_eq!(refused.status(), 403);
    assert!(refused.text().contains("scope-denied"));
    let lines = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the log lines", || lines().lines().count() == 4).await;
    let named = lines().matches("\"principal\":\"client.example.com\"").count();
    assert_eq!(named, 2, "{}", lines());
}

#[tokio::test]
async fn a_changed_certificate_is_served_without_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let old = certificate(folder.path(), "shop", "shop.example.com");
    let gateway = gateway(
        folder.path(),
        "certificates: [{ cert: DIR/shop.pem, key: DIR/shop.key }]",
        RESPOND,
    );
    let mut kept = connect(gateway.address(), "shop.example.com", &[old], None, &[]).await.unwrap();
    let new = certificate(folder.path(), "shop", "shop.example.com");
    within("the new certificate to be served", async {
        while connect(gateway.address(), "shop.example.com", std::slice::from_ref(&new), None, &[])
            .await
            .is_err()
        {}
    })
    .await;
    assert_eq!(get(&mut kept).await.unwrap().status(), 200, "an open connection goes on");
}

#[tokio::test]
async fn when_certificates_end_is_told_of_those_that_serve() {
    const EXPIRY: &str = "sluice_tls_certificate_expiry_timestamp_seconds{listener=\"web\"}";
    let folder = tempfile::tempdir().unwrap();
    let write = |file: &str, year: i32| {
        let mut params = rcgen::CertificateParams::new(vec![format!("{file}.example")]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join(format!("{file}.key")), key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join(format!("{file}.pem")), made.pem()).unwrap();
    };
    write("a", 2060);
    write("b", 2050);
    let gateway = gateway(
        folder.path(),
        "certificates: [{ cert: DIR/a.pem, key: DIR/a.key }, { cert: DIR/b.pem, key: DIR/b.key }]",
        RESPOND,
    );
    let until = async || format!("{:.0}", gateway.metric(EXPIRY).await);
    assert_eq!(until().await, "2524608000");
    write("b", 2070);
    within("the new ones to be told of", async { while until().await != "2840140800" {} }).await;
}

/// A gateway with the listeners `web`, plain, and `secure`, with TLS, that redirects from the first to
/// the other.
fn redirecting(folder: &Path, more: &str) -> Running {
    let folder = folder.display();
    let text = format!(
        "listeners:\n\
         \x20 - {{ name: web, address: 127.0.0.1:0 }}\n\
         \x20 - {{ name: secure, address: 127.0.0.1:0, protocols: [h1, h2],\n\
         \x20     tls: {{ certificates: [{{ cert: {folder}/shop.pem, key: {folder}/shop.key }}] }} }}\n\
         admin: {{ address: 127.0.0.1:0 }}\n\
         telemetry: {{ access_log: {{ path: off }} }}\n\
         routes:\n\
         \x20 - name: to-https\n\
         \x20   priority: 1\n\
         \x20   match: {{ scheme: http, path: \"/{{*rest}}\" }}\n\
         \x20   redirect: {{ location: \"https://{{host}}{{path}}?{{query}}\" }}\n\
         \x20 - {{ name: a, match: {{ path: /a }}, respond: {{ body: a }} }}\n{more}"
    );
    Running::start_with(parse(&text), Options::default())
}

#[tokio::test]
async fn one_process_redirects_http_to_https() {
    let folder = tempfile::tempdir().unwrap();
    let shop = certificate(folder.path(), "shop", "shop.example.com");
    let gateway = redirecting(folder.path(), "");
    let mut plain = gateway.client().await;
    for (target, host, location) in [
        ("/a?b=1&c=%20", "shop.example.com", "https://shop.example.com/a?b=1&c=%20"),
        ("/a", "Shop.Example.com.:8080", "https://shop.example.com/a"),
        ("//evil.example/a", "shop.example.com", "https://shop.example.com/evil.example/a"),
        ("/", "[::1]:8080", "https://[::1]/"),
    ] {
        let head = format!("POST {target} HTTP/1.1\nHost: {host}\nX-Forwarded-Proto: https");
        let answer = plain.request(&format!("{head}\nContent-Length: 0"), "").await;
        assert_eq!(answer.status(), 308, "{target}");
        assert_eq!(answer.field("location"), Some(location), "{target}");
    }
    // A stranger's word, also that of HTTP/1.0 on no host at all, moves nothing.
    for (version, host, reason) in [
        ("1.1", "Host: a@b\r\n", "bad-framing"),
        ("1.0", "", "bad-target"),
        ("1.1", "Host: .\r\n", "bad-target"),
    ] {
        let mut plain = gateway.client().await;
        plain.send(format!("GET /evil.example/a HTTP/{version}\r\n{host}\r\n")).await;
        let answer = plain.response("GET").await;
        assert_eq!(answer.status(), 400, "{version} {host}");
        assert!(answer.text().contains(reason), "{}", answer.text());
    }
    let secure = gateway.gateway().listener_address("secure").unwrap();
    let trusted = std::slice::from_ref(&shop);
    let mut h1 = connect(secure, "shop.example.com", trusted, None, &["http/1.1"]).await.unwrap();
    assert_eq!(get(&mut h1).await.unwrap().text(), "a");
    let stream = connect(secure, "shop.example.com", trusted, None, &["h2"]).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    // What the client says of the scheme does not count.
    let request = http::Request::get("http://shop.example.com/a").body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(within("an h2 answer", response).await.unwrap().status(), 200);
    driver.abort();

    let routes = gateway.admin("GET", "/v1/routes").await.text();
    assert!(routes.contains("http://*/{*rest}"), "{routes}");
    let explained = async |url: &str| {
        let asked = format!("{{ \"method\": \"GET\", \"url\": \"{url}\" }}");
        gateway.admin_with("POST", "/v1/explain", &asked).await.text()
    };
    let told = explained("https://shop.example.com/a").await;
    assert!(told.contains("scheme is https, not http"), "{told}");
    let told = explained("http://shop.example.com:8080/a?b").await;
    assert!(told.contains("308 Permanent Redirect to https://shop.example.com/a?b"), "{told}");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_scheme_is_what_the_proxy_says() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path(), "shop", "shop.example.com");
    let gateway = redirecting(folder.path(), "trusted_proxies: [127.0.0.1]\n");
    let mut client = gateway.client().await;
    for (field, status) in
        [("X-Forwarded-Proto: https", 200), ("X-Forwarded-Proto: http", 308), ("X-Other: a", 308)]
    {
        let answer = client.request(&format!("GET /a HTTP/1.1\nHost: shop\n{field}"), "").await;
        assert_eq!(answer.status(), status, "{field}");
    }
}

#[tokio::test]
async fn tls_to_the_upstream_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let ca = certificate(folder.path(), "origin", "orders.internal");
    let key = PrivateKeyDer::from_pem_file(folder.path().join("origin.key")).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![ca], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut buffer = Vec::new();
                while Message::read_request(&mut stream, &mut buffer).await.is_some() {
                    stream.write_all(&crate::harness::origin::ok("secret")).await.unwrap();
                }
            });
        }
    });
    for (server_name, status) in [("orders.internal", 200), ("other.internal", 502)] {
        let yaml = format!(
            "upstreams: {{ origin: {{ endpoints: [\"{address}\"], tls: {{ server_name: {server_name}, ca: {}/origin.pem }} }} }}\n\
             routes: [{{ name: all, match: {{ path: \"/{{*rest}}\" }}, upstream: origin }}]\n",
            folder.path().display()
        );
        let gateway = Running::start(&yaml);
        let answer = gateway.client().await.get("/").await;
        assert_eq!(answer.status(), status, "{server_name}: {}", answer.text());
        if status == 502 {
            assert!(answer.text().contains("upstream-tls"), "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_proxy_header_is_believed_only_from_trusted_proxies() {
    let origin = Origin::ok("fine").await;
    let v1 = "PROXY TCP4 9.8.7.6 10.0.0.1 1234 80\r\n";
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (mode, trusted, prefix, client) in [
        ("require", "127.0.0.1", v1, Some("9.8.7.6")),
        ("require", "127.0.0.1", "", None),
        ("accept", "127.0.0.1", "", Some("127.0.0.1")),
        ("accept", "127.0.0.1", v1, Some("9.8.7.6")),
        ("accept", "10.0.0.0/8", v1, None),
        ("require", "127.0.0.1", "PROXY UNKNOWN\r\n", Some("127.0.0.1")),
    ] {
        let text = format!(
            "listeners: [{{ name: web, address: 127.0.0.1:0, proxy_protocol: {mode} }}]\n\
             trusted_proxies: [\"{trusted}\"]\n\
             admin: {{ address: 127.0.0.1:0 }}\n\
             telemetry: {{ access_log: {{ path: off }} }}\n{}",
            proxy_to(origin.address())
        );
        let gateway = Running::start_with(parse(&text), Options::default());
        let before = origin.requests().len();
        let mut connection = gateway.client().await;
        connection.send(format!("{prefix}{request}")).await;
        let Some(client) = client else {
            assert!(connection.closed().await.is_empty(), "{mode} {trusted} {prefix:?}");
            assert_eq!(origin.requests().len(), before);
            continue;
        };
        assert_eq!(connection.response("GET").await.status(), 200, "{mode} {trusted} {prefix:?}");
        let seen = origin.requests().pop().unwrap();
        assert_eq!(seen.field("x-forwarded-for"), Some(client), "{mode} {trusted} {prefix:?}");
    }
}
