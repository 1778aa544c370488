//! Checks of JSON texts that are passed on unchanged.

/// Maximum nesting of lists and maps in JSON data. Consumers' parsers have limits too: an event
/// that all of them reject would be delivered again and again.
pub const MAX_DEPTH: usize = 100;

/// Checks that a JSON text can be passed on: every parser must be able to read all of it.
pub fn check(json: &str) -> Result<(), &'static str> {
    if is_plain(json.as_bytes()) {
        return Ok(());
    }
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

/// Whether there are no escapes, and too few brackets to be nested too deep. Nearly every text is so
/// plain, and counting takes a fraction of the time.
fn is_plain(json: &[u8]) -> bool {
    /// A count within a part fits into a byte, so that many bytes are looked at at once.
    const PART: usize = 128;
    let mut opened = 0;
    json.chunks(PART).all(|part| {
        let (mut brackets, mut has_escape) = (0_u8, false);
        for byte in part {
            brackets += u8::from(byte | 0x20 == b'{');
            has_escape |= *byte == b'\\';
        }
        opened += usize::from(brackets);
        !has_escape && opened <= MAX_DEPTH
    })
}

/// The rest after a string whose opening quote was removed. Escaped surrogates must come in pairs.
fn string(mut rest: &[u8]) -> Result<&[u8], &'static str> {
    const HALF: &str = "has half of a surrogate pair in a string";
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        rest = match &rest[at..] {
            [b'"', after @ ..] => return Ok(after),
            escape => match (code_unit(escape), escape.get(6..).unwrap_or_default()) {
                (None, _) => escape.get(2..).unwrap_or_default(),
                (Some(0xd800..=0xdbff), low) => match code_unit(low) {
                    Some(0xdc00..=0xdfff) => &low[6..],
                    _ => return Err(HALF),
                },
                (Some(0xdc00..=0xdfff), _) => return Err(HALF),
                (Some(_), after) => after,
            },
        };
    }
    Ok(&[])
}

/// What the escape `\uXXXX` at the beginning stands for.
fn code_unit(bytes: &[u8]) -> Option<u16> {
    let hex = bytes.strip_prefix(b"\\u")?.get(..4)?;
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
        let long = format!("\"{}\"", "x".repeat(1000));
        assert_eq!(check(&long), Ok(()));
        assert!(check(&long.replace("xxx", "\\ud800")).is_err());
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
        fn what_a_parser_reads_passes_and_nothing_else(text in r#"[\[\]"\\uUdD8cC0, 1]{0,24}"#) {
            if serde_json::from_str::<&serde_json::value::RawValue>(&text).is_ok() {
                let is_read = serde_json::from_str::<serde_json::Value>(&text).is_ok();
                prop_assert_eq!(check(&text).is_ok(), is_read, "{}", text);
            }
        }
    }
}
