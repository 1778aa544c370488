//! Tests of decoding and encoding events.

use proptest::prelude::*;

use super::*;
use crate::events::event::Attribute;

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

fn read_as(content_type: &str, body: &str) -> Result<Vec<Event>, Unreadable> {
    let body = Bytes::copy_from_slice(body.as_bytes());
    read(&headers(&[("content-type", content_type)]), &body, || "new".to_owned())
}

fn structured_event(body: &str) -> Event {
    read_as(STRUCTURED, body).unwrap().pop().unwrap()
}

fn problems(result: Result<Vec<Event>, Unreadable>) -> Vec<String> {
    match result.unwrap_err() {
        Unreadable::Invalid(problems) => {
            problems.iter().map(|(index, invalid)| format!("{index}: {invalid}")).collect()
        }
        other => vec![format!("{other:?}")],
    }
}

fn written(event: &Event) -> String {
    let mut out = Vec::new();
    structured::write(event, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn json_data_is_kept_byte_for_byte() {
    let body = r#"{"specversion" : "1.0", "id":"7","source":"/shop","type":"order.created",
        "data" : {"b": 1.50, "a":[1,  2], "b": "\u00e9"} , "tenant":"acme","n":-7,"yes":true,"no":null}"#;
    let event = structured_event(body);
    assert_eq!(&event.data[..], br#"{"b": 1.50, "a":[1,  2], "b": "\u00e9"}"#);
    let extensions = [
        ("tenant".to_owned(), Attribute::from("acme")),
        ("n".to_owned(), Attribute::Integer(-7)),
        ("yes".to_owned(), Attribute::Boolean(true)),
    ];
    assert_eq!(event.attributes, extensions);
    assert_eq!(
        written(&event),
        concat!(
            r#"{"specversion":"1.0","id":"7","source":"/shop","type":"order.created","#,
            r#""tenant":"acme","n":-7,"yes":true,"data":{"b": 1.50, "a":[1,  2], "b": "\u00e9"}}"#
        )
    );
    for value in ["null", "\"\"", "0", "false", "[]", " 1 "] {
        let body = body.replace(r#"{"b": 1.50, "a":[1,  2], "b": "\u00e9"}"#, value);
        assert_eq!(&structured_event(&body).data[..], value.trim().as_bytes());
    }
}

#[test]
fn data_of_other_kinds_becomes_what_it_stands_for() {
    let with = |members: &str| {
        read_as(
            STRUCTURED,
            &format!(r#"{{"specversion":"1.0","id":"1","source":"/","type":"t",{members}}}"#),
        )
    };
    let data = |members: &str| with(members).unwrap().pop().unwrap();
    let xml = r#""datacontenttype":"application/xml","data":"<a b=\"1\"/>""#;
    assert_eq!(&data(xml).data[..], b"<a b=\"1\"/>");
    assert!(written(&data(xml)).ends_with(&format!("{xml}}}")));
    let bytes = r#""datacontenttype":"application/pdf","data_base64":"AAH/""#;
    assert_eq!(&data(bytes).data[..], [0, 1, 255]);
    assert!(written(&data(bytes)).ends_with(&format!("{bytes}}}")));
    let latin = r#""datacontenttype":"text/plain; charset=iso-8859-1","data":"abc""#;
    assert!(written(&data(latin)).ends_with(r#""data_base64":"YWJj"}"#));
    let json = r#""datacontenttype":"application/vnd.shop+json","data":{"a":1}"#;
    assert!(written(&data(json)).ends_with(&format!("{json}}}")));
    // Data that only claims to be JSON must not break the reader's parser.
    let broken = r#""datacontenttype":"application/json","data_base64":"ew==""#;
    assert!(written(&data(broken)).ends_with(&format!("{broken}}}")));
    for (members, expected) in [
        (
            r#""datacontenttype":"text/plain","data":{"a":1}"#,
            "0: `data` is JSON, which `datacontenttype` does not say: write a string, \
             `data_base64`, or a JSON `datacontenttype`",
        ),
        (
            r#""data":1,"data_base64":"AA==""#,
            "0: `data_base64` is there beside `data`: write one of them",
        ),
        (r#""data_base64":"A""#, "0: `data_base64` is not a string of base64"),
        (r#""data_base64":7"#, "0: `data_base64` is not a string of base64"),
        (r#""data":"\ud800""#, "0: `data` has half of a surrogate pair in a string"),
        (r#""tenant":"\ud800""#, "0: `tenant` has half of a surrogate pair"),
        (r#""data":1,"data":2"#, "0: `data` is given twice"),
        (r#""id":"2""#, "0: `id` is given twice"),
        (r#""n":1.5"#, "0: `n` is not a whole number of 32 bits: write other numbers as strings"),
        (
            r#""n":2147483648"#,
            "0: `n` is not a whole number of 32 bits: write other numbers as strings",
        ),
        (
            r#""o":{}"#,
            "0: `o` must be a string, a whole number or a boolean: \
             what has a structure belongs into `data`",
        ),
    ] {
        assert_eq!(problems(with(members)), [expected], "{members}");
    }
}

#[test]
fn a_batch_tells_of_every_event_that_is_none() {
    let body = r#"[{"specversion":"1.0","id":"1","source":"/","type":"t"},
        {"specversion":"1.0","source":"/","data":[1]}, 7,
        {"specversion":"1.0","source":"/","type":"t","data":[1]}]"#;
    assert_eq!(
        problems(read_as(BATCH, body)),
        [
            "1: `type` is missing: say what happened, such as `order.created`",
            "2: the body is not what it says it is: invalid type: integer `7`, expected a JSON \
             object at line 1 column 1",
        ]
    );
    let fine = body.replace(r#""data":[1]}, 7,"#, r#""type":"t"},"#);
    let events = read_as("Application/CloudEvents-Batch+JSON; charset=utf-8", &fine).unwrap();
    let ids: Vec<&str> = events.iter().map(|event| &*event.id).collect();
    assert_eq!(ids, ["1", "new", "new"]);
    assert_eq!(&events[2].data[..], b"[1]");
    let escaped = fine.replace(r#""id":"1""#, r#""\u0069d":"a\\b""#);
    assert_eq!(read_as(BATCH, &escaped).unwrap()[0].id, "a\\b");
    assert_eq!(read_as(BATCH, "[]").unwrap(), []);
    let many = format!("[{}1]", "1,".repeat(MAX_BATCH));
    let expected = "the batch has 1001 events; at most 1000 are taken".to_owned();
    assert_eq!(read_as(BATCH, &many), Err(Unreadable::Malformed(expected)));
}

#[test]
fn binary_mode_reads_fields_and_decodes_them() {
    let fields = headers(&[
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20b%E2%82%AC%"),
        ("ce-source", "\"/shop\""),
        ("ce-type", "\"say \\\"hi\\\"\""),
        ("ce-tenant", "Zürich"),
        ("ce-count", "3"),
        ("content-type", "application/json"),
        ("x-other", "no"),
    ]);
    let body = Bytes::from_static(b"{\"a\": 1}");
    let event = read(&fields, &body, || unreachable!()).unwrap().pop().unwrap();
    assert_eq!((&*event.id, &*event.source, &*event.kind), ("a b€%", "/shop", "say \"hi\""));
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.attributes.len(), 2);
    assert_eq!(event.attributes[0], ("tenant".to_owned(), Attribute::from("Zürich")));
    assert_eq!(event.data, body);
    let mut wrong = fields;
    wrong.append("ce-id", http::HeaderValue::from_static("2"));
    wrong.append("ce-datacontenttype", http::HeaderValue::from_static("a/b"));
    wrong.append("ce-bad", http::HeaderValue::from_static("%FF"));
    wrong.append("ce-a-b", http::HeaderValue::from_static("x"));
    let mut found = problems(read(&wrong, &body, String::new));
    found.sort();
    assert_eq!(
        found,
        [
            "0: `a-b` is not the name of an attribute: names are lower-case letters and digits",
            "0: `bad` is not UTF-8 once it is decoded",
            "0: `ce-datacontenttype` is not read: in binary mode it is `Content-Type`",
            "0: `id` is given twice",
        ]
    );
}

#[test]
fn a_message_that_is_no_event_is_told_apart() {
    for (content_type, body, expected) in [
        ("application/json", "{}", Unreadable::MediaType("application/json".into())),
        (
            "application/cloudevents+avro",
            "",
            Unreadable::MediaType("application/cloudevents+avro".into()),
        ),
        (
            STRUCTURED,
            "{\n  \"id\": 1",
            Unreadable::Malformed(
                "the body is not what it says it is: EOF while parsing an object at line 2 column 9"
                    .into(),
            ),
        ),
        (
            STRUCTURED,
            "[]",
            Unreadable::Malformed(
                "the body is not what it says it is: invalid type: sequence, expected a JSON \
                 object at line 1 column 0"
                    .into(),
            ),
        ),
    ] {
        assert_eq!(read_as(content_type, body), Err(expected));
    }
}

#[test]
fn a_text_in_a_field_is_percent_encoded() {
    for (text, field) in [
        ("plain-1/2?x=#", "plain-1/2?x=#"),
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("say \"hi\"", "say%20%22hi%22"),
        ("Euro \u{20ac} \u{1f600}", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
        ("line\r\nbreak", "line%0D%0Abreak"),
    ] {
        assert_eq!(binary::encode(text.as_bytes()), field);
    }
}

fn attribute() -> impl Strategy<Value = Attribute> {
    prop_oneof![
        any::<bool>().prop_map(Attribute::Boolean),
        any::<i32>().prop_map(Attribute::Integer),
        "[ -~äé€\u{1f600}]{0,20}".prop_map(Attribute::Text),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let json = prop_oneof![
        Just(r#"{"a": [1, 2.50, "x\ud83d\ude00"]}"#.to_owned()),
        "[0-9]{1,9}".prop_map(|digits| format!("[{}]", digits.trim_start_matches('0').len())),
    ];
    let data = prop_oneof![
        Just((None, Bytes::new())),
        json.clone().prop_map(|json| (None, Bytes::from(json))),
        json.prop_map(|json| (Some("application/json"), Bytes::from(json))),
        any::<Vec<u8>>().prop_map(|bytes| (Some("application/octet-stream"), bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| (Some("text/plain"), bytes.into())),
        any::<Vec<u8>>().prop_map(|bytes| (Some("application/json"), bytes.into())),
        any::<String>().prop_map(|text| (Some("text/plain;charset=UTF-8"), text.into())),
    ];
    let extensions = prop::collection::btree_map("x[a-z0-9]{1,8}", attribute(), 0..5);
    let subject = prop::option::of("[ -~é]{1,20}");
    ("[!-~é ]{1,20}", "/[a-z:?#=]{0,20}", "[a-z.]{1,20}", subject, data, extensions).prop_map(
        |(id, source, kind, subject, (content_type, data), attributes)| Event {
            key: subject.clone().map(Bytes::from),
            id,
            source,
            kind,
            subject,
            content_type: content_type.map(str::to_owned),
            attributes: attributes.into_iter().collect(),
            data,
            ..Event::default()
        },
    )
}

/// As [`any_event`], with extensions for the queue.
fn any_demanding_event() -> impl Strategy<Value = Event> {
    let text = || prop::option::of("[!-~é]{1,20}");
    let moments = prop_oneof![
        Just((None, None)),
        (0..1_u64 << 40, 1..1_u64 << 40).prop_map(|(at, later)| (Some(at), Some(at + later))),
    ];
    (any_event(), [(); 5].map(|()| text()), moments).prop_map(
        |(event, [key, dedup, correlation, causation, trace], (not_before, expiry))| Event {
            key: key.map(Bytes::from).or(event.key),
            dedup_key: dedup.map(Bytes::from),
            correlation,
            causation,
            trace_context: trace,
            not_before,
            expiry,
            ..event
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(event in any_demanding_event()) {
        let text = written(&event);
        prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{}", text);
        prop_assert_eq!(structured_event(&text), event);
    }

    #[test]
    fn what_is_written_as_fields_is_read_back(event in any_demanding_event()) {
        let fields = binary::fields(&event);
        prop_assert!(fields.values().all(|value| value.to_str().is_ok()));
        let read = binary::event(&fields, event.data.clone(), String::new).unwrap();
        // Header fields are untyped: every attribute comes back as text.
        let text = |value: Attribute| Attribute::Text(match value {
            Attribute::Boolean(is) => is.to_string(),
            Attribute::Integer(number) => number.to_string(),
            Attribute::Text(text) => text,
        });
        let attributes = event.attributes.clone();
        let attributes = attributes.into_iter().map(|(name, value)| (name, text(value)));
        let mut read_back = read.clone();
        read_back.attributes.sort_by(|a, b| a.0.cmp(&b.0));
        let mut expected = Event { attributes: attributes.collect(), ..event };
        expected.attributes.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(read_back, expected);
    }

    #[test]
    fn any_bytes_never_panic(body: Vec<u8>, text in r#"[\[{"specversion:1.0idtyu\\, }\]]{0,60}"#) {
        for body in [Bytes::from(body), Bytes::from(text)] {
            for content_type in [STRUCTURED, BATCH, "text/plain"] {
                let fields = headers(&[("content-type", content_type), ("ce-id", "1")]);
                drop(read(&fields, &body, String::new));
            }
        }
    }

    #[test]
    fn any_field_never_panics(values: Vec<Vec<u8>>) {
        let mut fields = HeaderMap::new();
        for value in values {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                fields.append("ce-type", value.clone());
                fields.append("content-type", value);
            }
        }
        drop(read(&fields, &Bytes::new(), String::new));
    }
}
