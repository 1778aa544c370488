//! URLs that the gateway itself asks.

use http::{
    Uri,
    uri::{Authority, PathAndQuery},
};
use schemars::{Schema, json_schema};

use super::{Fault, Value};
use crate::http::fetch;

/// An absolute `http` or `https` URL without user, password and fragment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl(pub Uri);

/// Defines what a URL can be for, each with an example.
macro_rules! purposes {
    ($($(#[$doc:meta])* $name:ident = $example:literal),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub HttpUrl);

        impl Value for $name {
            fn schema() -> Schema {
                json_schema!({ "type": "string", "pattern": "^https?://", "examples": [$example] })
            }

            fn parse(text: &str) -> Result<Self, Fault> {
                HttpUrl::parse(text, $example).map(Self)
            }
        }
    )*};
}

purposes! {
    /// Where the keys of an issuer are.
    KeySetUrl = "https://id.shop.example/jwks.json",
    /// The service that decides about requests.
    DecisionUrl = "https://auth.internal/check",
    /// Where events are sent.
    WebhookUrl = "https://receiver.example/events",
}

// === impl HttpUrl ===

impl HttpUrl {
    /// `host:port` as an endpoint is written.
    pub fn address(&self) -> String {
        let port = fetch::port(&self.0).unwrap_or_default();
        format!("{}:{port}", self.0.host().unwrap_or_default())
    }

    /// Whether it is `https`.
    pub fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The name of the upstream that stands for the service there, for one purpose: with characters
    /// that no name under `upstreams` has.
    pub fn upstream(&self, purpose: &str) -> String {
        let scheme = if self.is_https() { "https" } else { "http" };
        format!("{purpose} {scheme}://{}", self.address())
    }

    /// Whether it is on the machine the gateway runs on.
    pub fn is_loopback(&self) -> bool {
        fetch::is_loopback(&self.0)
    }

    /// Whether what is said there can be read and changed on the way.
    pub fn is_exposed(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    /// The URL of this text, or why it is not one `like` this example.
    fn parse(text: &str, like: &str) -> Result<Self, Fault> {
        // Before all else, for what is repeated must not be a password.
        let authority = text.split_once("://").map_or(text, |(_, rest)| rest);
        if authority.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return Err(Fault::new("a URL here has no user and no password")
                .help("what is behind it has to be reachable without"));
        }
        let fault = || Fault::new(format!("`{text}` is not an http or https URL"));
        if text.contains('#') {
            return Err(fault().help("without `#` and what follows it"));
        }
        let unlike = || fault().help(format!("like `{like}`"));
        let url: Uri = text.parse().map_err(|_| unlike())?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        let has_host = url.host().is_some_and(|host| !host.is_empty());
        // A port that is no number of 16 bits is none for `http`, but stands there all the same.
        let is_port = url.authority().is_some_and(|authority| {
            authority.as_str() == authority.host() || authority.port_u16().is_some_and(|p| p > 0)
        });
        if !is_http || !has_host || !is_port {
            return Err(unlike());
        }
        Ok(Self(in_lower_case(url)))
    }
}

/// Two spellings of one host are one host.
fn in_lower_case(url: Uri) -> Uri {
    let mut parts = url.clone().into_parts();
    let lower = |authority: Authority| Authority::try_from(authority.as_str().to_ascii_lowercase());
    parts.authority = parts.authority.and_then(|authority| lower(authority).ok());
    parts.path_and_query = parts.path_and_query.or_else(|| Some(PathAndQuery::from_static("/")));
    Uri::from_parts(parts).unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_absolute_and_http() {
        let url = WebhookUrl::parse("http://Auth.internal/check?a=B").unwrap().0;
        assert_eq!(url.0, "http://auth.internal/check?a=B");
        assert_eq!(url.address(), "auth.internal:80");
        assert!(url.is_exposed());
        assert_eq!(WebhookUrl::parse("https://[::1]:8443").unwrap().0.address(), "[::1]:8443");
        assert!(!WebhookUrl::parse("http://127.0.0.1:1/").unwrap().0.is_exposed());
        for wrong in [
            "auth.internal/check",
            "/check",
            "",
            "ftp://auth.internal/",
            "http://",
            "http:///check",
            "https://a/#b",
            "http://a:0/",
            "http://a:99999/",
            "http://a b/",
        ] {
            assert!(WebhookUrl::parse(wrong).is_err(), "{wrong}");
        }
        let fault = WebhookUrl::parse("https://me:s3cr3t@id.example/").unwrap_err();
        assert!(!format!("{fault:?}").contains("s3cr3t"));
    }
}
