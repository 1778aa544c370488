//! Which request fields only the gateway may set, and which names can pass for one of them. Pure.
//!
//! Two sets. Nobody may send fields that claim an identity: `X-Sluice-*`, those in `claim_headers`
//! or set by a service of `auth.forward`, and any name with `_`, because CGI and its successors
//! turn `-` into `_`, so that `x_user` would pass for `x-user`. Fields about the client's address
//! and way here may come from a trusted proxy, but only in the head: a trailer is read after they
//! are needed, and nobody appends to it.

use http::HeaderName;

/// The configured fields, besides the gateway's own names.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    claims: Box<[HeaderName]>,
}

/// Why a client may not send a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// It can pass for another name where `_` and `-` are the same.
    Underscore,
    /// It says who the client is.
    Identity,
}

// === impl Identity ===

impl Identity {
    /// `claims`: the fields with verified claims or another service's statements.
    pub fn new(claims: impl Into<Box<[HeaderName]>>) -> Self {
        Self { claims: claims.into() }
    }

    /// Why `name` must not come from any client.
    pub fn suspect(&self, name: &HeaderName) -> Option<Suspect> {
        if name.as_str().as_bytes().contains(&b'_') {
            Some(Suspect::Underscore)
        } else if name.as_str().starts_with("x-sluice-") || self.claims.contains(name) {
            Some(Suspect::Identity)
        } else {
            None
        }
    }

    /// Whether a request's trailer must not have this name.
    pub fn is_refused_in_trailer(&self, name: &HeaderName) -> bool {
        self.suspect(name).is_some()
            || speaks_of_client(name)
            || matches!(name.as_str(), "x-request-id" | "forwarded" | "via")
    }
}

/// Whether `name` is one of the fields in which proxies describe their client, including those that
/// only some upstreams read.
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
