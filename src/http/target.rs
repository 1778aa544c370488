//! The one normalised request target: matched, authorised, limited, logged and forwarded.
//!
//! In this order: percent-encoded unreserved characters are decoded and all other escapes get
//! upper-case digits (RFC 3986, 6.2.2), dot segments are removed (5.2.4), runs of `/` are merged.
//! Matching always uses the merged form, so that no spelling bypasses a guarded route; whether it
//! is also the form that is forwarded is the route's choice. Characters that a path may not contain
//! unescaped (RFC 3986, 3.3) are escaped, so that they have one form too. The query is unchanged.
//!
//! Cost: one pass over the path; a path that is already normal is kept by reference count.

use std::{borrow::Cow, fmt};

use bytes::Bytes;
use http::uri::PathAndQuery;

use super::names::STATUS_PATH;

/// Shown in place of each path below [`STATUS_PATH`].
const SHOWN_STATUS_PATH: &str = "/.sluice/requests/*";

/// A normalised request target.
///
/// Its path begins with `/`, except in `OPTIONS *`. It has no dot segment, no escaped unreserved
/// character and no NUL, and decodes to UTF-8. Normalising it again changes nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    original: PathAndQuery,
    /// Only if it differs.
    merged: Option<Box<PathAndQuery>>,
    has_encoded_separator: bool,
}

/// Why a target cannot be normalised: always answered with `bad-target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It begins with neither `/` nor `*`.
    #[error("the target does not begin with `/`")]
    NotAbsolute,
    /// `%` without two hexadecimal digits.
    #[error("the path holds an incomplete percent-escape")]
    BadEscape,
    /// `%00`.
    #[error("the path holds a NUL")]
    Nul,
    /// The decoded path is not UTF-8.
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    /// A character that no target may contain: a backslash, white space, a control character.
    #[error("the target holds a character that must be escaped")]
    BadCharacter,
    /// `#`.
    #[error("the target holds a fragment")]
    Fragment,
    /// `..;a`: one segment here, but the parent directory for servers that cut off parameters
    /// before they resolve dots.
    #[error("the path holds a dot segment with parameters")]
    DotParameters,
    /// Longer than a target may be.
    #[error("the target is too long")]
    TooLong,
}

// === impl Target ===

impl Target {
    /// Normalises a path and query as parsed by hyper.
    pub fn parse(raw: PathAndQuery) -> Result<Self, TargetError> {
        let path = raw.path();
        if path == "*" || is_normal(raw.as_str(), path) {
            return Ok(Self { original: raw, merged: None, has_encoded_separator: false });
        }
        let decoded = decode(path)?;
        let resolved = remove_dot_segments(&decoded.path)?;
        let merged = match merge_slashes(&resolved) {
            Some(merged) => Some(Box::new(join(&merged, raw.query())?)),
            None => None,
        };
        let is_original = resolved == raw.path() && raw.as_str().starts_with('/');
        let original = if is_original { raw } else { join(&resolved, raw.query())? };
        Ok(Self { original, merged, has_encoded_separator: decoded.has_separator })
    }

    /// Normalises a path and query given as text, for commands and tests.
    pub fn parse_str(raw: &str) -> Result<Self, TargetError> {
        if raw.contains('#') {
            return Err(TargetError::Fragment);
        }
        if raw.len() >= usize::from(u16::MAX) {
            return Err(TargetError::TooLong);
        }
        let raw = match raw.as_bytes().first() {
            None | Some(b'?') => Cow::Owned(format!("/{raw}")),
            Some(b'/') => Cow::Borrowed(raw),
            Some(_) if raw == "*" => Cow::Borrowed(raw),
            Some(_) => return Err(TargetError::NotAbsolute),
        };
        let raw = PathAndQuery::try_from(&*raw).map_err(|_| TargetError::BadCharacter)?;
        Self::parse(raw)
    }

    /// The normalised path, with runs of `/` kept.
    pub fn path(&self) -> &str {
        self.original.path()
    }

    /// The normalised path with runs of `/` merged: the form used for matching.
    pub fn merged(&self) -> &str {
        self.merged.as_deref().unwrap_or(&self.original).path()
    }

    /// The path for logs and traces: without the ID of a stored request, because on a route without
    /// `auth` that ID is all it takes to read its status.
    pub fn shown_path(&self) -> &str {
        if self.merged().starts_with(STATUS_PATH) { SHOWN_STATUS_PATH } else { self.path() }
    }

    /// The query without its `?`, unchanged.
    pub fn query(&self) -> Option<&str> {
        self.original.query()
    }

    /// The form to forward: with runs of `/` merged or kept. Counts a reference.
    pub fn path_and_query(&self, merge: bool) -> PathAndQuery {
        match &self.merged {
            Some(merged) if merge => (**merged).clone(),
            _ => self.original.clone(),
        }
    }

