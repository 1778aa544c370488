//! Random pushes against the reference: whatever an endpoint answers and whenever the gateway dies, an
//! event is in order, counted by the rules for outages, and dead only by its own attempts.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::Index};

use super::{
    super::*,
    random::campaign,
    world::{P0, Stored, World},
};
use crate::events::queue::Offset;

#[derive(Clone, Debug)]
enum Op {
    Publish(u64),
    Push,
    Answer(Index, Answer),
    Advance(u64),
    Crash,
    Stop,
    Resume,
}

fn op() -> impl Strategy<Value = Op> {
    let status = |status| Answer::Status { status, retry_after: None };
    let answer = prop_oneof![
        8 => Just(status(200)),
        8 => Just(status(500)),
        2 => Just(Answer::Timeout),
        2 => Just(Answer::NotSent),
        1 => Just(status(429)),
        1 => Just(Answer::Status { status: 503, retry_after: Some(700) }),
        2 => Just(status(422)),
        1 => Just(status(410)),
    ];
    prop_oneof![
        20 => (0..4u64).prop_map(Op::Publish),
        40 => Just(Op::Push),
        40 => (any::<Index>(), answer).prop_map(|(at, answer)| Op::Answer(at, answer)),
        15 => (1..3_000u64).prop_map(Op::Advance),
        3 => Just(Op::Crash),
        1 => Just(Op::Stop),
        2 => Just(Op::Resume),
    ]
}

#[derive(Clone, Debug, Default)]
struct Row {
    counted: u32,
    unknown: u32,
    is_refused: bool,
}

/// What the checks need to know.
#[derive(Debug, Default)]
struct Model {
    rows: BTreeMap<u64, Row>,
    done: BTreeSet<u64>,
    sent: Vec<(Delivery, bool)>,
    /// Failures since the last success or refusal.
    run: Vec<(u64, bool)>,
    is_open: bool,
    dead: BTreeSet<u64>,
}

const MAX_ATTEMPTS: u32 = 3;

impl Model {
    fn push(&mut self, world: &World, delivery: Delivery) {
        let offset = delivery.token.place.offset.0;
        let key = |offset: u64| world.log[usize::try_from(offset).unwrap()].key;
        let is_same = |other: &u64| key(offset).is_some() && key(*other) == key(offset);
        assert!(!self.done.contains(&offset), "settled: {offset}");
        for other in (0..offset).filter(is_same) {
            assert!(self.done.contains(&other), "{offset} before {other}");
        }
        let on_their_way = self.sent.iter().map(|(sent, _)| sent.token.place.offset.0);
        assert!(on_their_way.filter(|sent| *sent == offset || is_same(sent)).count() == 0);
        assert_eq!(delivery.mode == Mode::Probe, self.is_open, "only probes while it is open");
        let probes = self.sent.iter().filter(|(_, is_probe)| *is_probe).count();
        assert!(!self.is_open || probes == 0, "two probes");
        let row = self.rows.entry(offset).or_default();
        if !self.is_open {
            row.counted += 1;
            let is_suspect = row.unknown >= 2;
            assert!(!is_suspect || delivery.mode == Mode::Alone, "a suspect in company");
        }
        assert_eq!(delivery.counted, row.counted);
        self.sent.push((delivery, self.is_open));
    }

    fn answer(&mut self, (delivery, is_probe): (Delivery, bool), answer: Answer) {
        let offset = delivery.token.place.offset.0;
        if matches!(answer, Answer::Status { status: 200, .. }) {
            self.done.insert(offset);
            self.run.clear();
            self.is_open &= !is_probe;
            return;
        }
        let row = self.rows.entry(offset).or_default();
        row.unknown = 0;
        let counts = matches!(answer, Answer::Status { status: 500 | 422, .. } | Answer::Timeout);
        let is_refusal = matches!(answer, Answer::Status { status: 422, .. });
        if self.is_open && !is_refusal || !counts {
            row.counted -= u32::from(!is_probe);
        }
        if self.is_open && !is_refusal {
            return;
        }
        let is_over = is_refusal && row.is_refused || counts && row.counted >= MAX_ATTEMPTS;
        row.is_refused |= is_refusal;
        if is_over {
            self.done.insert(offset);
            self.dead.insert(offset);
        }
        if is_refusal {
            self.run.clear();
            self.is_open &= !is_probe;
            return;
        }
        self.run.push((offset, counts));
        let distinct: BTreeSet<u64> = self.run.iter().map(|(offset, _)| *offset).collect();
        if self.run.len() >= 7 && distinct.len() >= 3 {
            self.is_open = true;
            for (offset, counts) in std::mem::take(&mut self.run) {
                if !counts {
                    continue;
                }
                let row = self.rows.entry(offset).or_default();
                row.counted = row.counted.saturating_sub(1);
            }
        }
    }

