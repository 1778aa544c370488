//! Pushes to endpoints that are down, slow or moody.

use std::collections::{BTreeMap, VecDeque};

use super::{
    super::*,
    world::{P0, Stored, World},
};
use crate::events::queue::{LogId, Offset};

/// An endpoint that answers after a while.
struct Endpoint {
    world: World,
    /// Pushes in flight, by the time of their answer.
    sent: VecDeque<(u64, Delivery)>,
    latency: u64,
    /// When each attempt at each event began.
    attempts: BTreeMap<u64, Vec<u64>>,
    most_at_once: usize,
}

const OK: Answer = status(200);

const fn status(status: u16) -> Answer {
    Answer::Status { status, retry_after: None }
}

fn push(concurrency: u32, change: impl FnOnce(&mut Settings)) -> Endpoint {
    let mut settings = Settings {
        delivery: DeliveryMode::Push { concurrency, rate: None },
        partitions: 1,
        ..Settings::default()
    };
    change(&mut settings);
    Endpoint {
        world: World::new(settings),
        sent: VecDeque::new(),
        latency: 20,
        attempts: BTreeMap::new(),
        most_at_once: 0,
    }
}

impl Endpoint {
    /// Sends what may be sent.
    fn send(&mut self) {
        while let Some(delivery) = self.world.decide(Machine::next_push) {
            let starts = self.attempts.entry(delivery.token.place.offset.0).or_default();
            starts.push(self.world.now);
            self.sent.push_back((self.world.now + self.latency, delivery));
            self.most_at_once = self.most_at_once.max(self.sent.len());
        }
    }

    fn answer(&mut self, delivery: Delivery, answer: Answer) -> TokenStatus {
        self.world.decide(|machine, moment, out| {
            machine.pushed(moment, delivery.token, answer, (Some("said"), None), out)
        })
    }

    /// Runs until `until`, or until nothing more happens.
    fn run(&mut self, until: u64, mut answers: impl FnMut(u64, &Delivery) -> Answer) {
        loop {
            self.send();
            let now = self.world.now;
            let wake = self.world.machine.wake_at(now);
            let answered = self.sent.front().map(|(at, _)| *at);
            let Some(next) = wake.into_iter().chain(answered).min().map(|at| at.max(now)) else {
                return;
            };
            if next > until {
                self.world.now = until;
                return;
            }
            self.world.now = next;
            self.world.decide(Machine::tick);
            while self.sent.front().is_some_and(|(at, _)| *at <= next) {
                let (_, delivery) = self.sent.pop_front().unwrap();
                let answer = answers(self.world.now, &delivery);
                assert_eq!(self.answer(delivery, answer), TokenStatus::Ok);
            }
        }
    }

    fn crash(&mut self) {
        self.sent.clear();
        self.world.crash(usize::MAX);
    }

    /// The next push, once one may start.
    fn probe(&mut self) -> Delivery {
        for _ in 0..100 {
            if let Some(delivery) = self.world.decide(Machine::next_push) {
                return delivery;
            }
            assert!(self.world.wait());
        }
        panic!("no probe");
    }

    fn is_open(&self) -> bool {
        self.world.machine.outage().open.is_some()
    }
}

const HOUR: u64 = 3_600_000;

#[test]
fn two_hours_of_503_over_10_000_events_make_no_dead_letter() {
    let every_schedule = [
        (SERVICE.to_vec(), 60, 0),
        (STANDARD.to_vec(), 10, 20),
        (vec![0, 1_000], 3, 1_000),
        (vec![0], 2, 0),
    ];
    for (schedule, max_attempts, keys) in every_schedule {
        let mut endpoint = push(64, |settings| {
            settings.schedule = schedule;
            settings.max_attempts = max_attempts;
        });
        endpoint.world.is_checked = false;
        for event in 0..10_000u64 {
            let key = event.checked_rem(keys);
            let stored = Stored { partition: P0, key, expires: None, is_wanted: true };
            endpoint.world.log.push(stored);
        }
        endpoint.world.read();
        let start = endpoint.world.now;
        for part in 1..=4 {
            endpoint.run(start + part * HOUR / 2, |_, _| status(503));
            assert!(endpoint.is_open());
            // Restarts in between change nothing.
            endpoint.crash();
        }
        let tries: usize = endpoint.attempts.values().map(Vec::len).sum();
        assert!(tries < 400, "{tries} tries in two hours of outage");
        assert!(endpoint.world.letters.is_empty());
        endpoint.run(start + 200 * HOUR, |_, _| OK);
        assert!(endpoint.world.letters.is_empty());
        assert_eq!(endpoint.world.floor(), 10_000);
        assert!(!endpoint.is_open());
    }
}

