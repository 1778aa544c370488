//! The rules for events.

use proptest::prelude::*;

use super::*;
use crate::events::event::{Attribute, Event};

fn builder(attributes: &[(&str, &str)]) -> Builder {
    let mut builder = Builder::new();
    for (name, value) in attributes {
        builder.set(name, Attribute::from(*value));
    }
    builder
}

fn minimal(more: &[(&str, &str)]) -> Builder {
    let required = [("specversion", "1.0"), ("id", "1"), ("source", "/shop"), ("type", "made")];
    builder(&[&required, more].concat())
}

fn finish(builder: Builder) -> Result<Event, Vec<String>> {
    builder
        .finish(Bytes::new(), || "new".to_owned())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_event_keeps_what_it_was_given() {
    let mut builder = minimal(&[
        ("time", "2026-11-26T10:00:00+01:00"),
        ("subject", "7"),
        ("datacontenttype", "text/plain; charset=utf-8"),
        ("dataschema", "https://shop.example/schema?v=1"),
        ("tenant", "acme"),
    ]);
    builder.set("count", Attribute::Integer(-3));
    builder.set("urgent", Attribute::Boolean(true));
    let event = builder.finish(Bytes::from_static(b"hello"), || unreachable!()).unwrap();
    assert_eq!((&*event.id, &*event.source, &*event.kind), ("1", "/shop", "made"));
    assert_eq!(event.time.as_deref(), Some("2026-11-26T10:00:00+01:00"));
    assert_eq!(event.key.as_deref(), Some(&b"7"[..]));
    assert_eq!(event.content_type.as_deref(), Some("text/plain; charset=utf-8"));
    assert_eq!(event.attributes.len(), 4);
    assert_eq!(event.bytes(), 137);
}

#[test]
fn what_it_asks_of_the_queue_stands_in_extensions() {
    let event = finish(minimal(&[
        ("subject", "7"),
        ("partitionkey", "customer-1"),
        ("sluicededup", "order-7"),
        ("sluicenotbefore", "2026-11-26T10:00:00Z"),
        ("sluiceexpiry", "2026-11-26T10:00:00.001Z"),
        ("correlationid", "c"),
        ("causationid", "d"),
    ]))
    .unwrap();
    assert_eq!(event.key.as_deref(), Some(&b"customer-1"[..]));
    assert_eq!(event.dedup_key.as_deref(), Some(&b"order-7"[..]));
    assert_eq!(event.not_before, Some(1_795_687_200_000));
    assert_eq!(event.expiry, Some(1_795_687_200_001));
    assert_eq!((event.correlation.as_deref(), event.causation.as_deref()), (Some("c"), Some("d")));
    let event = finish(minimal(&[("sluicenotbefore", "1969-01-01T00:00:00Z")])).unwrap();
    assert_eq!((event.not_before, event.key, event.dedup_key), (Some(0), None, None));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let mut builder = builder(&[
        ("specversion", "0.3"),
        ("type", ""),
        ("time", "yesterday"),
        ("Upper", "x"),
        ("data", "x"),
        ("sluicenotbefor", "2026-11-26T10:00:00Z"),
        ("twice", "x"),
        ("twice", "y"),
    ]);
    builder.set("subject", Attribute::Integer(7));
    assert_eq!(
        finish(builder).unwrap_err(),
        [
            "`Upper` is not the name of an attribute: names are lower-case letters and digits",
            "`data` is not an attribute",
            "`sluicenotbefor` is unknown: there are `sluicenotbefore`, `sluiceexpiry`, `sluicededup`",
            "`twice` is given twice",
            "`subject` must be a string",
            "`specversion` is not supported: this is CloudEvents 1.0",
            "`source` is missing: say where it happened, as a URI reference such as `/orders`",
            "`type` is empty: it is required: say something",
            "`time` is not a timestamp: such as `2027-01-31T12:00:00Z` (RFC 3339)",
        ]
    );
}

#[test]
fn each_attribute_is_held_to_its_rule() {
    for (name, value, expected) in [
        ("source", "a b", "`source` is not a URI reference: such as `/orders` or `urn:shop:1`"),
        ("source", "/50%", "`source` is not a URI reference: such as `/orders` or `urn:shop:1`"),
        ("dataschema", "/relative", "`dataschema` is not an absolute URI"),
        (
            "datacontenttype",
            "json",
            "`datacontenttype` is not a media type: such as `application/json`",
        ),
        ("subject", "a\u{0}b", "`subject` has a control character"),
        ("subject", "\u{ffff}", "`subject` has a control character"),
        ("tenant", "\u{85}", "`tenant` has a control character"),
        ("partitionkey", "", "`partitionkey` is empty: leave it out"),
        (
            "sluiceexpiry",
            "soon",
            "`sluiceexpiry` is not a timestamp: such as `2027-01-31T12:00:00Z` (RFC 3339)",
        ),
    ] {
        let mut builder = minimal(&[]);
        if name == "source" {
            builder.source = None;
        }
        builder.set(name, Attribute::from(value));
        assert_eq!(finish(builder).unwrap_err(), [expected]);
    }
    let late = [
        ("sluicenotbefore", "2026-11-26T10:00:00Z"),
        ("sluiceexpiry", "2026-11-26T11:00:00+01:00"),
    ];
    assert_eq!(
        finish(minimal(&late)).unwrap_err(),
        ["`sluiceexpiry` is not after `sluicenotbefore`: it would never be delivered"]
    );
}

#[test]
fn an_event_is_bounded() {
    let long = |bytes: usize| "x".repeat(bytes);
    for (name, most) in [
        ("subject", limits::TEXT_BYTES),
        ("datacontenttype", limits::NAME_BYTES),
        ("tenant", limits::EXTENSION_BYTES),
        ("partitionkey", limits::TEXT_BYTES),
    ] {
        let text = |bytes: usize| match name {
            "datacontenttype" => format!("a/{}", long(bytes - 2)),
            _ => long(bytes),
        };
        assert!(finish(minimal(&[(name, &text(most))])).is_ok(), "{name}");
        assert_eq!(
            finish(minimal(&[(name, &text(most + 1))])).unwrap_err(),
            [format!("`{name}` has more than {most} bytes")]
        );
    }
    let mut builder = minimal(&[]);
    for n in 0..limits::EXTENSIONS + 10 {
        builder.set(&format!("n{n}"), Attribute::from("x"));
    }
    assert_eq!(finish(builder).unwrap_err(), ["has more than 64 extensions"]);
    let mut builder = minimal(&[]);
    for n in 0..20 {
        builder.set(&format!("n{n}"), Attribute::Text(long(limits::EXTENSION_BYTES)));
    }
    assert_eq!(finish(builder).unwrap_err(), ["has more than 48 KiB of attributes"]);
    let mut builder = Builder::new();
    for n in 0..1000 {
        builder.set(&format!("N{n}"), Attribute::Boolean(true));
    }
    assert_eq!(finish(builder).unwrap_err().len(), limits::PROBLEMS);
    let error = finish(minimal(&[(&long(65), "")])).unwrap_err();
    assert_eq!(error, ["`xxxxxxxxxxxxxxxxxxxx` ..: the name has more than 64 bytes"]);
}

#[test]
fn an_event_without_an_id_gets_a_new_one() {
    let event = finish(builder(&[("specversion", "1.0"), ("source", "/"), ("type", "t")]));
    assert_eq!(event.unwrap().id, "new");
    let (one, other) = (new_id(1_795_687_200_000), new_id(1_795_687_200_001));
    assert!(one < other && one.to_string().starts_with("01a2174c-3500-7"), "{one}");
}

proptest! {
    #[test]
    fn any_attributes_never_panic(attributes: Vec<(String, String)>) {
        let mut builder = minimal(&[]);
        for (name, value) in attributes {
            builder.set(&name, Attribute::Text(value));
        }
        drop(finish(builder));
    }
}
