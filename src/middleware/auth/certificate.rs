//! The identity in a verified client certificate. Pure.
//!
//! It is the SPIFFE ID, else the first DNS name, else the first other URI, else the subject in RFC
//! 4514 form: most specific part first, with escapes so that no value looks like another part.

use std::fmt::Write as _;

use rustls_pki_types::CertificateDer;
use smallvec::SmallVec;
use webpki::EndEntityCert;

use crate::http::der::{OBJECT_IDENTIFIER, SEQUENCE, SET, element, tagged};

/// A pattern for a name: `*` matches any characters, also none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Box<str>);

/// All names of a certificate that a [`Pattern`] may match, the principal's first. `None` if `der`
/// is no certificate, or names nobody, or several workloads: a client with more than one SPIFFE ID
/// must not be admitted by one and known by another (X.509-SVID 2).
pub fn names(der: &[u8]) -> Option<Vec<Box<str>>> {
    let der = CertificateDer::from(der);
    let certificate = EndEntityCert::try_from(&der).ok()?;
    let (spiffe, uris): (Vec<_>, Vec<_>) =
        certificate.valid_uri_names().partition(|name| name.starts_with("spiffe://"));
    if spiffe.len() > 1 {
        return None;
    }
    let mut names: Vec<Box<str>> = spiffe.into_iter().map(Box::from).collect();
    names.extend(certificate.valid_dns_names().map(Box::from));
    names.extend(uris.into_iter().map(Box::from));
    names.extend(distinguished_name(certificate.subject()).map(String::into_boxed_str));
    (!names.is_empty()).then_some(names)
}

// === impl Pattern ===

impl Pattern {
    /// A pattern as written in the configuration.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    /// Whether it matches the whole of `name`.
    pub fn takes(&self, name: &str) -> bool {
        let Some((start, rest)) = self.0.split_once('*') else { return *self.0 == *name };
        let Some(mut name) = name.strip_prefix(start) else { return false };
        let mut parts: SmallVec<[&str; 4]> = rest.split('*').collect();
        let end = parts.pop().unwrap_or_default();
        for part in parts {
            // The leftmost match leaves the most for what follows.
            let Some(at) = name.find(part) else { return false };
            name = &name[at + part.len()..];
        }
        name.ends_with(end)
    }
}

/// The content of a `Name` (RFC 5280, 4.1.2.4) in RFC 4514 form; `None` if empty or malformed.
fn distinguished_name(mut der: &[u8]) -> Option<String> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let mut set = tagged(&mut der, SET)?;
        let mut part = String::new();
        while !set.is_empty() {
            let mut pair = tagged(&mut set, SEQUENCE)?;
            let kind = tagged(&mut pair, OBJECT_IDENTIFIER)?;
            let (tag, value) = element(&mut pair)?;
            let joint = if part.is_empty() { "" } else { "+" };
            write!(part, "{joint}{}={}", kind_name(kind), escaped(&text(tag, value)?)).ok()?;
        }
        parts.push(part);
    }
    parts.reverse();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// The short name of RFC 4514, 3; for others the dotted form.
fn kind_name(oid: &[u8]) -> String {
    let known = match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "STREET",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        _ => return dotted(oid),
    };
    known.to_owned()
}

fn dotted(oid: &[u8]) -> String {
    let mut out = String::new();
    let mut number: u64 = 0;
    for &byte in oid {
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            let written = if out.is_empty() {
                let first = (number / 40).min(2);
                write!(out, "{first}.{}", number - first * 40)
            } else {
                write!(out, ".{number}")
            };
            // Writing to a string cannot fail.
            written.unwrap_or_default();
            number = 0;
        }
    }
    out
}

/// A directory string; `None` for other kinds of value.
fn text(tag: u8, value: &[u8]) -> Option<String> {
    match tag {
        // UTF8String, NumericString, PrintableString, IA5String.
        0x0c | 0x12 | 0x13 | 0x16 => String::from_utf8(value.to_vec()).ok(),
        // TeletexString, read as Latin-1, as everybody does.
        0x14 => Some(value.iter().copied().map(char::from).collect()),
        // BMPString.
        0x1e => {
            let (units, rest) = value.as_chunks::<2>();
            let units: Vec<u16> = units.iter().map(|unit| u16::from_be_bytes(*unit)).collect();
            rest.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
        }
        _ => None,
    }
}

/// RFC 4514, 2.4.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (at, c) in value.chars().enumerate() {
        let is_special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=')
            || (c == ' ' && (at == 0 || at == last))
            || (c == '#' && at == 0);
        if is_special {
            out.push('\\');
            out.push(c);
        } else if c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                // Writing to a string cannot fail.
                write!(out, "\\{byte:02x}").unwrap_or_default();
            }
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, SanType, string::Ia5String,
    };

    use super::*;

    fn certificate(sans: Vec<SanType>, subject: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(Ia5String::try_from(text).unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(Ia5String::try_from(text).unwrap())
    }

    #[test]
    fn a_spiffe_id_goes_before_a_san_and_a_san_before_the_subject() {
        let subject = [(DnType::OrganizationName, "Shop"), (DnType::CommonName, "alice")];
        let all = certificate(
            vec![dns("a.example"), uri("https://x/y"), uri("spiffe://shop/cart")],
            &subject,
        );
        assert_eq!(
            names(&all).unwrap(),
            ["spiffe://shop/cart", "a.example", "https://x/y", "CN=alice,O=Shop"].map(Box::from)
        );
        let two = vec![uri("spiffe://other/b"), uri("spiffe://shop/a"), dns("a.example")];
        assert_eq!(names(&certificate(two, &subject)), None, "one of them is not ours to choose");
        let named = certificate(vec![uri("https://x/y"), dns("a.example")], &subject);
        assert_eq!(&*names(&named).unwrap()[0], "a.example");
        assert_eq!(&*names(&certificate(vec![], &subject)).unwrap()[0], "CN=alice,O=Shop");
        assert_eq!(names(&certificate(vec![], &[])), None);
        assert_eq!(names(b"no certificate"), None);
    }

    #[test]
    fn a_subject_cannot_pretend_to_have_other_parts() {
        let subject = [(DnType::CommonName, "alice,O=Shop"), (DnType::CountryName, "DE")];
        let written = &names(&certificate(vec![], &subject)).unwrap()[0];
        assert_eq!(&**written, "C=DE,CN=alice\\,O\\=Shop");
        assert_eq!(escaped(" #a\n "), "\\ #a\\0a\\ ");
        assert_eq!(escaped("#é"), "\\#é");
        assert_eq!(dotted(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1]), "1.2.840.113549.1.9.1");
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, name, takes) in [
            ("spiffe://shop/*", "spiffe://shop/cart", true),
            ("spiffe://shop/*", "spiffe://shop/", true),
            ("spiffe://shop/*", "spiffe://shopping/cart", false),
            ("spiffe://shop/*", "https://spiffe://shop/cart", false),
            ("*.example", "a.example", true),
            ("*.example", "a.example.evil", false),
            ("a*b*c", "abc", true),
            ("a*b*c", "aXbXc", true),
            ("a*b*c", "acb", false),
            ("a*bc", "abcbc", true),
            ("aa*aa", "aaa", false),
            ("*", "anything", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(Pattern::new(pattern).takes(name), takes, "{pattern} {name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>, pattern: String, name: String) {
            drop(names(&bytes));
            drop(distinguished_name(&bytes));
            Pattern::new(pattern).takes(&name);
        }
    }
}