#[test]
fn any_kind_of_failure_that_is_no_refusal_opens_the_circuit() {
    let kinds = [
        Answer::NotSent,
        Answer::Timeout,
        status(500),
        status(404),
        status(302),
        status(429),
        Answer::Status { status: 503, retry_after: Some(100) },
    ];
    for kind in kinds {
        let mut endpoint = push(64, |_| {});
        endpoint.world.publish_keys([0; 100]);
        let start = endpoint.world.now;
        endpoint.run(start + 2 * HOUR, |_, _| kind);
        assert!(endpoint.is_open(), "{kind:?}");
        assert!(endpoint.world.letters.is_empty());
        endpoint.run(start + 4 * HOUR, |_, _| OK);
        assert_eq!(endpoint.world.floor(), 100);
    }
}

#[test]
fn the_seventh_failure_in_a_row_over_three_events_opens_it_and_gives_the_counts_back() {
    let mut endpoint = push(10, |settings| settings.schedule = vec![0]);
    endpoint.world.publish_keys([0; 10]);
    endpoint.send();
    let sent: Vec<Delivery> = endpoint.sent.drain(..).map(|(_, delivery)| delivery).collect();
    assert_eq!(sent.len(), 10);
    for (index, delivery) in sent.iter().enumerate() {
        assert_eq!(endpoint.is_open(), index >= 7);
        endpoint.answer(*delivery, status(500));
    }
    for offset in 0..10 {
        let view = endpoint.world.machine.event(Place::live(P0, Offset(offset)));
        assert!(matches!(view, EventView::Waiting { counted: 0, .. }), "{offset}: {view:?}");
    }
    assert!(endpoint.world.decide(Machine::next_push).is_none());
    let probe = endpoint.probe();
    assert_eq!((probe.mode, probe.counted), (Mode::Probe, 0));
    assert!(endpoint.world.decide(Machine::next_push).is_none(), "one probe at a time");
    endpoint.answer(probe, status(500));
    let opened = endpoint.world.machine.outage().open.unwrap();
    assert_eq!(opened.wait, 2_000);
    let next = endpoint.probe();
    assert_ne!(next.token.place, probe.token.place, "over the events in turn");
    endpoint.answer(next, OK);
    assert!(!endpoint.is_open());
    endpoint.send();
    assert!(endpoint.sent.len() > 1);
}

#[test]
fn two_events_that_fail_never_open_it_and_come_to_their_end() {
    let mut endpoint = push(4, |settings| settings.max_attempts = 20);
    endpoint.world.publish_keys([0, 0]);
    let start = endpoint.world.now;
    endpoint.run(start + 20 * HOUR, |_, _| status(500));
    assert_eq!(endpoint.world.letters.len(), 2);
    assert!(endpoint.world.letters.iter().all(|letter| letter.attempts == 20));
}

#[test]
fn poison_among_good_events_dies_of_its_own_attempts() {
    for max_attempts in [1, 3, 10] {
        let mut endpoint = push(8, |settings| {
            settings.max_attempts = max_attempts;
            // In key order, with every key behind a poison event, it would look like an outage.
            settings.order = Order::None;
        });
        endpoint.world.is_checked = false;
        let start = endpoint.world.now;
        let poison = |offset: u64| offset % 10 == 3;
        for minute in 0..600 {
            endpoint.world.publish_keys([minute % 7]);
            endpoint.run(start + minute * 10_000, |_, delivery| {
                if poison(delivery.token.place.offset.0) { status(500) } else { OK }
            });
        }
        endpoint.run(start + 100 * HOUR, |_, delivery| {
            if poison(delivery.token.place.offset.0) { status(500) } else { OK }
        });
        let dead = endpoint.world.dead();
        for (&offset, reasons) in &dead {
            assert!(poison(offset));
            assert_eq!(reasons[..], [Reason::AttemptsExhausted]);
        }
        let waiting = endpoint.world.machine.numbers().parked as usize;
        assert_eq!(dead.len() + waiting, 60, "each of the poison events, and no other");
        assert!(waiting <= 60 && (waiting == 0 || endpoint.is_open()));
    }
}

