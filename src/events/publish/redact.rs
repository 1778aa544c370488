//! Replaces values in a body before it is stored. Pure.
//!
//! A body that is not JSON is not stored at all: what cannot be parsed cannot be redacted.
//! Everything that is not replaced stays byte for byte, except white space around the names on the
//! way.

use std::{borrow::Cow, fmt};

use serde::{
    Deserializer,
    de::{Deserialize, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Stands for a redacted value.
const REPLACED: &str = "\"[redacted]\"";

/// A JSON pointer (RFC 6901), split into its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(Box<[Box<str>]>);

/// A text that is not a JSON pointer to a part of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JSON pointer, such as `/card/number`")]
pub struct NotAPointer;

/// The body is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotJson;

/// The members of an object in order, as written; a name may occur twice.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The items of an array.
struct Items<'a>(Vec<&'a RawValue>);

// === impl Pointer ===

impl Pointer {
    /// Parses the form used in the configuration.
    pub fn parse(text: &str) -> Result<Self, NotAPointer> {
        let has_bad_escape = text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']));
        let parts = text.strip_prefix('/').filter(|_| !has_bad_escape).ok_or(NotAPointer)?;
        let part = |part: &str| part.replace("~1", "/").replace("~0", "~").into();
        Ok(Self(parts.split('/').map(part).collect()))
    }
}

/// Copies `json`, with a fixed text for each value that one of `pointers` names.
pub(super) fn redact(json: &[u8], pointers: &[Pointer]) -> Result<Vec<u8>, NotJson> {
    let whole: &RawValue = serde_json::from_slice(json).map_err(|_| NotJson)?;
    let paths: Vec<&[Box<str>]> = pointers.iter().map(|pointer| &*pointer.0).collect();
    let mut out = String::with_capacity(json.len());
    copy(whole, &paths, &mut out)?;
    Ok(out.into_bytes())
}

/// Recurses as deep as the longest path.
fn copy(value: &RawValue, paths: &[&[Box<str>]], out: &mut String) -> Result<(), NotJson> {
    let text = value.get();
    if paths.iter().any(|path| path.is_empty()) {
        out.push_str(REPLACED);
        return Ok(());
    }
    match text.as_bytes().first() {
        Some(b'{') if !paths.is_empty() => {
            let Members(members) = serde_json::from_str(text).map_err(|_| NotJson)?;
            out.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                out.push_str(&serde_json::to_string(name).map_err(|_| NotJson)?);
                out.push(':');
                copy(value, &below(paths, name), out)?;
            }
            out.push('}');
        }
        Some(b'[') if !paths.is_empty() => {
            let Items(items) = serde_json::from_str(text).map_err(|_| NotJson)?;
            out.push('[');
            for (index, value) in items.iter().enumerate() {
                out.push_str(if index == 0 { "" } else { "," });
                copy(value, &below(paths, itoa::Buffer::new().format(index)), out)?;
            }
            out.push(']');
        }
        _ => out.push_str(text),
    }
    Ok(())
}

/// The rest of the paths that continue with `name`.
fn below<'a>(paths: &[&'a [Box<str>]], name: &str) -> Vec<&'a [Box<str>]> {
    let rest = paths.iter().filter_map(|path| path.split_first());
    rest.filter(|(first, _)| ***first == *name).map(|(_, rest)| rest).collect()
}

// === impl Members ===

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

// === impl Items ===

impl<'de> Deserialize<'de> for Items<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Items<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    items.push(item);
                }
                Ok(Items(items))
            }
        }
        deserializer.deserialize_seq(Each)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redacted(json: &str, pointers: &[&str]) -> Result<String, NotJson> {
        let pointers: Vec<_> = pointers.iter().map(|it| Pointer::parse(it).unwrap()).collect();
        redact(json.as_bytes(), &pointers).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn what_a_pointer_names_is_replaced_and_nothing_else_changes() {
        for (json, pointers, expected) in [
            (
                r#"{"card":{"number":"4","cvc":1.10}}"#,
                &["/card/number"][..],
                r#"{"card":{"number":"[redacted]","cvc":1.10}}"#,
            ),
            (
                r#"{"a": 12345678901234567890.125 ,"b":[1,{"c":null}]}"#,
                &["/b/1/c", "/b/0"],
                r#"{"a":12345678901234567890.125,"b":["[redacted]",{"c":"[redacted]"}]}"#,
            ),
            (
                r#"{"card":{"number":4},"x":{ "y" : 1 }}"#,
                &["/card", "/card/number"],
                r#"{"card":"[redacted]","x":{ "y" : 1 }}"#,
            ),
            (
                r#"{"a/b":1,"m~n":2}"#,
                &["/a~1b", "/m~0n"],
                r#"{"a/b":"[redacted]","m~n":"[redacted]"}"#,
            ),
            (r#"{"a":1}"#, &["/b", "/a/c", "/0"], r#"{"a":1}"#),
            ("[]", &["/0"], "[]"),
            ("7", &["/a"], "7"),
            (r#"{"":{"":1}}"#, &["//"], r#"{"":{"":"[redacted]"}}"#),
        ] {
            assert_eq!(redacted(json, pointers).as_deref(), Ok(expected), "{json}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_or_in_disguise_does_not_get_through() {
        assert_eq!(
            redacted(r#"{"pin":1,"p\u0069n":2,"pin":{"x":3}}"#, &["/pin"]).unwrap(),
            r#"{"pin":"[redacted]","pin":"[redacted]","pin":"[redacted]"}"#
        );
    }

    #[test]
    fn what_is_no_json_is_not_passed_on() {
        for text in ["", "a=b", "{", r#"{"a":1}x"#, r#"{"a":}"#] {
            assert_eq!(redacted(text, &["/a"]), Err(NotJson), "{text}");
        }
    }

    #[test]
    fn a_pointer_begins_with_a_slash() {
        for text in ["", "a", "a/b", "/a~2", "/~"] {
            assert_eq!(Pointer::parse(text), Err(NotAPointer), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_secret_survives(path in prop::collection::vec("[a-c]{1,2}", 1..4), decoy: String) {
            let mut value = serde_json::json!("s3cret");
            for name in path.iter().rev() {
                value = serde_json::json!({ name.as_str(): value, "decoy": decoy });
            }
            let pointer = Pointer::parse(&format!("/{}", path.join("/"))).unwrap();
            let out = redact(value.to_string().as_bytes(), &[pointer]).unwrap();
            let text = String::from_utf8(out).unwrap();
            prop_assert!(!text.contains("s3cret") || decoy.contains("s3cret"));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }
}
