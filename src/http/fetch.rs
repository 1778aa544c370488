//! The gateway's own requests: for key sets and the documents that say where they are.
//!
//! A trait, because the callers must not know about connections: `gateway` passes an implementation
//! that uses `upstream`, tests pass a script. This file has its types and the one rule that needs
//! no connection: which redirects may be followed.

use std::{future::Future, pin::Pin};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, StatusCode, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use tokio::time::Instant;

/// Makes the gateway's own requests.
pub trait Fetch: Send + Sync + 'static {
    /// Asks once: no redirects, no retries. Dropping the future cancels the exchange.
    fn fetch(&self, question: Question) -> Fetching<'_>;
}

/// A request in progress.
pub type Fetching<'a> = Pin<Box<dyn Future<Output = Result<Answer, FetchError>> + Send + 'a>>;

/// The request. There is never a body.
#[derive(Clone, Debug)]
pub struct Question {
    /// Nearly always GET.
    pub method: Method,
    /// An absolute `http` or `https` URL.
    pub url: Uri,
    /// More fields; `Host` is derived from the URL.
    pub headers: HeaderMap,
    /// The maximum size of the answer's body, in bytes.
    pub max_bytes: usize,
    /// When the last byte of the answer must have arrived.
    pub deadline: Instant,
}

/// The whole answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status, unchanged.
    pub status: StatusCode,
    /// The fields, unchanged.
    pub headers: HeaderMap,
    /// At most [`Question::max_bytes`].
    pub body: Bytes,
}

/// Why there is no answer. All messages are for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Not an absolute `http` or `https` URL.
    #[error("`{0}` is not an http or https URL")]
    Url(Uri),
    /// The host has no address.
    #[error("`{host}` does not resolve: {reason}")]
    Dns {
        /// The host in the URL.
        host: Box<str>,
        /// The resolver's error.
        reason: Box<str>,
    },
    /// No connection, or no TLS on it.
    #[error("no connection: {0}")]
    Connect(Box<str>),
    /// The deadline passed.
    #[error("no whole answer in time")]
    Timeout,
    /// The body exceeds the maximum.
    #[error("the answer is over {0} bytes")]
    TooLarge(usize),
    /// Not an HTTP response, or an incomplete one.
    #[error("the exchange broke off: {0}")]
    Broken(Box<str>),
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// There is no `Location`, or it is not a URL.
    #[error("a redirect without a usable Location")]
    NoTarget,
    /// It leads to another host or port, or from https to http.
    #[error("a redirect to another host")]
    OtherHost,
}

/// Where a redirect from `from` leads, if that is the same place: same host, and same scheme and
/// port or `https` instead of `http`. Whoever can cause a redirect must not choose whom we trust.
pub fn redirect(from: &Uri, location: Option<&HeaderValue>) -> Result<Uri, RedirectError> {
    let location = location
        .and_then(|location| location.to_str().ok())
        .map(|location| location.split('#').next().unwrap_or_default())
        .filter(|location| !location.is_empty())
        .ok_or(RedirectError::NoTarget)?;
    let scheme = from.scheme().ok_or(RedirectError::NoTarget)?;
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') || location.starts_with('?') || !has_scheme(location) {
        let to = PathAndQuery::try_from(resolve(from.path(), location))
            .map_err(|_| RedirectError::NoTarget)?;
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(to);
        return Uri::from_parts(parts).map_err(|_| RedirectError::NoTarget);
    } else {
        location.to_owned()
    };
    let to: Uri = absolute.parse().map_err(|_| RedirectError::NoTarget)?;
    if is_same_place(from, &to) { Ok(to) } else { Err(RedirectError::OtherHost) }
}

/// The port of a URL, or the scheme's default.
pub fn port(url: &Uri) -> Option<u16> {
    url.port_u16().or_else(|| match url.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        Some(scheme) if *scheme == Scheme::HTTP => Some(80),
        _ => None,
    })
}