#[test]
fn an_endpoint_that_asks_for_time_gets_it_and_nothing_counts() {
    let mut endpoint = push(1, |settings| settings.max_attempts = 2);
    endpoint.world.publish_keys([0, 0]);
    endpoint.latency = 0;
    let start = endpoint.world.now;
    let ask = |wait| Answer::Status { status: 503, retry_after: Some(wait) };
    let mut answers =
        vec![ask(5_000), ask(7_000), status(429), status(429), status(429)].into_iter();
    endpoint.run(start + HOUR, |_, _| answers.next().unwrap_or(OK));
    let mut starts: Vec<u64> = endpoint.attempts.values().flatten().map(|at| at - start).collect();
    starts.sort_unstable();
    assert_eq!(starts[..3], [0, 5_000, 12_000]);
    let waits: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, least) in waits[2..5].iter().zip([1_000, 2_000, 4_000]) {
        assert!((least..=least * 12 / 10 + 1).contains(wait), "{waits:?}");
    }
    assert!(endpoint.world.letters.is_empty());
    assert_eq!(endpoint.world.floor(), 2);
}

#[test]
fn what_is_refused_gets_one_more_try() {
    for code in [400, 413, 415, 422] {
        let mut endpoint = push(4, |_| {});
        endpoint.world.publish_keys([0]);
        let start = endpoint.world.now;
        endpoint.run(start + HOUR, |_, _| status(code));
        let letter = &endpoint.world.letters[0];
        assert_eq!((letter.reason, letter.attempts), (Reason::Rejected, 2));
        assert_eq!(letter.failure.as_ref().unwrap().status, Some(code));
    }
    let mut endpoint = push(4, |_| {});
    endpoint.world.publish_keys([0]);
    let start = endpoint.world.now;
    let mut answers = [status(400), status(500), OK].into_iter();
    endpoint.run(start + HOUR, |_, _| answers.next().unwrap());
    assert!(endpoint.world.letters.is_empty());
}

#[test]
fn refusals_never_open_the_circuit_and_each_event_comes_to_its_end() {
    for code in [400, 413, 415, 422] {
        let mut endpoint = push(8, |_| {});
        endpoint.world.publish_keys((0..100).map(|event| event % 3));
        let start = endpoint.world.now;
        let mut was_open = false;
        for minute in 1..=60 {
            endpoint.run(start + minute * 60_000, |_, _| status(code));
            was_open |= endpoint.is_open();
        }
        assert!(!was_open, "{code}");
        assert_eq!(endpoint.world.floor(), 100, "{code}");
        let is_rejected = |reasons: &Vec<Reason>| reasons[..] == [Reason::Rejected];
        assert!(endpoint.world.dead().values().all(is_rejected));
        assert_eq!(endpoint.world.letters.len(), 100);
    }
}

#[test]
fn a_refusal_ends_a_row_of_failures_as_a_success_does() {
    for (answer, opens) in [(status(422), false), (OK, false), (status(500), true)] {
        let mut endpoint = push(10, |settings| settings.schedule = vec![0]);
        endpoint.world.publish_keys([0; 10]);
        endpoint.send();
        let sent: Vec<Delivery> = endpoint.sent.drain(..).map(|(_, delivery)| delivery).collect();
        for (index, delivery) in sent.iter().enumerate() {
            endpoint.answer(*delivery, if index == 5 { answer } else { status(500) });
        }
        assert_eq!(endpoint.is_open(), opens, "{answer:?}");
    }
}

#[test]
fn a_refused_probe_closes_the_circuit_and_the_event_has_its_verdict() {
    let mut endpoint = push(10, |settings| settings.schedule = vec![0]);
    endpoint.world.publish_keys([0; 10]);
    let start = endpoint.world.now;
    // One was already refused when the outage began; that is remembered.
    endpoint.send();
    let (_, first) = endpoint.sent.pop_front().unwrap();
    endpoint.answer(first, status(422));
    endpoint.run(start + HOUR, |_, _| status(503));
    assert!(endpoint.is_open());
    endpoint.crash();
    while endpoint.is_open() {
        let probe = endpoint.probe();
        let is_refused = probe.token.place == first.token.place;
        endpoint.answer(probe, if is_refused { status(422) } else { status(503) });
    }
    let letter = &endpoint.world.letters[0];
    assert_eq!((letter.place, letter.reason), (first.token.place, Reason::Rejected));
    // The other nine each have one more attempt after a refusal, by a probe or not, and then end.
    endpoint.run(start + 2 * HOUR, |_, _| status(422));
    assert!(!endpoint.is_open());
    assert_eq!(endpoint.world.floor(), 10);
    assert_eq!(endpoint.world.letters.len(), 10);
}

