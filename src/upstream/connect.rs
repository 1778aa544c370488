//! Dials connections: TCP, unix sockets, TLS.
//!
//! A dial goes to one address. Each address of a name is an endpoint of its own, so "happy
//! eyeballs" happens in the balancer: an address that does not connect costs one class A retry,
//! then counts as slow, and the others are chosen.

use std::{fmt, io, path::Path, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::{
    error::{Error, Kind},
    http::named_file,
    upstream::{
        Address, Endpoint, Protocol, Settings, TlsSettings,
        io::{Plain, Stream},
    },
};

/// Interval of the kernel's keep-alive probes, which detect an upstream that has vanished.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

/// How to connect to one upstream: its settings, with its TLS material in memory. Shared by all
/// workers, read when a connection is made.
pub struct Transport {
    settings: Settings,
    tls: Option<Tls>,
}

/// Why the TLS material of an upstream cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("upstream `{upstream}`: {message}")]
pub struct TlsError {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// What is wrong with which file.
    pub message: String,
}

/// A new connection.
#[derive(Debug)]
pub(crate) struct Dialled {
    pub(crate) stream: Stream,
    /// What ALPN chose; without TLS, what the settings say.
    pub(crate) is_h2: bool,
}

struct Tls {
    material: Material,
    config: Arc<ClientConfig>,
    /// For upgrades, which need HTTP/1.1.
    config_h1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// The files' contents, so that a reload can see whether they changed.
#[derive(PartialEq, Eq)]
struct Material {
    ca: Option<Vec<u8>>,
    client: Option<(Vec<u8>, Vec<u8>)>,
}

// === impl Transport ===

impl Transport {
    /// Reads the files. Returns `previous` if neither settings nor files have changed, so that its
    /// connections stay in use.
    pub fn new(settings: Settings, previous: Option<&Arc<Self>>) -> Result<Arc<Self>, TlsError> {
        let fail = |message| TlsError { upstream: settings.name.clone(), message };
        let material = settings.tls.as_ref().map(Material::read).transpose().map_err(fail)?;
        if let Some(previous) = previous
            && previous.settings == settings
            && previous.tls.as_ref().map(|tls| &tls.material) == material.as_ref()
        {
            return Ok(previous.clone());
        }
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let tls = material
            .map(|material| Tls::new(material, server_name, settings.protocol))
            .transpose()
            .map_err(fail)?;
        Ok(Arc::new(Self { settings, tls }))
    }

    /// The settings it was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether requests to it are `https`.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Connects to `endpoint`, including TLS, without a time limit. With `h1_only`, HTTP/2 is not
    /// offered.
    pub(crate) async fn dial(&self, endpoint: &Endpoint, h1_only: bool) -> Result<Dialled, Error> {
        let opened = open(endpoint.address(), self.settings.send_idle_timeout).await;
        let plain = opened.map_err(|error| {
            Error::new(Kind::UpstreamConnect).with_detail(&**endpoint.label()).with_source(error)
        })?;
        let wants_h2 = self.settings.protocol == Protocol::H2 && !h1_only;
        let Some(tls) = &self.tls else {
            return Ok(Dialled { stream: Stream::Plain(plain), is_h2: wants_h2 });
        };
        let stream = tls.handshake(plain, endpoint, h1_only).await?;
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if wants_h2 && !is_h2 {
            return Err(Error::new(Kind::UpstreamTls)
                .with_detail(format!("{}: it does not speak h2", endpoint.label())));
        }
        Ok(Dialled { stream: Stream::Tls(Box::new(stream)), is_h2 })
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("settings", &self.settings).finish_non_exhaustive()
    }
}

async fn open(address: &Address, unanswered: Duration) -> io::Result<Plain> {
    match address {
        Address::Inet(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let socket = SockRef::from(&stream);
            socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
            // Unacknowledged or untaken data ends the connection after this time. It must not be
            // shorter than a write may stay pending, because the kernel also counts a full
            // receiver.
            #[cfg(target_os = "linux")]
            socket.set_tcp_user_timeout(Some(unanswered))?;
            #[cfg(not(target_os = "linux"))]
            let _only_on_linux = unanswered;
            Ok(Plain::tcp(stream))
        }
        Address::Unix(path) => Ok(Plain::unix(UnixStream::connect(path).await?)),
    }
}

// === impl Tls ===

impl Tls {
    fn new(
        material: Material,
        server_name: Option<ServerName<'static>>,
        protocol: Protocol,
    ) -> Result<Self, String> {
        let mut config = client_config(&material)?;
        config.alpn_protocols = match protocol {
            Protocol::H1 => vec![b"http/1.1".to_vec()],
            Protocol::H2 => vec![b"h2".to_vec()],
            Protocol::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        };
        let mut config_h1 = config.clone();
        config_h1.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { material, config: Arc::new(config), config_h1: Arc::new(config_h1), server_name })
    }

    async fn handshake(
        &self,
        plain: Plain,
        endpoint: &Endpoint,
        h1_only: bool,
    ) -> Result<tokio_rustls::client::TlsStream<Plain>, Error> {
        let fail = || Error::new(Kind::UpstreamTls).with_detail(&**endpoint.label());
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(endpoint.host().to_owned())
                .map_err(|error| fail().with_source(error))?,
        };
        let config = if h1_only { &self.config_h1 } else { &self.config };
        TlsConnector::from(config.clone())
            .connect(name, plain)
            .await
            .map_err(|error| fail().with_source(error))
    }
}

// The crypto provider is named explicitly: no process-wide default may decide how we encrypt.
fn client_config(material: &Material) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &material.ca {
        for certificate in certificates(pem, "ca")? {
            roots.add(certificate).map_err(|error| format!("`ca`: {error}"))?;
        }
    } else {
        // A system certificate that cannot be read is skipped; the rest are used.
        let native = rustls_native_certs::load_native_certs();
        let (added, _ignored) = roots.add_parsable_certificates(native.certs);
        if added == 0 {
            return Err("the system has no certificate authorities; set `ca`".to_owned());
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((chain, key)) = &material.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(chain, "client_cert")?;
    let key =
        PrivateKeyDer::from_pem_slice(key).map_err(|error| format!("`client_key`: {error}"))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("`client_cert`: {error}"))
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("`{what}`: {error}"))?;
    if certificates.is_empty() {
        return Err(format!("`{what}`: no certificate in it"));
    }
    Ok(certificates)
}

// === impl Material ===

impl Material {
    fn read(settings: &TlsSettings) -> Result<Self, String> {
        Ok(Self {
            ca: settings.ca.as_deref().map(read).transpose()?,
            client: match &settings.client {
                Some((chain, key)) => Some((read(chain)?, read(key)?)),
                None => None,
            },
        })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    named_file::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
