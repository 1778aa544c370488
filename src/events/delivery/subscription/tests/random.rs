//! Random operations against the reference: P4, P5 and P6 hold in any order of operations, with
//! restarts and lost ends of the journal in between.

use proptest::{
    collection::vec, prelude::*, sample::Index, strategy::ValueTree, test_runner::TestRunner,
};

use super::{
    super::*,
    model::Model,
    world::{P0, Stored, World, log_id},
};
use crate::events::queue::Offset;

#[derive(Clone, Debug)]
enum Op {
    Publish { key: u64, number: u16, expires: Option<u64>, is_wanted: bool },
    Receive { events: usize, lease: u64 },
    Ack(Index),
    Nack(Index, Option<u64>),
    Release(Index, u64),
    Reject(Index),
    Extend(Index, u64),
    Advance(u64),
    Act(bool),
    Pause,
    Resume,
    SeekAll(Index, bool),
    SeekPart(u16, Index, bool),
    Replay(Index, Index),
    Redrive,
    Grow,
    Cancel,
    Configure { max_attempts: u32, in_flight: u32, parked: u32, then: Then },
    Lose(Index),
    Park(Index),
    Snapshot,
    Crash(Index),
    Unblock(u64, Unblock),
}

fn op() -> impl Strategy<Value = Op> {
    let then = prop_oneof![Just(Then::DeadLetter), Just(Then::Discard), Just(Then::BlockKey)];
    let action =
        prop_oneof![Just(Unblock::Retry), Just(Unblock::DeadLetter), Just(Unblock::Discard)];
    let expires = prop_oneof![9 => Just(None), 1 => (100..5_000u64).prop_map(Some)];
    let wanted = prop_oneof![9 => Just(true), 1 => Just(false)];
    let at = any::<Index>;
    prop_oneof![
        30 => (0..4u64, 0..2u16, expires, wanted).prop_map(|(key, number, expires, is_wanted)| {
            Op::Publish { key, number, expires, is_wanted }
        }),
        30 => (1..8usize, 100..2_000u64)
            .prop_map(|(events, lease)| Op::Receive { events, lease }),
        20 => at().prop_map(Op::Ack),
        10 => (at(), prop::option::of(0..2_000u64)).prop_map(|(at, delay)| Op::Nack(at, delay)),
        5 => (at(), 0..500u64).prop_map(|(at, delay)| Op::Release(at, delay)),
        2 => at().prop_map(Op::Reject),
        4 => (at(), 100..3_000u64).prop_map(|(at, lease)| Op::Extend(at, lease)),
        15 => (1..2_500u64).prop_map(Op::Advance),
        4 => any::<bool>().prop_map(Op::Act),
        1 => Just(Op::Pause),
        2 => Just(Op::Resume),
        1 => (at(), any::<bool>()).prop_map(|(to, force)| Op::SeekAll(to, force)),
        1 => (0..2u16, at(), any::<bool>()).prop_map(|(p, to, force)| Op::SeekPart(p, to, force)),
        2 => (at(), at()).prop_map(|(from, to)| Op::Replay(from, to)),
        2 => Just(Op::Redrive),
        1 => Just(Op::Cancel),
        1 => Just(Op::Grow),
        1 => (1..5u32, 1..8u32, 1..6u32, then).prop_map(|(max_attempts, in_flight, parked, then)| {
            Op::Configure { max_attempts, in_flight, parked, then }
        }),
        1 => at().prop_map(Op::Lose),
        1 => at().prop_map(Op::Park),
        3 => Just(Op::Snapshot),
        4 => at().prop_map(Op::Crash),
        2 => (0..4u64, action).prop_map(|(key, action)| Op::Unblock(key, action)),
    ]
}

struct Run {
    world: World,
    model: Model,
    /// Every token ever issued.
    tokens: Vec<Token>,
    /// The model at each length of the journal.
    past: Vec<(usize, Model)>,
    /// The newest generation of the topic.
    generation: u16,
}

impl Run {
    fn new() -> Self {
        let settings = Settings {
            schedule: vec![0, 100, 1_000],
            max_attempts: 3,
            in_flight: 8,
            parked: 5,
            partitions: 2,
            publishes_success: true,
            publishes_failure: true,
            ..Settings::default()
        };
        let world = World::new(settings);
        let past = vec![(0, Model::default())];
        Self { world, model: Model::default(), tokens: Vec::new(), past, generation: 0 }
    }

