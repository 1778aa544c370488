//! The one language for taking a value from a request: `header:x-user`, `path:id`, `json:/a/0`.
//!
//! Pure. A value of one part is borrowed if the request has it as text. Joined values are each
//! preceded by their length, so that `a` + `bc` and `ab` + `c` differ.

use std::{borrow::Cow, fmt::Write as _, sync::Arc};

use http::{HeaderMap, HeaderName, Method, header::COOKIE, request};
use serde_json::Value;

use crate::http::{ClientIp, Context, context::Params, query};

/// Where a value is taken from; a list joins several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Box<[Part]>);

/// One source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// `client_ip`
    ClientIp,
    /// `header:NAME`
    Header(HeaderName),
    /// `cookie:NAME`
    Cookie(Box<str>),
    /// `query:NAME`
    Query(Box<str>),
    /// `path:NAME`, from the route's template.
    Path(Arc<str>),
    /// `claim:NAME`; dots descend into objects.
    Claim(Box<str>),
    /// `host`
    Host,
    /// `method`
    Method,
    /// `json:/POINTER`, of the request body.
    Json(Box<str>),
    /// `response_header:NAME`
    ResponseHeader(HeaderName),
    /// `response_json:/POINTER`
    ResponseJson(Box<str>),
    /// `principal`
    Principal,
}

/// What is wrong with a selector, in a readable form.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    /// One sentence that includes what would be right.
    pub message: String,
}

/// The data that a selector may use. What is not known yet is `None`: parts that need it yield
/// nothing.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// The request's fields.
    pub headers: &'a HeaderMap,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The form of [`Context::host`].
    pub host: Option<&'a str>,
    /// The client; a limiter gives its [`ClientIp::limiter_key`].
    pub client_ip: Option<ClientIp>,
    /// The values bound by the path template.
    pub params: Params<'a>,
    /// The authenticated principal.
    pub principal: Option<&'a str>,
    /// The claims of the verified token.
    pub claims: Option<&'a Value>,
    /// The whole request body.
    pub body: Option<&'a Value>,
    /// The response's fields.
    pub response_headers: Option<&'a HeaderMap>,
    /// The whole response body.
    pub response_body: Option<&'a Value>,
}

// === impl Selector ===

impl Selector {
    /// Joins all of these.
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self(parts.into_iter().collect())
    }

    /// Parses one entry of the configuration.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Part::parse(text).map(|part| Self::new([part]))
    }

    /// Its parts, in order.
    pub fn parts(&self) -> &[Part] {
        &self.0
    }

    /// The value, or `None` if any part yields nothing: half a key would be another key. An empty
    /// value counts as nothing.
    pub fn extract<'a>(&'a self, input: &Input<'a>) -> Option<Cow<'a, str>> {
        match &*self.0 {
            [part] => part.extract(input),
            parts => {
                let mut joined = String::new();
                for part in parts {
                    let value = part.extract(input)?;
                    // Writing to a string cannot fail.
                    write!(joined, "{}:{value}", value.len()).ok()?;
                }
                (!joined.is_empty()).then_some(Cow::Owned(joined))
            }
        }
    }
}

// === impl Part ===

