//! Text with placeholders, expanded for one request. Pure.
//!
//! A client's value never changes the meaning of the text around it. It is percent-encoded so that
//! it cannot begin a query or fragment in the path, cannot begin another parameter in the query,
//! and cannot end a header field. Existing escapes are kept, so nothing is encoded twice (RFC 3986,
//! 2.4).

use std::sync::Arc;

use crate::http::{Context, context::Params};

/// Text with placeholders: `{host}`, `{path}`, `{query}` and the names of the route's path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(pub Vec<Part>);

/// A piece of a [`Template`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(Box<str>),
    /// `{host}`: the host asked for, in lower case and without its port.
    Host,
    /// `{path}`: the normalised path, with its leading slash.
    Path,
    /// `{query}`: the query without its `?`; empty if there is none.
    Query,
    /// `{name}` of the path template.
    Param(Arc<str>),
}

/// The values of the placeholders in one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Values<'a> {
    /// `{host}`; empty if there is none.
    pub host: &'a str,
    /// `{path}`.
    pub path: &'a str,
    /// `{query}`.
    pub query: Option<&'a str>,
    /// The names of the path template.
    pub params: Params<'a>,
}

/// The part of a URI reference that a value is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Authority,
    Path,
    // A value within the query, not the query as a whole.
    QueryValue,
    Query,
}

// === impl Template ===

impl Template {
    /// The text for one request: printable ASCII without white space, unless the template's own
    /// text contains something else. A name that is not among `values` is empty.
    ///
    /// A `?` or `&` in front of an empty `{query}` at the end is dropped too.
    pub fn render(&self, values: &Values<'_>) -> String {
        let mut out =
            String::with_capacity(values.path.len() + values.query.map_or(0, str::len) + 64);
        let mut place = Place::Path;
        for part in &self.0 {
            match part {
                Part::Text(text) => {
                    out.push_str(text);
                    if text.contains('?') {
                        place = Place::QueryValue;
                    }
                }
                Part::Host => {
                    let place = if out.ends_with("//") { Place::Authority } else { place };
                    encode(&mut out, values.host, place);
                }
                Part::Path => encode(&mut out, values.path, place),
                Part::Query => encode(&mut out, values.query.unwrap_or(""), Place::Query),
                Part::Param(name) => {
                    if let Some(value) = values.params.get(name) {
                        encode(&mut out, value, place);
                    }
                }
            }
        }
        let is_empty_query = values.query.is_none_or(str::is_empty);
        if is_empty_query && matches!(self.0.last(), Some(Part::Query)) && out.ends_with(['?', '&'])
        {
            out.pop();
        }
        out
    }

    /// The path and query to send upstream. A template with neither a `?` nor `{query}` keeps the
    /// client's query.
    pub fn render_target(&self, values: &Values<'_>) -> String {
        let mut out = self.render(values);
        if !out.starts_with('/') {
            out.insert(0, '/');
        }
        if let (Some(query), false) = (values.query, self.has_query()) {
            out.push('?');
            encode(&mut out, query, Place::Query);
        }
        out
    }

    /// A URI reference for a client. If it begins with a value it gets exactly one slash: two would
    /// name another host.
    pub fn render_location(&self, values: &Values<'_>) -> String {
        let out = self.render(values);
        match self.0.first() {
            Some(Part::Host | Part::Path | Part::Query | Part::Param(_)) => {
                format!("/{}", out.trim_start_matches('/'))
            }
            Some(Part::Text(_)) | None => out,
        }
    }

    /// Whether `{host}` is in it.
    pub fn has_host(&self) -> bool {
        self.0.contains(&Part::Host)
    }

    fn has_query(&self) -> bool {
        self.0.iter().any(|part| match part {
            Part::Text(text) => text.contains('?'),
            Part::Query => true,
            Part::Host | Part::Path | Part::Param(_) => false,
        })
    }
}

// === impl Values ===

impl<'a> Values<'a> {
    /// The values for the request of `cx`; `merge`: runs of `/` in the path are merged. The path is
    /// empty until `edge` has made the target.
    pub fn of(cx: &'a Context, merge: bool) -> Self {
        let (host, params) = (cx.host().unwrap_or_default(), cx.params());
        cx.target().map_or(Self { host, params, ..Self::default() }, |target| Self {
            host,
            path: if merge { target.merged() } else { target.path() },
            query: target.query(),
            params,
        })
    }
}

