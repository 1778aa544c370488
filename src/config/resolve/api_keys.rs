//! `api_keys`: files that list keys by their digests. A problem in such a file is told with its own
//! line.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use http::HeaderName;

use super::Resolver;
use crate::{
    config::{
        file::auth::{ApiKeyEntry, ApiKeys},
        parse,
        problem::{Severity, Source},
        tree::Tree,
        value::{Fault, Name, Text, Timestamp, Value as _},
        written::{Entries, Place, Placed, Written},
    },
    middleware::auth::api_key::{self, ApiKey},
};

const DEFAULT_HEADER: HeaderName = HeaderName::from_static("x-api-key");

/// A file of keys that is being read.
struct Reading<'a> {
    source: Source<'a>,
    tree: Tree,
}

impl Resolver<'_> {
    pub(super) fn api_keys(
        &mut self,
        written: Option<&Entries<Name, ApiKeys>>,
    ) -> Vec<api_key::Settings> {
        let all = written.into_iter().flat_map(Entries::iter);
        all.map(|(name, set)| api_key::Settings {
            name: self.value(name).map_or_else(|| Arc::from(""), |Name(name)| name),
            header: self.or(set.header.as_ref(), DEFAULT_HEADER),
            keys: self.key_list(&set.file),
        })
        .collect()
    }

    fn key_list(&mut self, file: &Written<Text>) -> Vec<ApiKey> {
        let Some(bytes) = self.read(file.place, &PathBuf::from(&file.text)) else {
            return Vec::new();
        };
        let Ok(text) = String::from_utf8(bytes) else {
            self.error(file.place, Fault::new(format!("`{}` is not UTF-8", file.text)));
            return Vec::new();
        };
        let source = Source::new(&file.text, &text);
        match parse::parse::<Vec<Placed<ApiKeyEntry>>>(&source, &text) {
            Ok((tree, entries)) => self.listed(&Reading { source, tree }, &entries),
            Err(problem) => {
                self.elsewhere.push(*problem);
                Vec::new()
            }
        }
    }

    fn listed(&mut self, reading: &Reading<'_>, entries: &[Placed<ApiKeyEntry>]) -> Vec<ApiKey> {
        let (mut ids, mut digests) = (HashMap::new(), HashMap::new());
        let mut keys = Vec::with_capacity(entries.len());
        for Placed { value: ApiKeyEntry { id, sha256, scopes, expires }, .. } in entries {
            let id_value = self.in_file(reading, id.place, Name::parse(&id.text));
            let digest = self.in_file(reading, sha256.place, digest(&sha256.text));
            let expires = expires.as_ref().and_then(|expires| {
                self.in_file(reading, expires.place, Timestamp::parse(&expires.text))
            });
            if let Some(line) = ids.insert(&id.text, id.place.line) {
                let fault = Fault::new(format!("`{}` is on line {line} already", id.text));
                self.in_file::<()>(
                    reading,
                    id.place,
                    Err(fault.help("each key needs an `id` of its own")),
                );
            }
            let (Some(Name(name)), Some(digest)) = (id_value, digest) else { continue };
            if let Some(line) = digests.insert(digest, sha256.place.line) {
                let fault = Fault::new(format!("this key is on line {line} already"));
                self.in_file::<()>(reading, sha256.place, Err(fault.help("keep one of them")));
            }
            keys.push(ApiKey {
                id: name.as_ref().into(),
                sha256: digest,
                scopes: super::issuers::texts(scopes.as_deref().unwrap_or_default()),
                expires: expires.map(|Timestamp(since)| since),
            });
        }
        keys
    }

    /// The value, or a problem at this place of the other file.
    fn in_file<T>(
        &mut self,
        reading: &Reading<'_>,
        place: Place,
        result: Result<T, Fault>,
    ) -> Option<T> {
        let fault = match result {
            Ok(value) => return Some(value),
            Err(fault) => fault,
        };
        let path = reading.tree.path_of(place).unwrap_or_default();
        self.elsewhere.push(reading.source.problem(Severity::Error, place, path, &fault));
        None
    }
}

/// 64 hexadecimal digits.
fn digest(text: &str) -> Result<[u8; 32], Fault> {
    let fault = || {
        Fault::new("this is not the SHA-256 digest of a key")
            .help("64 hexadecimal digits: `printf %s KEY | sha256sum`")
    };
    let mut digest = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(fault());
    }
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).map_err(|_| fault())?;
    }
    Ok(digest)
}
