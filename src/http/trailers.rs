//! Which trailers may pass: none that would have been needed before the body (RFC 9110, 6.5.1).

use http::{HeaderMap, HeaderName, header};
use smallvec::SmallVec;

use crate::http::{identity::Identity, names};

/// Framing, routing, authentication and content: some recipients read them from a trailer and
/// others do not, so each of them would make two recipients disagree about one message.
const REFUSED: [HeaderName; 34] = [
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::EXPECT,
    header::EXPIRES,
    header::FORWARDED,
    header::HOST,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::VIA,
    header::WWW_AUTHENTICATE,
    names::KEEP_ALIVE,
    names::PROXY_CONNECTION,
    names::X_FORWARDED_FOR,
    names::X_FORWARDED_HOST,
    names::X_FORWARDED_PROTO,
];

/// Removes the fields that may not be in a trailer.
pub fn filter(trailers: &mut HeaderMap) {
    for name in &REFUSED {
        trailers.remove(name);
    }
}

/// Removes what a client may not say about itself, before or after the body.
pub fn filter_identity(trailers: &mut HeaderMap, identity: &Identity) {
    let refused: SmallVec<[HeaderName; 4]> =
        trailers.keys().filter(|name| identity.is_refused_in_trailer(name)).cloned().collect();
    for name in &refused {
        trailers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use http::HeaderValue;

    #[test]
    fn what_is_about_the_message_goes_and_the_rest_stays() {
        let mut trailers = HeaderMap::new();
        for name in ["content-length", "authorization", "host", "grpc-status", "x-checksum"] {
            trailers.insert(HeaderName::from_static(name), HeaderValue::from_static("0"));
        }
        filter(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-checksum"]);
    }
}
