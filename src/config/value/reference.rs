//! `env:NAME` and `file:PATH`: values that live elsewhere.

use std::path::PathBuf;

use schemars::{Schema, json_schema};

use super::{Fault, Value};

/// A value, or where it is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference<T> {
    /// It stands here.
    Here(T),
    /// `env:NAME`
    Env(String),
    /// `file:PATH`, relative to the folder of gateway.yaml.
    File(PathBuf),
}

/// Where a secret is to be found; it never stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretReference(pub Reference<()>);

fn elsewhere<T>(text: &str) -> Option<Result<Reference<T>, Fault>> {
    if let Some(name) = text.strip_prefix("env:") {
        let is_name =
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        return Some(if is_name {
            Ok(Reference::Env(name.to_owned()))
        } else {
            Err(Fault::new("this is not the name of an environment variable")
                .help("letters, digits and `_`: `env:NAME`"))
        });
    }
    let path = text.strip_prefix("file:")?;
    Some(if path.is_empty() {
        Err(Fault::new("`file:` names no file").help("`file:PATH`"))
    } else {
        Ok(Reference::File(path.into()))
    })
}

// === impl Reference ===

impl<T: Value> Value for Reference<T> {
    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^(env|file):" }, T::schema()] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        elsewhere(text).unwrap_or_else(|| T::parse(text).map(Self::Here))
    }
}

// === impl SecretReference ===

impl Value for SecretReference {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^(env|file):." })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        elsewhere(text).map_or_else(
            || {
                // The text may be the secret itself: it is not repeated.
                Err(Fault::new("a secret is not written in the file")
                    .help("write `env:NAME` or `file:PATH`"))
            },
            |reference| reference.map(Self),
        )
    }
}