// === impl Place ===

impl Place {
    /// RFC 3986: `pchar`, `/`, and in a query `?`; within a value, no separators of parameters.
    /// In an authority: what a valid host contains, the brackets of IPv6 included.
    fn takes(self, byte: u8) -> bool {
        if self == Self::Authority {
            return byte.is_ascii_alphanumeric() || b"-._[:]".contains(&byte);
        }
        match byte {
            b'&' | b'+' | b';' | b'=' => self != Self::QueryValue,
            b'?' => self == Self::Query,
            _ => byte.is_ascii_alphanumeric() || b"-._~!$'()*,:@/".contains(&byte),
        }
    }
}

fn encode(out: &mut String, value: &str, place: Place) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let bytes = value.as_bytes();
    for (index, &byte) in bytes.iter().enumerate() {
        let is_escape = byte == b'%'
            && bytes.get(index + 1).is_some_and(u8::is_ascii_hexdigit)
            && bytes.get(index + 2).is_some_and(u8::is_ascii_hexdigit);
        if is_escape || place.takes(byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, uri::PathAndQuery};
    use proptest::prelude::*;

    use super::*;
    use crate::http::context::Bound;

    fn text(text: &str) -> Part {
        Part::Text(text.into())
    }

    fn param(name: &str) -> Part {
        Part::Param(name.into())
    }

    #[test]
    fn placeholders_stand_for_the_request() {
        let (bound, values_text) = Bound::joined([("id", "7")]);
        let values = Values {
            host: "",
            path: "/orders/7",
            query: Some("page=2"),
            params: bound.of(&values_text),
        };
        let template = Template(vec![
            text("/v2"),
            Part::Path,
            text("?id="),
            param("id"),
            text("&"),
            Part::Query,
        ]);
        assert_eq!(template.render(&values), "/v2/orders/7?id=7&page=2");
        assert_eq!(Template(vec![text("/"), param("unbound")]).render(&values), "/");
    }

    #[test]
    fn a_value_stays_within_its_place() {
        let (bound, values_text) = Bound::joined([("name", "a/b?c#d&e=f+g h\r\nx:y\\é")]);
        let values = Values { params: bound.of(&values_text), ..Values::default() };
        let in_path = Template(vec![text("/"), param("name")]).render(&values);
        assert_eq!(in_path, "/a/b%3Fc%23d&e=f+g%20h%0D%0Ax:y%5C%C3%A9");
        let in_query = Template(vec![text("/?q="), param("name")]).render(&values);
        assert_eq!(in_query, "/?q=a/b%3Fc%23d%26e%3Df%2Bg%20h%0D%0Ax:y%5C%C3%A9");
    }

    #[test]
    fn nothing_is_encoded_twice_and_no_bare_percent_is_left() {
        for (value, encoded) in [("%2F", "%2F"), ("%zz", "%25zz"), ("%", "%25"), ("%4", "%254")] {
            let values = Values { path: value, ..Values::default() };
            assert_eq!(Template(vec![Part::Path]).render(&values), encoded);
        }
    }

    #[test]
    fn a_rewrite_that_says_nothing_of_the_query_keeps_it() {
        let with_query = Values { path: "/a", query: Some("x=1&y=2"), ..Values::default() };
        let without = Values { query: None, ..with_query };
        for (template, kept, bare) in [
            (vec![text("/v2"), Part::Path], "/v2/a?x=1&y=2", "/v2/a"),
            (vec![Part::Path, text("?"), Part::Query], "/a?x=1&y=2", "/a"),
            (vec![Part::Path, text("?z=3&"), Part::Query], "/a?z=3&x=1&y=2", "/a?z=3"),
            (vec![Part::Path, text("?z=3")], "/a?z=3", "/a?z=3"),
            (vec![text("/fixed?")], "/fixed?", "/fixed?"),
            (vec![param("none"), text("b")], "/b?x=1&y=2", "/b"),
        ] {
            let template = Template(template);
            assert_eq!(template.render_target(&with_query), kept);
            assert_eq!(template.render_target(&without), bare);
        }
    }

    #[test]
    fn a_location_cannot_be_turned_to_another_host() {
        let values = Values { path: "//evil.example/x", ..Values::default() };
        assert_eq!(Template(vec![Part::Path]).render_location(&values), "/evil.example/x");
        let (bound, values_text) = Bound::joined([("rest", "https://evil.example")]);
        let values = Values { params: bound.of(&values_text), ..Values::default() };
        let location = Template(vec![param("rest")]).render_location(&values);
        assert_eq!(location, "/https://evil.example");
        let absolute = Template(vec![text("https://shop.example"), Part::Path]);
        let values = Values { path: "//a", ..Values::default() };
        assert_eq!(absolute.render_location(&values), "https://shop.example//a");
    }

    #[test]
    fn a_host_is_an_authority_only_where_one_stands() {
        let secure =
            Template(vec![text("https://"), Part::Host, Part::Path, text("?"), Part::Query]);
        let values = |host| Values { host, path: "/a", query: Some("b=//c"), ..Values::default() };
        let location = |template: &Template, host| template.render_location(&values(host));
        assert_eq!(location(&secure, "shop.example"), "https://shop.example/a?b=//c");
        assert_eq!(location(&secure, "[2001:db8::1]"), "https://[2001:db8::1]/a?b=//c");
        assert_eq!(location(&secure, "a@b/c?d#e"), "https://a%40b%2Fc%3Fd%23e/a?b=//c");
        let port = Template(vec![text("https://"), Part::Host, text(":8443"), Part::Path]);
        assert_eq!(location(&port, "shop.example"), "https://shop.example:8443/a");
        let named = Template(vec![text("/moved?from="), Part::Host]);
        assert_eq!(location(&named, "[::1]"), "/moved?from=%5B::1%5D");
        assert_eq!(location(&Template(vec![Part::Host]), "shop.example"), "/shop.example");
        assert!(secure.has_host() && !Template(vec![Part::Path]).has_host());
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let part = prop_oneof![
            "[a-z/]{0,8}".prop_map(|literal| text(&literal)),
            Just(text("?a=")),
            Just(text("https://")),
            Just(Part::Host),
            Just(Part::Path),
            Just(Part::Query),
            Just(param("id")),
            Just(param("unbound")),
        ];
        prop::collection::vec(part, 0..6)
    }

    proptest! {
        #[test]
        fn any_request_renders_to_a_target_and_a_field(
            parts in parts(), host in ".*", path in ".*", query in prop::option::of(".*"), id in ".*"
        ) {
            let (bound, values_text) = Bound::joined([("id", &*id)]);
            let (query, params) = (query.as_deref(), bound.of(&values_text));
            let values = Values { host: &host, path: &path, query, params };
            let template = Template(parts);

            let target = template.render_target(&values);
            let parsed: PathAndQuery = target.parse().unwrap();
            prop_assert_eq!(parsed.as_str(), &target, "nothing is lost as a fragment");
            prop_assert!(target.starts_with('/'));

            let location = template.render_location(&values);
            prop_assert!(location.bytes().all(|byte| byte.is_ascii_graphic()));
            prop_assert!(HeaderValue::from_str(&location).is_ok());
        }

        #[test]
        fn a_value_in_a_query_adds_no_parameter(id in ".*") {
            let (bound, values_text) = Bound::joined([("id", &*id)]);
            let values = Values { params: bound.of(&values_text), ..Values::default() };
            let target = Template(vec![text("/?a=1&id="), param("id")]).render(&values);
            prop_assert_eq!(target.matches('&').count(), 1);
            prop_assert_eq!(target.matches('?').count(), 1);
            prop_assert!(!target.contains('#'));
        }

        #[test]
        fn what_is_encoded_once_stays_as_it_is(value in ".*") {
            let once = Template(vec![Part::Path]).render(&Values { path: &value, ..Values::default() });
            let twice = Template(vec![Part::Path]).render(&Values { path: &once, ..Values::default() });
            prop_assert_eq!(once, twice);
        }
    }
}
