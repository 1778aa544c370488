//! What a rule may ask of a request. Plain values, valid by construction.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use regex::Regex;

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
