//! Real sockets on port 0: the PROXY header in pieces, the limits, and what becomes of a stream.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpStream, UnixStream},
};

use super::*;
use crate::{
    http::Cidrs,
    listener::{Acceptor, BindAddress, Bound, CertificateFiles, ClientAuth, Limits, TlsSettings},
    net::Abort as _,
    telemetry::metrics::Metrics,
};

struct Listening {
    acceptor: Acceptor,
    bound: Bound,
    settings: Settings,
    limits: Limits,
    outcomes: Outcomes,
}

impl Listening {
    fn new(proxy_protocol: ProxyProtocol, trusted: &[&str]) -> Self {
        Self::on(BindAddress::Inet("127.0.0.1:0".parse().unwrap()), proxy_protocol, trusted)
    }

    fn on(address: BindAddress, proxy_protocol: ProxyProtocol, trusted: &[&str]) -> Self {
        let bound = Bound::open(&address).unwrap();
        let settings = Settings {
            name: "web".into(),
            address,
            h1: true,
            h2: true,
            proxy_protocol,
            tls: None,
            max_connections: 10,
            max_connections_per_ip: 0,
            trusted_proxies: Cidrs::new(trusted.iter().map(|network| network.parse().unwrap())),
            handshake_timeout: Duration::from_secs(10),
        };
        Self {
            acceptor: Acceptor::new(bound.worker_socket().unwrap()).unwrap(),
            limits: Limits::new(&settings),
            outcomes: Outcomes::new(&Metrics::new().thread(), "web"),
            bound,
            settings,
        }
    }

    async fn connect(&self) -> TcpStream {
        let BindAddress::Inet(address) = self.bound.address() else { panic!("not inet") };
        TcpStream::connect(address).await.unwrap()
    }

    /// A client that says `hello`, and what becomes of it.
    async fn greet(&mut self, hello: &[u8]) -> (TcpStream, Result<(Stream, Peer), Refused>) {
        let mut client = self.connect().await;
        client.write_all(hello).await.unwrap();
        let shaken = self.next().await;
        (client, shaken)
    }

    async fn next(&mut self) -> Result<(Stream, Peer), Refused> {
        let accepted = self.acceptor.accept().await;
        let permit = self.limits.admit(&self.outcomes, || false).unwrap();
        handshake(accepted, permit, &self.settings, None, &self.outcomes).await
    }
}

async fn first_bytes(stream: &mut Stream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).await.unwrap();
    bytes
}

#[tokio::test]
async fn a_stream_that_is_aborted_is_reset() {
    let mut listening = Listening::new(ProxyProtocol::Off, &[]);
    for is_aborted in [false, true] {
        let (mut client, shaken) = listening.greet(b"").await;
        let (mut stream, _) = shaken.unwrap();
        stream.write_all(b"half").await.unwrap();
        let mut read = [0; 4];
        client.read_exact(&mut read).await.unwrap();
        if is_aborted {
            stream.abort();
        }
        drop(stream);
        let end = client.read(&mut read).await;
        assert_eq!(end.err().map(|error| error.kind()), is_aborted.then_some(RESET));
    }
}

const RESET: io::ErrorKind = io::ErrorKind::ConnectionReset;
const HEADER: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /";

fn inet(address: &str) -> Address {
    Address::Inet(address.parse::<SocketAddr>().unwrap())
}

#[tokio::test]
async fn a_trusted_proxys_header_names_both_ends_and_what_follows_is_read() {
    for mode in [ProxyProtocol::Accept, ProxyProtocol::Require] {
        let mut listening = Listening::new(mode, &["127.0.0.0/8"]);
        let (_client, shaken) = listening.greet(HEADER).await;
        let (mut stream, peer) = shaken.unwrap();
        assert_eq!(peer.remote, inet("192.0.2.1:56324"));
        assert_eq!(peer.local, inet("198.51.100.2:443"));
        assert!(!peer.trusted, "the proxy is, but not whom it speaks for");
        assert_eq!(first_bytes(&mut stream, 5).await, b"GET /");
        assert_eq!(listening.outcomes.accepted.get(), 1);
    }
}

#[tokio::test]
async fn whom_a_proxy_header_names_is_believed_only_if_trusted_too() {
    let both = &["127.0.0.0/8", "192.0.2.0/24"];
    let mut listening = Listening::new(ProxyProtocol::Require, both);
    let (_client, shaken) = listening.greet(HEADER).await;
    assert!(shaken.unwrap().1.trusted);
    let (_client, shaken) = listening.greet(b"PROXY UNKNOWN\r\nGET /").await;
    assert!(shaken.unwrap().1.trusted, "it speaks for itself");
}

#[tokio::test]
async fn a_header_of_anyone_else_closes_the_connection() {
    for mode in [ProxyProtocol::Accept, ProxyProtocol::Require] {
        let mut listening = Listening::new(mode, &["192.0.2.0/24"]);
        let (_client, shaken) = listening.greet(HEADER).await;
        assert!(matches!(shaken, Err(Refused::ProxyHeader(_))));
        assert_eq!(listening.outcomes.proxy_header.get(), 1);
        assert_eq!(listening.limits.open(), 0);
    }
}

#[tokio::test]
async fn without_a_header_accept_is_a_plain_connection_and_require_closes() {
    let mut listening = Listening::new(ProxyProtocol::Accept, &["127.0.0.0/8"]);
    let (client, shaken) = listening.greet(b"POST /").await;
    let (mut stream, peer) = shaken.unwrap();
    assert_eq!(peer.remote, Address::Inet(client.local_addr().unwrap()));
    assert_eq!(first_bytes(&mut stream, 6).await, b"POST /");

    let mut listening = Listening::new(ProxyProtocol::Require, &["127.0.0.0/8"]);
    let (_client, shaken) = listening.greet(b"POST /").await;
    assert!(matches!(shaken, Err(Refused::ProxyHeader(_))));
}