    fn pick(&self, at: Index) -> Option<Token> {
        // Mostly the latest ones, which are the interesting ones.
        let latest = self.tokens.len().min(12);
        (latest > 0).then(|| self.tokens[self.tokens.len() - 1 - at.index(latest)])
    }

    fn step(&mut self, op: &Op) {
        let old = self.world.settings.clone();
        self.world.last.clear();
        if let Op::Crash(at) = op {
            self.crash(*at);
        } else {
            self.act(op);
        }
        if std::env::var("SLUICE_SHOW").is_ok() {
            println!("{op:?}\n    {:?}", self.world.last);
        }
        self.model.observe(&self.world, &old);
        self.model.check(&self.world);
        self.past.push((self.world.journal.len(), self.model.clone()));
    }

    fn verb(
        &mut self,
        at: Index,
        verb: impl FnOnce(&mut Machine, &Moment, Token, &mut Output) -> TokenStatus,
        then: impl FnOnce(&mut Model, &World, Place),
    ) {
        let Some(token) = self.pick(at) else { return };
        let expected = self.model.expect(&self.world, token, false);
        let status = self.world.decide(|machine, moment, out| verb(machine, moment, token, out));
        assert_eq!(status, expected, "{token:?}");
        if status == TokenStatus::Ok {
            then(&mut self.model, &self.world, token.place);
        }
    }

    fn act(&mut self, op: &Op) {
        match op.clone() {
            Op::Publish { key, number, expires, is_wanted } => {
                let key = Some(key).filter(|&key| key != 0);
                // Each key has one partition.
                let number = key.map_or(number, |key| u16::from(key.is_multiple_of(2)));
                // After a split keys are in other partitions.
                let number = if self.generation == 1 { 1 - number } else { number };
                let partition = Partition { generation: self.generation, number };
                let expires = expires.map(|after| self.world.now + after);
                self.world.publish(Stored { partition, key, expires, is_wanted });
            }
            Op::Receive { events, lease } => {
                let deliveries = self.world.receive(events, lease);
                let deadline = self.world.now + lease;
                self.model.expire(&self.world);
                // What ended as a side effect ended before the deliveries began.
                self.model.observe(&self.world, &self.world.settings);
                self.world.last.clear();
                self.model.deliver(&self.world, &deliveries, deadline);
                self.tokens.extend(deliveries.iter().map(|delivery| delivery.token));
            }
            Op::Ack(at) => {
                let Some(token) = self.pick(at) else { return };
                let expected = self.model.expect(&self.world, token, true);
                assert_eq!(self.world.ack(token), expected, "{token:?}");
                if expected == TokenStatus::Ok {
                    self.model.ack(token.place);
                }
            }
            Op::Nack(at, delay) => self.verb(
                at,
                |machine, moment, token, out| machine.nack(moment, token, delay, None, out),
                Model::nack,
            ),
            Op::Release(at, delay) => self.verb(
                at,
                |machine, moment, token, out| machine.release(moment, token, delay, out),
                Model::release,
            ),
            Op::Reject(at) => self.verb(
                at,
                |machine, moment, token, out| machine.reject(moment, token, None, out),
                |model, _, place| model.reject(place),
            ),
            Op::Extend(at, lease) => {
                let deadline = self.world.now + lease;
                self.verb(
                    at,
                    |machine, moment, token, out| machine.extend(moment, token, lease, out),
                    |model, _, place| model.extend(place, deadline),
                );
            }
            Op::Advance(by) => {
                self.world.advance(by);
                self.model.expire(&self.world);
            }
            Op::Act(at_once) => {
                self.world.acts_at_once = at_once;
                self.world.act();
            }
            rest => self.operate(&rest),
        }
    }

