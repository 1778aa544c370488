//! A request target and what is read of its query.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sluicegate::http::{query, target::Target};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = str::from_utf8(data) else { return };
    let _ = query::unescape(text);
    let _ = query::cookie(text, "a");
    let Ok(target) = Target::parse_str(text) else { return };
    if target.is_asterisk() {
        return;
    }
    // A target is normalised once and for all: whoever reads it again finds the same path.
    for merge in [false, true] {
        let forwarded = target.path_and_query(merge);
        let path = forwarded.path();
        assert!(path.starts_with('/'));
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
        assert!(!merge || !path.contains("//"), "{path}");
        let again = Target::parse(&forwarded);
        let again = again.expect("what is forwarded is a target").path_and_query(merge);
        assert_eq!(again, forwarded);
    }
    assert!(!target.merged().contains("//"));
    if let Some(text) = target.query() {
        let names = ["a".into(), "token".into()];
        for value in query::values(text, "a") {
            assert!(value.len() <= text.len() * 3);
        }
        assert_eq!(query::values(&query::without(text, &names), "a").count(), 0);
        let _ = query::redacted(text, &names);
    }
});