    /// Whether a segment contains `%2F` or `%5C`: a separator for servers that decode before they
    /// split, so a route must allow it explicitly.
    pub fn has_encoded_separator(&self) -> bool {
        self.has_encoded_separator
    }

    /// Whether it is the `*` of `OPTIONS *`, which no other method may use.
    pub fn is_asterisk(&self) -> bool {
        self.original.path() == "*"
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.original.as_str())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.original.as_str(), f)
    }
}

struct Decoded {
    path: String,
    has_separator: bool,
}

/// Whether it is normal already: no character to escape or decode, no dot segment, no run of `/`.
fn is_normal(whole: &str, path: &str) -> bool {
    let bytes = path.as_bytes();
    if whole.as_bytes().first() != Some(&b'/') {
        return false;
    }
    let mut after_slash = false;
    for &byte in bytes {
        // A leading dot takes the slow path, even in `.well-known`: that path decides.
        if !(byte == b'/' || is_path_char(byte)) || after_slash && matches!(byte, b'/' | b'.') {
            return false;
        }
        after_slash = byte == b'/';
    }
    true
}

/// Gives every character its single spelling.
fn decode(path: &str) -> Result<Decoded, TargetError> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    // The decoded bytes, kept only to be checked as UTF-8 once one of them was escaped.
    let mut meant = Vec::with_capacity(bytes.len());
    let mut has_separator = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        if byte != b'%' {
            meant.push(byte);
            push_bare(&mut out, byte)?;
            continue;
        }
        let digits = bytes.get(at..at + 2).ok_or(TargetError::BadEscape)?;
        at += 2;
        let value = hex(digits[0]).zip(hex(digits[1])).map(|(high, low)| high << 4 | low);
        let value = value.ok_or(TargetError::BadEscape)?;
        meant.push(value);
        match value {
            0 => return Err(TargetError::Nul),
            value if is_unreserved(value) => out.push(char::from(value)),
            value => {
                has_separator |= matches!(value, b'/' | b'\\');
                push_escaped(&mut out, value);
            }
        }
    }
    if std::str::from_utf8(&meant).is_err() {
        return Err(TargetError::NotUtf8);
    }
    Ok(Decoded { path: out, has_separator })
}

fn push_bare(out: &mut String, byte: u8) -> Result<(), TargetError> {
    match byte {
        b'#' => return Err(TargetError::Fragment),
        b'\\' | 0..=b' ' | 0x7f => return Err(TargetError::BadCharacter),
        b'/' => out.push('/'),
        byte if is_path_char(byte) => out.push(char::from(byte)),
        byte => push_escaped(out, byte),
    }
    Ok(())
}

fn push_escaped(out: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    out.push('%');
    out.push(DIGITS[usize::from(byte >> 4)]);
    out.push(DIGITS[usize::from(byte & 15)]);
}

