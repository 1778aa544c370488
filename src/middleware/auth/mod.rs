//! Authentication and authorisation: by token, API key, client certificate, or another service's
//! word.
//!
//! [`layer`] is the step of the stack: it finds a credential ([`credential`]) and runs [`check`] on
//! the request; [`claims`] is the step behind it, which picks the group member by claims.
//!
//! Tokens, from the inside out: [`algorithm`], [`json`], [`keys`] and [`jwt`] verify a token and
//! know nothing of HTTP. [`key_source`] is the interface to keys, [`jwks`] fetches them from the
//! network, [`verified`] caches verified tokens, and [`issuer`] combines these. The other
//! credentials are [`api_key`], [`certificate`] and [`forward`] (asks another service).

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
