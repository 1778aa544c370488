//! The search for the first entry, in order of precedence, that matches a request. Pure.
//!
//! The index yields the entries whose host and path match; method, headers and query decide among
//! them. Only if none is left are they visited again, for the methods that a 405 has to name.
//!
//! Costs a hash lookup per matching host pattern and per path segment that some template has.
//! Allocates only for more than two bound names, a decoded query parameter, or a 405.

use std::borrow::Cow;

use http::{
    HeaderMap, HeaderValue, Method,
    header::{ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
};

use super::{
    Rule, Table,
    index::Place,
    route::{HeaderPredicate, Values},
};
use crate::http::query;

/// What of a request decides its route.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// Lower case, without port or trailing dot; empty without one.
    pub host: &'a str,
    /// The normalised path with runs of `/` merged.
    pub path: &'a str,
    /// The method as it was sent.
    pub method: &'a Method,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
}

/// Where a request belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match<'a> {
    /// To this rule.
    Route {
        /// In [`Table::rules`]; of a group, the member whose claims are looked at first.
        index: usize,
        /// What the names of its path template took, in their order.
        values: Values<'a>,
    },
    /// Nowhere with this method; with these it would.
    MethodNotAllowed {
        /// The `Allow` field.
        allow: HeaderValue,
    },
    /// Nowhere.
    None,
}

/// The request as routing sees it: a preflight stands for the request it announces.
pub(super) struct Asked<'a> {
    head: Head<'a>,
    pub(super) method: Cow<'a, Method>,
    is_preflight: bool,
}

/// What a rule asks for beyond host and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition<'a> {
    Method,
    Header(&'a http::HeaderName),
    Query(&'a str),
}

/// Whether the path is the gateway's own: `/.sluice/` and what is below it belongs to no route.
pub fn is_reserved(path: &str) -> bool {
    path == "/.sluice" || path.starts_with("/.sluice/")
}

/// Finds the route.
pub fn find<'a>(table: &Table, head: Head<'a>) -> Match<'a> {
    if is_reserved(head.path) {
        return Match::None;
    }
    let asked = Asked::new(head);
    match first(table, &asked) {
        Some(place) => {
            let group = &table.groups()[table.entry(place).group];
            let index = group.members[0];
            Match::Route { index, values: table.rules()[index].path.values(head.path) }
        }
        None => allowed(table, &asked),
    }
}

fn first(table: &Table, asked: &Asked<'_>) -> Option<Place> {
    let mut best: Option<Place> = None;
    table.lookup(asked.head.host, asked.head.path, |places| {
        for &place in places {
            // In order: what follows can only be worse.
            if best.is_some_and(|best| best <= place) {
                return;
            }
            let rule = table.rule_of(table.entry(place));
            if asked.fits_method(rule) && asked.fits_but_method(rule) {
                best = Some(place);
                return;
            }
        }
    });
    best
}

/// No entry takes the request: are there some that would with another method?
fn allowed<'a>(table: &Table, asked: &Asked<'_>) -> Match<'a> {
    let mut methods: Vec<&Method> = Vec::new();
    table.lookup(asked.head.host, asked.head.path, |places| {
        for &place in places {
            let rule = table.rule_of(table.entry(place));
            if asked.fits_but_method(rule) {
                methods.extend(rule.methods.iter().flatten());
            }
        }
    });
    if methods.is_empty() {
        return Match::None;
    }
    if methods.contains(&&Method::GET) {
        methods.push(&Method::HEAD);
    }
    methods.sort_unstable_by_key(|method| method.as_str());
    methods.dedup();
    let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
    match HeaderValue::try_from(names.join(", ")) {
        Ok(allow) => Match::MethodNotAllowed { allow },
        // A method is a token, so this is not reached; an empty `Allow` would be a lie.
        Err(_) => Match::None,
    }
}

// === impl Asked ===

impl<'a> Asked<'a> {
    pub(super) fn new(head: Head<'a>) -> Self {
        match announced(&head) {
            Some(method) => Self { head, method: Cow::Owned(method), is_preflight: true },
            None => Self { head, method: Cow::Borrowed(head.method), is_preflight: false },
        }
    }

    pub(super) fn is_preflight(&self) -> bool {
        self.is_preflight
    }

    fn fits_method(&self, rule: &Rule) -> bool {
        rule.takes_method(&self.method)
    }

    fn fits_but_method(&self, rule: &Rule) -> bool {
        rule.path.takes_indexed(self.head.path)
            && rule.headers.iter().all(|(name, predicate)| self.fits_header(name, predicate))
            && rule.query.iter().all(|(name, value)| self.fits_query(name, value))
    }

    /// The first condition that the request fails, in the order they are looked at.
    pub(super) fn failed<'r>(&self, rule: &'r Rule) -> Option<Condition<'r>> {
        if !self.fits_method(rule) {
            return Some(Condition::Method);
        }
        let header = rule.headers.iter().find(|(name, p)| !self.fits_header(name, p));
        let query = || rule.query.iter().find(|(name, value)| !self.fits_query(name, value));
        header
            .map(|(name, _)| Condition::Header(name))
            .or_else(|| query().map(|(name, _)| Condition::Query(name)))
    }

    /// A preflight names the fields that the request will have, without their values.
    fn fits_header(&self, name: &http::HeaderName, predicate: &HeaderPredicate) -> bool {
        if self.is_preflight && names(self.head.headers, name) {
            return !matches!(predicate, HeaderPredicate::Present(false));
        }
        predicate.takes(name, self.head.headers)
    }

    fn fits_query(&self, name: &str, value: &str) -> bool {
        self.head.query.is_some_and(|query| query::values(query, name).any(|found| found == value))
    }
}

/// The method a preflight announces (Fetch, "CORS-preflight request"); `None` for any other request.
fn announced(head: &Head<'_>) -> Option<Method> {
    if *head.method != Method::OPTIONS || !head.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(head.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

fn names(headers: &HeaderMap, name: &http::HeaderName) -> bool {
    headers
        .get_all(ACCESS_CONTROL_REQUEST_HEADERS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}
