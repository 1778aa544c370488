//! Which fields of a request only the gateway may write, and which names hide one. Pure.
//!
//! Two sets. What claims an identity is nobody's to send: `X-Sluice-*`, what `claim_headers` names
//! or a service of `auth.forward` answers, and any name with `_`, for CGI and its heirs turn `-` into
//! `_`, so that `x_user` would arrive as `x-user`. What speaks of the client's address and way here a
//! trusted proxy may send, but in the head only: a trailer is read after it was asked for, and nobody
//! appends to it.

use http::HeaderName;

/// What the configuration adds to the names that are the gateway's own.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    claims: Box<[HeaderName]>,
}

/// Why a field is not the client's to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// It reads as another name where `_` and `-` are one.
    Underscore,
    /// It says who the client is.
    Identity,
}

// === impl Identity ===

impl Identity {
    /// `claims`: the fields that carry verified claims, or another service's word.
    pub fn new(claims: impl Into<Box<[HeaderName]>>) -> Self {
        Self { claims: claims.into() }
    }

    /// Why `name` must not come from a client, whoever it is.
    pub fn suspect(&self, name: &HeaderName) -> Option<Suspect> {
        if name.as_str().as_bytes().contains(&b'_') {
            Some(Suspect::Underscore)
        } else if name.as_str().starts_with("x-sluice-") || self.claims.contains(name) {
            Some(Suspect::Identity)
        } else {
            None
        }
    }

    /// Whether a trailer of a request must not have this name.
    pub fn is_refused_in_trailer(&self, name: &HeaderName) -> bool {
        self.suspect(name).is_some()
            || speaks_of_client(name)
            || matches!(name.as_str(), "x-request-id" | "forwarded" | "via")
    }
}

/// Whether `name` is one of those in which proxies tell whom they speak for, also those that only
/// some upstreams read.
pub fn speaks_of_client(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "x-real-ip" || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> HeaderName {
        HeaderName::from_bytes(name.as_bytes()).unwrap()
    }

    #[test]
    fn tells_who_may_write_a_field() {
        let identity = Identity::new([name("x-user")]);
        for (field, suspect, in_trailer) in [
            ("x-user", Some(Suspect::Identity), true),
            ("x-sluice-attempt", Some(Suspect::Identity), true),
            ("x_user", Some(Suspect::Underscore), true),
            ("x_sluice-a", Some(Suspect::Underscore), true),
            ("x-forwarded-prefix", None, true),
            ("x-real-ip", None, true),
            ("x-request-id", None, true),
            ("forwarded", None, true),
            ("via", None, true),
            ("x-username", None, false),
            ("x-checksum", None, false),
            ("grpc-status", None, false),
        ] {
            assert_eq!(identity.suspect(&name(field)), suspect, "{field}");
            assert_eq!(identity.is_refused_in_trailer(&name(field)), in_trailer, "{field}");
        }
    }
}
