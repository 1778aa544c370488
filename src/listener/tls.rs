//! TLS of one listener: certificates chosen by SNI, client certificates, resumption.
//!
//! One `ServerConfig`, shared by all workers and taken at accept. Its resolver holds the
//! certificates, so the next handshake uses new files without a new configuration. A change of the
//! client authorities makes a new configuration. A listener that asks for client certificates resumes
//! no session: a ticket vouches for a verified client, and each resumption issues the next ticket, so
//! a client could go on after its certificate has expired. No ticket allows early data (0-RTT), which
//! whoever records it could send again: nothing is read before the handshake is over. Changed files
//! are read once they have been unchanged for 200 ms; a broken pair is ignored and the old one stays
//! in use. Costs one read lock per handshake, nothing per request.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger},
    sign::CertifiedKey,
    version,
};
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    http::named_file,
    listener::{CertificateFiles, ClientAuth, TlsSettings, Unfit, identity, sni::Certificates},
};

/// How long a changed file must stay unchanged before it is read.
const STILL_FOR: Duration = Duration::from_millis(200);

/// TLS of one listener, shared by all workers.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    alpn: Vec<Vec<u8>>,
    certificates: Arc<Certificates>,
    current: RwLock<Current>,
    watch: Mutex<FileWatch>,
}

/// What depends on the client authorities.
#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    /// `None`: no session is resumed.
    ticketer: Option<Arc<dyn ProducesTickets>>,
    /// The authorities' file as it was read.
    authorities: Option<Arc<[u8]>>,
}

/// Which files are in use, and which newer ones have been seen.
#[derive(Debug)]
struct FileWatch {
    loaded: Vec<Option<Fingerprint>>,
    changed: Option<(Vec<Option<Fingerprint>>, Instant)>,
}

/// Tells two contents of a file apart without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Why a listener's TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {problem}", path = path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// rustls rejects the configuration.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The result of checking the files for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refreshed {
    /// Nothing changed.
    Unchanged,
    /// Changed, but not yet unchanged for long enough.
    Settling,
    /// New files serve from now on.
    Replaced,
    /// The new files are broken: the old ones serve on. Logged.
    Failed,
}

// === impl Tls ===

impl Tls {
    /// Loads every file that `settings` name. With `previous` (the same listener before a reload),
    /// session resumption carries over.
    pub fn load(
        settings: &TlsSettings,
        h1: bool,
        h2: bool,
        previous: Option<&Self>,
    ) -> Result<Self, TlsError> {
        // Fingerprints come first: a change while reading is then noticed at the next look.
        let watch = FileWatch { loaded: fingerprints(settings), changed: None };
        let certificates = Arc::new(Certificates::new(load_certificates(settings)?));
        let alpn: Vec<Vec<u8>> = [(h2, b"h2".as_slice()), (h1, b"http/1.1".as_slice())]
            .into_iter()
            .filter(|&(is_on, _)| is_on)
            .map(|(_, name)| name.to_vec())
            .collect();
        let ticketer = previous.and_then(|previous| previous.current.read().ticketer.clone());
        let current = Current::new(settings, &certificates, &alpn, ticketer)?;
        Ok(Self {
            settings: settings.clone(),
            alpn,
            certificates,
            current: RwLock::new(current),
            watch: Mutex::new(watch),
        })
    }

    /// The configuration for a connection that is accepted now.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.current.read().config.clone()
    }

    /// When the first of the certificates that serve now ends.
    pub fn until(&self) -> Option<SystemTime> {
        self.certificates.until()
    }

    /// Loads changed files once they have been unchanged for 200 ms.
    ///
    /// Control calls this about once a second; it blocks for a few `stat`s, and for the reads if
    /// something changed.
    pub fn reload_if_changed(&self, now: Instant) -> Refreshed {
        let mut watch = self.watch.lock();
        let seen = fingerprints(&self.settings);
        if !watch.is_settled(&seen, now) {
            return if watch.changed.is_some() {
                Refreshed::Settling
            } else {
                Refreshed::Unchanged
            };
        }
        // Broken files are not tried again until they change once more.
        watch.loaded = seen;
        watch.changed = None;
        match self.reload() {
            Ok(()) => {
                tracing::info!("TLS files changed and were loaded");
                Refreshed::Replaced
            }
            Err(error) => {
                tracing::error!(%error, "TLS files changed and cannot be used; the old ones serve on");
                Refreshed::Failed
            }
        }
    }

    fn reload(&self) -> Result<(), TlsError> {
        let certificates = load_certificates(&self.settings)?;
        let authorities = read_authorities(&self.settings.client_auth)?;
        if authorities != self.current.read().authorities {
            let fresh = Current::new(&self.settings, &self.certificates, &self.alpn, None)?;
            *self.current.write() = fresh;
        }
        self.certificates.replace(certificates);
        Ok(())
    }
}

