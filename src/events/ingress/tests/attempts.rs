//! Attempts at stored requests: what was sent is not sent again, wherever the machine dies.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode};

use super::*;
use crate::{
    events::request::{Place as At, Results, State},
    http::idempotency::StoredAnswer,
};

const UNTIL: u64 = 10_000_000;
const HOUR: u64 = 3_600_000;

fn due(offset: u64) -> Due {
    let place = At { topic: TOPIC, offset: Offset(offset) };
    Due { place, lane: 0, may_repeat: false, is_forced: false, until: UNTIL, left: None }
}

fn answer(bytes: usize) -> StoredAnswer {
    let mut headers = HeaderMap::new();
    headers.insert("x-made", HeaderValue::from_static("7"));
    StoredAnswer { status: StatusCode::CREATED, headers, body: Some(vec![b'y'; bytes].into()) }
}

fn state(world: &World, offset: u64) -> (State, u32) {
    let status = block_on(Results::status(&world.ingress, due(offset).place));
    (status.state, status.attempts)
}

fn attempt(world: &World, due: Due) -> Begun {
    block_on(world.ingress.attempt(due)).unwrap()
}

fn begun(world: &World, due: Due) -> Attempt {
    match attempt(world, due) {
        Begun::Attempt(attempt) => attempt,
        other => panic!("{other:?}"),
    }
}

/// What an outside observer saw of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Saw {
    /// An upstream may have seen it, and no "nothing was done" was reported.
    is_out: bool,
    /// Its end is on disk.
    end: Option<State>,
}

/// One is done; one is given back, then done; one has an unknown result; one is dropped in flight.
async fn live(world: &World, saw: &mut [Saw; 4]) {
    for (number, end) in [Some(State::Succeeded), Some(State::Failed), Some(State::Uncertain), None]
        .iter()
        .enumerate()
    {
        let due = due(number as u64);
        let saw = &mut saw[number];
        let Ok(Begun::Attempt(mut attempt)) = world.ingress.attempt(due).await else { return };
        saw.is_out = true;
        if number == 1 {
            attempt.give_back();
            saw.is_out = false;
            let Ok(Begun::Attempt(next)) = world.ingress.attempt(due).await else { return };
            attempt = next;
            saw.is_out = true;
        }
        let Some(end) = *end else { return };
        if attempt.end(end, (end != State::Uncertain).then_some(&answer(9_000))).await.is_err() {
            return;
        }
        saw.end = Some(end);
    }
}

#[test]
fn whatever_a_crash_cuts_off_what_was_sent_is_not_sent_again() {
    let mut stopped = 0;
    for (stop, survivors) in (0..400).flat_map(|stop| Survivors::ALL.map(|it| (stop, it))) {
        let model = Model::new();
        model.stop_at(stop);
        let mut saw = [Saw::default(); 4];
        if let Some(world) = World::open(&model, 100) {
            block_on(live(&world, &mut saw));
        }
        if !model.is_stopped() {
            break;
        }
        stopped += 1;
        let model = model.crash(Crash::new(survivors, stop));
        // It must not matter who resolves first.
        for resolves in [true, false] {
            let world = World::open(&model, 100).expect("it opens after any crash");
            if resolves {
                world.ingress.resolve(&world.topic).unwrap();
            }
            for (number, saw) in saw.iter().enumerate() {
                let case = format!("{number} at {stop} {survivors:?}: {saw:?}");
                let judged = attempt(&world, due(number as u64));
                match (saw, &judged) {
                    (Saw { end: Some(end), .. }, Begun::Over(state)) => {
                        assert_eq!(state, end, "{case}");
                    }
                    (Saw { end: Some(_), .. } | Saw { is_out: true, .. }, Begun::Attempt(_)) => {
                        panic!("sent twice: {case}");
                    }
                    (_, Begun::Busy) => panic!("nobody is at it: {case}"),
                    (_, Begun::Over(_) | Begun::Attempt(_)) => {}
                }
                if let Begun::Attempt(attempt) = judged {
                    attempt.give_back();
                }
            }
        }
    }
    assert!(stopped > 30, "{stopped}");
}