#[test]
fn what_was_sent_before_the_outage_does_not_end_it_but_has_its_verdict() {
    let mut endpoint = push(10, |settings| settings.schedule = vec![0]);
    endpoint.world.publish_keys([0; 10]);
    endpoint.send();
    let sent: Vec<Delivery> = endpoint.sent.drain(..).map(|(_, delivery)| delivery).collect();
    for delivery in &sent[..9] {
        endpoint.answer(*delivery, status(500));
    }
    endpoint.answer(sent[9], status(422));
    assert!(endpoint.is_open());
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, delivery| {
        if delivery.token.place == sent[9].token.place { status(422) } else { OK }
    });
    assert_eq!(endpoint.world.letters.len(), 1);
    assert_eq!(endpoint.attempts[&9].len(), 2, "refused twice in all");
}

#[test]
fn what_is_too_large_to_be_sent_says_nothing_of_the_endpoint() {
    let mut endpoint = push(10, |settings| settings.schedule = vec![0]);
    endpoint.world.publish_keys([0; 10]);
    endpoint.send();
    let sent: Vec<Delivery> = endpoint.sent.drain(..).map(|(_, delivery)| delivery).collect();
    for (index, delivery) in sent.iter().enumerate().take(8) {
        assert!(!endpoint.is_open());
        endpoint.answer(*delivery, if index == 3 { Answer::TooLarge } else { status(500) });
    }
    assert!(endpoint.is_open());
    assert_eq!(endpoint.world.letters[0].reason, Reason::TooLarge);
}

#[test]
fn what_is_not_allowed_is_tried_a_minute_apart_and_no_connection_never_counts() {
    let mut endpoint = push(4, |settings| settings.max_attempts = 3);
    endpoint.world.publish_keys([0]);
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, _| status(403));
    let starts = &endpoint.attempts[&0];
    assert_eq!(starts.len(), 3);
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 60_000), "{starts:?}");
    assert_eq!(endpoint.world.letters.len(), 1);
    let mut endpoint = push(4, |settings| settings.max_attempts = 3);
    endpoint.world.publish_keys([0]);
    let start = endpoint.world.now;
    endpoint.run(start + 90 * HOUR, |_, _| Answer::NotSent);
    assert!(endpoint.attempts[&0].len() > 50);
    assert!(endpoint.world.letters.is_empty());
}

#[test]
fn gone_for_good_disables_the_subscription_and_keeps_its_backlog() {
    let mut endpoint = push(4, |_| {});
    endpoint.world.publish_keys([0; 20]);
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, _| status(410));
    assert_eq!(endpoint.world.machine.numbers().hold, Some(Hold::Gone));
    assert!(endpoint.attempts.len() <= 10);
    endpoint.crash();
    endpoint.run(start + 2 * HOUR, |_, _| OK);
    assert_eq!(endpoint.world.floor(), 0);
    endpoint.world.decide(|machine, _, out| machine.resume(out));
    endpoint.run(start + 3 * HOUR, |_, _| OK);
    assert_eq!(endpoint.world.floor(), 20);
}

#[test]
fn a_dead_gateway_counts_and_a_stopped_one_does_not() {
    let mut endpoint = push(4, |settings| settings.schedule = vec![0]);
    endpoint.world.publish_keys([1, 2, 3]);
    endpoint.send();
    endpoint.world.decide(|machine, _, out| machine.release_pushes(out));
    endpoint.crash();
    endpoint.send();
    assert!(endpoint.sent.iter().all(|(_, delivery)| delivery.counted == 1));
    endpoint.crash();
    endpoint.send();
    assert!(endpoint.sent.iter().all(|(_, delivery)| delivery.counted == 2));
    endpoint.crash();
    endpoint.send();
    assert_eq!(endpoint.sent.len(), 1, "suspects go one at a time");
    assert_eq!(endpoint.sent[0].1.mode, Mode::Alone);
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, _| OK);
    assert_eq!(endpoint.world.floor(), 3);
}

