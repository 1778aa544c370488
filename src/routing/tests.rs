//! The table, the matcher and the explanation, against a search that only knows the documented
//! order.

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use proptest::prelude::*;
use regex::Regex;

use super::{
    Head, Match, Rule, Table,
    explain::{Outcome, explain},
    matcher,
    route::{HeaderPredicate, Host, Path, Segment},
};
use crate::http::Scheme;

/// A rule, written as `[priority] host path`.
fn rule(name: &str, host: &str, path: &str) -> Rule {
    Rule {
        name: Arc::from(name),
        priority: 0,
        hosts: host.split_whitespace().map(parse_host).collect(),
        path: parse_path(path),
        scheme: None,
        methods: None,
        headers: Vec::new(),
        query: Vec::new(),
        claims: Vec::new(),
        pass_encoded_separators: false,
    }
}

fn parse_host(text: &str) -> Host {
    match text.strip_prefix('*') {
        Some(suffix) => Host::Suffix(suffix.into()),
        None => Host::Exact(text.into()),
    }
}

fn parse_path(text: &str) -> Path {
    if text.is_empty() {
        return Path::Any;
    }
    if let Some(regex) = text.strip_prefix('~') {
        return Path::Regex(Regex::new(&format!("^(?:{regex})$")).unwrap());
    }
    if !text.contains('{') {
        return Path::Exact(text.into());
    }
    let segment = |segment: &str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'))
    {
        Some(name) => match name.strip_prefix('*') {
            Some(name) => Segment::Rest(name.into()),
            None => Segment::Name(name.into()),
        },
        None => Segment::Literal(segment.into()),
    };
    Path::Template(text[1..].split('/').map(segment).collect())
}

fn over(mut rule: Rule, scheme: Scheme) -> Rule {
    rule.scheme = Some(scheme);
    rule
}

fn methods(mut rule: Rule, methods: &[Method]) -> Rule {
    rule.methods = Some(methods.to_vec());
    rule
}

fn header(mut rule: Rule, name: &'static str, predicate: HeaderPredicate) -> Rule {
    rule.headers.push((HeaderName::from_static(name), predicate));
    rule
}

fn exact(value: &'static str) -> HeaderPredicate {
    HeaderPredicate::Exact(HeaderValue::from_static(value))
}

