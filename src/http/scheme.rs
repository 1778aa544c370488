//! The scheme of a request: plain HTTP, or HTTP over TLS.
//!
//! It is that of the connection, unless a trusted proxy terminated the client's TLS and says so. The
//! `:scheme` of HTTP/2 and the scheme of an absolute target do not count: any client may write
//! anything there. Pure.

use std::fmt;

use http::HeaderValue;

use crate::http::Peer;

/// The scheme of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

// === impl Scheme ===

impl Scheme {
    /// The scheme of the connection.
    pub fn of(peer: &Peer) -> Self {
        if peer.tls.is_some() { Self::Https } else { Self::Http }
    }

    /// The scheme in a trusted proxy's `X-Forwarded-Proto`. Of a list this is the last element, as only
    /// that one was surely written by the proxy. `None` if it is not a known scheme.
    pub fn told(value: &HeaderValue) -> Option<Self> {
        Self::parse(value.to_str().ok()?.rsplit(',').next()?.trim())
    }

    /// Parses the scheme of a URL. `ws` and `wss` are accepted because some proxies write them.
    pub fn parse(text: &str) -> Option<Self> {
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        if is("https") || is("wss") {
            Some(Self::Https)
        } else if is("http") || is("ws") {
            Some(Self::Http)
        } else {
            None
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_word_is_the_last_of_its_list() {
        let told = |value| Scheme::told(&HeaderValue::from_bytes(value).unwrap());
        for (value, scheme) in [
            (&b"https"[..], Some(Scheme::Https)),
            (b"HTTP", Some(Scheme::Http)),
            (b"wss", Some(Scheme::Https)),
            (b"ws", Some(Scheme::Http)),
            (b"https, http", Some(Scheme::Http)),
            (b"http,https ", Some(Scheme::Https)),
            (b"https,", None),
            (b"", None),
            (b"ftp", None),
            (b"https\xff", None),
        ] {
            assert_eq!(told(value), scheme, "{value:?}");
        }
    }
}
