//! Path templates, texts with placeholders, selectors, names.

use std::sync::Arc;

use http::HeaderName;
use schemars::{Schema, json_schema};

use super::{Fault, Value, did_you_mean};
use crate::{
    http::selector,
    middleware::headers::{Part, Template},
    routing::route::{Path, Segment},
};

/// What the user calls something: visible in logs, metrics and URLs of the admin API.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(pub Arc<str>);

/// What the user calls a topic or a subscription: part of URLs and of scopes, kept on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogName(pub Arc<str>);

/// A name in braces: `{id}`.
pub type ParamName = Arc<str>;

/// Selectors that stand alone, and those that take a name.
const SELECTORS: [&str; 12] = [
    "client_ip",
    "header:",
    "cookie:",
    "query:",
    "path:",
    "claim:",
    "host",
    "method",
    "json:",
    "response_header:",
    "response_json:",
    "principal",
];

impl Value for Name {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts_well = text.bytes().next().is_some_and(is_word);
        if starts_well
            && text.len() <= 128
            && text.bytes().all(|b| is_word(b) || b"-.".contains(&b))
        {
            Ok(Self(text.into()))
        } else {
            Err(Fault::new(format!("`{text}` is not a name"))
                .help("letters, digits, `_`, `-`, `.`; at most 128; first a letter or a digit"))
        }
    }
}

impl Value for LogName {
    fn schema() -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,99}$" })
    }

    fn parse(text: &str) -> Result<Self, Fault> {
        let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_name = text.bytes().next().is_some_and(is_word)
            && text.len() <= 100
            && text.bytes().all(|b| is_word(b) || b"-._".contains(&b));
        if is_name {
            return Ok(Self(text.into()));
        }
        let fault = Fault::new(format!("`{text}` is not a name of a topic or subscription"));
        let lower = text.to_ascii_lowercase();
        Err(match Self::parse_lower(text, &lower) {
            Some(help) => fault.help(help),
            None => fault.help(
                "lower-case letters, digits, `.`, `_`, `-`; at most 100; first a letter or a digit",
            ),
        })
    }
}

impl LogName {
    /// Only its capitals are wrong.
    fn parse_lower(text: &str, lower: &str) -> Option<String> {
        (lower != text && Self::parse(lower).is_ok()).then(|| format!("did you mean `{lower}`?"))
    }
}

/// `/orders`, `/orders/{id}`, `/orders/{*rest}`, in the form normalised targets have.
pub fn path_template(text: &str) -> Result<Path, Fault> {
    let fault = |reason: &str| Fault::new(format!("`{text}` is not a path: {reason}"));
    let Some(rest) = text.strip_prefix('/') else {
        return Err(fault("it does not start with `/`").help(format!("`/{text}`")));
    };
    let mut segments = Vec::new();
    let mut names: Vec<ParamName> = Vec::new();
    let count = rest.split('/').count();
    for (index, raw) in rest.split('/').enumerate() {
        let is_last = index + 1 == count;
        if raw.is_empty() && !is_last {
            return Err(
                fault("it has an empty segment").help("runs of `/` are merged before matching")
            );
        }
        let segment = segment(raw).map_err(fault)?;
        if let Segment::Name(name) | Segment::Rest(name) = &segment {
            if names.contains(name) {
                return Err(fault("it has one name twice"));
            }
            names.push(Arc::clone(name));
        }
        if matches!(segment, Segment::Rest(_)) && !is_last {
            return Err(fault("`{*name}` is not at its end"));
        }
        segments.push(segment);
    }
    if names.is_empty() {
        let literals = segments.iter().map(|segment| match segment {
            Segment::Literal(text) => &**text,
            Segment::Name(_) | Segment::Rest(_) => "",
        });
        let path = literals.fold(String::new(), |path, literal| path + "/" + literal);
        return Ok(Path::Exact(path.into()));
    }
    Ok(Path::Template(segments))
}

fn segment(raw: &str) -> Result<Segment, &'static str> {
    if let Some(name) = raw.strip_prefix('{').and_then(|raw| raw.strip_suffix('}')) {
        let (name, is_rest) = name.strip_prefix('*').map_or((name, false), |name| (name, true));
        if name.strip_suffix('*').is_some_and(is_param) {
            return Err("the rest of a path is `{*name}`, with the star first");
        }
        if !is_param(name) {
            return Err("a name in braces has letters, digits and `_`");
        }
        return Ok(if is_rest { Segment::Rest(name.into()) } else { Segment::Name(name.into()) });
    }
    if raw.contains(['{', '}']) {
        return Err("`{name}` stands for a whole segment");
    }
    literal(raw).map(|text| Segment::Literal(text.into()))
}

