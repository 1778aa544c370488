//! Properties and tables of the words a configuration is written in.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    balancer::SourceAddress,
    http::selector::Part as SelectorPart,
    middleware::headers::{Part, Template},
    routing::route::{Host, Path, Segment},
};

fn help_of<T: Value + std::fmt::Debug>(text: &str) -> String {
    T::parse(text).unwrap_err().help.unwrap_or_default()
}

#[test]
fn durations_have_units() {
    for (text, seconds) in [("30s", 30), ("5m", 300), ("1h", 3600), ("7d", 604_800), ("0s", 0)] {
        assert_eq!(Duration::parse(text), Ok(Duration::from_secs(seconds)));
    }
    assert_eq!(Duration::parse("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(help_of::<Duration>("30"), "it needs a unit: `30s`");
    for text in ["", "s", "-1s", "1.5s", "1 s", "1S", "1w", "99999999999999999999s", "36501d"] {
        assert!(Duration::parse(text).is_err(), "{text}");
    }
}

#[test]
fn sizes_are_binary() {
    for (text, bytes) in
        [("0", 0), ("7B", 7), ("16KiB", 16 << 10), ("10MiB", 10 << 20), ("5GiB", 5 << 30)]
    {
        assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)));
    }
    assert_eq!(help_of::<ByteSize>("10MB"), "did you mean `10MiB`?");
    assert_eq!(help_of::<ByteSize>("10k"), "did you mean `10KiB`?");
    for text in ["", "MiB", "-1", "1.5MiB", "1 MiB", "1PiB", "18446744073709551615TiB"] {
        assert!(ByteSize::parse(text).is_err(), "{text}");
    }
}

#[test]
fn rates_and_percentages() {
    assert_eq!(Rate::parse("100/s"), Ok(Rate { count: 100, per: Duration::from_secs(1) }));
    assert_eq!(Rate::parse("6000/m"), Ok(Rate { count: 6000, per: Duration::from_mins(1) }));
    for text in ["", "100", "0/s", "-1/s", "1/", "/s", "1/w", "1 / s"] {
        assert!(Rate::parse(text).is_err(), "{text}");
    }
    assert_eq!(Percent::parse("20%"), Ok(Percent(0.2)));
    assert_eq!(Percent::parse("0.5%"), Ok(Percent(0.005)));
    for text in ["", "%", "20", "101%", "-1%", "nan%", "inf%", "1e1%", "+1%"] {
        assert!(Percent::parse(text).is_err(), "{text}");
    }
}

#[test]
fn secrets_are_never_inline() {
    let fault = SecretReference::parse("hunter2").unwrap_err();
    assert!(!format!("{fault:?}").contains("hunter2"));
    assert_eq!(
        SecretReference::parse("env:A_1"),
        Ok(SecretReference(Reference::Env("A_1".into())))
    );
    assert!(SecretReference::parse("env:").is_err() && SecretReference::parse("file:").is_err());
}

#[test]
fn endpoint_addresses() {
    let host = |host: &str, port| SourceAddress::Host { host: host.into(), port };
    assert_eq!(SourceAddress::parse("127.0.0.1:80"), Ok(host("127.0.0.1", 80)));
    assert_eq!(SourceAddress::parse("Orders.Internal.:80"), Ok(host("orders.internal", 80)));
    assert_eq!(SourceAddress::parse("[::1]:80"), Ok(host("::1", 80)));
    assert_eq!(SourceAddress::parse("unix:/a"), Ok(SourceAddress::Unix("/a".into())));
    assert_eq!(SourceAddress::parse("srv:_a._tcp.b"), Ok(SourceAddress::Srv("_a._tcp.b".into())));
    for text in ["", ":80", "a", "a:0", "a:65536", "a b:1", "[a]:1", "::1:80", "unix:", "srv:"] {
        assert!(SourceAddress::parse(text).is_err(), "{text}");
    }
}

#[test]
fn hosts_are_exact_or_one_wildcard() {
    assert_eq!(Host::parse("Shop.Example.com."), Ok(Host::Exact("shop.example.com".into())));
    assert_eq!(Host::parse("*.Example.com"), Ok(Host::Suffix(".example.com".into())));
    for text in ["", "*", "*.", "*a.com", "a.*.com", "a..b", "a:80", "a/b", ".a"] {
        assert!(Host::parse(text).is_err(), "{text}");
    }
}