    fn operate(&mut self, op: &Op) {
        let now = self.world.now;
        let end = self.world.log.len();
        match op.clone() {
            Op::Grow => self.generation = 1,
            Op::Pause => {
                self.world.decide(|machine, _, out| machine.pause(out));
                self.model.is_paused = true;
            }
            Op::Resume => {
                self.world.decide(|machine, _, out| machine.resume(out));
                self.model.is_paused = false;
            }
            Op::SeekAll(to, force) => {
                let to = to.index(end + 1) as u64;
                self.seek(None, to, Seek::All(Offset(to)), force);
            }
            Op::SeekPart(number, to, force) => {
                if self.generation > 0 {
                    // Keys would return to a partition behind their current one.
                    return;
                }
                let partition = Partition { generation: 0, number };
                let to = to.index(end + 3) as u64;
                let seek = Seek::Partitions(vec![(partition, Offset(to))]);
                self.seek(Some(partition), to, seek, force);
            }
            Op::Configure { max_attempts, in_flight, parked, then } => {
                let old = self.world.settings.clone();
                let settings = Settings { max_attempts, in_flight, parked, then, ..old };
                self.world.settings = settings.clone();
                self.world.decide(|machine, _, out| {
                    machine.configure(now, settings, u64::from(max_attempts), out);
                });
            }
            Op::Lose(below) => {
                self.lose(below.index(end + 1) as u64);
            }
            Op::Park(below) => {
                let below = below.index(end + 1) as u64;
                for place in self.world.machine.to_park(Offset(below), 3) {
                    self.world.decide(|machine, _, out| machine.parked(place, Offset(1), out));
                    self.model.park(place);
                }
            }
            Op::Snapshot => {
                self.world.base = self.world.machine.snapshot();
                self.world.journal.clear();
                self.world.synced = 0;
                self.past.clear();
            }
            Op::Unblock(key, action) => {
                let key = Some(key).filter(|&key| key != 0);
                self.world.decide(|machine, moment, out| machine.unblock(moment, key, action, out));
            }
            rest => self.run_job(&rest),
        }
    }

    fn run_job(&mut self, op: &Op) {
        // No two jobs begin at the same time, not even after a crash.
        self.world.advance(1);
        self.model.expire(&self.world);
        self.model.observe(&self.world, &self.world.settings);
        self.world.last.clear();
        let now = self.world.now;
        let end = self.world.log.len();
        match op.clone() {
            Op::Replay(from, to) => {
                let (from, to) = (from.index(end + 1) as u64, to.index(end + 1) as u64);
                let range = (log_id(1), Offset(from), Offset(to));
                let job = self.job(|m, out| m.replay(now, range, (None, false), out));
                if let Ok(lane) = job {
                    self.model.start_job(lane, now, (from..to).collect());
                }
                self.world.read();
            }
            Op::Redrive => {
                let machine = &self.world.machine;
                let letters = machine.dead_letters(Offset::ZERO).map(|(at, _)| at);
                let letters: Vec<Offset> =
                    letters.filter(|&letter| !machine.is_redriven(letter)).collect();
                let these = (log_id(2), &letters[..]);
                let job = self.job(|m, out| m.redrive(now, these, (None, true), false, out));
                if let Ok(lane) = job {
                    let offsets = letters.iter().map(|letter| letter.0).collect();
                    self.model.start_job(lane, now, offsets);
                }
                self.world.read();
            }
            Op::Cancel => {
                if let Some(&lane) = self.model.jobs.keys().next() {
                    self.world.decide(|machine, _, out| machine.cancel(now, lane, out)).unwrap();
                }
            }
            _ => unreachable!(),
        }
    }

    /// Starts a job without reading, so that the model knows it before events are found.
    fn job(
        &mut self,
        start: impl FnOnce(&mut Machine, &mut Output) -> Result<LaneId, Refused>,
    ) -> Result<LaneId, Refused> {
        let mut out = Output::default();
        let job = start(&mut self.world.machine, &mut out);
        self.world.take(out);
        job
    }

    fn seek(&mut self, partition: Option<Partition>, to: u64, seek: Seek, force: bool) {
        let is_held = self.model.is_held(partition);
        let mut out = Output::default();
        let sought = self.world.machine.seek(seek, force, &mut out);
        assert_eq!(sought.is_err(), is_held && !force);
        self.world.take(out);
        if sought.is_ok() {
            self.model.seek(partition, to);
        }
        self.world.read();
    }

