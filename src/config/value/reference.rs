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
        return Some(if is_variable(name) {
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

/// The fault, with other help if the text looks like a variable of a shell.
fn of_variable(text: &str, fault: Fault) -> Fault {
    let Some((_, after)) = text.split_once('$') else { return fault };
    let name =
        after.strip_prefix('{').map_or(after, |after| after.split('}').next().unwrap_or(after));
    let is_all = [format!("${name}"), format!("${{{name}}}")].iter().any(|it| it == text);
    let name = if is_all && is_variable(name) { name } else { "NAME" };
    fault.help(format!(
        "variables are not expanded; for the whole value: `env:{name}` or `file:PATH`"
    ))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

// === impl Reference ===

impl<T: Value> Value for Reference<T> {
    fn schema() -> Schema {
        json_schema!({ "anyOf": [{ "type": "string", "pattern": "^(env|file):" }, T::schema()] })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let here = || T::parse(text).map(Self::Here);
        elsewhere(text).unwrap_or_else(|| here().map_err(|fault| of_variable(text, fault)))
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