#[test]
fn path_templates() {
    let exact = |text: &str| match path_template(text) {
        Ok(Path::Exact(path)) => path.into_string(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(exact("/"), "/");
    assert_eq!(exact("/orders/"), "/orders/");
    // The form of normalised targets: unreserved characters decoded, other escapes in capitals.
    assert_eq!(exact("/%7euser/a%2fb"), "/~user/a%2Fb");
    match path_template("/orders/{id}/{*rest}") {
        Ok(Path::Template(segments)) => assert_eq!(
            segments,
            [
                Segment::Literal("orders".into()),
                Segment::Name("id".into()),
                Segment::Rest("rest".into()),
            ]
        ),
        other => panic!("{other:?}"),
    }
    for text in [
        "", "a", "/{", "/{}", "/{a", "/a{b}", "/{*a}/b", "/{a}/{a}", "/a//b", "/./a", "/é", "/%",
        "/%4", "/%zz", "/%00", "/a b", "/a#b",
    ] {
        assert!(path_template(text).is_err(), "{text}");
    }
}

#[test]
fn templates_use_what_the_path_names() {
    let params: [ParamName; 1] = [Arc::from("id")];
    assert_eq!(
        template("/v2{path}?{query}&id={id}", &params),
        Ok(Template(vec![
            Part::Text("/v2".into()),
            Part::Path,
            Part::Text("?".into()),
            Part::Query,
            Part::Text("&id=".into()),
            Part::Param("id".into()),
        ]))
    );
    assert_eq!(
        template("/{ids}", &params).unwrap_err().help.as_deref(),
        Some("did you mean `id`?")
    );
    assert_eq!(location("{host}", &params), Ok(Template(vec![Part::Host])));
    assert!(template("{host}", &params).is_err(), "only a location has it");
    let named: [ParamName; 1] = [Arc::from("host")];
    assert_eq!(location("{host}", &named), Ok(Template(vec![Part::Param("host".into())])));
    for text in ["{", "}", "a}b", "{a", "{}", "{path}}"] {
        assert!(template(text, &params).is_err(), "{text}");
    }
}

#[test]
fn selectors() {
    assert_eq!(selector_part("client_ip"), Ok(SelectorPart::ClientIp));
    assert_eq!(selector_part("json:/a/b"), Ok(SelectorPart::Json("/a/b".into())));
    assert_eq!(selector_part("claim:a.b"), Ok(SelectorPart::Claim("a.b".into())));
    for text in ["", "header", "header:", "header:a b", "client_ip:x", "json:a", "json:/a~2", "x"] {
        assert!(selector_part(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn durations_written_are_durations_read(number in 0_u64..1_000_000, unit in 0_usize..5) {
        let (unit, millis) =
            [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)][unit];
        let expected = Some(Duration::from_millis(number * millis)).filter(|d| *d <= LONGEST);
        prop_assert_eq!(Duration::parse(&format!("{number}{unit}")).ok(), expected);
    }

    #[test]
    fn sizes_written_are_sizes_read(number in 0_u64..1024, unit in 0_usize..5) {
        let (unit, shift) = [("B", 0), ("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)][unit];
        prop_assert_eq!(ByteSize::parse(&format!("{number}{unit}")), Ok(ByteSize(number << shift)));
    }

    #[test]
    fn rates_written_are_rates_read(count in 1_u64.., unit in 0_usize..4) {
        let (unit, seconds) = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400)][unit];
        let expected = Rate { count, per: Duration::from_secs(seconds) };
        prop_assert_eq!(Rate::parse(&format!("{count}/{unit}")), Ok(expected));
    }

    #[test]
    fn percentages_are_shares(percent in 0_u32..=1000) {
        let Percent(share) = Percent::parse(&format!("{}.{}%", percent / 10, percent % 10)).unwrap();
        prop_assert!((share - f64::from(percent) / 1000.0).abs() < 1e-9);
    }

    #[test]
    fn any_text_is_a_value_or_a_fault(text in "\\PC{0,24}") {
        let params: [ParamName; 1] = [Arc::from("id")];
        // What is parsed is in its range; what is not has a message.
        if let Ok(duration) = Duration::parse(&text) {
            prop_assert!(duration <= LONGEST);
        }
        if let Ok(Percent(share)) = Percent::parse(&text) {
            prop_assert!((0.0..=1.0).contains(&share));
        }
        if let Err(fault) = ByteSize::parse(&text) {
            prop_assert!(!fault.message.is_empty());
        }
        if let Ok(Template(parts)) = template(&text, &params) {
            prop_assert!(parts.len() <= text.len());
        }
        if let Ok(Path::Exact(path)) = path_template(&text) {
            prop_assert!(path.starts_with('/') && path.is_ascii());
        }
        if let Ok(location) = location(&text, &params) {
            prop_assert!(!location.0.is_empty() && text.is_ascii());
        }
        let _ = (Rate::parse(&text).is_ok(), selector_part(&text).is_ok());
        let _ = (SourceAddress::parse(&text).is_ok(), Host::parse(&text).is_ok(), Origin::parse(&text).is_ok());
    }
}