// === impl Current ===

impl Current {
    fn new(
        settings: &TlsSettings,
        certificates: &Arc<Certificates>,
        alpn: &[Vec<u8>],
        ticketer: Option<Arc<dyn ProducesTickets>>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let authorities = read_authorities(&settings.client_auth)?;
        let verifier = client_verifier(&settings.client_auth, authorities.as_deref(), &provider)?;
        let versions: &[&rustls::SupportedProtocolVersion] = if settings.only_tls13 {
            &[&version::TLS13]
        } else {
            &[&version::TLS13, &version::TLS12]
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificates.clone());
        let ticketer = match (&settings.client_auth, ticketer) {
            (ClientAuth::Off, Some(ticketer)) => Some(ticketer),
            (ClientAuth::Off, None) => Some(aws_lc_rs::Ticketer::new()?),
            (ClientAuth::Request(_) | ClientAuth::Require(_), _) => None,
        };
        match &ticketer {
            Some(ticketer) => config.ticketer = ticketer.clone(),
            None => config.send_tls13_tickets = 0,
        }
        // Tickets cover both TLS versions; a session store beside them would only take memory.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = alpn.to_vec();
        Ok(Self { config: Arc::new(config), ticketer, authorities })
    }
}

// === impl FileWatch ===

impl FileWatch {
    /// Whether `seen` differs from what is loaded and has been the same for [`STILL_FOR`].
    fn is_settled(&mut self, seen: &[Option<Fingerprint>], now: Instant) -> bool {
        if *seen == *self.loaded {
            self.changed = None;
            return false;
        }
        match &self.changed {
            Some((changed, since)) if *seen == **changed => now - *since >= STILL_FOR,
            _ => {
                self.changed = Some((seen.to_vec(), now));
                false
            }
        }
    }
}

fn fingerprints(settings: &TlsSettings) -> Vec<Option<Fingerprint>> {
    let pairs = settings.certificates.iter().flat_map(|files| [&files.cert, &files.key]);
    let authorities = match &settings.client_auth {
        ClientAuth::Off => None,
        ClientAuth::Request(path) | ClientAuth::Require(path) => Some(path),
    };
    pairs.chain(authorities).map(|path| Fingerprint::of(path)).collect()
}

// === impl Fingerprint ===

impl Fingerprint {
    /// `None`: there is no such file, or it cannot be looked at.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

fn load_certificates(settings: &TlsSettings) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    let provider = aws_lc_rs::default_provider();
    settings.certificates.iter().map(|files| load_pair(files, &provider).map(Arc::new)).collect()
}

fn load_pair(
    files: &CertificateFiles,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let chain = parse_chain(&files.cert, &read(&files.cert)?)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?)
        .map_err(|error| content(&files.key, format!("no private key in PEM: {error}")))?;
    identity(chain, key, provider).map_err(|unfit| match unfit {
        Unfit::Certificate(reason) => content(&files.cert, reason),
        Unfit::Key(reason) => content(&files.key, reason),
    })
}

fn parse_chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| content(path, format!("not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(content(path, "no certificate in it".to_owned()));
    }
    Ok(chain)
}

fn client_verifier(
    client_auth: &ClientAuth,
    authorities: Option<&[u8]>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn danger::ClientCertVerifier>, TlsError> {
    let (ClientAuth::Request(path) | ClientAuth::Require(path), Some(pem)) =
        (client_auth, authorities)
    else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let mut roots = RootCertStore::empty();
    for authority in parse_chain(path, pem)? {
        roots.add(authority).map_err(|error| content(path, error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = match client_auth {
        ClientAuth::Request(_) => builder.allow_unauthenticated(),
        ClientAuth::Off | ClientAuth::Require(_) => builder,
    };
    builder.build().map_err(|error| content(path, error.to_string()))
}

fn read_authorities(client_auth: &ClientAuth) -> Result<Option<Arc<[u8]>>, TlsError> {
    match client_auth {
        ClientAuth::Off => Ok(None),
        ClientAuth::Request(path) | ClientAuth::Require(path) => Ok(Some(read(path)?.into())),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    named_file::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn content(path: &Path, problem: String) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem }
}

#[cfg(test)]
mod tests;
