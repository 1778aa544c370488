//! Who may come: by token, key, certificate, or another service's word.
//!
//! Read from the inside out: [`algorithm`], [`json`], [`keys`] and [`jwt`] judge a token and know
//! nothing of HTTP; [`key_source`] is how keys are asked for, [`jwks`] how they come
//! from the network, [`verified`] what is remembered;
//! [`issuer`] puts these together. [`api_key`] and [`certificate`] are the other credentials,
//! [`credential`] where a token is found, [`forward`] another service's
//! word. [`check`] tries them on a request, [`layer`] is the step of
//! the stack, [`claims`] the one behind it.

pub mod algorithm;
pub mod api_key;
pub mod certificate;
pub mod check;
pub mod claims;
pub mod credential;
pub mod forward;
pub mod issuer;
pub mod json;
pub mod jwks;
pub mod jwt;
pub mod key_source;
pub mod keys;
pub mod layer;
mod material;
pub mod outcomes;
pub mod settings;
#[cfg(test)]
mod testing;
pub mod verified;

pub use self::{
    check::{Check, Checks},
    issuer::{Issuer, Issuers},
    layer::{Auth, AuthLayer},
    outcomes::Outcomes,
    settings::Settings,
    verified::VerifiedTokens,
};
