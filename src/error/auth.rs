//! Why a credential was not accepted.

use std::time::Duration;

use http::{HeaderValue, StatusCode};

use super::Side;

/// The refusal of an unauthenticated or unauthorised request.
#[derive(Clone, Debug)]
pub struct AuthRefusal {
    /// The reason.
    pub fault: AuthFault,
    /// The `WWW-Authenticate` field: how to get in.
    pub challenge: Option<HeaderValue>,
}

/// Why a credential was not accepted (semantics 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AuthFault {
    /// There is none.
    Missing,
    /// It cannot be parsed.
    Malformed,
    /// It has expired.
    Expired,
    /// It is not valid yet.
    NotYet,
    /// Its signature does not verify, or the API key is unknown.
    Signature,
    /// Its issuer is not one of this route's.
    Issuer,
    /// It is for another service.
    Audience,
    /// It names a key that its issuer does not have.
    KidUnknown,
    /// Unknown whether it is valid: there are no keys to verify it with.
    KeysUnavailable,
    /// It is valid, but not for this.
    Scope,
}

// === impl AuthFault ===

impl AuthFault {
    /// One of each.
    pub const ALL: [Self; 10] = [
        Self::Missing,
        Self::Malformed,
        Self::Expired,
        Self::NotYet,
        Self::Signature,
        Self::Issuer,
        Self::Audience,
        Self::KidUnknown,
        Self::KeysUnavailable,
        Self::Scope,
    ];

    /// Its reason word (semantics 12).
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "auth-missing",
            Self::Malformed => "auth-malformed",
            Self::Expired => "auth-expired",
            Self::NotYet => "auth-not-yet",
            Self::Signature => "auth-signature",
            Self::Issuer => "auth-issuer",
            Self::Audience => "auth-audience",
            Self::KidUnknown => "auth-kid-unknown",
            Self::KeysUnavailable => "auth-keys-unavailable",
            Self::Scope => "scope-denied",
        }
    }

    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Missing
            | Self::Malformed
            | Self::Expired
            | Self::NotYet
            | Self::Signature
            | Self::Issuer
            | Self::Audience
            | Self::KidUnknown => StatusCode::UNAUTHORIZED,
            Self::Scope => StatusCode::FORBIDDEN,
            Self::KeysUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Who is responsible.
    pub fn side(self) -> Side {
        if self == Self::KeysUnavailable { Side::Gateway } else { Side::Downstream }
    }

    /// When the client should retry.
    pub fn retry_after(self) -> Option<Duration> {
        (self == Self::KeysUnavailable).then_some(Duration::from_secs(5))
    }

    /// One sentence for the client. Plain ASCII without quotation marks, so that a field can hold
    /// it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Missing => "This resource needs a credential.",
            Self::Malformed => "The credential is malformed.",
            Self::Expired => "The credential has expired.",
            Self::NotYet => "The credential is not valid yet.",
            Self::Signature => "The credential does not verify.",
            Self::Issuer => "The issuer of the credential is not accepted here.",
            Self::Audience => "The credential is for another audience.",
            Self::KidUnknown => "The key that signed the credential is not known.",
            Self::KeysUnavailable => "Credentials cannot be verified at the moment; try again.",
            Self::Scope => "The credential does not allow this.",
        }
    }
}