/// RFC 3986, 5.2.4. An excess `..` stays at the root.
fn remove_dot_segments(path: &str) -> Result<String, TargetError> {
    if path.is_empty() {
        return Ok("/".to_owned());
    }
    let segments = path.strip_prefix('/').ok_or(TargetError::NotAbsolute)?;
    let mut kept = Vec::new();
    let mut ends_open = false;
    for segment in segments.split('/') {
        let (name, parameters) =
            segment.split_once(';').map_or((segment, false), |(n, _)| (n, true));
        ends_open = matches!(name, "." | "..");
        match name {
            "." | ".." if parameters => return Err(TargetError::DotParameters),
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    if ends_open {
        kept.push("");
    }
    let mut out = String::with_capacity(path.len());
    for segment in &kept {
        out.push('/');
        out.push_str(segment);
    }
    Ok(out)
}

/// The path with every run of `/` merged; `None` if it has none.
fn merge_slashes(path: &str) -> Option<String> {
    if !path.contains("//") {
        return None;
    }
    let mut merged = String::with_capacity(path.len());
    for char in path.chars() {
        if char != '/' || !merged.ends_with('/') {
            merged.push(char);
        }
    }
    Some(merged)
}

fn join(path: &str, query: Option<&str>) -> Result<PathAndQuery, TargetError> {
    let length = path.len() + query.map_or(0, |query| query.len() + 1);
    if length >= usize::from(u16::MAX) {
        return Err(TargetError::TooLong);
    }
    let mut whole = String::with_capacity(length);
    whole.push_str(path);
    if let Some(query) = query {
        whole.push('?');
        whole.push_str(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(whole)).map_err(|_| TargetError::BadCharacter)
}

/// The same character, escaped or not (RFC 3986, 2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// May appear unescaped in a segment: `pchar` of RFC 3986, 3.3, minus the escapes.
fn is_path_char(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(
            byte,
            b'!' | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
        )
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(raw: &str) -> Target {
        Target::parse_str(raw).unwrap_or_else(|error| panic!("{raw}: {error}"))
    }

    fn refused(raw: &str) -> TargetError {
        Target::parse_str(raw).expect_err(raw)
    }

    #[test]
    fn gives_every_spelling_one_form() {
        for (raw, normal) in [
            ("/", "/"),
            ("", "/"),
            ("?a=1", "/?a=1"),
            ("/a/b?c=%41//..", "/a/b?c=%41//.."),
            ("/%61%2d%7E", "/a-~"),
            ("/a%2fb%5c", "/a%2Fb%5C"),
            ("/%c3%a9", "/%C3%A9"),
            ("/é", "/%C3%A9"),
            ("/{a}", "/%7Ba%7D"),
            ("/%2e%2E/a", "/a"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/%252e%252e/", "/%252e%252e/"),
        ] {
            assert_eq!(target(raw).to_string(), normal, "{raw}");
        }
    }

    #[test]
    fn matches_the_merged_form_and_forwards_either() {
        let both = target("//a///b//?q=//");
        assert_eq!(both.path(), "//a///b//");
        assert_eq!(both.merged(), "/a/b/");
        assert_eq!(both.path_and_query(true).as_str(), "/a/b/?q=//");
        assert_eq!(both.path_and_query(false).as_str(), "//a///b//?q=//");
        // Dots first, slashes afterwards: `..` removes the empty segment.
        assert_eq!(target("/a//../b").merged(), "/a/b");
    }

    #[test]
    fn refuses_what_has_no_normal_form() {
        assert_eq!(refused("/%00"), TargetError::Nul);
        assert_eq!(refused("/%"), TargetError::BadEscape);
        assert_eq!(refused("/%4"), TargetError::BadEscape);
        assert_eq!(refused("/%zz"), TargetError::BadEscape);
        assert_eq!(refused("/%+1"), TargetError::BadEscape);
        assert_eq!(refused("/%ff"), TargetError::NotUtf8);
        assert_eq!(refused("/%c0%af"), TargetError::NotUtf8);
        assert_eq!(refused("/a\\b"), TargetError::BadCharacter);
        assert_eq!(refused("/a#b"), TargetError::Fragment);
        assert_eq!(refused("a"), TargetError::NotAbsolute);
        assert_eq!(refused("*a"), TargetError::NotAbsolute);
        assert_eq!(refused("/a/..;x/b"), TargetError::DotParameters);
        assert_eq!(refused("/%2e%2e;/b"), TargetError::DotParameters);
        assert_eq!(refused(&format!("/{}", "%C3é".repeat(12_000))), TargetError::NotUtf8);
        assert_eq!(refused(&format!("/{}", "é".repeat(20_000))), TargetError::TooLong);
    }

    #[test]
    fn tells_encoded_separators() {
        assert!(target("/a%2Fb").has_encoded_separator());
        assert!(target("/a%5cb").has_encoded_separator());
        assert!(!target("/a%252Fb").has_encoded_separator());
        assert!(!target("/a%20b?x=%2F").has_encoded_separator());
    }

    #[test]
    fn keeps_the_asterisk() {
        assert!(target("*").is_asterisk());
        assert_eq!(target("*").merged(), "*");
        assert!(!target("/*").is_asterisk());
    }

    #[test]
    fn a_normal_path_is_not_copied() {
        for text in ["/orders/42?x=%20", "/orders/a%20b"] {
            let raw = PathAndQuery::try_from(text).unwrap();
            let target = Target::parse(raw.clone()).unwrap();
            assert_eq!(target.path_and_query(true).as_str().as_ptr(), raw.as_str().as_ptr());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>) {
            if let Ok(raw) = PathAndQuery::try_from(&bytes[..]) {
                let _normal = Target::parse(raw.clone());
            }
        }

        #[test]
        fn normal_is_normal(raw in "/([a-c./;{é ]|%2[eEfF5]|%61|%[cC]3%[aA]9|%20){0,24}(\\?[a-z/%.]{0,5})?") {
            let Ok(once) = Target::parse_str(&raw) else { return Ok(()) };
            for merge in [false, true] {
                let form = once.path_and_query(merge);
                let twice = Target::parse(form.clone()).unwrap();
                prop_assert_eq!(twice.path_and_query(false), form.clone());
                prop_assert_eq!(twice.merged(), once.merged());
                // A separator in a segment that `..` removes was seen, and counts.
                prop_assert!(once.has_encoded_separator() || !twice.has_encoded_separator());
                prop_assert!(form.path().starts_with('/'));
                prop_assert!(!form.path().split('/').any(|segment| segment == "." || segment == ".."));
            }
            prop_assert!(!once.merged().contains("//"));
            prop_assert!(!once.merged().contains("%2E"));
            prop_assert_eq!(once.query(), raw.split_once('?').map(|(_, query)| query));
        }
    }
}