#[test]
fn a_result_is_there_with_its_answer_after_a_restart_until_its_time_is_over() {
    let model = Model::new();
    let clock = ManualClock::at(Now { wall: 1_000, mono: 1_000 });
    let world = World::open_at(&model, 100, &clock).unwrap();
    let mut first = begun(&world, due(1));
    assert_eq!((state(&world, 1), first.number()), ((State::Running, 1), 1));
    let large = answer(200 << 10);
    block_on(first.end(State::Succeeded, Some(&large))).unwrap();
    drop(first);
    world.ingress.log().close();
    let world = World::open_at(&model, 100, &clock).unwrap();
    let status = block_on(Results::status(&world.ingress, due(1).place));
    assert_eq!((status.state, status.attempts, status.answer), (State::Succeeded, 1, Some(large)));
    assert!(world.ingress.is_over(due(1).place));
    // Other segments are sealed after it, and no record of it is deleted too early.
    for number in 2..60 {
        let mut next = begun(&world, due(number));
        block_on(next.end(State::Failed, Some(&answer(9_000)))).unwrap();
    }
    let step = UNTIL - 2_000;
    clock.advance(step);
    world.ingress.tidy().unwrap();
    assert_eq!(world.ingress.log().start(), Offset::ZERO);
    assert!(block_on(Results::status(&world.ingress, due(1).place)).answer.is_some());
    clock.advance(HOUR + 1_000);
    world.ingress.tidy().unwrap();
    assert_eq!(world.ingress.status().results, 0);
    assert!(world.ingress.log().start() > Offset::ZERO, "and then it goes");
}

#[test]
fn what_is_being_sent_keeps_its_record_however_long_it_takes() {
    let model = Model::new();
    let clock = ManualClock::at(Now { wall: 1_000, mono: 1_000 });
    let world = World::open_at(&model, 100, &clock).unwrap();
    let slow = begun(&world, due(1));
    for number in 2..60 {
        let mut next = begun(&world, due(number));
        block_on(next.end(State::Failed, Some(&answer(9_000)))).unwrap();
    }
    clock.advance(UNTIL + 2 * HOUR);
    world.ingress.tidy().unwrap();
    assert_eq!(world.ingress.log().start(), Offset::ZERO);
    std::mem::forget(slow);
    let world =
        World::open_at(&model.crash(Crash::new(Survivors::ALL[0], 1)), 100, &clock).unwrap();
    assert!(matches!(attempt(&world, due(1)), Begun::Over(State::Uncertain)));
}

#[test]
fn what_is_dropped_on_the_way_is_uncertain_unless_it_does_no_harm() {
    let world = World::open(&Model::new(), 100).unwrap();
    drop(begun(&world, due(1)));
    let harmless = Due { may_repeat: true, ..due(2) };
    drop(begun(&world, harmless));
    world.ingress.resolve(&world.topic).unwrap();
    assert_eq!((state(&world, 1), state(&world, 2)), ((State::Uncertain, 1), (State::Queued, 1)));
    assert_eq!(world.ingress.status().uncertain, 1);
    let again = begun(&world, harmless);
    assert_eq!(again.number(), 2);
    assert!(matches!(attempt(&world, harmless), Begun::Busy));
    // Only an operator can have it sent again.
    assert!(matches!(attempt(&world, due(1)), Begun::Over(State::Uncertain)));
    assert!(matches!(attempt(&world, Due { lane: 3, ..due(1) }), Begun::Over(_)), "he says so");
    let job = Due { lane: 3, is_forced: true, ..due(1) };
    drop(begun(&world, job));
    assert!(matches!(attempt(&world, job), Begun::Over(State::Uncertain)), "once");
}

#[test]
fn what_is_forgotten_here_and_was_left_before_is_uncertain() {
    let clock = ManualClock::at(Now { wall: 2 * HOUR, mono: 1_000 });
    let world = World::open_at(&Model::new(), 100, &clock).unwrap();
    let left = Due { left: Some(1_000), ..due(1) };
    assert!(matches!(attempt(&world, left), Begun::Over(State::Uncertain)));
    assert_eq!(state(&world, 1), (State::Uncertain, 0));
}

#[test]
fn without_its_record_on_disk_nothing_begins() {
    let model = Model::new();
    let world = World::open(&model, 100).unwrap();
    fail_the_next_sync(&model);
    assert!(block_on(world.ingress.attempt(due(1))).is_err());
    assert_eq!(state(&world, 1), (State::Queued, 0));
}

