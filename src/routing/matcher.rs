//! The search for the first entry, in order of precedence, that matches a request. Pure.
//!
//! The index yields the entries whose host and path match; scheme, method, headers and query
//! decide among them. Only if none is left are they visited again, for the methods that a 405 has to name.
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
use crate::http::{Scheme, query};

/// The parts of a request that routes are matched on.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// In lower case, without port or trailing dot; empty if there is none.
    pub host: &'a str,
    /// The normalised path with runs of `/` merged.
    pub path: &'a str,
    /// The scheme of the request, see [`Context::scheme`](crate::http::Context::scheme).
    pub scheme: Scheme,
    /// The method as it was sent.
    pub method: &'a Method,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// All fields.
    pub headers: &'a HeaderMap,
}

/// The result of matching.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match<'a> {
    /// This rule takes the request.
    Route {
        /// Index in [`Table::rules`]; for a group, the member whose claims are checked first.
        index: usize,
        /// The values of its path template's names, in their order.
        values: Values<'a>,
    },
    /// No rule takes it with this method, but some would with these.
    MethodNotAllowed {
        /// The `Allow` field.
        allow: HeaderValue,
    },
    /// No rule takes it.
    None,
}

/// The request as routing sees it: a preflight stands for the request it announces.
pub(super) struct Asked<'a> {
    head: Head<'a>,
    pub(super) method: Cow<'a, Method>,
    is_preflight: bool,
}

/// A condition of a rule beyond host and path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition<'a> {
    Scheme,
    Method,
    Header(&'a http::HeaderName),
    Query(&'a str),
}

/// Whether the path is reserved for the gateway: no route gets `/.sluice/` or anything below it.
pub fn is_reserved(path: &str) -> bool {
    path == "/.sluice" || path.starts_with("/.sluice/")
}

/// Finds the route of a request.
pub fn find<'a>(table: &Table, head: Head<'a>) -> Match<'a> {
    if is_reserved(head.path) {
        return Match::None;
    }
    let asked = Asked::new(head);
    match first(table, &asked) {
        Some(place) => {
            let (index, values) = table.matched(table.candidate(place), head.path);
            Match::Route { index, values }
        }
        None => allowed(table, &asked),
    }
}

fn first(table: &Table, asked: &Asked<'_>) -> Option<Place> {
    let mut best: Option<Place> = None;
    table.lookup(asked.head.host, asked.head.path, |places| {
        for &place in places {
            // Lists are in order: all that follow are worse.
            if best.is_some_and(|best| best <= place) {
                return;
            }
            let conditions = table.conditions_of(table.candidate(place));
            if conditions.is_none_or(|rule| asked.fits_method(rule) && asked.fits_but_method(rule))
            {
                best = Some(place);
                return;
            }
        }
    });
    best
}

/// No entry takes the request: collects the methods with which some would.
fn allowed<'a>(table: &Table, asked: &Asked<'_>) -> Match<'a> {
    let mut methods: Vec<&Method> = Vec::new();
    table.lookup(asked.head.host, asked.head.path, |places| {
        for &place in places {
            // A rule without conditions would have taken the request.
            if let Some(rule) = table.conditions_of(table.candidate(place))
                && asked.fits_but_method(rule)
            {
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
        // Never reached, since a method is a token; an empty `Allow` would be wrong.
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
        rule.takes_scheme(self.head.scheme)
            && rule.path.takes_indexed(self.head.path)
            && rule.headers.iter().all(|(name, predicate)| self.fits_header(name, predicate))
            && rule.query.iter().all(|(name, value)| self.fits_query(name, value))
    }

    /// The first condition that the request fails, in the order of checking.
    pub(super) fn failed<'r>(&self, rule: &'r Rule) -> Option<Condition<'r>> {
        if !rule.takes_scheme(self.head.scheme) {
            return Some(Condition::Scheme);
        }
        if !self.fits_method(rule) {
            return Some(Condition::Method);
        }
        let header = rule.headers.iter().find(|(name, p)| !self.fits_header(name, p));
        let query = || rule.query.iter().find(|(name, value)| !self.fits_query(name, value));
        header
            .map(|(name, _)| Condition::Header(name))
            .or_else(|| query().map(|(name, _)| Condition::Query(name)))
    }

    /// A preflight lists the fields of the announced request, without their values.
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

/// The method that a preflight announces (Fetch, "CORS-preflight request"); `None` if it is none.
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
