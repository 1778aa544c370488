//! `routes[].auth`, `issuers` and `api_keys` as plain values.

use std::{path::PathBuf, sync::Arc};

use super::{certificate::Pattern, credential::Place, forward, jwks, jwt, keys::KeySet};
use crate::http::Secret;

/// Who signs tokens, and where the keys are.
#[derive(Clone, Debug, PartialEq)]
pub struct Issuer {
    /// What its tokens must be.
    pub jwt: jwt::Settings,
    /// Where its keys are.
    pub keys: KeysFrom,
    /// What `sluice token` may sign with.
    pub at_hand: AtHand,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq)]
pub enum KeysFrom {
    /// Here: they were in a file, or are one secret.
    Here(Arc<KeySet>),
    /// On the network.
    Network(Box<jwks::Settings>),
}

/// What of an issuer's keys may be private.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtHand {
    /// Its one secret.
    Secret(Secret),
    /// Perhaps what is in this file.
    File(PathBuf),
    /// Nothing: its private keys are its own.
    Nothing,
}

/// `routes[].auth`: any of these.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// In the order in which they are tried; not empty.
    pub any_of: Vec<Scheme>,
}

/// One way of letting somebody in.
#[derive(Clone, Debug, PartialEq)]
pub enum Scheme {
    /// `jwt`
    Jwt {
        /// Indexes into the configuration's issuers.
        issuers: Vec<usize>,
        /// All of these.
        scopes: Box<[Box<str>]>,
        /// Where the token may be.
        places: Box<[Place]>,
    },
    /// `api_key`
    ApiKey {
        /// Indexes into the configuration's files of keys.
        sets: Vec<usize>,
        /// All of these.
        scopes: Box<[Box<str>]>,
    },
    /// `mtls`
    Mtls(Box<[Pattern]>),
    /// `forward`
    Forward(forward::Settings),
}
