//! What lies outside of the file: environment, secrets, certificates.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _};

use super::Resolver;
use crate::{
    config::{
        value::{Fault, Reference, SecretReference, Text, Value},
        written::{Place, Written},
    },
    http::{Secret, named_file},
    listener::{Unfit, Validity, identity},
    telemetry::clock,
};

/// Whoever renews certificates by a timer has long done it by then.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

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
        self.chain(written);
        self.base.join(&written.text)
    }

    /// PEM files of a certificate and of its own private key.
    pub(super) fn identity(
        &mut self,
        cert: &Written<Text>,
        key: &Written<Text>,
    ) -> (PathBuf, PathBuf) {
        let (chain, own) = (self.chain(cert), self.private_key(key));
        if let Some(leaf) = chain.as_ref().and_then(|chain| chain.first()) {
            self.warn_of_age(cert, leaf);
        }
        if let (Some(chain), Some(own)) = (chain, own)
            && let Err(unfit) = identity(chain, own, &aws_lc_rs::default_provider())
        {
            let (file, reason) = match unfit {
                Unfit::Certificate(reason) => (cert, reason),
                Unfit::Key(reason) => (key, reason),
            };
            let fault = Fault::new(format!("`{}` cannot be used", file.text)).help(reason);
            self.error(file.place, fault);
        }
        (self.base.join(&cert.text), self.base.join(&key.text))
    }

    /// A certificate that nobody takes is as good as none, and only clients see it.
    fn warn_of_age(&mut self, written: &Written<Text>, leaf: &CertificateDer<'_>) {
        let Some(Validity { from, until }) = Validity::of(leaf) else { return };
        let (now, file) = (clock::now(), &written.text);
        let (what, since) = if until <= now {
            (format!("the certificate in `{file}` has expired: clients refuse it"), until)
        } else if until <= now + EXPIRES_SOON {
            (format!("the certificate in `{file}` expires soon"), until)
        } else if now < from {
            (format!("the certificate in `{file}` is not valid yet: clients refuse it"), from)
        } else {
            return;
        };
        let word = if since == from { "from" } else { "until" };
        let help = format!("it is valid {word} {}", clock::rfc3339(since));
        self.warn(written.place, Fault::new(what).help(help));
    }

    fn chain(&mut self, written: &Written<Text>) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = self.read(written.place, Path::new(&written.text))?;
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        let chain = match parsed {
            Ok(list) if list.is_empty() => Err("it has no CERTIFICATE section".to_owned()),
            Ok(list) => Ok(list),
            Err(error) => Err(pem_reason(&error)),
        };
        self.pem(written, chain)
    }

    fn private_key(&mut self, written: &Written<Text>) -> Option<PrivateKeyDer<'static>> {
        let bytes = self.read(written.place, Path::new(&written.text))?;
        let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| match error {
            pem::Error::NoItemsFound => "it has no PRIVATE KEY section".to_owned(),
            error => pem_reason(&error),
        });
        self.pem(written, key)
    }

    fn pem<T>(&mut self, written: &Written<Text>, parsed: Result<T, String>) -> Option<T> {
        let fault = |reason: String| {
            Fault::new(format!("`{}` is not the PEM file that is needed here", written.text))
                .help(reason)
        };
        self.checked(written.place, parsed.map_err(fault))
    }

    fn variable(&mut self, place: Place, name: &str) -> Option<String> {
        let value = (self.env)(name);
        if value.is_none() {
            let fault = Fault::new(format!("the environment variable `{name}` is not set"));
            self.error(place, fault.help("set it before `sluice` starts, or write `file:PATH`"));
        }
        value
    }

    /// The bytes of a file, which is watched from now on.
    pub(super) fn read(&mut self, place: Place, path: &Path) -> Option<Vec<u8>> {
        let full = self.base.join(path);
        let read = named_file::read(&full);
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
