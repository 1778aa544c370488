//! Fields that belong to one connection and are never passed on (RFC 9110, 7.6.1).

use http::{HeaderMap, HeaderName, header};

use crate::http::names;

/// Removes the hop-by-hop fields, and those that `Connection` lists.
pub fn strip(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .filter(|name| *name != header::HOST)
            .collect();
        for name in listed {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    for name in [
        names::KEEP_ALIVE,
        names::PROXY_CONNECTION,
        header::TE,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        names::HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
}
