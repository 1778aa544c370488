//! A request's head in one piece of memory, kept in case it has to be sent again.
//!
//! Nearly every such copy is dropped unread. Cloning a header map takes a reference to each value
//! and each custom name, and releases every one again; bytes are copied and freed at once. The
//! price is parsing, which only the few copies pay that are read.
//!
//! Costs one allocation, which most heads fit in.

use bytes::{Buf, Bytes};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue, Method, Uri, Version, request::Parts};

/// A copy of a head, restored by [`unpack`](Self::unpack).
#[derive(Debug)]
pub struct PackedHead {
    method: Method,
    uri: Uri,
    version: Version,
    extensions: Extensions,
    /// For each field: [`Lengths`], name and value.
    fields: Vec<u8>,
}

/// What precedes a field: 32 bits for the length of the value, 31 for that of the name, and one for
/// whether the value is sensitive.
struct Lengths(u64);

/// Room for the fields of most requests: to measure them first would cost half as much as to copy
/// them. The largest size that the allocator calls small.
const ROOM: usize = 1024;

// === impl PackedHead ===

impl PackedHead {
    /// A copy of `head`.
    pub fn of(head: &Parts) -> Self {
        Self {
            method: head.method.clone(),
            uri: head.uri.clone(),
            version: head.version,
            extensions: head.extensions.clone(),
            fields: pack(&head.headers),
        }
    }

    /// Restores the head: equal to the original, with fields of one name in their order.
    pub fn unpack(&self) -> Parts {
        let (mut head, ()) = http::Request::new(()).into_parts();
        head.method = self.method.clone();
        head.uri = self.uri.clone();
        head.version = self.version;
        head.extensions = self.extensions.clone();
        head.headers = unpack(Bytes::copy_from_slice(&self.fields));
        head
    }
}

fn pack(headers: &HeaderMap) -> Vec<u8> {
    if headers.is_empty() {
        return Vec::new();
    }
    let mut fields = Vec::with_capacity(ROOM);
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        fields.extend_from_slice(&Lengths::of(name, value).0.to_ne_bytes());
        fields.extend_from_slice(name);
        fields.extend_from_slice(value.as_bytes());
    }
    fields
}

fn unpack(mut fields: Bytes) -> HeaderMap {
    let mut headers = HeaderMap::new();
    while let Some((name, value)) = next(&mut fields) {
        headers.append(name, value);
    }
    headers
}

/// The next field. What `pack` wrote can always be read back: name and value were valid before.
fn next(fields: &mut Bytes) -> Option<(HeaderName, HeaderValue)> {
    let lengths = Lengths(fields.try_get_u64_ne().ok()?);
    let name = HeaderName::from_bytes(&fields.split_to(lengths.name()?)).ok()?;
    let mut value = HeaderValue::from_maybe_shared(fields.split_to(lengths.value()?)).ok()?;
    value.set_sensitive(lengths.is_sensitive());
    Some((name, value))
}

// === impl Lengths ===

impl Lengths {
    /// No head comes near 2 GiB: listeners and upstream settings limit it.
    fn of(name: &[u8], value: &HeaderValue) -> Self {
        let bits = |length| u64::try_from(length).unwrap_or(u64::MAX);
        let sensitive = u64::from(value.is_sensitive());
        Self(bits(value.len()) | bits(name.len()) << 32 | sensitive << 63)
    }

    fn name(&self) -> Option<usize> {
        usize::try_from((self.0 >> 32) & 0x7fff_ffff).ok()
    }

    fn value(&self) -> Option<usize> {
        usize::try_from(self.0 & 0xffff_ffff).ok()
    }

    fn is_sensitive(&self) -> bool {
        self.0 >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn head(fields: &[(&str, &[u8])]) -> Parts {
        let mut builder = http::Request::post("http://a.example/b?c").version(Version::HTTP_2);
        for (name, value) in fields {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap().into_parts().0
    }

    fn again(head: &Parts) -> Parts {
        PackedHead::of(head).unpack()
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let mut head = head(&[("host", b"a.example"), ("x-empty", b""), ("x-latin", b"caf\xe9")]);
        head.extensions.insert(hyper::ext::Protocol::from_static("websocket"));
        let again = again(&head);
        assert_eq!(again.method, head.method);
        assert_eq!(again.uri, head.uri);
        assert_eq!(again.version, head.version);
        assert_eq!(again.headers, head.headers);
        assert!(again.extensions.get::<hyper::ext::Protocol>().is_some());
    }

    #[test]
    fn fields_of_one_name_keep_their_order() {
        let head = head(&[("x-a", b"1"), ("x-b", b"2"), ("x-a", b"3"), ("x-a", b"")]);
        let again = again(&head).headers;
        let values: Vec<_> = again.get_all("x-a").iter().collect();
        assert_eq!(values, ["1", "3", ""]);
    }

    #[test]
    fn what_is_sensitive_stays_so() {
        let mut head = head(&[("authorization", b"Bearer secret"), ("x-a", b"1")]);
        head.headers.get_mut("authorization").unwrap().set_sensitive(true);
        let again = again(&head).headers;
        assert!(again["authorization"].is_sensitive());
        assert!(!again["x-a"].is_sensitive());
    }

    #[test]
    fn no_fields_are_no_memory() {
        let head = head(&[]);
        assert!(PackedHead::of(&head).fields.is_empty());
        assert!(again(&head).headers.is_empty());
    }

    proptest! {
        #[test]
        fn any_fields_come_back(
            fields in vec(("[a-z][a-z0-9_-]{0,40}", vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..], 0..300)), 0..30)
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                let value = HeaderValue::from_bytes(value).unwrap();
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value);
            }
            prop_assert_eq!(unpack(pack(&headers).into()), headers);
        }
    }
}
