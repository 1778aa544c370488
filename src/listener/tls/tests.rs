//! Certificates by name, changed files, client certificates, resumption.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a pair for `names`, signed by `authority`.
fn write_pair(
    folder: &Path,
    file: &str,
    names: &[&str],
    authority: &Authority,
) -> CertificateFiles {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, authority).unwrap();
    let files = CertificateFiles {
        cert: folder.join(format!("{file}.pem")),
        key: folder.join(format!("{file}.key")),
    };
    fs::write(&files.cert, leaf.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

fn settings(certificates: Vec<CertificateFiles>) -> TlsSettings {
    TlsSettings { certificates, client_auth: ClientAuth::Off, only_tls13: false }
}

struct Client {
    config: ClientConfig,
}

/// What a client sees of a handshake.
#[derive(Debug)]
struct Seen {
    leaf: Vec<u8>,
    alpn: Option<Vec<u8>>,
    is_resumed: bool,
}

impl Client {
    fn new(authority: &Authority, alpn: &[&str], identity: Option<&CertificateFiles>) -> Self {
        Self::of(authority, alpn, identity, &[&version::TLS13, &version::TLS12])
    }

    fn of(
        authority: &Authority,
        alpn: &[&str],
        identity: Option<&CertificateFiles>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = parse_chain(&files.cert, &read(&files.cert).unwrap()).unwrap();
                let key = PrivateKeyDer::from_pem_file(&files.key).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Self { config }
    }

    /// A handshake over an in-memory pipe, and a byte each way, so that tickets arrive.
    async fn connect(&self, tls: &Tls, name: &str) -> io::Result<Seen> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(tls.config());
        let server = async {
            let mut stream = acceptor.accept(server).await?;
            stream.write_all(b"!").await?;
            stream.flush().await?;
            stream.read_u8().await
        };
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = async {
            let mut stream = connector.connect(name, client).await?;
            stream.read_u8().await?;
            stream.write_all(b"!").await?;
            stream.flush().await?;
            let session = stream.get_ref().1;
            Ok(Seen {
                leaf: session.peer_certificates().unwrap()[0].to_vec(),
                alpn: session.alpn_protocol().map(<[u8]>::to_vec),
                is_resumed: session.handshake_kind() == Some(rustls::HandshakeKind::Resumed),
            })
        };
        let (served, seen) = tokio::join!(server, client);
        served?;
        seen
    }
}

fn leaf(files: &CertificateFiles) -> Vec<u8> {
    CertificateDer::from_pem_file(&files.cert).unwrap().to_vec()
}

#[tokio::test]
async fn sni_picks_by_the_names_in_the_certificates_and_the_first_is_the_default() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let shop = write_pair(folder.path(), "shop", &["shop.example", "other.example"], &authority);
    let wild = write_pair(folder.path(), "wild", &["*.shop.example"], &authority);
    let exact = write_pair(folder.path(), "exact", &["api.shop.example"], &authority);
    let tls =
        Tls::load(&settings(vec![shop.clone(), wild.clone(), exact.clone()]), true, true, None)
            .unwrap();
    let client = Client::new(&authority, &[], None);
    let shown = |name: &'static str| {
        let (client, tls) = (&client, &tls);
        async move { client.connect(tls, name).await.unwrap().leaf }
    };
    assert_eq!(shown("shop.example").await, leaf(&shop));
    assert_eq!(shown("www.shop.example").await, leaf(&wild));
    assert_eq!(shown("api.shop.example").await, leaf(&exact));
    let mut nameless = Client::new(&authority, &[], None);
    nameless.config.enable_sni = false;
    assert_eq!(nameless.connect(&tls, "other.example").await.unwrap().leaf, leaf(&shop));
    // A name that no certificate holds is answered with the default, which the client refuses.
    client.connect(&tls, "a.b.shop.example").await.unwrap_err();
}

#[tokio::test]
async fn alpn_offers_what_the_listener_speaks() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let pair = write_pair(folder.path(), "a", &["a.example"], &authority);
    let client = Client::new(&authority, &["http/1.1", "h2"], None);
    for (h1, h2, expected) in [(true, true, "h2"), (true, false, "http/1.1"), (false, true, "h2")] {
        let tls = Tls::load(&settings(vec![pair.clone()]), h1, h2, None).unwrap();
        let seen = client.connect(&tls, "a.example").await.unwrap();
        assert_eq!(seen.alpn.as_deref(), Some(expected.as_bytes()));
    }
}

#[tokio::test]
async fn client_certificates_are_asked_for_as_configured() {
    let folder = TempDir::new().unwrap();
    let (authority, clients) = (authority(), authority());
    let pair = write_pair(folder.path(), "a", &["a.example"], &authority);
    let known = write_pair(folder.path(), "known", &["client"], &clients);
    let stranger = write_pair(folder.path(), "stranger", &["client"], &authority);
    let path = folder.path().join("clients.pem");
    fs::write(&path, clients.pem()).unwrap();
    for (client_auth, none, unknown) in [
        (ClientAuth::Off, true, true),
        (ClientAuth::Request(path.clone()), true, false),
        (ClientAuth::Require(path), false, false),
    ] {
        let settings = TlsSettings { client_auth, ..settings(vec![pair.clone()]) };
        let tls = Tls::load(&settings, true, true, None).unwrap();
        let connects = |identity: Option<CertificateFiles>| {
            let (authority, tls) = (&authority, &tls);
            async move {
                Client::new(authority, &[], identity.as_ref())
                    .connect(tls, "a.example")
                    .await
                    .is_ok()
            }
        };
        assert_eq!(connects(None).await, none, "{:?}", settings.client_auth);
        assert_eq!(connects(Some(stranger.clone())).await, unknown, "{:?}", settings.client_auth);
        assert!(connects(Some(known.clone())).await, "{:?}", settings.client_auth);
    }
}

