//! Allocations of a proxied request: a gateway over sockets beside a bare hyper server and client, in one run.
//!
//! `cargo bench --bench proxy [-- trace]`
//!
//! One keep-alive connection, requests one after another. Origin and client allocate nothing once they
//! run, so what is counted between two answers is the proxy's; the median says what a request takes,
//! whatever the other threads did beside. With `trace` each allocation is listed with the frames that
//! led to it.

#![expect(clippy::print_stdout, reason = "it reports to whoever runs it")]
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

mod bare;
mod counting;
mod gateway;
mod peers;

use std::net::SocketAddr;

use self::peers::Requests;

/// Until pools are filled, tables have grown and tokens are known.
const WARM_UP: usize = 300;
const REQUESTS: usize = 1000;
/// Requests whose allocations are traced.
const TRACED: usize = 20;
/// Over those of hyper; docs/performance.md has the reason for each.
const MOST_BARE: u64 = 0;
const MOST_FULL: u64 = 4;

fn main() {
    let is_traced = std::env::args().any(|argument| argument == "trace");
    let origin = peers::origin();
    let hyper = measure("hyper, server and client", bare::start(origin), "", is_traced);
    let [bare, full] =
        [("sluice, bare", gateway::bare(origin)), ("sluice, all policies", gateway::full(origin))]
            .map(|(name, gateway)| {
                let count = measure(name, gateway.address, &gateway.token, is_traced);
                gateway.stop();
                count
            });
    println!("\n| | allocations per request | over hyper |\n|---|---|---|");
    println!("| hyper, server and client | {hyper} | |");
    println!("| sluice, bare | {bare} | {:+} |", bare.cast_signed() - hyper.cast_signed());
    println!("| sluice, all policies | {full} | {:+} |", full.cast_signed() - hyper.cast_signed());
    assert!(bare <= hyper + MOST_BARE, "bare: {MOST_BARE} more than hyper's are allowed");
    assert!(full <= hyper + MOST_FULL, "all policies: {MOST_FULL} more than hyper's are allowed");
}

/// The median of the allocations that a request takes here.
fn measure(name: &str, address: SocketAddr, token: &str, is_traced: bool) -> u64 {
    let mut requests = Requests::new(address, token);
    (0..WARM_UP).for_each(|_| requests.next());
    let mut counts: Vec<u64> =
        (0..REQUESTS).map(|_| counting::during(|| requests.next())).collect();
    counts.sort_unstable();
    if is_traced {
        println!("\n{name}: allocations per request\n");
        let sites = counting::traced(|| (0..TRACED).for_each(|_| requests.next()));
        // Less often is not what a request takes, but what was beside it.
        for (site, count) in sites.iter().filter(|(_, count)| *count >= TRACED / 2) {
            println!("{:.2} of {site}", *count as f64 / TRACED as f64);
        }
    }
    counts[REQUESTS / 2]
}