#[tokio::test]
async fn local_keeps_the_sockets_peer() {
    let mut listening = Listening::new(ProxyProtocol::Require, &["127.0.0.0/8"]);
    let (client, shaken) = listening.greet(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await;
    let (_stream, peer) = shaken.unwrap();
    assert_eq!(peer.remote, Address::Inet(client.local_addr().unwrap()));
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_in_time() {
    let mut listening = Listening::new(ProxyProtocol::Accept, &[]);
    listening.settings.handshake_timeout = Duration::from_millis(1);
    let (_client, shaken) = listening.greet(b"P").await;
    assert!(matches!(shaken, Err(Refused::Timeout)));
    assert_eq!(listening.outcomes.handshake_timeout.get(), 1);
}

#[tokio::test]
async fn the_limit_of_an_address_counts_the_client_behind_the_proxy() {
    let mut listening = Listening::new(ProxyProtocol::Require, &["127.0.0.0/8"]);
    listening.settings.max_connections_per_ip = 1;
    listening.limits = Limits::new(&listening.settings);
    let (_first_client, first) = listening.greet(HEADER).await;
    assert!(first.is_ok());
    let (_second_client, second) = listening.greet(HEADER).await;
    assert!(matches!(second, Err(Refused::PerIp)));
    let other = b"PROXY TCP4 192.0.2.9 198.51.100.2 56324 443\r\n";
    let (_third_client, third) = listening.greet(other).await;
    assert!(third.is_ok());
}

#[tokio::test]
async fn a_stream_holds_its_place_until_it_is_dropped() {
    let mut listening = Listening::new(ProxyProtocol::Off, &[]);
    let (_client, shaken) = listening.greet(b"").await;
    assert_eq!(listening.limits.open(), 1);
    drop(shaken);
    assert_eq!(listening.limits.open(), 0);
}

#[tokio::test]
async fn a_removed_listener_hands_out_what_was_queued() {
    let listening = Listening::new(ProxyProtocol::Off, &[]);
    let clients = [listening.connect().await, listening.connect().await];
    let queued = listening.acceptor.close().unwrap();
    let remotes: Vec<_> = queued.iter().map(super::super::accept::Accepted::remote).collect();
    let expected = clients.each_ref().map(|client| Address::Inet(client.local_addr().unwrap()));
    assert_eq!(remotes, expected);
    let BindAddress::Inet(address) = *listening.bound.address() else { panic!("not inet") };
    TcpStream::connect(address).await.unwrap_err();
}

#[tokio::test]
async fn tls_comes_after_the_proxy_header_and_the_peer_says_what_it_settled() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["a.example".to_owned()]).unwrap();
    let files =
        CertificateFiles { cert: folder.path().join("a.pem"), key: folder.path().join("a.key") };
    std::fs::write(&files.cert, own.cert.pem()).unwrap();
    std::fs::write(&files.key, own.signing_key.serialize_pem()).unwrap();
    let settings =
        TlsSettings { certificates: vec![files], client_auth: ClientAuth::Off, only_tls13: false };
    let tls = Tls::load(&settings, true, true, None).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];

    let mut listening = Listening::new(ProxyProtocol::Require, &["127.0.0.0/8"]);
    let mut client = listening.connect().await;
    client.write_all(HEADER.strip_suffix(b"GET /").unwrap()).await.unwrap();
    let name = "a.example".try_into().unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, client);
    let accepted = listening.acceptor.accept().await;
    let permit = listening.limits.admit(&listening.outcomes, || false).unwrap();
    let shaking = handshake(accepted, permit, &listening.settings, Some(&tls), &listening.outcomes);
    let (client, shaken) = tokio::join!(connecting, shaking);
    let (mut stream, peer) = shaken.unwrap();
    assert_eq!(peer.remote, inet("192.0.2.1:56324"));
    let settled = peer.tls.unwrap();
    assert!(settled.is_h2);
    assert_eq!(settled.server_name.as_deref(), Some("a.example"));
    assert_eq!(settled.client_certificate, None);
    client.unwrap().write_all(b"hello").await.unwrap();
    assert_eq!(first_bytes(&mut stream, 5).await, b"hello");

    let (_client, shaken) = {
        let mut client = listening.connect().await;
        client.write_all(HEADER).await.unwrap();
        let accepted = listening.acceptor.accept().await;
        let permit = listening.limits.admit(&listening.outcomes, || false).unwrap();
        let Listening { settings, outcomes, .. } = &listening;
        (client, handshake(accepted, permit, settings, Some(&tls), outcomes).await)
    };
    assert!(matches!(shaken, Err(Refused::Tls(_))), "no TLS hello");
    assert_eq!(listening.outcomes.tls_failed.get(), 1);
}

#[tokio::test]
async fn a_unix_peer_has_no_address_and_is_not_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let everyone = ["0.0.0.0/0", "::/0"];
    let mut listening =
        Listening::on(BindAddress::Unix(path.clone()), ProxyProtocol::Off, &everyone);
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(b"hi").await.unwrap();
    let (mut stream, peer) = listening.next().await.unwrap();
    assert_eq!((peer.remote, peer.trusted), (Address::Unix, false));
    assert_eq!(first_bytes(&mut stream, 2).await, b"hi");
}