/// The name of the route taken, the `Allow` of a 405, or `-`. A URL without a scheme is plain HTTP.
fn find(table: &Table, method: &Method, url: &str, headers: &[(&'static str, &str)]) -> String {
    let headers: HeaderMap =
        headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
    let (scheme, url) = match url.strip_prefix("https://") {
        Some(url) => (Scheme::Https, url),
        None => (Scheme::Http, url),
    };
    let (host, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
    let head = Head { host, path, scheme, method, query, headers: &headers };
    match matcher::find(table, head) {
        Match::Route { index, values } => {
            let name: &str = &table.rules()[index].name;
            [&[name], values.as_slice()].concat().join(" ")
        }
        Match::MethodNotAllowed { allow } => allow.to_str().unwrap().to_owned(),
        Match::None => "-".to_owned(),
    }
}

fn get(table: &Table, url: &str) -> String {
    find(table, &Method::GET, url, &[])
}

#[test]
fn paths_take_what_they_say() {
    let table = Table::new(vec![
        rule("exact", "", "/orders"),
        rule("one", "", "/orders/{id}"),
        rule("lines", "", "/orders/{id}/lines"),
        rule("slash", "", "/orders/{id}/"),
        rule("below", "", "/files/{*rest}"),
        rule("regex", "", "~/v[0-9]+/.*"),
    ]);
    for (path, route) in [
        ("/orders", "exact"),
        ("/orders/", "-"),
        ("/orders/7", "one 7"),
        ("/orders/7/", "slash 7"),
        ("/orders/7/lines", "lines 7"),
        ("/orders/7/x", "-"),
        ("/files", "-"),
        ("/files/", "below "),
        ("/files/a/b", "below a/b"),
        ("/v2/x", "regex"),
        ("/x/v2/x", "-"),
        ("*", "-"),
        ("", "-"),
    ] {
        assert_eq!(get(&table, path), route, "{path}");
    }
    let every = Table::new(vec![rule("every", "", "/{*rest}"), rule("any", "", "")]);
    assert_eq!(get(&every, "/"), "every ");
    assert_eq!(get(&every, "*"), "any");
}

#[test]
fn the_order_of_match_is_the_documented_one() {
    let mut first = rule("priority", "", "/{*rest}");
    first.priority = 1;
    // Each differs from the next in one criterion of the order.
    let mut rules = vec![
        rule("exact-host", "a.b.c", "/{*rest}"),
        rule("long-wildcard", "*.b.c", "/{*rest}"),
        rule("short-wildcard", "*.c", "/x/y"),
        rule("exact", "", "/x/y"),
        rule("two-literals", "", "/x/y/{c}"),
        over(
            methods(rule("one-literal-method-https", "", "/{a}/y"), &[Method::GET]),
            Scheme::Https,
        ),
        methods(rule("one-literal-method", "", "/{a}/y"), &[Method::GET]),
        rule("one-literal", "", "/x/{b}"),
        rule("one-literal-later", "", "/{a}/y"),
        rule("no-literal", "", "/{a}/{b}"),
        rule("long-rest", "", "/x/{a}/{*rest}"),
        rule("short-rest", "", "/x/{*rest}"),
        rule("regex", "", "~/x/.*"),
        rule("any", "", ""),
    ];
    rules.insert(0, first.clone());
    let names: Vec<_> = rules.iter().map(|rule| rule.name.clone()).collect();
    // The file's order is only the last resort: reversed, only the two equal rules swap.
    rules[1..].reverse();
    let equal = |name: &str| rules.iter().position(|rule| &*rule.name == name).unwrap();
    let (one, other) = (equal("one-literal"), equal("one-literal-later"));
    rules.swap(one, other);
    let table = Table::new(rules);
    let order: Vec<_> =
        table.in_order().into_iter().map(|r| table.rules()[r].name.clone()).collect();
    assert_eq!(order, names);
    assert_eq!(get(&table, "a.b.c/x/y"), "priority x/y");
    let table = Table::new(table.rules().iter().filter(|r| r.priority == 0).cloned().collect());
    assert_eq!(get(&table, "a.b.c/x/y"), "exact-host x/y");
    assert_eq!(get(&table, "z.b.c/x/y"), "long-wildcard x/y");
    assert_eq!(get(&table, "z.y.b.c/x/y"), "long-wildcard x/y");
    assert_eq!(get(&table, "b.c/x/y"), "short-wildcard");
    assert_eq!(get(&table, "b.c/x/z"), "one-literal z");
    assert_eq!(get(&table, "c/x/y"), "exact");
    assert_eq!(get(&table, ".c/q/y"), "one-literal-method q");
    assert_eq!(get(&table, "https://.c/q/y"), "one-literal-method-https q");
    assert_eq!(find(&table, &Method::PUT, "c/q/y", &[]), "one-literal-later q");
}

#[test]
fn predicates_decide_and_fall_through() {
    let beta = header(rule("beta", "", "/x"), "x-beta", exact("1"));
    let regex = HeaderPredicate::Regex(Regex::new("^v[12]$").unwrap());
    let versioned = header(rule("versioned", "", "/x"), "x-api", regex);
    let mut query = header(rule("query", "", "/x"), "x-none", HeaderPredicate::Present(false));
    query.query.push(("version".into(), "2 b".into()));
    let table = Table::new(vec![rule("plain", "", "/x"), beta, versioned, query]);
    let find =
        |url: &str, headers: &[(&'static str, &str)]| find(&table, &Method::GET, url, headers);
    assert_eq!(find("/x", &[]), "plain");
    assert_eq!(find("/x", &[("x-beta", "1")]), "beta");
    assert_eq!(find("/x", &[("x-beta", "2")]), "plain");
    assert_eq!(find("/x", &[("x-api", "v2")]), "versioned");
    assert_eq!(find("/x?version=1&version=2+b", &[]), "query");
    assert_eq!(find("/x?version=2+b", &[("x-none", "")]), "plain");
}

#[test]
fn a_405_only_when_no_other_route_takes_the_request() {
    let guarded = methods(rule("guarded", "", "/x/{id}"), &[Method::PUT, Method::PATCH]);
    let guarded = header(guarded, "x-key", exact("k"));
    let get_only = methods(rule("get", "", "/x/{id}"), &[Method::GET]);
    let post = methods(rule("post", "", "/x/{*rest}"), &[Method::POST]);
    let table = Table::new(vec![guarded, get_only, post]);
    let send =
        |method: &Method, headers: &[(&'static str, &str)]| find(&table, method, "/x/1", headers);
    assert_eq!(send(&Method::GET, &[]), "get 1");
    assert_eq!(send(&Method::HEAD, &[]), "get 1");
    assert_eq!(send(&Method::POST, &[]), "post 1");
    assert_eq!(send(&Method::PUT, &[]), "GET, HEAD, POST");
    assert_eq!(send(&Method::DELETE, &[("x-key", "k")]), "GET, HEAD, PATCH, POST, PUT");
    assert_eq!(find(&table, &Method::DELETE, "/y", &[]), "-");
}

#[test]
fn a_scheme_leaves_the_other_to_other_routes() {
    let redirect = over(rule("redirect", "", "/{*rest}"), Scheme::Http);
    let get_only = over(methods(rule("get", "", "/a"), &[Method::GET]), Scheme::Https);
    let table = Table::new(vec![rule("any", "", "/{*rest}"), redirect, get_only]);
    assert_eq!(get(&table, "/a"), "redirect a");
    assert_eq!(get(&table, "https:///a"), "get");
    assert_eq!(get(&table, "https:///b"), "any b");
    assert_eq!(find(&table, &Method::PUT, "https:///a", &[]), "any a");
    // Routes of the other scheme have no part in what is allowed.
    let secure = over(methods(rule("secure", "", "/a"), &[Method::GET]), Scheme::Https);
    let plain = over(methods(rule("plain", "", "/a"), &[Method::POST]), Scheme::Http);
    let table = Table::new(vec![secure, plain]);
    assert_eq!(find(&table, &Method::PUT, "https:///a", &[]), "GET, HEAD");
    assert_eq!(find(&table, &Method::PUT, "/a", &[]), "POST");
    let only = Table::new(vec![over(rule("only", "", "/a"), Scheme::Https)]);
    assert_eq!(get(&only, "/a"), "-");
}

#[test]
fn rules_of_two_schemes_are_two_groups() {
    let both = [Scheme::Http, Scheme::Https].map(|it| over(rule(it.as_str(), "", "/a"), it));
    assert_eq!(both[0].to_string(), "http://*/a");
    let named = over(rule("named", "shop.example", "/a"), Scheme::Https);
    assert_eq!(named.to_string(), "https://shop.example/a");
    let table = Table::new(both.to_vec());
    assert_eq!([table.members(0), table.members(1)], [[0], [1]]);
}

#[test]
fn a_preflight_is_routed_as_the_method_it_announces() {
    let put = methods(rule("put", "", "/x"), &[Method::PUT]);
    let keyed = header(methods(rule("keyed", "", "/x"), &[Method::PUT]), "x-key", exact("k"));
    let table = Table::new(vec![put, keyed]);
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "PUT")];
    let options = |headers: &[(&'static str, &str)]| find(&table, &Method::OPTIONS, "/x", headers);
    assert_eq!(options(&preflight), "put");
    assert_eq!(options(&preflight[..1]), "PUT", "an ordinary OPTIONS");
    assert_eq!(options(&preflight[1..]), "PUT", "an ordinary OPTIONS");
    let named = [preflight[0], preflight[1], ("access-control-request-headers", "a, X-Key")];
    assert_eq!(options(&named), "keyed");
    let other = [preflight[0], ("access-control-request-method", "DELETE")];
    assert_eq!(options(&other), "PUT");
}

#[test]
fn the_gateways_own_paths_belong_to_no_route() {
    let table = Table::new(vec![rule("any", "", "")]);
    assert_eq!(get(&table, "/.sluice/requests/1"), "-");
    assert_eq!(get(&table, "/.sluice"), "-");
    assert_eq!(get(&table, "/.sluiced"), "any");
}

#[test]
fn rules_that_differ_only_in_claims_are_one_entry() {
    let mut acme = rule("acme", "", "/x");
    acme.claims.push(("tenant".into(), "acme".into()));
    let mut admin = acme.clone();
    admin.name = Arc::from("admin");
    admin.claims.push(("role".into(), "admin".into()));
    let table = Table::new(vec![rule("rest", "", "/x"), acme, rule("y", "", "/y"), admin]);
    assert_eq!(table.members(1), [3, 1, 0]);
    assert_eq!(table.members(2), [2]);
    assert_eq!(get(&table, "/x"), "admin");
    assert_eq!(table.in_order(), [3, 1, 0, 2]);
}

#[test]
fn explains_why_the_others_lost() {
    let mut urgent = rule("urgent", "other.example", "/x");
    urgent.priority = 9;
    let table = Table::new(vec![
        rule("host", "other.example", "/x"),
        rule("path", "", "/y"),
        methods(rule("method", "", "/x"), &[Method::PUT, Method::POST]),
        over(methods(rule("scheme", "", "/x"), &[Method::PUT]), Scheme::Https),
        header(rule("header", "", "/x"), "x-a", exact("1")),
        rule("taken", "*.example shop.example", "/{name}"),
        rule("lesser", "", "/x"),
        rule("last", "*.example", "/{*rest}"),
        urgent,
    ]);
    let headers = HeaderMap::new();
    let method = Method::GET;
    let (host, scheme) = ("shop.example", Scheme::Http);
    let head = Head { host, path: "/x", scheme, method: &method, query: None, headers: &headers };
    let explanation = explain(&table, head);
    let params = vec![("name".to_owned(), "x".to_owned())];
    assert_eq!(explanation.outcome, Outcome::Route { route: "taken".into(), index: 5, params });
    let told: Vec<_> = explanation
        .losers
        .iter()
        .map(|loser| (loser.route.as_str(), loser.failed_on, loser.why.as_str()))
        .collect();
    assert_eq!(
        told,
        [
            ("urgent", "host", "host is `shop.example`, not `other.example`"),
            ("host", "host", "host is `shop.example`, not `other.example`"),
            ("last", "order", "fits too, but `taken` has a more specific host"),
            ("scheme", "scheme", "scheme is http, not https"),
            ("method", "method", "method is GET, not PUT or POST"),
            ("header", "header", "header `x-a` is not what it asks for"),
            ("path", "path", "path is `/x`, not `/y`"),
            ("lesser", "order", "fits too, but `taken` has a more specific host"),
        ]
    );
    let text = explanation.to_string();
    assert!(text.starts_with("GET shop.example/x\n  -> route `taken`\n     name = x\n"), "{text}");
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["outcome"]["result"], "route");
    assert_eq!(json["losers"][0]["failed_on"], "host");
}

// === the reference ===

/// A second implementation of the documented order.
fn reference(rules: &[Rule], head: Head<'_>) -> Result<usize, Vec<String>> {
    let mut best = None;
    let mut allow = Vec::new();
    for (order, rule) in rules.iter().enumerate() {
        let host = if rule.hosts.is_empty() {
            Some((2, Reverse(0)))
        } else {
            let rank = |host: &Host| match host {
                Host::Exact(name) => (**name == *head.host).then_some((0, Reverse(0))),
                Host::Suffix(suffix) => (head.host.ends_with(&**suffix)
                    && head.host.len() > suffix.len())
                .then_some((1, Reverse(suffix.len()))),
            };
            rule.hosts.iter().filter_map(rank).min()
        };
        let (Some(host), Some(path)) = (host, reference_path(&rule.path, head.path)) else {
            continue;
        };
        let headers = rule.headers.iter().all(|(name, predicate)| match predicate {
            HeaderPredicate::Exact(value) => head.headers.get(name) == Some(value),
            HeaderPredicate::Regex(_) => false,
            HeaderPredicate::Present(wanted) => head.headers.contains_key(name) == *wanted,
        });
        if !headers || rule.scheme.is_some_and(|wanted| wanted != head.scheme) {
            continue;
        }
        let listed = rule.methods.as_deref();
        if listed.is_some_and(|listed| !listed.contains(head.method)) {
            allow.extend(listed.unwrap_or_default().iter().map(ToString::to_string));
            continue;
        }
        let predicates = [listed.is_some(), rule.scheme.is_some()].map(usize::from);
        let predicates = predicates.into_iter().sum::<usize>() + rule.headers.len();
        let rank = (Reverse(rule.priority), host, path, Reverse(predicates), order);
        if best.as_ref().is_none_or(|(best, _)| rank < *best) {
            best = Some((rank, order));
        }
    }
    allow.sort();
    allow.dedup();
    best.map(|(_, order)| order).ok_or(allow)
}

type PathRank = (u8, Reverse<usize>, Reverse<usize>);

fn reference_path(pattern: &Path, path: &str) -> Option<PathRank> {
    let segments = match pattern {
        Path::Exact(exact) => return (**exact == *path).then_some((0, Reverse(0), Reverse(0))),
        Path::Regex(regex) => return regex.is_match(path).then_some((3, Reverse(0), Reverse(0))),
        Path::Any => return Some((4, Reverse(0), Reverse(0))),
        Path::Template(segments) => segments,
    };
    // A template can be written as a regular expression.
    let mut text = String::from("^");
    for segment in segments {
        text.push('/');
        match segment {
            Segment::Literal(literal) => text.push_str(&regex::escape(literal)),
            Segment::Name(_) => text.push_str("[^/]+"),
            Segment::Rest(_) => text.push_str(".*"),
        }
    }
    text.push('$');
    let literals = segments.iter().filter(|s| matches!(s, Segment::Literal(_))).count();
    let rank = match segments.last() {
        Some(Segment::Rest(_)) => (2, Reverse(segments.len() - 1), Reverse(literals)),
        _ => (1, Reverse(literals), Reverse(0)),
    };
    Regex::new(&text).unwrap().is_match(path).then_some(rank)
}

fn any_rule() -> impl Strategy<Value = Rule> {
    let host =
        proptest::sample::select(vec!["", "a.b", "*.b", "*.a.b", "b a.b", "*.b a.b", "*.b b"]);
    let path = prop_oneof![
        4 => "(/(a|b|\\{x\\})){1,3}(/|/\\{\\*r\\})?",
        1 => proptest::sample::select(vec!["/", "/a", "/a/b", "/{*r}", "", "~/a.*", "~.*b"])
            .prop_map(str::to_owned),
    ];
    let listed = proptest::sample::select(vec![
        None,
        Some(vec![Method::POST]),
        Some(vec![Method::PUT, Method::POST]),
    ]);
    let headers = proptest::sample::select(vec![
        Vec::new(),
        vec![(HeaderName::from_static("x-a"), exact("1"))],
        vec![(HeaderName::from_static("x-b"), HeaderPredicate::Present(false))],
    ]);
    let scheme = proptest::sample::select(vec![None, Some(Scheme::Http), Some(Scheme::Https)]);
    let parts = (host, path, scheme, listed, headers, -1..2);
    parts.prop_map(|(host, path, scheme, methods, headers, priority)| Rule {
        priority,
        scheme,
        methods,
        headers,
        ..rule("r", host, &path)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn finds_what_a_search_of_all_rules_finds(
        rules in proptest::collection::vec(any_rule(), 1..12),
        host in proptest::sample::select(vec!["", "b", "a.b", "c.a.b", ".b"]),
        path in "(/(a|b|c)){0,3}/?|\\*",
        scheme in proptest::sample::select(vec![Scheme::Http, Scheme::Https]),
        method in proptest::sample::select(vec![Method::POST, Method::PUT, Method::DELETE]),
        fields in proptest::sample::subsequence(vec![("x-a", "1"), ("x-b", "1")], 0..=2),
    ) {
        let headers: HeaderMap = fields
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (path, method, headers) = (&*path, &method, &headers);
        let head = Head { host, path, scheme, method, query: None, headers };
        let table = Table::new(rules.clone());
        let found = match matcher::find(&table, head) {
            Match::Route { index, values } => {
                prop_assert_eq!(values.len(), rules[index].path.names().count());
                Ok(index)
            }
            Match::MethodNotAllowed { allow } => {
                Err(allow.to_str().unwrap().split(", ").map(str::to_owned).collect())
            }
            Match::None => Err(Vec::new()),
        };
        prop_assert_eq!(found, reference(&rules, head));
        // The explanation agrees, for every rule.
        let explanation = explain(&table, head);
        let is_taken = matches!(explanation.outcome, Outcome::Route { .. });
        prop_assert_eq!(explanation.losers.len() + usize::from(is_taken), rules.len());
        prop_assert!(is_taken || explanation.losers.iter().all(|l| l.failed_on != "order"));
    }

    #[test]
    fn any_host_and_path_never_panic(host: String, path: String) {
        let table = Table::new(vec![rule("a", "*.b", "/{x}/{*r}"), rule("b", "", "/é/{x}")]);
        let headers = HeaderMap::new();
        let (host, path, scheme, method) = (&*host, &*path, Scheme::Http, &Method::GET);
        let head = Head { host, path, scheme, method, query: None, headers: &headers };
        let _found = matcher::find(&table, head);
    }
}