impl Part {
    /// Parses one entry of the configuration: a word, or `KIND:NAME`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        match text.split_once(':') {
            None => Self::parse_word(text),
            Some((_, "")) => Err(error(format!("`{text}` names nothing after its colon"))),
            Some((kind, name)) => Self::parse_named(kind, name),
        }
    }

    fn parse_word(word: &str) -> Result<Self, SelectorError> {
        match word {
            "client_ip" => Ok(Self::ClientIp),
            "host" => Ok(Self::Host),
            "method" => Ok(Self::Method),
            "principal" => Ok(Self::Principal),
            "header" | "cookie" | "query" | "path" | "claim" | "response_header" => {
                Err(error(format!("`{word}` needs a name: `{word}:NAME`")))
            }
            "json" | "response_json" => {
                Err(error(format!("`{word}` needs a JSON pointer: `{word}:/a/b`")))
            }
            other => Err(unknown(other)),
        }
    }

    fn parse_named(kind: &str, name: &str) -> Result<Self, SelectorError> {
        match kind {
            "header" => header_name(name).map(Self::Header),
            "cookie" => Ok(Self::Cookie(name.into())),
            "query" => Ok(Self::Query(name.into())),
            "path" => Ok(Self::Path(name.into())),
            "claim" => Ok(Self::Claim(name.into())),
            "json" => pointer(name).map(Self::Json),
            "response_header" => header_name(name).map(Self::ResponseHeader),
            "response_json" => pointer(name).map(Self::ResponseJson),
            "client_ip" | "host" | "method" | "principal" => {
                Err(error(format!("`{kind}` takes no name after a colon")))
            }
            other => Err(unknown(other)),
        }
    }

    /// The value this part yields; never an empty one.
    pub fn extract<'a>(&'a self, input: &Input<'a>) -> Option<Cow<'a, str>> {
        let value = match self {
            Self::ClientIp => input.client_ip.map(|ip| Cow::Owned(ip.to_string())),
            Self::Header(name) => field(input.headers, name),
            Self::Cookie(name) => cookie(input.headers, name),
            Self::Query(name) => query::values(input.query?, name).next(),
            Self::Path(name) => input.params.get(name).map(Cow::Borrowed),
            Self::Claim(name) => claim(input.claims?, name).and_then(scalar),
            Self::Host => input.host.map(Cow::Borrowed),
            Self::Method => Some(Cow::Borrowed(input.method.as_str())),
            Self::Json(pointer) => input.body?.pointer(pointer).and_then(scalar),
            Self::ResponseHeader(name) => field(input.response_headers?, name),
            Self::ResponseJson(pointer) => input.response_body?.pointer(pointer).and_then(scalar),
            Self::Principal => input.principal.map(Cow::Borrowed),
        };
        value.filter(|value| !value.is_empty())
    }
}

// === impl Input ===

impl<'a> Input<'a> {
    /// The data in a request's head and context; the caller adds the rest.
    pub fn new(parts: &'a request::Parts, cx: &'a Context) -> Self {
        Self::of(&parts.headers, cx)
    }

    /// Like [`Input::new`], with these fields.
    pub fn of(headers: &'a HeaderMap, cx: &'a Context) -> Self {
        let principal = cx.principal();
        Self {
            method: cx.method(),
            headers,
            query: cx.target().and_then(|target| target.query()),
            host: cx.host(),
            client_ip: cx.client_ip(),
            params: cx.params(),
            principal: principal.map(|principal| &*principal.name),
            claims: principal.map(|principal| &principal.claims),
            body: None,
            response_headers: None,
            response_body: None,
        }
    }
}

fn error(message: String) -> SelectorError {
    SelectorError { message }
}

fn unknown(kind: &str) -> SelectorError {
    error(format!(
        "no selector `{kind}`: client_ip, header:, cookie:, query:, path:, claim:, host, method, \
         json:, response_header:, response_json: or principal"
    ))
}

fn header_name(name: &str) -> Result<HeaderName, SelectorError> {
    name.parse().map_err(|_| error(format!("`{name}` is not a header name")))
}

/// RFC 6901; the pointer to the whole document is refused, because a document cannot be a key.
fn pointer(text: &str) -> Result<Box<str>, SelectorError> {
    let has_bad_escape = text.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1']));
    if !text.starts_with('/') || has_bad_escape {
        return Err(error(format!("`{text}` is not a JSON pointer, such as `/customer/id`")));
    }
    Ok(text.into())
}

/// Several fields of one name are one list (RFC 9110, 5.3).
fn field<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()));
    let mut whole = values.next()?;
    for value in values {
        whole.to_mut().push_str(", ");
        whole.to_mut().push_str(&value);
    }
    Some(whole)
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    headers.get_all(COOKIE).iter().find_map(|value| {
        let field = std::str::from_utf8(value.as_bytes()).ok()?;
        query::cookie(field, name).map(Cow::Borrowed)
    })
}

/// A claim with exactly this name first, because many names contain dots
/// (`https://example.com/tenant`); else each dot descends into an object.
pub fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    member(claims, name).or_else(|| name.split('.').try_fold(claims, member))
}

/// The member of an object. A token has few: to compare them is cheaper than to hash the name.
fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let members = value.as_object()?;
    if members.len() > 16 {
        return members.get(name);
    }
    members.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// A value that can be a key: text, a number, a boolean.
