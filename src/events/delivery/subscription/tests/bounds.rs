//! Memory does not grow with the backlog, and the cost of an event is small.

use super::super::*;
use crate::events::queue::Offset;

/// A log of any length that is not stored.
fn found(at: u64, keys: u64) -> Found {
    let number = u16::try_from(at % 16).unwrap();
    Found {
        event: Added {
            partition: Partition { generation: 0, number },
            offset: Offset(at),
            key: (keys > 0).then(|| at % keys),
            published: at,
            expires: None,
            bytes: 512,
        },
        is_wanted: true,
    }
}

fn read(machine: &mut Machine, end: u64, keys: u64, out: &mut Output) {
    loop {
        let Some(scan) = machine.scans().find(|scan| scan.from.0 < end) else { return };
        let to = scan.to.map_or(end, |to| to.0).min(scan.from.0 + 128);
        let found: Vec<Found> = (scan.from.0..to).map(|at| found(at, keys)).collect();
        machine.scanned(&scan, Offset(to), 1, &found, out);
        out.entries.clear();
    }
}

fn moment(now: u64) -> Moment {
    let target = Target { log: super::world::log_id(1), end: Offset(0) };
    let targets = Targets { letters: target, success: target, failure: target };
    Moment { now, judged: now, random: now, targets }
}

/// The size of the machine, in entries.
fn size(machine: &Machine) -> usize {
    machine.slab.capacity()
        + machine.timers.len()
        + machine.suspects.capacity()
        + machine.lanes.values().map(|lane| lane.ready.capacity()).sum::<usize>()
}

#[test]
fn a_backlog_of_millions_behind_a_dead_endpoint_is_not_held() {
    for keys in [0, 1_000] {
        let delivery = DeliveryMode::Push { concurrency: 64, rate: None };
        let settings = Settings { delivery, ..Settings::default() };
        let mut machine = Machine::new(settings, Offset(0));
        let mut out = Output::default();
        let mut now = 1_000;
        let mut sizes = Vec::new();
        for backlog in [100_000, 1_000_000, 5_000_000] {
            let until = now + 2 * 3_600_000;
            while now < until {
                read(&mut machine, backlog, keys, &mut out);
                while let Some(delivery) = machine.next_push(&moment(now), &mut out) {
                    let answer = Answer::Status { status: 503, retry_after: None };
                    machine.pushed(&moment(now), delivery.token, answer, (None, None), &mut out);
                }
                out.entries.clear();
                assert!(out.effects.is_empty(), "no dead letter");
                now = machine.wake_at(now).unwrap();
            }
            sizes.push((size(&machine), machine.unsettled()[&LaneId::LIVE]));
        }
        let most = if keys == 0 { 2_048 } else { 16 * 10_000 + 2_048 };
        assert!(sizes[2].1 <= most && sizes[2].0 <= 2 * most, "{sizes:?}");
    }
}

#[test]
fn millions_that_pass_through_leave_nothing_behind() {
    let events: u64 = if cfg!(debug_assertions) { 200_000 } else { 5_000_000 };
    let mut machine = Machine::new(Settings::default(), Offset(0));
    let mut out = Output::default();
    let ask = Ask { events: 500, bytes: u64::MAX, lease: 30_000 };
    let mut now = 1_000;
    // One event is never settled: those after it must not pile up.
    let mut held = None;
    let mut sizes = Vec::new();
    while machine.position(LaneId::LIVE).unwrap().0 < events {
        now += 1;
        read(&mut machine, events, 50_000, &mut out);
        let leased = machine.receive(&moment(now), &ask, &mut out);
        let tokens: Vec<Token> = leased.iter().map(|delivery| delivery.token).collect();
        held = held.or(tokens.first().copied());
        let tokens: Vec<Token> = tokens
            .into_iter()
            .filter(|token| Some(token.place) != held.map(|it| it.place))
            .collect();
        machine.ack(&moment(now), &tokens, &mut out);
        machine.extend(&moment(now), held.unwrap(), 30_000, &mut out);
        out.entries.clear();
        sizes.push(size(&machine));
    }
    let most = |part: &[usize]| part.iter().copied().max().unwrap();
    let quarter = sizes.len() / 4;
    assert!(most(&sizes[3 * quarter..]) <= most(&sizes[..quarter]) * 11 / 10);
    assert!(machine.unsettled()[&LaneId::LIVE] <= 2_048);
}

/// `cargo test --release -- --ignored --nocapture what_an_event_costs`
#[test]
#[ignore = "a measurement"]
fn what_an_event_costs() {
    for keys in [0u64, 100_000, 16] {
        let events: u64 = 2_000_000;
        let mut machine =
            Machine::new(Settings { in_flight: 2_000, ..Settings::default() }, Offset(0));
        let mut out = Output::default();
        let ask = Ask { events: 500, bytes: u64::MAX, lease: 30_000 };
        let start = nanos();
        let mut parts = [0u128; 3];
        let mut settled = 0;
        let mut now = 1;
        while settled < events {
            now += 1;
            let at = nanos();
            read(&mut machine, events, keys, &mut out);
            parts[0] += nanos() - at;
            let at = nanos();
            let leased = machine.receive(&moment(now), &ask, &mut out);
            parts[1] += nanos() - at;
            let tokens: Vec<Token> = leased.iter().map(|delivery| delivery.token).collect();
            let at = nanos();
            machine.ack(&moment(now), &tokens, &mut out);
            parts[2] += nanos() - at;
            settled += tokens.len() as u64;
            out.entries.clear();
        }
        let per = |nanos: u128| nanos / u128::from(events);
        let [scan, lease, ack] = parts.map(per);
        let all = per(nanos() - start);
        println!(
            "{keys} keys: scan {scan} ns, lease {lease} ns, ack {ack} ns, all {all} ns of CPU an event"
        );
    }
}

/// Nanoseconds of CPU time of this thread.
fn nanos() -> u128 {
    let statistics = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    statistics.split(' ').next().unwrap().parse().unwrap()
}
