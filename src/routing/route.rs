//! What a route may match on. Plain values, valid by construction.

use std::{fmt, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use regex::Regex;
use smallvec::SmallVec;

use crate::http::Scheme;

/// One rule: `routes[].match`, and what decides between rules.
#[derive(Clone, Debug)]
pub struct Rule {
    /// `routes[].name`, unique.
    pub name: Arc<str>,
    /// The highest is tried first, before host and path count.
    pub priority: i32,
    /// Any of these must match; empty means every host.
    pub hosts: Vec<Host>,
    /// The pattern for the path.
    pub path: Path,
    /// The scheme of the request; `None` means either.
    pub scheme: Option<Scheme>,
    /// Any of these must match; `None` means every method.
    pub methods: Option<Vec<Method>>,
    /// All of these must match.
    pub headers: Vec<(HeaderName, HeaderPredicate)>,
    /// All of these must match: a query parameter with this name and exactly this decoded value.
    pub query: Vec<(Box<str>, Box<str>)>,
    /// All of these must match, after auth. Rules that differ only here form one group.
    pub claims: Vec<(Box<str>, Box<str>)>,
    /// Whether `%2F` and `%5C` in the path are allowed instead of answered with `bad-target`.
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
    /// `/orders/{id}/{*rest}`: literal segments, names for one segment each, and at the end a name
    /// for the whole rest (which may be just the slash).
    Template(Vec<Segment>),
    /// `path_regex`, anchored at both ends.
    Regex(Regex),
}

/// A segment of a path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// Exactly this text, in the normalised form.
    Literal(Box<str>),
    /// `{name}`: one non-empty segment.
    Name(Arc<str>),
    /// `{*name}`: the rest, slashes included; last in its template.
    Rest(Arc<str>),
}

/// Where the values of a path are: what is left of a template without its texts, so that many
/// templates have the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape(Box<[Part]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Literal,
    Name,
    Rest,
}

/// A condition on a header. If it has several fields, any of them may satisfy it.
#[derive(Clone, Debug)]
pub enum HeaderPredicate {
    /// Exactly this value.
    Exact(HeaderValue),
    /// A match anywhere in the value; anchor it in the expression.
    Regex(Regex),
    /// Present with any value (`true`), or absent (`false`).
    Present(bool),
}

/// The values of a template's names, in its order: parts of the path.
pub type Values<'a> = SmallVec<[&'a str; 2]>;

// === impl Rule ===

impl Rule {
    /// Whether more of a request than host and path decides.
    pub(super) fn has_conditions(&self) -> bool {
        self.scheme.is_some()
            || self.methods.is_some()
            || matches!(self.path, Path::Regex(_))
            || !self.headers.is_empty()
            || !self.query.is_empty()
    }

    /// Whether the rule allows `scheme`.
    pub(super) fn takes_scheme(&self, scheme: Scheme) -> bool {
        self.scheme.is_none_or(|wanted| wanted == scheme)
    }

    /// Whether `methods` allows `method`. A rule for GET also takes HEAD (RFC 9110, 9.3.2: HEAD is
    /// GET without the content), as Go's and Rust's routers do.
    pub(super) fn takes_method(&self, method: &Method) -> bool {
        self.methods.as_ref().is_none_or(|methods| {
            methods.contains(method) || *method == Method::HEAD && methods.contains(&Method::GET)
        })
    }
}

// === impl Host ===

impl Host {
    /// Whether the pattern matches this host.
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
    /// Whether the pattern matches this merged path.
    pub(super) fn takes(&self, path: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *path,
            Self::Template(segments) => takes(segments, path),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// The same for a path that the index found for this pattern: only regular expressions are
    /// still to be tried.
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

/// Whether the template matches the path.
fn takes(segments: &[Segment], path: &str) -> bool {
    let mut rest = path.strip_prefix('/');
    for segment in segments {
        let Some(open) = rest else { return false };
        let (first, after) = match open.split_once('/') {
            Some((first, after)) => (first, Some(after)),
            None => (open, None),
        };
        match segment {
            Segment::Literal(text) if **text == *first => {}
            Segment::Name(_) if !first.is_empty() => {}
            Segment::Rest(_) => return true,
            Segment::Literal(_) | Segment::Name(_) => return false,
        }
        rest = after;
    }
    rest.is_none()
}

// === impl Shape ===

impl Shape {
    /// The shape of this pattern.
    pub(super) fn of(path: &Path) -> Self {
        let segments = match path {
            Path::Template(segments) => segments.as_slice(),
            Path::Any | Path::Exact(_) | Path::Regex(_) => &[],
        };
        let part = |segment: &Segment| match segment {
            Segment::Literal(_) => Part::Literal,
            Segment::Name(_) => Part::Name,
            Segment::Rest(_) => Part::Rest,
        };
        Self(segments.iter().map(part).collect())
    }

    /// The values of the template's names in a path that it matches, in the order of
    /// [`names`](Path::names).
    pub(super) fn values<'a>(&self, path: &'a str) -> Values<'a> {
        let mut values = Values::new();
        let mut rest = path.strip_prefix('/').unwrap_or_default();
        for part in &self.0 {
            let (first, after) = rest.split_once('/').unwrap_or((rest, ""));
            match part {
                Part::Literal => {}
                Part::Name => values.push(first),
                Part::Rest => values.push(rest),
            }
            rest = after;
        }
        values
    }
}

// === impl HeaderPredicate ===

impl HeaderPredicate {
    /// Whether the fields with this name satisfy it.
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

/// In short form: `POST shop.example.com/orders/{id} x-beta=1`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(methods) = &self.methods {
            let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
            write!(f, "{} ", methods.join(","))?;
        }
        if let Some(scheme) = self.scheme {
            // A URL has a host.
            write!(f, "{scheme}://{}", if self.hosts.is_empty() { "*" } else { "" })?;
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
