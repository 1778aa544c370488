//! What a request pays for its limits: one policy, four, and two threads that want the same bucket.
//! A check must not allocate. `MEMORY=1` measures what ten million keys take instead.

mod allocations;

use std::{hash::RandomState, hint::black_box, num::NonZeroU32, sync::Arc, thread, time::Duration};

use criterion::{Criterion, Throughput};
use http::{HeaderMap, Method};
use sluicegate::{
    http::{
        ClientIp,
        context::Params,
        selector::{Input, Part, Selector},
    },
    middleware::rate_limit::{
        Key, Mode, Policy, Settings,
        charge::{Keys, charge},
        gcra::{self, Nanos},
        key::Fingerprint,
    },
};

/// Keys that take turns: more than fit into a processor's nearest caches.
const KEYS: u64 = 100_000;

fn main() {
    if std::env::var_os("MEMORY").is_some() {
        return memory();
    }
    let mut criterion = Criterion::default().configure_from_args();
    fingerprints(&mut criterion);
    checks(&mut criterion);
    contended(&mut criterion);
    criterion.final_summary();
}

fn policy(name: &str, max_keys: usize) -> Arc<Policy> {
    let per = Duration::from_secs(1);
    let burst = NonZeroU32::new(200).expect("not zero");
    let settings = Settings {
        name: name.into(),
        key: Key::new(Selector::new([Part::ClientIp]), "client_ip"),
        limit: gcra::limit(100, per, burst).expect("a limit"),
        count: 100,
        per,
        mode: Mode::Enforce,
        max_keys,
    };
    Policy::new(settings, &[])
}

fn fingerprints(criterion: &mut Criterion) {
    let mut headers = HeaderMap::new();
    headers.insert("x-user", "0190b5a4-9d55-7f3a-8a51-2f6f0d9b8c3a".parse().expect("a value"));
    let input = Input {
        method: &Method::GET,
        headers: &headers,
        query: None,
        host: Some("shop.example.com"),
        client_ip: Some(ClientIp::Ip([192, 0, 2, 1].into())),
        params: Params::default(),
        principal: Some("shop:0190b5a4-9d55-7f3a-8a51-2f6f0d9b8c3a"),
        claims: None,
        body: None,
        response_headers: None,
        response_body: None,
    };
    let seed = RandomState::new();
    let mut group = criterion.benchmark_group("fingerprint");
    for part in ["client_ip", "header:x-user", "principal"] {
        let selector = Selector::new([Part::parse(part).expect("a selector")]);
        let key = Key::new(selector, part);
        let hash = || key.fingerprint(black_box(&input), &seed);
        allocations::assert_at_most(0, part, hash);
        group.bench_function(part, |b| b.iter(hash));
    }
    group.finish();
}

/// One key that is asked for again and again, and many in turn. Where 10 ms pass in between each is
/// admitted, where 10 ns pass nearly all are denied.
fn checks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("check");
    for (name, count, keys, step) in [
        ("one policy, admitted", 1, 1, 10_000_000),
        ("one policy, denied", 1, 1, 10),
        ("one policy, 100000 keys", 1, KEYS, 10),
        ("four policies, admitted", 4, 1, 10_000_000),
        ("four policies, 100000 keys", 4, KEYS, 10),
    ] {
        let policies: Vec<_> = (0..count).map(|n| policy(&n.to_string(), 1_000_000)).collect();
        let mut n = 0;
        let mut check = || {
            n += 1;
            let key = Fingerprint::from_bits(spread(n % keys));
            let keys: Keys = policies.iter().map(|_| key).collect();
            charge(&policies, black_box(&keys), Nanos::from(1_000_000_000 + n * step))
        };
        // The tables grow while keys come; then nothing is allocated any more.
        for _ in 0..2 * keys {
            check();
        }
        allocations::assert_at_most(0, name, || (0..10_000).for_each(|_| drop(check())));
        group.bench_function(name, |b| b.iter(&mut check));
    }
    group.finish();
}

/// Two threads, one key: the time of one check when each waits for the other.
fn contended(criterion: &mut Criterion) {
    const THREADS: u64 = 2;
    let policies = [policy("a", 1_000_000)];
    let mut group = criterion.benchmark_group("contended");
    group.throughput(Throughput::Elements(THREADS));
    for (name, spread_by) in [("two threads, one key", 0), ("two threads, a key each", 1)] {
        group.bench_function(name, |b| {
            b.iter_custom(|rounds| {
                let started = tokio::time::Instant::now();
                thread::scope(|scope| {
                    for thread in 0..THREADS {
                        let key = Fingerprint::from_bits(spread(thread * spread_by));
                        let policies = &policies;
                        scope.spawn(move || {
                            for n in 0..rounds {
                                let now = Nanos::from(1_000_000_000 + n * 1_000);
                                black_box(charge(policies, black_box(&[key]), now));
                            }
                        });
                    }
                });
                started.elapsed()
            });
        });
    }
    group.finish();
}

/// Ten million distinct keys, none of which becomes idle: what the process takes for them.
#[expect(clippy::print_stdout, reason = "its result is what it prints")]
fn memory() {
    for max_keys in [1_000_000, 10_000_000] {
        let before = resident();
        let policies = [policy("a", max_keys)];
        let mut overflowed = 0_u64;
        for n in 0..10_000_000 {
            let key = Fingerprint::from_bits(spread(n));
            let verdicts = charge(&policies, &[key], Nanos::from(1_000_000_000 + n));
            overflowed += u64::from(verdicts[0].is_overflow);
        }
        let store = policies[0].store();
        assert!(store.bytes() <= store.max_bytes());
        println!(
            "max_keys {max_keys}: {} keys, {overflowed} decisions on the overflow bucket, tables \
             {:.1} MiB of at most {:.1} MiB, resident {:+.1} MiB",
            store.keys(),
            mib(store.bytes()),
            mib(store.max_bytes()),
            mib(resident()) - mib(before),
        );
    }
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or_default() * 4096
}

/// Splitmix: spreads small numbers over all bits, as a hash does.
fn spread(n: u64) -> u64 {
    let mut bits = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
