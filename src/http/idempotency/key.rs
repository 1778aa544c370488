//! Extracts a request's idempotency key. Pure.

use http::{HeaderMap, HeaderName};

use super::MAX_KEY_BYTES;

/// Fields that are not one valid key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAKey {
    /// The value is not a key.
    Invalid,
    /// There is more than one.
    Several,
}

/// The key of a request with these fields: a string of structured fields (RFC 9651, 3.3.3), or bare
/// text. `None`: no key. An error: an invalid key, or several.
pub fn key(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Box<str>>, NotAKey> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(NotAKey::Several);
    }
    let text = value.to_str().map_err(|_| NotAKey::Invalid)?.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(rest) => unquote(rest)?,
        None if text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"') => text.to_owned(),
        None => return Err(NotAKey::Invalid),
    };
    if key.is_empty() || key.len() > MAX_KEY_BYTES {
        return Err(NotAKey::Invalid);
    }
    Ok(Some(key.into()))
}

/// The text before the closing quote, which must be the end.
fn unquote(text: &str) -> Result<String, NotAKey> {
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    loop {
        match characters.next().ok_or(NotAKey::Invalid)? {
            '"' => break,
            '\\' => match characters.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(NotAKey::Invalid),
            },
            other => key.push(other),
        }
    }
    if characters.next().is_none() { Ok(key) } else { Err(NotAKey::Invalid) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const NAME: HeaderName = HeaderName::from_static("idempotency-key");

    fn of(values: &[&str]) -> Result<Option<Box<str>>, NotAKey> {
        let values = values.iter().map(|it| (NAME, HeaderValue::from_str(it).unwrap()));
        key(&values.collect(), &NAME)
    }

    #[test]
    fn a_key_is_a_quoted_string_or_a_bare_text() {
        for (value, expected) in [
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (" \"a b\" ", "a b"),
            (r#""a\"b\\""#, r#"a"b\"#),
            ("a/b=c", "a/b=c"),
        ] {
            assert_eq!(of(&[value]).unwrap().as_deref(), Some(expected), "{value}");
        }
        assert_eq!(of(&[]), Ok(None));
    }

    #[test]
    fn what_is_no_key_is_refused_rather_than_guessed() {
        let long = "x".repeat(256);
        for value in ["", "\"\"", "\"a", "\"a\"b", "a b", "a\"b", r#""\a""#, r#""\"#, &long] {
            assert_eq!(of(&[value]), Err(NotAKey::Invalid), "{value}");
        }
        assert_eq!(of(&["a", "a"]), Err(NotAKey::Several), "which of them is meant nobody knows");
        let latin = HeaderValue::from_bytes(b"\xe9").unwrap();
        assert_eq!(key(&[(NAME, latin)].into_iter().collect(), &NAME), Err(NotAKey::Invalid));
    }

    proptest! {
        #[test]
        fn any_value_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let found = key(&[(NAME, value)].into_iter().collect(), &NAME);
                prop_assert!(!matches!(found, Ok(Some(key)) if key.is_empty()));
            }
        }
    }
}
