//! Chooses the certificate for a client: the one that covers the name the client asks for.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use parking_lot::RwLock;
use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use webpki::EndEntityCert;

use super::validity::Validity;

/// The certificates of a listener. They can be replaced while it serves.
#[derive(Debug)]
pub(super) struct Certificates(RwLock<Table>);

/// Certificates by name. If two cover the same name, the first one is used.
#[derive(Debug, Default)]
struct Table {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By the part after `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// For clients that name nothing, or nothing known.
    default: Option<Arc<CertifiedKey>>,
    /// When the first of them ends.
    until: Option<SystemTime>,
}

// === impl Certificates ===

impl Certificates {
    /// In this order; the first also serves clients without SNI and unknown names.
    pub(super) fn new(certificates: Vec<Arc<CertifiedKey>>) -> Self {
        Self(RwLock::new(Table::new(certificates)))
    }

    /// Replaces the certificates, from the next handshake on.
    pub(super) fn replace(&self, certificates: Vec<Arc<CertifiedKey>>) {
        let table = Table::new(certificates);
        *self.0.write() = table;
    }

    /// When the first of those that serve now ends.
    pub(super) fn until(&self) -> Option<SystemTime> {
        self.0.read().until
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().find(hello.server_name()).cloned()
    }
}

// === impl Table ===

impl Table {
    fn new(certificates: Vec<Arc<CertifiedKey>>) -> Self {
        let validity =
            |it: &Arc<CertifiedKey>| Validity::of(it.end_entity_cert().ok()?).map(|it| it.until);
        let until = certificates.iter().filter_map(validity).min();
        let default = certificates.first().cloned();
        let mut table = Self { default, until, ..Self::default() };
        for certificate in certificates {
            for name in names(&certificate) {
                let names = match name.strip_prefix("*.") {
                    Some(_) => &mut table.wildcard,
                    None => &mut table.exact,
                };
                let name = name.strip_prefix("*.").unwrap_or(&name);
                names.entry(name.into()).or_insert_with(|| certificate.clone());
            }
        }
        table
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let Some(name) = name else { return self.default.as_ref() };
        let name = name.to_ascii_lowercase();
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcard.get(parent));
        self.exact.get(name.as_str()).or_else(parent).or(self.default.as_ref())
    }
}

/// The DNS names of the leaf, lower case.
fn names(certificate: &CertifiedKey) -> Vec<String> {
    let Ok(leaf) = certificate.end_entity_cert() else { return Vec::new() };
    match EndEntityCert::try_from(leaf) {
        Ok(leaf) => leaf.valid_dns_names().map(str::to_ascii_lowercase).collect(),
        Err(error) => {
            tracing::warn!(%error, "a certificate's names cannot be read: SNI does not pick it");
            Vec::new()
        }
    }
}
