//! What a route may match on. Plain values, valid by construction.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use regex::Regex;
use smallvec::SmallVec;

/// One rule: `routes[].match`, with what decides between rules.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `routes[].name`, unique.
    pub name: Arc<str>,
    /// Higher is tried first, before host and path.
    pub priority: i32,
    /// Any of these; empty is every host.
    pub hosts: Vec<Host>,
    /// What the path must look like.
    pub path: Path,
    /// Any of these; `None` is every method.
    pub methods: Option<Vec<Method>>,
    /// All of these.
    pub headers: Vec<(HeaderName, HeaderPredicate)>,
    /// All of these: a query parameter of this name with exactly this value, decoded.
    pub query: Vec<(Box<str>, Box<str>)>,
    /// All of these, after auth. Rules that differ only here form one group.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// Whether `%2F` and `%5C` in the path are let through instead of answered with `bad-target`.
    pub pass_encoded_separators: bool,
}

/// A pattern for the host, in lower case, without port or trailing dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// This name.
    Exact(Box<str>),
    /// `*.example.com`, kept as `.example.com`: one or more labels before it.
    Suffix(Box<str>),
}

/// A pattern for the normalised, merged path.
#[derive(Clone, Debug)]
pub enum Path {
    /// Every path.
    Any,
    /// This path.
    Exact(Box<str>),
    /// `/orders/{id}/{*rest}`: literal segments, names for one segment, and at the end a name for
    /// all that follows (which may be nothing but the slash).
    Template(Vec<Segment>),
    /// `path_regex`, anchored at both ends.
    Regex(Regex),
}

/// A segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this, as the normalised target has it.
    Literal(Box<str>),
    /// `{name}`: one segment, not empty.
    Name(Arc<str>),
    /// `{*name}`: the rest, slashes included; last in its template.
    Rest(Arc<str>),
}

/// What a header must look like. Of several fields of one name, any may satisfy it.
#[derive(Clone, Debug)]
pub enum HeaderPredicate {
    /// Exactly this value.
    Exact(HeaderValue),
    /// A match anywhere in the value; anchor it in the expression.
    Regex(Regex),
    /// Present with any value (`true`), or absent (`false`).
    Present(bool),
}

/// What the names of a template took, in its order: parts of the path.
pub type Values<'a> = SmallVec<[&'a str; 2]>;

// === impl Rule ===

impl Rule {
    /// Whether it lists `method`. A rule for GET also takes HEAD (RFC 9110, 9.3.2: HEAD is GET
    /// without the content), as it does for Go's and Rust's routers.
    pub(super) fn takes_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| {
            methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
        })
    }
}

// === impl Host ===

impl Host {
    /// Whether the pattern takes this host.
    pub(super) fn takes(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

// === impl Path ===

impl Path {
    /// Whether the pattern takes this merged path.
    pub(super) fn takes(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Template(segments) => bind(segments, path).is_some(),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// The same of a path that the index gave this pattern for, which is exact but for regular
    /// expressions.
    pub(super) fn takes_indexed(&self, path: &str) -> bool {
        match self {
            Self::Regex(regex) => regex.is_match(path),
            Self::Any | Self::Exact(_) | Self::Template(_) => true,
        }
    }

    /// The names of the template, in its order.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let segments = match self {
            Self::Template(segments) => segments.as_slice(),
            Self::Any | Self::Exact(_) | Self::Regex(_) => &[],
        };
        segments.iter().filter_map(|segment| match segment {
            Segment::Literal(_) => None,
            Segment::Name(name) | Segment::Rest(name) => Some(name),
        })
    }

    /// What the template's names take of a path that it takes, in the order of
    /// [`names`](Self::names).
    pub(super) fn values<'a>(&self, path: &'a str) -> Values<'a> {
        match self {
            Self::Template(segments) => bind(segments, path).unwrap_or_default(),
            Self::Any | Self::Exact(_) | Self::Regex(_) => Values::new(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any path"),
            Self::Exact(path) => f.write_str(path),
            Self::Regex(regex) => f.write_str(regex.as_str()),
            Self::Template(segments) => segments.iter().try_for_each(|segment| match segment {
                Segment::Literal(text) => write!(f, "/{text}"),
                Segment::Name(name) => write!(f, "/{{{name}}}"),
                Segment::Rest(name) => write!(f, "/{{*{name}}}"),
            }),
        }
    }
}

/// `None` if the template does not take the path.
fn bind<'a>(segments: &[Segment], path: &'a str) -> Option<Values<'a>> {
    let mut values = Values::new();
    let mut rest = path.strip_prefix('/');
    for segment in segments {
        let open = rest?;
        let (first, after) = match open.split_once('/') {
            Some((first, after)) => (first, Some(after)),
            None => (open, None),
        };
        match segment {
            Segment::Literal(text) if **text == *first => {}
            Segment::Name(_) if !first.is_empty() => values.push(first),
            Segment::Rest(_) => {
                values.push(open);
                return Some(values);
            }
            Segment::Literal(_) | Segment::Name(_) => return None,
        }
        rest = after;
    }
    rest.is_none().then_some(values)
}

// === impl HeaderPredicate ===

impl HeaderPredicate {
    /// Whether the fields of this name satisfy it.
    pub(super) fn takes(&self, name: &HeaderName, headers: &HeaderMap) -> bool {
        match self {
            Self::Exact(wanted) => headers.get_all(name).iter().any(|value| value == wanted),
            Self::Regex(regex) => headers.get_all(name).iter().any(|value| {
                std::str::from_utf8(value.as_bytes()).is_ok_and(|v| regex.is_match(v))
            }),
            Self::Present(wanted) => headers.contains_key(name) == *wanted,
        }
    }
}

// === impl Rule ===

/// As a person would say it: `POST shop.example.com/orders/{id} x-beta=1`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(methods) = &self.methods {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            write!(f, "{} ", methods.join(","))?;
        }
        let hosts: Vec<_> = self.hosts.iter().map(ToString::to_string).collect();
        f.write_str(&hosts.join(","))?;
        write!(f, "{}", self.path)?;
        for (name, predicate) in &self.headers {
            match predicate {
                HeaderPredicate::Exact(value) => {
                    write!(f, " {name}={}", String::from_utf8_lossy(value.as_bytes()))?;
                }
                HeaderPredicate::Regex(regex) => write!(f, " {name}~{regex}")?,
                HeaderPredicate::Present(true) => write!(f, " {name}")?,
                HeaderPredicate::Present(false) => write!(f, " !{name}")?,
            }
        }
        for (name, value) in &self.query {
            write!(f, " ?{name}={value}")?;
        }
        for (name, value) in &self.claims {
            write!(f, " claim:{name}={value}")?;
        }
        Ok(())
    }
}