    fn crash(&mut self) {
        for (delivery, is_probe) in std::mem::take(&mut self.sent) {
            let offset = delivery.token.place.offset.0;
            let row = self.rows.entry(offset).or_default();
            row.counted += u32::from(is_probe);
            row.unknown += 1;
            if row.counted >= MAX_ATTEMPTS && delivery.mode != Mode::Shared {
                self.done.insert(offset);
                self.dead.insert(offset);
            }
        }
    }
}

fn step(world: &mut World, model: &mut Model, op: &Op) {
    match *op {
        Op::Publish(key) => {
            let key = Some(key).filter(|&key| key != 0);
            world.publish(Stored { partition: P0, key, expires: None, is_wanted: true });
        }
        Op::Push => {
            if let Some(delivery) = world.decide(Machine::next_push) {
                model.push(world, delivery);
            }
        }
        Op::Answer(at, answer) => {
            if model.sent.is_empty() {
                return;
            }
            let (delivery, is_probe) = model.sent.remove(at.index(model.sent.len()));
            let status = world.decide(|machine, moment, out| {
                machine.pushed(moment, delivery.token, answer, (None, None), out)
            });
            assert_eq!(status, TokenStatus::Ok);
            model.answer((delivery, is_probe), answer);
        }
        Op::Advance(by) => world.advance(by),
        Op::Crash => {
            world.crash(usize::MAX);
            model.crash();
        }
        Op::Stop => {
            world.decide(|machine, _, out| machine.release_pushes(out));
            for (delivery, is_probe) in std::mem::take(&mut model.sent) {
                let row = model.rows.entry(delivery.token.place.offset.0).or_default();
                row.counted -= u32::from(!is_probe);
            }
        }
        Op::Resume => world.decide(|machine, _, out| machine.resume(out)),
    }
    assert_eq!(world.machine.outage().open.is_some(), model.is_open);
    assert_eq!(world.dead().keys().copied().collect::<BTreeSet<_>>(), model.dead);
    for offset in 0..world.log.len() as u64 {
        let view = world.machine.event(Place::live(P0, Offset(offset)));
        assert_eq!(view == EventView::Settled, model.done.contains(&offset), "{offset}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250 * campaign(),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_an_endpoint_answers_an_event_dies_only_of_its_own_attempts(
        ops in vec(op(), 1..160),
    ) {
        let mut world = World::new(Settings {
            delivery: DeliveryMode::Push { concurrency: 6, rate: None },
            schedule: vec![0, 100, 1_000],
            max_attempts: MAX_ATTEMPTS,
            partitions: 1,
            ..Settings::default()
        });
        let mut model = Model::default();
        for op in &ops {
            step(&mut world, &mut model, op);
        }
        // From now on the endpoint is healthy, and takes everything.
        for _ in 0..10_000 {
            world.decide(|machine, _, out| machine.resume(out));
            let pushed = world.decide(Machine::next_push);
            if let Some(delivery) = pushed {
                model.push(&world, delivery);
            } else if let Some(sent) = model.sent.pop() {
                let ok = Answer::Status { status: 200, retry_after: None };
                world.decide(|machine, moment, out| {
                    machine.pushed(moment, sent.0.token, ok, (None, None), out)
                });
                model.answer(sent, ok);
            } else if !world.wait() {
                break;
            }
        }
        prop_assert_eq!(world.floor(), world.log.len() as u64);
        prop_assert_eq!(world.machine.keys.len(), 0);
    }
}
