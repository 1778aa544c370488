//! `routes[].auth`, `issuers` and `api_keys` as plain values.

use std::{path::PathBuf, sync::Arc};

use super::{certificate::Pattern, credential::Place, forward, jwks, jwt, keys::KeySet};
use crate::http::Secret;

/// An issuer of tokens, and where its keys are.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// What its tokens must satisfy.
    pub jwt: jwt::Settings,
    /// Where its keys are.
    pub keys: KeysFrom,
    /// What `sluice token` may sign with.
    pub at_hand: AtHand,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq)]
pub enum KeysFrom {
    /// In memory: they were in a file, or are one secret.
    Here(Arc<KeySet>),
    /// On the network.
    Network(Box<jwks::Settings>),
}

/// Which of an issuer's keys may be private ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtHand {
    /// Its one secret.
    Secret(Secret),
    /// Perhaps those in this file.
    File(PathBuf),
    /// None: the issuer keeps its private keys.
    Nothing,
}

/// `routes[].auth`: any of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// In the order in which they are tried; not empty.
    pub any_of: Vec<Scheme>,
}

/// One way to authenticate a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// `jwt`
    Jwt {
        /// Indexes into the configuration's issuers.
        issuers: Vec<usize>,
        /// Required scopes, all of them.
        scopes: Box<[Box<str>]>,
        /// Where the token may be.
        places: Box<[Place]>,
    },
    /// `api_key`
    ApiKey {
        /// Indexes into the configuration's files of keys.
        sets: Vec<usize>,
        /// Required scopes, all of them.
        scopes: Box<[Box<str>]>,
    },
    /// `mtls`
    Mtls(Box<[Pattern]>),
    /// `forward`
    Forward(forward::Settings),
}
