//! Checks of JSON texts that are passed on unchanged.

/// Maximum nesting of lists and maps in JSON data. Consumers' parsers have limits too: an event
/// that all of them reject would be delivered again and again.
pub const MAX_DEPTH: usize = 100;

/// Checks that a JSON text can be passed on: every parser must be able to read all of it.
pub fn check(json: &str) -> Result<(), &'static str> {
    let mut depth = 0_usize;
    let mut rest = json.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = match byte {
            b'{' | b'[' => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err("is nested more than 100 levels deep");
                }
                after
            }
            b'}' | b']' => {
                depth = depth.saturating_sub(1);
                after
            }
            b'"' => string(after)?,
            _ => after,
        };
    }
    Ok(())
}

/// Whether this is one JSON value that passes [`check`].
pub fn is_value(bytes: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(bytes)
        .is_ok_and(|raw| check(raw.get()).is_ok())
}

/// The rest after a string whose opening quote was removed. Escaped surrogates must come in pairs.
fn string(mut rest: &[u8]) -> Result<&[u8], &'static str> {
    let mut is_high = false;
    loop {
        let (escape, length) = match rest {
            [] => return Ok(rest),
            [b'\\', b'u', hex @ ..] => (hex.get(..4).and_then(code_unit), 6),
            [b'\\', ..] => (None, 2),
            _ => (None, 1),
        };
        let is_low = matches!(escape, Some(0xdc00..=0xdfff));
        if is_high != is_low {
            return Err("has half of a surrogate pair in a string");
        }
        is_high = matches!(escape, Some(0xd800..=0xdbff));
        let is_end = rest[0] == b'"';
        rest = rest.get(length..).unwrap_or_default();
        if is_end {
            return Ok(rest);
        }
    }
}

fn code_unit(hex: &[u8]) -> Option<u16> {
    u16::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_parser_might_refuse_is_found() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert_eq!(check(&nested(MAX_DEPTH)), Ok(()));
        assert!(check(&nested(MAX_DEPTH + 1)).is_err());
        assert_eq!(check(&format!("[{}0]", "[],".repeat(500))), Ok(()));
        for fine in [r#""\ud83d\ude00""#, r#""[[\"{""#, r#"{"a":"\\ud800"}"#, r#""\\""#, "1"] {
            assert_eq!(check(fine), Ok(()), "{fine}");
        }
        for broken in [
            r#""\ud83d""#,
            r#""\ude00""#,
            r#""\uD83Dx\uDE00""#,
            r#"["\ud83d\n"]"#,
            r#""\ud83d\ud83d""#,
        ] {
            assert!(check(broken).is_err(), "{broken}");
            assert!(!is_value(broken.as_bytes()), "{broken}");
        }
        assert!(
            is_value(b" {\"a\": 1} ") && !is_value(b"{") && !is_value(b"") && !is_value(b"1 2")
        );
    }

    proptest! {
        #[test]
        fn any_text_never_panics(text: String, bytes: Vec<u8>) {
            prop_assert!(check(&text).is_ok() || !text.is_empty());
            is_value(&bytes);
        }

        #[test]
        fn what_passes_is_read_by_a_parser(text in r#"[\[\]"\\uUdD8cC0, 1]{0,24}"#) {
            if is_value(text.as_bytes()) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
            }
        }
    }
}
