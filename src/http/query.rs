//! Reads a query and a `Cookie` field. Pure; borrows if nothing is escaped.

use std::borrow::Cow;

/// The values of `name` in `query`, in order, decoded: `%XX` and `+`, as forms encode them.
pub fn values<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    pairs(query).filter(move |(key, _)| decode(key) == name).map(|(_, value)| decode(value))
}

/// The first cookie with this name in one `Cookie` field, without quotation marks.
pub fn cookie<'a>(field: &'a str, name: &str) -> Option<&'a str> {
    let value = field.split(';').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key.trim() == name).then_some(value.trim())
    })?;
    Some(value.strip_prefix('"').and_then(|open| open.strip_suffix('"')).unwrap_or(value))
}

/// `query` without the parameters with these names.
pub fn without<'a>(query: &'a str, names: &[Box<str>]) -> Cow<'a, str> {
    if !query.split('&').any(|pair| is_among(pair, names)) {
        return Cow::Borrowed(query);
    }
    let kept = query.split('&').filter(|pair| !is_among(pair, names));
    Cow::Owned(kept.collect::<Vec<_>>().join("&"))
}

/// `query` with the values of these names omitted.
pub fn redacted<'a>(query: &'a str, names: &[Box<str>]) -> Cow<'a, str> {
    let is_hidden = |pair: &str| is_among(pair, names);
    if !query.split('&').any(is_hidden) {
        return Cow::Borrowed(query);
    }
    let shown = query.split('&').map(|pair| match pair.split_once('=') {
        Some((name, _)) if is_hidden(pair) => Cow::Owned(format!("{name}=[redacted]")),
        _ => Cow::Borrowed(pair),
    });
    Cow::Owned(shown.collect::<Vec<_>>().join("&"))
}

/// Whether the parameter `pair` has one of these names.
fn is_among(pair: &str, names: &[Box<str>]) -> bool {
    let name = decode(pair.split('=').next().unwrap_or_default());
    names.iter().any(|it| **it == *name)
}

fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Decodes the `%XX` escapes of `text`; a `+` is kept.
pub fn unescape(text: &str) -> Cow<'_, str> {
    replace(text, b'+')
}

fn decode(text: &str) -> Cow<'_, str> {
    replace(text, b' ')
}

/// An invalid escape is kept literally; bytes that are not UTF-8 become U+FFFD.
fn replace(text: &str, plus: u8) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' { escape(bytes.get(at + 1..at + 3)) } else { None };
        at += if escaped.is_some() { 3 } else { 1 };
        out.push(escaped.unwrap_or(if byte == b'+' { plus } else { byte }));
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

fn escape(digits: Option<&[u8]>) -> Option<u8> {
    let &[high, low] = digits? else { return None };
    let digit = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(query: &str, name: &str) -> Vec<String> {
        values(query, name).map(Cow::into_owned).collect()
    }

    #[test]
    fn decodes_names_and_values() {
        assert_eq!(all("a=1&b=2&a=3", "a"), ["1", "3"]);
        assert_eq!(all("a=x%20y+z%2B&%61=%C3%A9", "a"), ["x y z+", "é"]);
        assert_eq!(all("a&b=&&a=b=c", "a"), ["", "b=c"]);
        assert_eq!(all("a=%&a=%4&a=%zz&a=%ff", "a"), ["%", "%4", "%zz", "\u{fffd}"]);
        assert!(all("", "").is_empty());
    }

    #[test]
    fn a_plus_is_a_space_in_forms_only() {
        assert_eq!(unescape("Basic%20YQ+/=="), "Basic YQ+/==");
    }

    #[test]
    fn hides_values_however_their_names_are_spelled() {
        let names = ["token".into()];
        let shown = |query| redacted(query, &names).into_owned();
        assert_eq!(shown("a=1&token=x.y&b"), "a=1&token=[redacted]&b");
        assert_eq!(shown("%74oken=x=y&token&token="), "%74oken=[redacted]&token&token=[redacted]");
        assert!(matches!(redacted("a=token&tokens=1", &names), Cow::Borrowed(_)));
    }

    #[test]
    fn finds_cookies() {
        assert_eq!(cookie("a=1; sid=\"x y\"; b=2", "sid"), Some("x y"));
        assert_eq!(cookie("xsid=1;sid=2;sid=3", "sid"), Some("2"));
        assert_eq!(cookie("sid", "sid"), None);
        assert_eq!(cookie("sid=\"", "sid"), Some("\""));
    }

    proptest! {
        #[test]
        fn any_text_never_panics(query: String, name: String) {
            let _values = all(&query, &name);
            let _cookie = cookie(&query, &name);
        }
    }
}