/// Whether it names the gateway's own machine.
pub fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    // RFC 6761, 6.3: every name under `localhost`. The unspecified address connects here, too.
    let is_own = |ip: std::net::IpAddr| ip.is_loopback() || ip.is_unspecified();
    host == "localhost"
        || host.ends_with(".localhost")
        || bare.parse().is_ok_and(|ip: std::net::IpAddr| is_own(ip.to_canonical()))
}

fn has_scheme(location: &str) -> bool {
    location.split(['/', '?']).next().is_some_and(|first| first.contains(':'))
}

/// Resolves `location` relative to `path`; dot segments are left to the server.
fn resolve(path: &str, location: &str) -> String {
    match location.as_bytes().first() {
        Some(b'/') => location.to_owned(),
        Some(b'?') => format!("{path}{location}"),
        _ => format!("{}{location}", &path[..=path.rfind('/').unwrap_or(0)]),
    }
}

fn is_same_place(from: &Uri, to: &Uri) -> bool {
    let has_user =
        |url: &Uri| url.authority().map(Authority::as_str).is_some_and(|a| a.contains('@'));
    let (Some(host), Some(other)) = (from.host(), to.host()) else { return false };
    if !host.eq_ignore_ascii_case(other) || has_user(to) {
        return false;
    }
    if from.scheme() == to.scheme() {
        return port(from) == port(to);
    }
    // From http to https, each on its default port: only safer than what was asked for.
    from.scheme() == Some(&Scheme::HTTP)
        && to.scheme() == Some(&Scheme::HTTPS)
        && port(from) == Some(80)
        && port(to) == Some(443)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirected(from: &str, location: &str) -> Result<String, RedirectError> {
        let location = HeaderValue::from_str(location).unwrap();
        redirect(&from.parse().unwrap(), Some(&location)).map(|uri| uri.to_string())
    }

    #[test]
    fn only_redirects_to_the_same_place_are_followed() {
        let from = "https://id.shop.example/a/jwks.json?x=1";
        for (location, to) in [
            ("/keys", "https://id.shop.example/keys"),
            ("keys?v=2", "https://id.shop.example/a/keys?v=2"),
            ("?v=2", "https://id.shop.example/a/jwks.json?v=2"),
            ("https://ID.shop.example/keys#top", "https://ID.shop.example/keys"),
            ("https://id.shop.example:443/keys", "https://id.shop.example:443/keys"),
            ("//id.shop.example/keys", "https://id.shop.example/keys"),
        ] {
            assert_eq!(redirected(from, location).as_deref(), Ok(to), "{location}");
        }
        for location in [
            "https://evil.example/keys",
            "//evil.example/keys",
            "http://id.shop.example/keys",
            "https://id.shop.example:8443/keys",
            "https://id.shop.example@evil.example/",
            "https://user@id.shop.example/",
            "file:///etc/passwd",
            "ftp://id.shop.example/keys",
        ] {
            assert!(redirected(from, location).is_err(), "{location}");
        }
        assert_eq!(redirect(&from.parse().unwrap(), None), Err(RedirectError::NoTarget));
    }

    #[test]
    fn a_redirect_to_https_on_the_same_host_is_followed() {
        let to = "https://id.shop.example/keys";
        assert_eq!(redirected("http://id.shop.example/keys", to).as_deref(), Ok(to));
        assert!(redirected("http://id.shop.example:8080/keys", to).is_err());
    }

    #[test]
    fn knows_ports_and_the_own_machine() {
        let url = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(port(&url("https://a/")), Some(443));
        assert_eq!(port(&url("http://a/")), Some(80));
        assert_eq!(port(&url("http://a:81/")), Some(81));
        for own in [
            "http://localhost:1/",
            "http://LocalHost./",
            "http://id.localhost/",
            "http://127.0.0.9/",
            "http://0.0.0.0/",
            "http://[::1]:80/",
            "http://[::ffff:127.0.0.1]/",
        ] {
            assert!(is_loopback(&url(own)), "{own}");
        }
        for other in ["http://127.0.0.1.example/", "http://notlocalhost/", "http://10.0.0.1/"] {
            assert!(!is_loopback(&url(other)), "{other}");
        }
    }
}