#[test]
fn an_event_that_kills_the_gateway_dies_alone() {
    for max_attempts in [1, 2, 5] {
        let mut endpoint = push(8, |settings| {
            settings.max_attempts = max_attempts;
            settings.schedule = vec![0];
        });
        endpoint.world.publish_keys([0; 12]);
        for _ in 0..60 {
            endpoint.send();
            if endpoint.sent.is_empty() {
                break;
            }
            let kills = endpoint.sent.iter().any(|(_, it)| it.token.place.offset.0 == 5);
            if kills {
                endpoint.crash();
                continue;
            }
            let (_, delivery) = endpoint.sent.pop_front().unwrap();
            endpoint.answer(delivery, OK);
        }
        assert_eq!(endpoint.world.dead().keys().copied().collect::<Vec<_>>(), [5]);
        assert_eq!(endpoint.world.floor(), 12);
    }
}

#[test]
fn concurrency_adapts_to_what_the_endpoint_takes() {
    let mut endpoint = push(64, |_| {});
    endpoint.world.is_checked = false;
    endpoint.world.publish_keys((0..4_000).map(|_| 0));
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, _| OK);
    assert!(endpoint.most_at_once > 40 && endpoint.most_at_once <= 64, "{}", endpoint.most_at_once);
    endpoint.world.publish_keys([0; 400]);
    let mut left = 3;
    let end = endpoint.world.now + 50;
    endpoint.run(end, |_, _| {
        left -= 1;
        if left >= 0 { Answer::Timeout } else { OK }
    });
    assert!(endpoint.world.machine.numbers().concurrency.unwrap() <= 33);
}

#[test]
fn a_rate_is_kept() {
    let mut endpoint = push(64, |settings| {
        settings.delivery = DeliveryMode::Push { concurrency: 64, rate: Some(20_000) };
    });
    endpoint.world.is_checked = false;
    endpoint.world.publish_keys([0; 200]);
    let start = endpoint.world.now;
    endpoint.run(start + HOUR, |_, _| OK);
    let last = *endpoint.attempts.values().flatten().max().unwrap();
    let span = last - start;
    assert!((8_500..=9_500).contains(&span), "200 at 20 a second, 20 of them at once: {span}");
}

#[test]
fn keys_stay_in_order_at_a_flaky_endpoint_with_restarts() {
    let mut endpoint = push(16, |settings| {
        settings.max_attempts = 1_000;
        settings.schedule = vec![0, 50];
    });
    endpoint.world.publish_keys((0..300).map(|event| event % 7 + 1));
    let mut taken: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut luck = 12345u64;
    let start = endpoint.world.now;
    for round in 0..3_000 {
        let until = start + round * 100;
        endpoint.run(until, |_, delivery| {
            luck = luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if luck >> 62 == 0 {
                return status(500);
            }
            let offset = delivery.token.place.offset.0;
            taken.entry(offset % 7).or_default().push(offset);
            OK
        });
        if round % 17 == 0 {
            endpoint.crash();
        }
        if endpoint.world.floor() == 300 {
            break;
        }
    }
    assert_eq!(endpoint.world.floor(), 300);
    for (key, offsets) in taken {
        assert!(offsets.windows(2).all(|pair| pair[0] < pair[1]), "key {key}: {offsets:?}");
    }
}

#[test]
fn a_dead_letter_whose_redrive_may_have_been_seen_says_so_from_then_on() {
    let mut endpoint = push(4, |_| {});
    endpoint.world.publish_keys([1]);
    let first = endpoint.probe();
    endpoint.answer(first, Answer::TooLarge);
    let reason = |endpoint: &Endpoint| {
        endpoint.world.machine.dead_letters(Offset(0)).next().map(|(_, letter)| letter.reason)
    };
    assert_eq!(reason(&endpoint), Some(Reason::TooLarge));
    let (now, letters) = (endpoint.world.now, (LogId(uuid::Uuid::from_u128(2)), &[Offset(0)][..]));
    let redriven =
        endpoint.world.decide(|m, _, out| m.redrive(now, letters, (None, false), false, out));
    redriven.unwrap();
    let again = endpoint.probe();
    endpoint.answer(again, Answer::MaybeSeen);
    assert_eq!(reason(&endpoint), Some(Reason::MaybeSeen));
}