/// A literal segment as the normalised target has it: escapes of unreserved characters decoded,
/// others in capitals.
fn literal(raw: &str) -> Result<String, &'static str> {
    if raw == "." || raw == ".." {
        return Err("`.` and `..` are removed before matching");
    }
    let mut out = String::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let hex = |byte: Option<u8>| byte.and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (hex(bytes.next()), hex(bytes.next())) else {
                    return Err("`%` is followed by two hexadecimal digits");
                };
                match char::from_u32(high * 16 + low) {
                    Some('\0') | None => return Err("`%00` is always refused"),
                    Some(c) if c.is_ascii_alphanumeric() || "-._~".contains(c) => out.push(c),
                    Some(_) => {
                        let digit = |value| char::from_digit(value, 16).unwrap_or('0');
                        out.push('%');
                        out.extend([high, low].map(|value| digit(value).to_ascii_uppercase()));
                    }
                }
            }
            b'?' | b'#' => return Err("it ends before `?` and `#`; there is `match.query`"),
            b'!'..=b'~' if !b"\"<>\\^`|".contains(&byte) => out.push(char::from(byte)),
            _ => return Err("other characters are percent-encoded"),
        }
    }
    Ok(out)
}

fn is_param(name: &str) -> bool {
    let starts_well = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts_well && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A text with `{path}`, `{query}` and the names of the route's path template. Not with the host: a
/// client may name a host `..`, which in a path is another one.
pub fn template(text: &str, params: &[ParamName]) -> Result<Template, Fault> {
    filled(text, params, false)
}

/// The same with `{host}` as well, unless the path template has a name `host` of its own.
pub(super) fn with_host(text: &str, params: &[ParamName]) -> Result<Template, Fault> {
    filled(text, params, true)
}

fn filled(text: &str, params: &[ParamName], with_host: bool) -> Result<Template, Fault> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find(['{', '}']) {
        let (before, tail) = rest.split_at(open);
        let Some((name, after)) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}'))
        else {
            return Err(Fault::new(format!("`{text}` has a brace without its other half")));
        };
        if !before.is_empty() {
            parts.push(Part::Text(before.into()));
        }
        parts.push(match name.strip_prefix('*').unwrap_or(name) {
            "path" => Part::Path,
            "query" => Part::Query,
            name => match params.iter().find(|param| ***param == *name) {
                Some(param) => Part::Param(Arc::clone(param)),
                None if with_host && name == "host" => Part::Host,
                None => return Err(unknown_placeholder(name, params, with_host)),
            },
        });
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.into()));
    }
    Ok(Template(parts))
}

fn unknown_placeholder(name: &str, params: &[ParamName], with_host: bool) -> Fault {
    let own = ["path", "query"].into_iter().chain(with_host.then_some("host"));
    let known: Vec<&str> = own.chain(params.iter().map(|param| &**param)).collect();
    let all = known.iter().map(|name| format!("`{{{name}}}`")).collect::<Vec<_>>().join(", ");
    Fault::new(format!("nothing fills `{{{name}}}`"))
        .help(did_you_mean(name, known).unwrap_or_else(|| format!("this route has {all}")))
}

/// One selector: `client_ip`, `header:NAME`, ...
pub fn selector_part(text: &str) -> Result<selector::Part, Fault> {
    use selector::Part;

    let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
    let part = match (kind, name.filter(|name| !name.is_empty())) {
        ("client_ip", None) => Part::ClientIp,
        ("host", None) => Part::Host,
        ("method", None) => Part::Method,
        ("principal", None) => Part::Principal,
        ("header", Some(name)) => Part::Header(HeaderName::parse(name)?),
        ("response_header", Some(name)) => Part::ResponseHeader(HeaderName::parse(name)?),
        ("cookie", Some(name)) => Part::Cookie(name.into()),
        ("query", Some(name)) => Part::Query(name.into()),
        ("path", Some(name)) => Part::Path(name.into()),
        ("claim", Some(name)) => Part::Claim(name.into()),
        ("json", Some(pointer)) if is_pointer(pointer) => Part::Json(pointer.into()),
        ("response_json", Some(pointer)) if is_pointer(pointer) => {
            Part::ResponseJson(pointer.into())
        }
        ("json" | "response_json", Some(_)) => {
            return Err(Fault::new(format!("`{text}` has no JSON pointer"))
                .help(format!("it starts with `/`: `{kind}:/customer_id`")));
        }
        _ => return Err(unknown_selector(text, kind)),
    };
    Ok(part)
}

fn unknown_selector(text: &str, kind: &str) -> Fault {
    let needs_name = SELECTORS.iter().any(|known| known.strip_suffix(':') == Some(kind));
    let help = if needs_name {
        format!("it needs a name: `{kind}:NAME`")
    } else {
        did_you_mean(kind, SELECTORS.map(|known| known.trim_end_matches(':')))
            .unwrap_or_else(|| "like `client_ip`, `header:x-user`, `cookie:session`".to_owned())
    };
    Fault::new(format!("`{text}` is not a selector")).help(help)
}

/// RFC 6901: starts with `/`, and `~` is followed by `0` or `1`.
fn is_pointer(pointer: &str) -> bool {
    pointer.starts_with('/') && pointer.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']))
}
