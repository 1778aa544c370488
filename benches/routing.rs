//! Finding a route: the time must not follow the number of routes, and nothing is allocated.

mod allocations;

use std::{hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion};
use http::{HeaderMap, Method};
use sluicegate::{
    http::Scheme,
    routing::{
        Rule, Table,
        matcher::{self, Head, Match},
        route::{Host, Path, Segment},
    },
};

/// Few, and many: what the first answers in, the second must too.
const SIZES: [usize; 2] = [10, 10_000];
/// Rules per host: a gateway in front of many services has many hosts.
const RULES_PER_HOST: usize = 10;

/// What is asked: the name of the case, and host and path.
struct Case {
    name: &'static str,
    host: String,
    path: String,
    is_hit: bool,
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    for size in SIZES {
        let table = Table::new(rules(size));
        let headers = HeaderMap::new();
        let mut group = criterion.benchmark_group("find");
        for case in cases(size) {
            let find = || matcher::find(black_box(&table), case.head(&headers));
            assert_eq!(matches!(find(), Match::Route { .. }), case.is_hit, "{}", case.name);
            allocations::assert_at_most(0, case.name, find);
            group.bench_function(BenchmarkId::new(case.name, size), |b| b.iter(find));
        }
        group.finish();
    }
    let most = SIZES[SIZES.len() - 1];
    criterion.bench_function(&format!("build/{most}"), |b| {
        b.iter_batched(|| rules(most), Table::new, criterion::BatchSize::LargeInput);
    });
    criterion.final_summary();
}

/// Half exact paths, half templates with two names.
fn rules(size: usize) -> Vec<Rule> {
    (0..size)
        .map(|index| {
            let service = format!("service-{index}");
            let path = if index % 2 == 0 {
                Path::Exact(format!("/v1/{service}/items").into())
            } else {
                Path::Template(vec![
                    Segment::Literal("v1".into()),
                    Segment::Literal(service.into()),
                    Segment::Name("item".into()),
                    Segment::Literal("parts".into()),
                    Segment::Name("part".into()),
                ])
            };
            Rule {
                name: Arc::from(format!("rule-{index}")),
                priority: 0,
                hosts: vec![Host::Exact(host(index).into())],
                path,
                scheme: None,
                methods: Some(vec![Method::GET, Method::POST]),
                headers: Vec::new(),
                query: Vec::new(),
                claims: Vec::new(),
                pass_encoded_separators: false,
            }
        })
        .collect()
}

/// One of each kind, near the end of the table.
fn cases(size: usize) -> [Case; 3] {
    let (exact, template) = (size - 2, size - 1);
    [
        Case {
            name: "exact",
            host: host(exact),
            path: format!("/v1/service-{exact}/items"),
            is_hit: true,
        },
        Case {
            name: "template",
            host: host(template),
            path: format!("/v1/service-{template}/7d9f2c1e/parts/41"),
            is_hit: true,
        },
        Case { name: "miss", host: host(exact), path: "/v2/nothing/here".into(), is_hit: false },
    ]
}

fn host(index: usize) -> String {
    format!("shop-{}.example.com", index / RULES_PER_HOST)
}

// === impl Case ===

impl Case {
    fn head<'a>(&'a self, headers: &'a HeaderMap) -> Head<'a> {
        Head {
            host: black_box(&self.host),
            path: black_box(&self.path),
            scheme: Scheme::Http,
            method: &Method::GET,
            query: None,
            headers,
        }
    }
}