#[test]
fn a_full_table_begins_nothing_and_ends_what_has_begun() {
    let world = World::open(&Model::new(), 1).unwrap();
    let mut first = begun(&world, due(1));
    let refused = block_on(world.ingress.attempt(due(2))).unwrap_err();
    assert!(matches!(refused, AppendError::Refused(Refused { reason: Reason::Full, .. })));
    let owed = world.owed(Uuid::from_u128(7));
    assert_eq!(world.reserve(&owed).unwrap_err().reason, Reason::Full);
    block_on(first.end(State::Succeeded, None)).unwrap();
    assert_eq!(state(&world, 1), (State::Succeeded, 1));
    assert!(block_on(world.ingress.attempt(due(2))).is_err(), "a result is not evicted");
}

#[test]
fn what_is_accepted_has_its_place_and_the_rest_is_refused() {
    let world = World::open(&Model::new(), 2).unwrap();
    let results: &dyn Results = &world.ingress;
    assert!(results.reserve() && results.reserve());
    assert!(!results.reserve(), "full");
    assert_eq!(world.ingress.log().gauges().rejected.full.get(), 1);
    results.give_back();
    assert!(results.reserve());
    results.stored(due(1).place, UNTIL);
    results.stored(due(2).place, UNTIL);
    assert!(!results.reserve() && block_on(world.ingress.attempt(due(3))).is_err());
    assert_eq!(state(&world, 1), (State::Queued, 0));
    for number in 1..3 {
        let mut attempt = begun(&world, due(number));
        assert_eq!(attempt.number(), 1);
        block_on(attempt.end(State::Succeeded, None)).unwrap();
    }
}

#[test]
fn what_is_sent_before_it_is_told_stored_has_one_place() {
    let world = World::open(&Model::new(), 2).unwrap();
    let results: &dyn Results = &world.ingress;
    assert!(results.reserve());
    let mut first = begun(&world, due(1));
    results.stored(due(1).place, UNTIL);
    assert_eq!(state(&world, 1), (State::Running, 1));
    block_on(first.end(State::Succeeded, None)).unwrap();
    assert!(results.reserve() && !results.reserve());
}

#[test]
fn what_is_given_up_has_an_end_and_what_has_one_keeps_it() {
    let world = World::open(&Model::new(), 100).unwrap();
    let given_up = |offset| block_on(world.ingress.conclude(due(offset), false)).unwrap();
    for is_new in [true, false] {
        assert_eq!(given_up(1), GivenUp { state: State::DeadLettered, is_new });
    }
    assert_eq!(state(&world, 1), (State::DeadLettered, 0));
    let mut second = begun(&world, due(2));
    block_on(second.end(State::Uncertain, None)).unwrap();
    assert_eq!(given_up(2), GivenUp { state: State::Uncertain, is_new: false });
    assert_eq!(state(&world, 2), (State::Uncertain, 1));
}

#[test]
fn what_is_given_up_and_may_have_been_seen_is_uncertain() {
    let clock = ManualClock::at(Now { wall: 2 * HOUR, mono: 1_000 });
    let world = World::open_at(&Model::new(), 100, &clock).unwrap();
    let left = Due { left: Some(1_000), ..due(1) };
    let given_up = |due, is_seen| block_on(world.ingress.conclude(due, is_seen)).unwrap().state;
    assert_eq!(given_up(left, false), State::Uncertain, "what became of it is forgotten");
    assert_eq!(given_up(Due { left: Some(2 * HOUR - 1), ..due(2) }, false), State::DeadLettered);
    assert_eq!(given_up(due(3), true), State::Uncertain);
    let lost = |offset| block_on(world.ingress.conclude_lost(due(offset).place)).unwrap().state;
    assert_eq!((lost(4), lost(3)), (State::DeadLettered, State::Uncertain));
    drop(begun(&world, due(5)));
    assert_eq!(lost(5), State::Uncertain);
    assert_eq!(state(&world, 5), (State::Uncertain, 1));
}

#[tokio::test(start_paused = true)]
async fn who_waits_hears_of_each_change() {
    let world = World::open(&Model::new(), 100).unwrap();
    let place = due(1).place;
    let hears = |changed| tokio::time::timeout(Duration::from_mins(1), changed);
    let changed = world.ingress.changed(place);
    let Ok(Begun::Attempt(mut attempt)) = world.ingress.attempt(due(1)).await else { panic!() };
    hears(changed).await.unwrap();
    let changed = world.ingress.changed(place);
    attempt.end(State::Succeeded, None).await.unwrap();
    hears(changed).await.unwrap();
}
