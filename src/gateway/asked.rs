//! The question behind `explain`: a request in an operator's words.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};

use crate::http::{ClientIp, Scheme, Target};

/// A request that somebody asks about.
#[derive(Clone, Debug)]
pub struct Asked {
    pub(super) method: Method,
    pub(super) scheme: Scheme,
    pub(super) host: String,
    pub(super) target: Target,
    pub(super) headers: HeaderMap,
    pub(super) client: Option<ClientIp>,
    pub(super) principal: Option<String>,
}

// === impl Asked ===

impl Asked {
    /// Parses a request. The error is a sentence for whoever typed it.
    ///
    /// `url` may be just a path, which is then asked for over plain HTTP; `headers` are
    /// `name: value` lines, and a `host` among them overrides the URL's.
    pub fn parse<'a>(
        method: &str,
        url: &str,
        headers: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes())
            .map_err(|_| format!("`{method}` is not an HTTP method"))?;
        let uri: Uri = url
            .parse()
            .map_err(|_| format!("`{url}` is not a URL; try http://shop.example.com/orders"))?;
        if method == Method::CONNECT {
            return Err("405 method-not-allowed: there are no tunnels for CONNECT".to_owned());
        }
        let scheme = match uri.scheme_str() {
            None => Scheme::Http,
            Some(scheme) => Scheme::parse(scheme)
                .ok_or_else(|| format!("`{scheme}` is not a scheme of requests; http or https"))?,
        };
        let headers = parse_headers(headers)?;
        let host = match headers.get(http::header::HOST) {
            Some(host) => host.to_str().map_err(|_| "Host is not text".to_owned())?.to_owned(),
            None => uri.authority().map_or_else(|| "localhost".to_owned(), ToString::to_string),
        };
        let host: http::uri::Authority =
            host.parse().map_err(|_| format!("`{host}` is not a host"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = Target::parse_str(path)
            .map_err(|error| format!("400 bad-target: `{path}`: {error}"))?;
        if target.is_asterisk() && method != Method::OPTIONS {
            return Err("400 bad-target: `*` is for OPTIONS only".to_owned());
        }
        let host = host.host().trim_end_matches('.').to_ascii_lowercase();
        Ok(Self { method, scheme, host, target, headers, client: None, principal: None })
    }

    /// Sets the client: its address, and the principal that `auth` would find.
    #[must_use]
    pub fn by(self, client: Option<IpAddr>, principal: Option<String>) -> Self {
        Self { client: client.map(|ip| ClientIp::Ip(ip.to_canonical())), principal, ..self }
    }
}

fn parse_headers<'a>(lines: impl IntoIterator<Item = &'a str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name: HeaderName = name.trim().parse().ok()?;
            let value: HeaderValue = value.trim().parse().ok()?;
            Some((name, value))
        });
        let (name, value) =
            parsed.ok_or_else(|| format!("`{line}` is not a header; write 'name: value'"))?;
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_route_is_asked_for_is_told_as_the_listener_refuses_it() {
        let told = |method, url| Asked::parse(method, url, []).unwrap_err();
        assert!(told("CONNECT", "http://a/").starts_with("405 method-not-allowed"));
        assert!(told("GET", "*").starts_with("400 bad-target"));
        assert!(told("GET", "/%00").starts_with("400 bad-target"));
        assert!(told("GET", "ftp://a/").contains("http or https"));
        assert!(Asked::parse("OPTIONS", "*", []).is_ok());
    }

    #[test]
    fn the_scheme_is_the_urls() {
        for (url, scheme) in [
            ("/orders", Scheme::Http),
            ("http://a/", Scheme::Http),
            ("HTTPS://a/", Scheme::Https),
            ("wss://a/", Scheme::Https),
        ] {
            assert_eq!(Asked::parse("GET", url, []).unwrap().scheme, scheme, "{url}");
        }
    }
}
