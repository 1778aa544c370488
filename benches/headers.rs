//! What every request pays before it is routed: its target normalised, its hop-by-hop fields taken
//! off. The common request, which has nothing to change, must not allocate. And what one pays whose head is
//! kept for another attempt.

mod allocations;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderName, HeaderValue, uri::PathAndQuery};
use sluicegate::http::{PackedHead, hop_by_hop, target::Target};

/// A browser's request.
const COMMON: &[(&str, &str)] = &[
    ("host", "shop.example.com"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("authorization", "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"),
    ("cookie", "session=7d9f2c1e4b7a4f0e"),
    ("x-request-id", "0190b5a4-9d55-7f3a-8a51-2f6f0d9b8c3a"),
];

/// The same, over a connection that says how it is to be treated.
const HOP_BY_HOP: &[(&str, &str)] = &[
    ("connection", "keep-alive, x-trace-hop"),
    ("keep-alive", "timeout=5"),
    ("te", "trailers, deflate"),
    ("x-trace-hop", "1"),
];

/// Name, target, and how many allocations it may take.
const TARGETS: &[(&str, &str, u64)] = &[
    ("plain", "/orders/7d9f2c1e/items?page=2&size=50", 0),
    ("encoded", "/orders/caf%c3%a9/items?page=2", 5),
    ("dots", "/orders/./7d9f2c1e/../items", 5),
];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    targets(&mut criterion);
    strip(&mut criterion);
    keep(&mut criterion);
    criterion.final_summary();
}

fn targets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("target");
    for &(name, raw, most) in TARGETS {
        let raw = PathAndQuery::from_static(raw);
        let parse = || Target::parse(black_box(&raw).clone());
        assert!(parse().is_ok(), "{name}");
        allocations::assert_at_most(most, name, parse);
        group.bench_function(name, |b| b.iter(parse));
    }
    group.finish();
}

fn strip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hop-by-hop");
    let common = headers(&[COMMON]);
    let mut stripped = common.clone();
    allocations::assert_at_most(0, "nothing to take off", || {
        hop_by_hop::strip_request(&mut stripped, true);
    });
    assert_eq!(stripped, common);
    for (name, fields) in [("none", common), ("some", headers(&[COMMON, HOP_BY_HOP]))] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || fields.clone(),
                |fields| hop_by_hop::strip_request(black_box(fields), true),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// A copy that is dropped unread, as those of nearly all requests are.
fn keep(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keep");
    let (mut head, ()) = http::Request::new(()).into_parts();
    head.headers = as_read(COMMON);
    assert_eq!(PackedHead::of(&head).unpack().headers, head.headers);
    allocations::assert_at_most(1, "packed", || PackedHead::of(&head));
    group.bench_function("packed", |b| b.iter(|| PackedHead::of(black_box(&head))));
    group.bench_function("cloned", |b| b.iter(|| black_box(&head).clone()));
    group.finish();
}

/// Values that are parts of one buffer, as a connection's are.
fn as_read(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut rest = Bytes::from(fields.iter().map(|&(_, value)| value).collect::<String>());
    let field = |&(name, value): &(&'static str, &str)| {
        let value = HeaderValue::from_maybe_shared(rest.split_to(value.len()));
        (HeaderName::from_static(name), value.unwrap_or(HeaderValue::from_static("")))
    };
    fields.iter().map(field).collect()
}

fn headers(lists: &[&[(&'static str, &'static str)]]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    lists.iter().copied().flatten().map(field).collect()
}
