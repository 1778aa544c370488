//! What lies outside of the file: environment, secrets, certificates.

use std::{
    io,
    path::{Path, PathBuf},
};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};

use super::Resolver;
use crate::{
    config::{
        value::{Fault, Reference, SecretReference, Text, Value},
        written::{Place, Written},
    },
    http::Secret,
};

impl Resolver<'_> {
    /// The value, from where it is.
    pub(super) fn followed<T: Value>(&mut self, written: &Written<Reference<T>>) -> Option<T> {
        let place = written.place;
        let (text, from) = match self.value(written)? {
            Reference::Here(value) => return Some(value),
            Reference::Env(name) => (self.variable(place, &name)?, format!("`{name}`")),
            Reference::File(path) => {
                let text = String::from_utf8(self.read(place, &path)?).unwrap_or_default();
                (text.trim_end().to_owned(), format!("`{}`", path.display()))
            }
        };
        // What was found is not repeated: its owner chose to keep it out of the file.
        let fault = Fault::new(format!("the value of {from} is not valid here"));
        self.checked(place, T::parse(&text).map_err(|_| fault))
    }

    /// The secret, without the line end that an editor leaves behind it.
    pub(super) fn secret(&mut self, written: &Written<SecretReference>) -> Option<Secret> {
        let place = written.place;
        let mut bytes = match self.value(written)?.0 {
            Reference::Here(()) => return None,
            Reference::Env(name) => self.variable(place, &name)?.into_bytes(),
            Reference::File(path) => self.read(place, &path)?,
        };
        while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            bytes.pop();
        }
        if bytes.is_empty() {
            self.error(place, Fault::new("this secret is empty"));
            return None;
        }
        Some(Secret::new(bytes))
    }

    /// A PEM file with at least one certificate.
    pub(super) fn certificates(&mut self, written: &Written<Text>) -> PathBuf {
        let path = PathBuf::from(&written.text);
        if let Some(bytes) = self.read(written.place, &path) {
            let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
            let reason = match parsed {
                Ok(list) if list.is_empty() => Some("it has no CERTIFICATE section".to_owned()),
                Ok(_) => None,
                Err(error) => Some(pem_reason(&error)),
            };
            self.refuse_pem(written, reason);
        }
        self.base.join(path)
    }

    /// A PEM file with a private key.
    pub(super) fn private_key(&mut self, written: &Written<Text>) -> PathBuf {
        let path = PathBuf::from(&written.text);
        if let Some(bytes) = self.read(written.place, &path) {
            let reason = match PrivateKeyDer::from_pem_slice(&bytes) {
                Ok(_) => None,
                Err(pem::Error::NoItemsFound) => Some("it has no PRIVATE KEY section".to_owned()),
                Err(error) => Some(pem_reason(&error)),
            };
            self.refuse_pem(written, reason);
        }
        self.base.join(path)
    }

    fn refuse_pem(&mut self, written: &Written<Text>, reason: Option<String>) {
        if let Some(reason) = reason {
            let fault =
                Fault::new(format!("`{}` is not such a PEM file", written.text)).help(reason);
            self.error(written.place, fault);
        }
    }

    fn variable(&mut self, place: Place, name: &str) -> Option<String> {
        let value = (self.env)(name);
        if value.is_none() {
            self.error(place, Fault::new(format!("the environment has no variable `{name}`")));
        }
        value
    }

    /// The bytes of a file, which is watched from now on.
    pub(super) fn read(&mut self, place: Place, path: &Path) -> Option<Vec<u8>> {
        let full = self.base.join(path);
        let read = std::fs::read(&full);
        self.watched.push(full);
        let shown = path.display();
        let fault = |error: io::Error| {
            if error.kind() == io::ErrorKind::NotFound {
                Fault::new(format!("there is no file `{shown}`"))
                    .help("relative paths start at the folder of this file")
            } else {
                Fault::new(format!("`{shown}` cannot be read: {error}"))
            }
        };
        self.checked(place, read.map_err(fault))
    }
}

/// Never the content: it may be a key.
fn pem_reason(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no end".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section has no proper start".to_owned(),
        pem::Error::Base64Decode(_) => "a section is not base64".to_owned(),
        _ => "it cannot be parsed".to_owned(),
    }
}
