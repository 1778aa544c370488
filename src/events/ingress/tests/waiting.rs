//! Delayed events of requests: each reaches its topic once, wherever the machine dies.

use super::*;
use crate::events::queue::topic::{
    clock_guard::Judged,
    delayed::{self, DelayedLog, Mover},
};

/// When the event is due, and a moment after that.
const DUE: u64 = 5_000;
const LATER: u64 = 6_000;

struct Timed {
    world: World,
    delayed: DelayedLog,
    mover: Mover,
}

/// A topic with its log of delayed events.
#[derive(Debug)]
struct Both {
    topic: Simple,
    waiting: Simple,
}

impl Topics for Both {
    fn named(&self, name: &str) -> Option<Arc<dyn Target>> {
        self.topic.named(name)
    }

    fn find(&self, is_it: &dyn Fn(LogId) -> bool) -> Option<Arc<dyn Target>> {
        self.topic.find(is_it)
    }

    fn delayed(&self, _: LogId) -> Option<Arc<dyn Target>> {
        Some(Arc::new(self.waiting.clone()))
    }
}

impl delayed::Target for Simple {
    fn log(&self) -> &Log {
        &self.0
    }

    fn permit(&self, bytes: u64) -> Result<Permit, Refused> {
        self.0.permit_for(Purpose::Accepted, bytes)
    }
}

impl Timed {
    /// `None` if the disk is dead.
    fn open(model: &Model) -> Option<Self> {
        let world = World::open(model, 100)?;
        let settings = Settings { segment_bytes: 64 * KIB, ..Settings::default() };
        let opened = DelayedLog::open(&world.writer, &world.place, &settings);
        let (delayed, mover, _) = opened.ok()?;
        Some(Self { world, delayed, mover })
    }

    fn both(&self) -> Both {
        Both { topic: self.world.topic.clone(), waiting: Simple(self.delayed.log().clone()) }
    }

    fn owed(&self, id: Uuid) -> Owed {
        let mut owed = self.world.owed(id);
        owed.change(|event| event.not_before = Some(DUE));
        owed.waits = Some(self.delayed.log().durable());
        owed
    }

    /// Moves what is due at this time.
    fn run_at(&mut self, wall: u64) {
        let judged = Judged { wall, is_frozen: false, thaws: 0, change: None };
        self.mover.run(&self.world.topic, &judged, 0);
    }

    /// What an observer saw: whether it was sent, and whether answered.
    fn exchange(&self, id: Uuid) -> (bool, bool) {
        let (owed, waiting) = (self.owed(id), self.both().waiting);
        let Ok(room) = self.world.reserve(&owed) else { return (false, false) };
        let Ok(permit) = Target::permit(&waiting, Purpose::Publish, 8 * KIB) else {
            return (false, false);
        };
        let begun = block_on(room.begin(std::slice::from_ref(&owed), ABOUT));
        let Ok(mut exchange) = begun else { return (false, false) };
        if block_on(exchange.answer(says(false, &owed))).is_err() {
            return (true, false);
        }
        settle(&self.world, exchange, (Arc::new(waiting), permit, owed));
        (true, true)
    }

    /// Breaks the reference cycle.
    fn close(self) {
        for log in [&self.world.topic.0, self.world.ingress.log(), self.delayed.log()] {
            log.close();
        }
    }

    /// Completes everything: what is owed, what is due, and both again.
    fn end(&mut self) {
        for _ in 0..3 {
            self.world.ingress.resolve(&self.both()).unwrap();
            self.run_at(LATER);
        }
    }
}

#[test]
fn whatever_a_crash_cuts_off_an_event_that_waits_comes_once() {
    let ids = [10, 11].map(Uuid::from_u128);
    let mut stopped = 0;
    // Two kinds of survivors for each stop, cycling through all of them.
    let all = Survivors::ALL.iter().cycle();
    for (stop, survivors) in (0..400).flat_map(|stop| [stop; 2]).zip(all) {
        let model = Model::new();
        model.stop_at(stop);
        let mut saw = vec![(false, false); ids.len()];
        if let Some(mut timed) = Timed::open(&model) {
            for (id, saw) in ids.iter().zip(&mut saw) {
                *saw = timed.exchange(*id);
                // The last of them still waits at the end.
                timed.run_at(if *id == ids[1] { DUE - 1 } else { LATER });
            }
            timed.close();
        }
        if !model.is_stopped() {
            break;
        }
        stopped += 1;
        let mut timed = Timed::open(&model.crash(Crash::new(*survivors, stop))).expect("it opens");
        timed.end();
        for (id, (was_sent, was_answered)) in ids.iter().zip(&saw) {
            let found = timed.world.found(*id);
            let case = format!("{id} at {stop} {survivors:?}: {found:?}, {saw:?}");
            assert!(found.0 + found.1 <= 1, "{case}");
            assert!(!was_answered || found == (1, 0), "{case}");
            assert!(!was_sent || found.0 + found.1 == 1, "{case}");
        }
        assert_eq!(timed.world.ingress.status().entries, 0);
        timed.close();
    }
    assert!(stopped > 50, "{stopped}");
}

#[test]
fn what_is_owed_is_looked_for_where_it_waits_and_where_it_went() {
    for (is_waiting, is_moved) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut timed = Timed::open(&Model::new()).unwrap();
        let id = Uuid::from_u128(7);
        let owed = timed.owed(id);
        let room = timed.world.reserve(&owed).unwrap();
        let mut exchange = block_on(room.begin(std::slice::from_ref(&owed), ABOUT)).unwrap();
        block_on(exchange.answer(says(false, &owed))).unwrap();
        drop(exchange);
        let both = timed.both();
        let put = |to: &Simple| {
            let permit = Target::permit(to, Purpose::Publish, 8 * KIB).unwrap();
            block_on(to.append(permit, vec![owed.record().clone()]).unwrap()).unwrap();
        };
        if is_waiting {
            put(&both.waiting);
        }
        if is_moved {
            put(&both.topic);
        }
        let before = timed.delayed.log().durable();
        timed.world.ingress.resolve(&both).unwrap();
        let is_new = timed.delayed.log().durable() > before;
        assert_eq!(is_new, !is_waiting && !is_moved, "{is_waiting} {is_moved}");
        assert_eq!(timed.world.found(id).0, usize::from(is_moved), "it is not due");
        if !is_moved {
            timed.run_at(LATER);
            assert_eq!(timed.world.found(id), (1, 0));
        }
    }
}

#[test]
fn that_nobody_knows_is_told_at_once() {
    let mut timed = Timed::open(&Model::new()).unwrap();
    let id = Uuid::from_u128(7);
    let owed = timed.owed(id);
    let room = timed.world.reserve(&owed).unwrap();
    drop(block_on(room.begin(&[owed], ABOUT)).unwrap());
    timed.world.ingress.resolve(&timed.both()).unwrap();
    timed.run_at(DUE - 1);
    assert_eq!(timed.world.found(id), (0, 1));
}