    /// The topic's segments below this offset go.
    fn lose(&mut self, below: u64) {
        let (now, range) = (self.world.now, (Offset::ZERO, Offset(below)));
        self.model.lose(&self.world, below);
        self.world.decide(|machine, _, out| {
            machine.lose(now, (LaneId::LIVE, Loss::Dropped), range, out);
        });
    }

    /// Loses the journal's end at a point where the rest is complete.
    fn crash(&mut self, at: Index) {
        let synced = self.world.synced;
        let whole: Vec<usize> =
            (0..self.past.len()).filter(|&at| self.past[at].0 >= synced).collect();
        // Often nothing is lost.
        let keep = match whole[..] {
            [] => None,
            _ if at.index(3) == 0 => None,
            _ => Some(whole[at.index(whole.len())]),
        };
        if let Some(keep) = keep {
            let (length, model) = self.past[keep].clone();
            self.past.truncate(keep + 1);
            self.model = model;
            self.world.crash(length);
        } else {
            self.world.crash(usize::MAX);
        }
    }

    /// Brings everything to its end.
    fn finish(&mut self) {
        let world = &mut self.world;
        world.acts_at_once = true;
        world.act();
        world.decide(|machine, _, out| machine.resume(out));
        for _ in 0..1_000 {
            world.drain();
            let blocked: Vec<Option<u64>> = world.machine.blocked().map(|(key, _)| key).collect();
            if blocked.is_empty() {
                break;
            }
            for key in blocked {
                world.decide(|machine, moment, out| {
                    machine.unblock(moment, key, Unblock::Retry, out)
                });
            }
        }
        assert_eq!(world.machine.unsettled().values().sum::<usize>(), 0, "stranded");
        assert_eq!(world.machine.unsettled().len(), 1, "a job without end");
        assert_eq!(world.machine.counts, super::super::machine::Counts::default());
        assert_eq!(world.machine.keys.len(), 0);
        let end = world.log.len() as u64;
        assert!(world.floor() >= end.min(world.machine.position(LaneId::LIVE).unwrap().0));
        assert!(world.floor() >= end, "not all was read");
    }
}

pub(super) fn campaign() -> u32 {
    let factor = std::env::var("SLUICE_CAMPAIGN").ok().and_then(|factor| factor.parse().ok());
    factor.unwrap_or(1)
}

/// Found at random once: a partition is moved past an event that is ending, then its bytes are lost.
/// When the subscription moves back to before it, its attempts count anew.
#[test]
fn an_event_that_was_ending_when_it_was_lost_begins_anew() {
    let publish = Op::Publish { key: 0, number: 0, expires: None, is_wanted: true };
    let receive = Op::Receive { events: 1, lease: 100 };
    let first = any::<Index>().new_tree(&mut TestRunner::deterministic()).unwrap().current();
    let mut run = Run::new();
    for op in [publish.clone(), publish, receive.clone(), Op::Act(false), Op::Reject(first)] {
        run.step(&op);
    }
    run.seek(Some(P0), 1, Seek::Partitions(vec![(P0, Offset(1))]), false);
    run.lose(1);
    run.seek(None, 0, Seek::All(Offset(0)), false);
    run.step(&receive);
    run.finish();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 250 * campaign(),
        failure_persistence: None,
        max_shrink_iters: 20_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_events_are_settled_once_in_order_and_counted(ops in vec(op(), 1..160)) {
        let mut run = Run::new();
        for op in &ops {
            run.step(op);
        }
        run.finish();
    }

    /// The journal's end may also tear between two entries of one decision.
    #[test]
    fn wherever_the_journal_is_torn_nothing_is_settled_that_was_not_and_nothing_is_stranded(
        ops in vec(op(), 1..80),
        at in any::<Index>(),
    ) {
        let mut run = Run::new();
        for op in &ops {
            let is_elsewhere = matches!(op, Op::SeekAll(..) | Op::SeekPart(..) | Op::Lose(_));
            if !is_elsewhere {
                run.step(op);
            }
        }
        let world = &mut run.world;
        let keep = world.synced + at.index(world.journal.len() - world.synced + 1);
        world.crash(keep);
        for place in run.model.wanted(world, LaneId::LIVE) {
            let is_settled = world.machine.event(place) == EventView::Settled;
            prop_assert!(!is_settled || run.model.is_done(place), "{:?}", place);
        }
        run.finish();
    }
}
