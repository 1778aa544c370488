//! Who may come: by token, key, certificate, or another service's word.
//!
//! [`keys`] is what an issuer's signatures are verified with, [`key_source`] how this folder asks for
//! it; both know nothing of HTTP. [`algorithm`] and [`json`] are the words they are written in.

pub mod algorithm;
pub mod json;
pub mod key_source;
pub mod keys;
mod material;