pub fn scalar(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(_) | Value::Bool(_) => Some(Cow::Owned(value.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::context::Bound;

    fn selector(entries: &[&str]) -> Selector {
        Selector::new(entries.iter().map(|entry| Part::parse(entry).unwrap()))
    }

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append("x-user", "alice".parse().unwrap());
        headers.append("x-many", "a".parse().unwrap());
        headers.append("x-many", "b".parse().unwrap());
        headers.append("x-empty", "".parse().unwrap());
        headers.append("cookie", "a=1".parse().unwrap());
        headers.append("cookie", "sid=s3".parse().unwrap());
        headers
    }

    fn extract(entries: &[&str]) -> Option<String> {
        let headers = headers();
        let claims = json!({"sub": "u1", "a.b": "flat", "a": {"b": "deep", "c": "down"}, "n": 7});
        let body = json!({"customer": {"id": 42, "tags": ["x"]}, "a/b": true, "none": null});
        let (bound, path) = Bound::joined([("id", "17")]);
        let input = Input {
            method: &Method::POST,
            headers: &headers,
            query: Some("v=2&x=a%20b"),
            host: Some("shop.example.com"),
            client_ip: Some(ClientIp::Unix),
            params: bound.of(&path),
            principal: Some("shop:alice"),
            claims: Some(&claims),
            body: Some(&body),
            response_headers: Some(&headers),
            response_body: None,
        };
        selector(entries).extract(&input).map(Cow::into_owned)
    }

    #[test]
    fn a_claim_is_found_among_few_and_among_many() {
        for count in [1, 16, 17, 100] {
            let claims: Value = (0..count).map(|n| (format!("c{n}"), json!(n))).collect();
            assert_eq!(claim(&claims, "c0"), Some(&json!(0)), "{count}");
            assert_eq!(claim(&claims, &format!("c{}", count - 1)), Some(&json!(count - 1)));
            assert_eq!(claim(&claims, &format!("c{count}")), None, "{count}");
        }
    }

    #[test]
    fn takes_each_kind_of_value() {
        for (entry, value) in [
            ("client_ip", "unix"),
            ("header:X-User", "alice"),
            ("header:x-many", "a, b"),
            ("cookie:sid", "s3"),
            ("query:x", "a b"),
            ("path:id", "17"),
            ("claim:sub", "u1"),
            ("claim:a.b", "flat"),
            ("claim:a.c", "down"),
            ("claim:n", "7"),
            ("host", "shop.example.com"),
            ("method", "POST"),
            ("json:/customer/id", "42"),
            ("json:/a~1b", "true"),
            ("response_header:x-user", "alice"),
            ("principal", "shop:alice"),
        ] {
            assert_eq!(extract(&[entry]).as_deref(), Some(value), "{entry}");
        }
    }

    #[test]
    fn yields_nothing_rather_than_half() {
        for entry in [
            "header:x-none",
            "header:x-empty",
            "cookie:none",
            "query:none",
            "path:none",
            "claim:a",
            "claim:a.b.c",
            "json:/none",
            "json:/customer",
            "json:/customer/tags",
            "response_json:/id",
        ] {
            assert_eq!(extract(&[entry]), None, "{entry}");
            assert_eq!(extract(&["method", entry]), None, "{entry}");
        }
        assert_eq!(extract(&[]), None);
    }

    #[test]
    fn joined_values_stay_apart() {
        assert_eq!(extract(&["header:x-user", "path:id"]).as_deref(), Some("5:alice2:17"));
    }

    #[test]
    fn says_what_is_wrong_with_an_entry() {
        for (entry, message) in [
            ("header", "`header` needs a name: `header:NAME`"),
            ("json", "`json` needs a JSON pointer: `json:/a/b`"),
            ("header:", "`header:` names nothing after its colon"),
            ("header:a b", "`a b` is not a header name"),
            ("host:x", "`host` takes no name after a colon"),
            ("json:a", "`a` is not a JSON pointer, such as `/customer/id`"),
            ("json:/a~2", "`/a~2` is not a JSON pointer, such as `/customer/id`"),
        ] {
            assert_eq!(Selector::parse(entry).unwrap_err().message, message);
        }
        assert!(Selector::parse("ip").unwrap_err().message.starts_with("no selector `ip`"));
    }

    proptest! {
        #[test]
        fn any_entry_never_panics(entry: String) {
            let _parsed = Selector::parse(&entry);
        }
    }
}