#[tokio::test]
async fn changed_files_are_taken_over_when_still_and_broken_ones_keep_the_old() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let pair = write_pair(folder.path(), "a", &["a.example"], &authority);
    let before = leaf(&pair);
    let tls = Tls::load(&settings(vec![pair.clone()]), true, true, None).unwrap();
    let client = Client::new(&authority, &[], None);
    let now = Instant::now();
    assert_eq!(tls.reload_if_changed(now), Refreshed::Unchanged);

    fs::write(&pair.key, "not a key").unwrap();
    assert_eq!(tls.reload_if_changed(now), Refreshed::Settling);
    assert_eq!(tls.reload_if_changed(now + STILL_FOR), Refreshed::Failed);
    assert_eq!(tls.reload_if_changed(now + STILL_FOR * 2), Refreshed::Unchanged);
    assert_eq!(client.connect(&tls, "a.example").await.unwrap().leaf, before);

    write_pair(folder.path(), "a", &["a.example", "longer.example"], &authority);
    let now = now + STILL_FOR * 3;
    assert_eq!(tls.reload_if_changed(now), Refreshed::Settling);
    assert_eq!(tls.reload_if_changed(now + STILL_FOR / 2), Refreshed::Settling);
    assert_eq!(tls.reload_if_changed(now + STILL_FOR), Refreshed::Replaced);
    let seen = Client::new(&authority, &[], None).connect(&tls, "a.example").await.unwrap();
    assert_eq!(seen.leaf, leaf(&pair));
}

#[tokio::test]
async fn a_resumed_connection_cannot_send_early_data() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let pair = write_pair(folder.path(), "a", &["a.example"], &authority);
    let tls = Tls::load(&settings(vec![pair]), true, true, None).unwrap();
    assert_eq!(tls.config().max_early_data_size, 0, "whoever changes that owes RFC 8470");
    let mut client = Client::of(&authority, &[], None, &[&version::TLS13]);
    client.config.enable_early_data = true;
    assert!(!client.connect(&tls, "a.example").await.unwrap().is_resumed);
    assert!(client.connect(&tls, "a.example").await.unwrap().is_resumed);
    let name = ServerName::try_from("a.example").unwrap();
    let mut resuming =
        rustls::ClientConnection::new(Arc::new(client.config.clone()), name).unwrap();
    assert!(resuming.early_data().is_none(), "its ticket allows none");
}

#[tokio::test]
async fn resumption_survives_a_reload_unless_client_certificates_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let pair = write_pair(folder.path(), "a", &["a.example"], &authority);
    let open = settings(vec![pair]);
    for versions in [&[&version::TLS13][..], &[&version::TLS12]] {
        let client = Client::of(&authority, &[], None, versions);
        let first = Tls::load(&open, true, true, None).unwrap();
        assert!(!client.connect(&first, "a.example").await.unwrap().is_resumed);
        assert!(client.connect(&first, "a.example").await.unwrap().is_resumed);
        let same = Tls::load(&open, true, true, Some(&first)).unwrap();
        assert!(client.connect(&same, "a.example").await.unwrap().is_resumed);

        let ca = folder.path().join("clients.pem");
        fs::write(&ca, authority.pem()).unwrap();
        let known = write_pair(folder.path(), "known", &["client"], &authority);
        let client = Client::of(&authority, &[], Some(&known), versions);
        for client_auth in [ClientAuth::Request(ca.clone()), ClientAuth::Require(ca)] {
            let asking = TlsSettings { client_auth, ..open.clone() };
            let asking = Tls::load(&asking, true, true, Some(&same)).unwrap();
            for _ in 0..3 {
                let seen = client.connect(&asking, "a.example").await.unwrap();
                assert!(!seen.is_resumed, "the certificate is judged each time");
            }
        }
    }
}

#[test]
fn errors_name_the_file_and_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let one = write_pair(folder.path(), "one", &["a.example"], &authority);
    let two = write_pair(folder.path(), "two", &["a.example"], &authority);
    let mixed = CertificateFiles { cert: one.cert.clone(), key: two.key.clone() };
    let error = Tls::load(&settings(vec![mixed]), true, true, None).unwrap_err().to_string();
    assert!(error.contains("two.key") && error.contains("not the key"), "{error}");
    let missing = CertificateFiles { cert: folder.path().join("none.pem"), key: one.key };
    let error = Tls::load(&settings(vec![missing]), true, true, None).unwrap_err().to_string();
    assert!(error.contains("none.pem"), "{error}");
}
