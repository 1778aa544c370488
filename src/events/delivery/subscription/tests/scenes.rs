//! Scenarios, one for each guarantee.

use super::{
    super::*,
    world::{P0, Stored, World, log_id},
};
use crate::events::queue::Offset;

fn pull(change: impl FnOnce(&mut Settings)) -> World {
    let mut settings = Settings { partitions: 1, ..Settings::default() };
    change(&mut settings);
    World::new(settings)
}

fn token(deliveries: &[Delivery], offset: u64) -> Token {
    deliveries.iter().find(|delivery| delivery.token.place.offset.0 == offset).unwrap().token
}

#[test]
fn an_event_is_leased_once_and_settled_by_its_ack() {
    let mut world = pull(|_| {});
    world.publish_keys([0, 0, 0]);
    let leased = world.receive(2, 30_000);
    assert_eq!(leased.len(), 2);
    assert_eq!(world.offsets(10, 30_000), [2]);
    assert_eq!(world.floor(), 0);
    assert_eq!(world.ack(leased[1].token), TokenStatus::Ok);
    assert_eq!(world.floor(), 0, "a floor never passes an unsettled event");
    assert_eq!(world.ack(leased[0].token), TokenStatus::Ok);
    assert_eq!(world.floor(), 2);
    assert_eq!(world.ack(leased[0].token), TokenStatus::Settled);
    let ahead = Token { place: Place::live(P0, Offset(9)), ..leased[0].token };
    assert_eq!(world.ack(ahead), TokenStatus::Unknown);
}

#[test]
fn filtered_events_count_as_settled() {
    let mut world = pull(|_| {});
    for is_wanted in [false, true, false] {
        world.publish(Stored { partition: P0, key: None, expires: None, is_wanted });
    }
    assert_eq!(world.floor(), 1);
    world.drain();
    assert_eq!(world.floor(), 3);
}

#[test]
fn of_one_key_one_run_is_on_its_way_across_all_receives() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 1, 2, 1]);
    let first = world.receive(2, 30_000);
    let run: Vec<u64> = first.iter().map(|delivery| delivery.token.place.offset.0).collect();
    assert_eq!(run, [0, 1], "a run of a key, in order");
    assert!(!first[0].is_behind && first[1].is_behind);
    assert_eq!(world.offsets(10, 30_000), [2], "3 waits for 0 and 1");
    world.ack(token(&first, 0));
    assert_eq!(world.offsets(10, 30_000), [0; 0]);
    world.ack(token(&first, 1));
    assert_eq!(world.offsets(10, 30_000), [3]);
}

#[test]
fn a_nack_returns_what_is_behind_it_in_its_run_and_counts_only_itself() {
    let mut world = pull(|settings| settings.schedule = vec![0, 100]);
    world.publish_keys([1, 1, 1, 2]);
    let run = world.receive(10, 30_000);
    assert_eq!(run.len(), 4);
    world.ack(token(&run, 0));
    assert_eq!(world.nack(token(&run, 1)), TokenStatus::Ok);
    assert_eq!(world.nack(token(&run, 2)), TokenStatus::LeaseExpired, "it went back with 1");
    assert_eq!(world.ack(token(&run, 2)), TokenStatus::LeaseExpired, "1 comes again before it");
    assert_eq!(world.ack(token(&run, 3)), TokenStatus::Ok, "another key");
    assert!(world.receive(10, 30_000).is_empty(), "1 waits, 2 is behind it");
    world.advance(200);
    let again = world.receive(10, 30_000);
    let counts: Vec<(u64, u32, u32)> = again
        .iter()
        .map(|delivery| (delivery.token.place.offset.0, delivery.token.attempt, delivery.counted))
        .collect();
    assert_eq!(counts, [(1, 2, 2), (2, 2, 1)]);
}

#[test]
fn an_ack_counts_after_its_lease_until_another_attempt_begins() {
    let mut world = pull(|settings| settings.schedule = vec![0, 1000]);
    world.publish_keys([1, 1]);
    let run = world.receive(10, 100);
    world.advance(100);
    assert_eq!(world.nack(token(&run, 0)), TokenStatus::LeaseExpired);
    assert_eq!(world.ack(token(&run, 1)), TokenStatus::LeaseExpired, "0 is open");
    assert_eq!(world.ack(token(&run, 0)), TokenStatus::Ok);
    assert_eq!(world.ack(token(&run, 1)), TokenStatus::Ok);
    world.publish_keys([1]);
    let old = world.receive(1, 100)[0].token;
    world.advance(100);
    world.advance(2_000);
    let new = world.receive(1, 100)[0].token;
    assert_eq!((old.attempt, new.attempt), (1, 2));
    assert_eq!(world.ack(old), TokenStatus::LeaseExpired);
    assert_eq!(world.ack(new), TokenStatus::Ok);
    assert_eq!(world.ack(old), TokenStatus::Settled);
}

#[test]
fn acks_of_a_run_in_one_call_are_settled_in_order() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 1, 1]);
    let run = world.receive(10, 100);
    world.advance(100);
    let tokens: Vec<Token> = [2, 0, 1].map(|offset| token(&run, offset)).to_vec();
    let statuses = world.decide(|machine, moment, out| machine.ack(moment, &tokens, out));
    assert_eq!(statuses, [TokenStatus::Ok; 3]);
}

#[test]
fn leases_survive_a_restart_and_end_at_their_deadline() {
    let mut world = pull(|settings| settings.schedule = vec![0]);
    world.publish_keys([0, 0]);
    let leased = world.receive(2, 10_000);
    world.crash(usize::MAX);
    assert!(world.receive(10, 10_000).is_empty(), "leased still");
    assert_eq!(world.ack(leased[0].token), TokenStatus::Ok);
    world.advance(9_999);
    assert!(world.receive(10, 10_000).is_empty());
    world.advance(1);
    let again = world.receive(10, 10_000);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].counted, again[0].token.attempt), (2, 2), "an expired lease counts");
}

#[test]
fn extending_moves_the_deadline() {
    let mut world = pull(|settings| settings.schedule = vec![0]);
    world.publish_keys([0]);
    let leased = world.receive(1, 1_000)[0].token;
    world.advance(900);
    let extend =
        |world: &mut World| world.decide(|m, moment, out| m.extend(moment, leased, 1_000, out));
    assert_eq!(extend(&mut world), TokenStatus::Ok);
    world.advance(999);
    assert!(world.receive(1, 1_000).is_empty());
    world.advance(1);
    assert_eq!(extend(&mut world), TokenStatus::LeaseExpired);
    assert_eq!(world.receive(1, 1_000).len(), 1);
}

#[test]
fn a_release_does_not_count_and_keeps_the_age_from_beginning() {
    let mut world = pull(|settings| settings.max_attempts = 2);
    world.publish_keys([0]);
    for attempt in 1..=20 {
        let leased = world.receive(1, 1_000);
        assert_eq!((leased[0].token.attempt, leased[0].counted), (attempt, 1));
        let token = leased[0].token;
        world.decide(|machine, moment, out| machine.release(moment, token, 0, out));
        world.now += 24 * 3_600_000;
    }
    let token = world.receive(1, 1_000)[0].token;
    world.nack(token);
    assert!(world.letters.is_empty(), "neither two attempts nor a day old");
}

#[test]
fn after_its_attempts_an_event_is_a_dead_letter_and_the_next_of_its_key_goes() {
    let mut world = pull(|settings| settings.max_attempts = 3);
    world.publish_keys([1, 1]);
    for counted in 1..=3 {
        world.now += 60_000;
        let leased = world.receive(1, 1_000);
        assert_eq!((leased[0].token.place.offset.0, leased[0].counted), (0, counted));
        world.nack(leased[0].token);
    }
    let letter = &world.letters[0];
    assert_eq!((letter.reason, letter.attempts), (Reason::AttemptsExhausted, 3));
    assert_eq!(letter.failure.as_ref().unwrap().snippet.as_deref(), Some("no"));
    assert_eq!(world.offsets(10, 1_000), [1]);
    assert_eq!(world.machine.numbers().dead_letters, (1, 120));
}

#[test]
fn nothing_is_settled_before_its_dead_letter_and_a_crash_between_makes_no_second_one() {
    let mut world = pull(|settings| {
        settings.max_attempts = 1;
        settings.publishes_failure = true;
    });
    world.publish_keys([1, 1]);
    world.acts_at_once = false;
    let leased = world.receive(1, 1_000)[0].token;
    world.nack(leased);
    assert_eq!(world.ack(leased), TokenStatus::Settled, "its end is certain");
    assert!(world.receive(10, 1_000).is_empty(), "the next waits for the settlement");
    assert!(matches!(world.effects[..], [Effect::DeadLetter(_)]));
    // The letter is written, and the process dies before reporting it.
    let Effect::DeadLetter(letter) = world.effects.remove(0) else { unreachable!() };
    world.synced = world.journal.len();
    world.letters.push(letter);
    world.crash(usize::MAX);
    world.acts_at_once = true;
    world.act();
    assert_eq!(world.letters.len(), 1, "it was looked for, and found");
    let dead = Ending::DeadLettered(Reason::AttemptsExhausted);
    assert_eq!(world.published, [(Place::live(P0, Offset(0)), dead)]);
    assert_eq!(world.offsets(10, 1_000), [1]);
    assert!(world.machine.dead_letters(Offset::ZERO).next().unwrap().1.is_compensated);
}

#[test]
fn what_follows_a_success_is_there_before_the_success_is_settled() {
    let mut world = pull(|settings| settings.publishes_success = true);
    world.publish_keys([1, 1]);
    world.acts_at_once = false;
    let leased = world.receive(1, 1_000)[0].token;
    assert_eq!(world.ack(leased), TokenStatus::Ok);
    assert_eq!(world.floor(), 0);
    assert!(world.receive(1, 1_000).is_empty());
    world.crash(0);
    assert_eq!(
        world.effects.len(),
        0,
        "its outcome was lost with the power: it is delivered again"
    );
    let leased = world.receive(1, 1_000)[0].token;
    world.ack(leased);
    world.synced = world.journal.len();
    world.crash(0);
    assert!(world.receive(1, 1_000).is_empty(), "with its outcome kept it is not");
    world.act();
    assert_eq!(world.published, [(Place::live(P0, Offset(0)), Ending::Succeeded)]);
    assert_eq!(world.floor(), 1);
}

#[test]
fn the_age_counts_from_the_first_attempt_that_counts_and_bounds_the_last() {
    let mut world = pull(|settings| {
        settings.schedule = vec![0, 3_600_000];
        settings.max_age = 2 * 3_600_000;
        settings.max_attempts = 100;
    });
    world.publish_keys([0]);
    world.advance(1_000_000_000);
    let start = world.now;
    let mut starts = Vec::new();
    while world.letters.is_empty() {
        for delivery in world.receive(1, 1_000) {
            starts.push(world.now - start);
            world.nack(delivery.token);
        }
        world.wait();
    }
    assert_eq!(starts.first(), Some(&0));
    assert_eq!(starts.last(), Some(&7_200_000), "one more at the very end: {starts:?}");
    assert_eq!(world.letters[0].reason, Reason::Expired);
}

#[test]
fn an_event_past_its_own_time_is_never_delivered() {
    let mut world = pull(|_| {});
    let expires = Some(world.now + 500);
    for _ in 0..50 {
        world.publish(Stored { partition: P0, key: Some(1), expires, is_wanted: true });
    }
    world.publish_keys([1]);
    assert_eq!(world.offsets(2, 100).len(), 2);
    world.now += 500;
    world.advance(0);
    world.now += 100_000;
    let next = (0..60).map(|_| world.offsets(100, 1_000)).find(|leased| !leased.is_empty());
    assert_eq!(next.unwrap(), [50], "expired ones hold nobody up");
    assert_eq!(world.letters.len(), 50);
    assert!(world.letters.iter().all(|letter| letter.reason == Reason::Expired));
}

#[test]
fn a_consumer_that_dies_on_one_event_of_500_makes_exactly_one_dead_letter() {
    for (max_attempts, keys) in [(60, 1), (5, 1000), (2, 0), (1, 7), (2, 1000)] {
        let mut world = pull(|settings| settings.max_attempts = max_attempts);
        world.is_checked = false;
        world.publish_keys((0..500).map(|event| if keys == 0 { 0 } else { event % keys + 1 }));
        let mut alone = 0;
        for _ in 0..3_000 {
            let leased = world.receive(500, 30_000);
            if leased.is_empty() && !world.wait() {
                break;
            }
            if leased.iter().any(|delivery| delivery.token.place.offset.0 == 250) {
                alone += u32::from(leased.len() == 1 && leased[0].mode == Mode::Alone);
                continue;
            }
            let tokens: Vec<Token> = leased.iter().map(|delivery| delivery.token).collect();
            world.decide(|machine, moment, out| machine.ack(moment, &tokens, out));
        }
        let dead: Vec<u64> = world.letters.iter().map(|letter| letter.place.offset.0).collect();
        assert_eq!(dead, [250], "with {max_attempts} attempts and {keys} keys");
        assert_eq!(world.letters[0].reason, Reason::LeaseExpiredLimit);
        assert!(alone >= 1, "it died alone");
        assert_eq!(world.floor(), 500);
    }
}

#[test]
fn at_most_one_suspect_is_on_its_way_and_others_flow_beside_it() {
    let mut world = pull(|settings| settings.schedule = vec![0]);
    world.publish_keys([0, 0, 0]);
    for _ in 0..2 {
        assert_eq!(world.receive(10, 100).len(), 3);
        world.advance(200);
    }
    assert_eq!(world.machine.numbers().suspects, 3);
    world.publish_keys([0, 0]);
    let first = world.receive(10, 100);
    assert_eq!((first.len(), first[0].mode), (1, Mode::Alone));
    assert_eq!(world.offsets(10, 100), [3, 4], "those under no suspicion");
    assert!(world.receive(10, 100).is_empty());
    world.ack(first[0].token);
    let second = world.receive(10, 100);
    assert_eq!((second.len(), second[0].mode), (1, Mode::Alone));
    world.nack(second[0].token);
    assert_eq!(world.machine.numbers().suspects, 1, "an ending that was heard of clears it");
}

#[test]
fn a_blocked_key_waits_for_its_operator_and_keeps_its_order() {
    for action in [Unblock::Retry, Unblock::DeadLetter, Unblock::Discard] {
        let mut world = pull(|settings| {
            settings.max_attempts = 1;
            settings.then = Then::BlockKey;
        });
        world.publish_keys([1, 1, 2]);
        let leased = world.receive(1, 1_000)[0].token;
        world.nack(leased);
        world.advance(1_000_000_000);
        assert_eq!(world.offsets(10, 1_000), [2]);
        assert_eq!(world.machine.numbers().blocked, 1);
        world.crash(usize::MAX);
        assert!(!world.decide(|m, moment, out| m.unblock(moment, Some(2), action, out)));
        assert!(world.decide(|m, moment, out| m.unblock(moment, Some(1), action, out)));
        let next = world.receive(1, 1_000);
        match action {
            Unblock::Retry => assert_eq!((next[0].token.place.offset.0, next[0].counted), (0, 1)),
            Unblock::DeadLetter => assert_eq!(world.dead()[&0], [Reason::AttemptsExhausted]),
            Unblock::Discard => assert!(world.letters.is_empty()),
        }
        if action != Unblock::Retry {
            assert_eq!(next[0].token.place.offset.0, 1);
        }
    }
}

#[test]
fn a_late_ack_frees_a_blocked_key() {
    let mut world = pull(|settings| {
        settings.max_attempts = 1;
        settings.schedule = vec![0];
        settings.then = Then::BlockKey;
    });
    world.publish_keys([1, 1]);
    world.receive(1, 100);
    world.advance(100);
    let last = world.receive(1, 100)[0];
    assert_eq!(last.mode, Mode::Alone, "one more try, alone");
    world.advance(100);
    assert_eq!(world.machine.numbers().blocked, 1);
    assert_eq!(world.ack(last.token), TokenStatus::Ok);
    assert_eq!(world.offsets(1, 100), [1]);
}

#[test]
fn a_full_partition_stops_alone_and_is_read_on_from_where_it_stopped() {
    let mut world = pull(|settings| {
        settings.partitions = 2;
        settings.parked = 8;
    });
    let p1 = Partition { generation: 0, number: 1 };
    for number in 0..40 {
        let partition = if number % 2 == 0 { P0 } else { p1 };
        let key = (number % 2 == 0).then_some(1);
        world.publish(Stored { partition, key, expires: None, is_wanted: true });
    }
    let held = world.receive(1, 1_000_000)[0].token;
    assert_eq!(held.place.offset.0, 0);
    let mut other = Vec::new();
    loop {
        let leased: Vec<Delivery> = world.receive(100, 1_000_000);
        if leased.is_empty() {
            break;
        }
        for delivery in leased {
            other.push(delivery.token.place.offset.0);
            world.ack(delivery.token);
        }
    }
    assert_eq!(other, (0..20).map(|number| 2 * number + 1).collect::<Vec<_>>(), "p1 flows on");
    let parts = world.machine.parts(LaneId::LIVE);
    assert_eq!((parts[0].partition, parts[0].is_full, parts[0].floor.0), (P0, true, 0));
    assert!(parts[0].unsettled <= 9);
    assert!(parts[0].scan.0 < 40);
    assert_eq!(world.machine.position(LaneId::LIVE), Some(Offset(40)));
    world.crash(usize::MAX);
    assert_eq!(world.machine.parts(LaneId::LIVE)[0].scan, parts[0].scan);
    world.ack(held);
    world.drain();
    assert_eq!(world.floor(), 40);
    assert!(world.machine.parts(LaneId::LIVE).is_empty());
}

#[test]
fn a_later_generation_waits_for_the_partitions_before_it() {
    let mut world = pull(|settings| {
        settings.partitions = 2;
        settings.parked = 4;
    });
    world.publish_keys([1; 10]);
    let p1 = Partition { generation: 1, number: 3 };
    for _ in 0..10 {
        world.publish(Stored { partition: p1, key: Some(1), expires: None, is_wanted: true });
    }
    let mut order = Vec::new();
    loop {
        let leased = world.receive(1, 1_000);
        let Some(delivery) = leased.first() else { break };
        order.push(delivery.token.place.offset.0);
        world.ack(delivery.token);
    }
    assert_eq!(order, (0..20).collect::<Vec<_>>());
}

#[test]
fn an_ordered_partition_has_one_event_on_its_way() {
    let mut world = pull(|settings| settings.order = Order::Partition);
    world.publish_keys([1, 2, 3]);
    assert_eq!(world.offsets(2, 100), [0, 1], "a run");
    assert!(world.receive(10, 100).is_empty());
    let mut world = pull(|settings| settings.order = Order::None);
    world.publish_keys([1, 1, 1]);
    assert_eq!(world.offsets(2, 100), [0, 1]);
    assert_eq!(world.offsets(2, 100), [2]);
}

#[test]
fn in_flight_is_bounded_and_bytes_bound_a_receive_but_for_its_first() {
    let mut world = pull(|settings| settings.in_flight = 3);
    world.publish_keys([0, 0, 0, 0, 0]);
    let few = world.decide(|machine, moment, out| {
        machine.receive(moment, &Ask { events: 9, bytes: 150, lease: 1_000 }, out)
    });
    assert_eq!(few.len(), 1);
    let first = world.decide(|machine, moment, out| {
        machine.receive(moment, &Ask { events: 9, bytes: 1, lease: 1_000 }, out)
    });
    assert_eq!(first.len(), 1);
    assert_eq!(world.receive(10, 1_000).len(), 1);
    assert!(world.receive(10, 1_000).is_empty());
    world.ack(few[0].token);
    assert_eq!(world.receive(10, 1_000).len(), 1);
}

#[test]
fn a_pause_stops_deliveries_and_nothing_else() {
    let mut world = pull(|_| {});
    world.publish_keys([0, 0]);
    let leased = world.receive(1, 1_000)[0].token;
    world.decide(|machine, _, out| machine.pause(out));
    world.crash(usize::MAX);
    assert!(world.receive(1, 1_000).is_empty());
    assert_eq!(world.ack(leased), TokenStatus::Ok);
    world.decide(|machine, _, out| machine.resume(out));
    assert_eq!(world.offsets(1, 1_000), [1]);
}

#[test]
fn a_seek_makes_old_tokens_stand_for_nothing_and_delivers_again() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 1, 2]);
    let old = world.receive(1, 1_000)[0].token;
    let seek = |world: &mut World, to, force| {
        world.decide(|machine, _, out| machine.seek(Seek::All(Offset(to)), force, out))
    };
    assert_eq!(seek(&mut world, 0, false), Err(Refused::InFlight));
    assert_eq!(seek(&mut world, 0, true), Ok(()));
    let new = world.receive(10, 1_000);
    assert_eq!(new.len(), 3);
    assert_eq!((new[0].token.attempt, new[0].token.place), (old.attempt, old.place));
    assert_eq!(world.ack(old), TokenStatus::LeaseExpired, "of before the seek");
    for delivery in &new {
        assert_eq!(world.ack(delivery.token), TokenStatus::Ok);
    }
    assert_eq!(seek(&mut world, 2, false), Ok(()));
    assert_eq!(world.offsets(10, 1_000), [2]);
    assert_eq!(seek(&mut world, 3, true), Ok(()));
    assert_eq!(world.floor(), 3);
}

#[test]
fn one_partition_is_sent_back_or_ahead_alone() {
    let mut world = pull(|settings| settings.partitions = 2);
    let p1 = Partition { generation: 0, number: 1 };
    let publish = |world: &mut World, number: u64| {
        let partition = if number.is_multiple_of(2) { P0 } else { p1 };
        world.publish(Stored { partition, key: None, expires: None, is_wanted: true });
    };
    for number in 0..10 {
        publish(&mut world, number);
    }
    world.drain();
    let seek = Seek::Partitions(vec![(P0, Offset(4)), (p1, Offset(14))]);
    world.decide(|machine, _, out| machine.seek(seek, false, out)).unwrap();
    for number in 10..20 {
        publish(&mut world, number);
    }
    let mut offsets = world.offsets(100, 1_000);
    offsets.sort_unstable();
    assert_eq!(offsets, [4, 6, 8, 10, 12, 14, 15, 16, 17, 18, 19]);
    let parts = world.machine.parts(LaneId::LIVE);
    assert!(parts.iter().all(|part| part.scan.0 == 20), "{parts:?}");
}

#[test]
fn a_replay_goes_beside_live_events_after_them_and_reports_what_fails() {
    let mut world = pull(|settings| settings.max_attempts = 1);
    world.publish_keys([1, 2, 3, 4]);
    world.drain();
    world.publish_keys([2, 9]);
    let at = world.now;
    let range = (log_id(1), Offset(0), Offset(3));
    let job = world.decide(|m, _, out| m.replay(at, range, (None, false), out)).unwrap();
    let live = world.receive(1, 60_000)[0];
    assert_eq!((live.token.place.lane, live.token.place.offset.0), (LaneId::LIVE, 4));
    let rest = world.receive(10, 60_000);
    let places: Vec<(u32, u64)> = rest
        .iter()
        .map(|delivery| (delivery.token.place.lane.0, delivery.token.place.offset.0))
        .collect();
    assert_eq!(places, [(0, 5), (1, 0), (1, 2)], "key 2 is on its way in the live lane");
    assert_eq!(world.machine.pins().topic, Offset(0), "a job pins its range");
    world.nack(rest[1].token);
    world.ack(rest[2].token);
    world.ack(live.token);
    let last = world.receive(10, 60_000);
    assert_eq!(last[0].token.place.offset.0, 1);
    world.crash(usize::MAX);
    assert_eq!(world.ack(last[0].token), TokenStatus::Ok);
    let (_, report) = world.machine.jobs().find(|(lane, _)| *lane == job).unwrap();
    assert_eq!((report.delivered, report.failed), (2, 1));
    assert_eq!(report.failures[0].place.offset.0, 0);
    assert_eq!(report.ended.unwrap().1, JobEnd::Done);
    assert!(world.letters.is_empty(), "what fails again in a replay is no dead letter");
    assert_eq!(world.ack(last[0].token), TokenStatus::Settled, "of a job that is over");
}

#[test]
fn a_dead_letter_goes_only_when_its_redrive_delivers_it() {
    let mut world = pull(|settings| settings.max_attempts = 1);
    world.publish_keys([1, 1, 2]);
    for delivery in world.receive(3, 1_000) {
        let token = delivery.token;
        world.decide(|machine, moment, out| machine.reject(moment, token, Some("bad"), out));
    }
    assert_eq!(world.letters.len(), 3);
    let at = world.now;
    let letters: Vec<Offset> = world.machine.dead_letters(Offset(0)).map(|(at, _)| at).collect();
    let redrive = |world: &mut World| {
        world.decide(|m, _, out| m.redrive(at, (log_id(2), &letters), (None, false), false, out))
    };
    let job = redrive(&mut world).unwrap();
    assert_eq!(redrive(&mut world), Err(Refused::Nothing), "each is in one job");
    assert!(world.machine.is_redriven(Offset(1)));
    let leased = world.receive(10, 1_000);
    let places: Vec<u64> = leased.iter().map(|delivery| delivery.token.place.offset.0).collect();
    assert_eq!(places, [0, 1, 2], "in the dead-letter log, in the order of their keys");
    world.ack(token(&leased, 0));
    world.nack(token(&leased, 1));
    world.ack(token(&leased, 2));
    let left: Vec<(Offset, LetterState)> =
        world.machine.dead_letters(Offset(0)).map(|(at, letter)| (at, letter.clone())).collect();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].0, left[0].1.redrives), (Offset(1), 1));
    assert_eq!(left[0].1.failure.as_ref().unwrap().snippet.as_deref(), Some("no"));
    let (_, report) = world.machine.jobs().find(|(lane, _)| *lane == job).unwrap();
    assert_eq!((report.delivered, report.failed, report.ended.is_some()), (2, 1, true));
    redrive(&mut world).unwrap();
    let token = world.receive(10, 1_000)[0].token;
    let all = vec![Offset(1)];
    world.decide(|m, _, out| m.remove_dead_letters(at, Removal::Purged, all, out));
    assert_eq!(world.ack(token), TokenStatus::Settled, "purged under a running job");
    assert_eq!(world.machine.numbers().dead_letters, (0, 0));
}

#[test]
fn a_job_keeps_to_its_rate_and_a_cancelled_one_stops() {
    let mut world = pull(|_| {});
    world.publish_keys([0; 50]);
    world.drain();
    let at = world.now;
    let range = (log_id(1), Offset(0), Offset(50));
    let job = world.decide(|m, _, out| m.replay(at, range, (Some(10_000), false), out)).unwrap();
    let mut starts = Vec::new();
    while starts.len() < 40 {
        for delivery in world.receive(100, 1_000) {
            starts.push(world.now - at);
            world.ack(delivery.token);
        }
        assert!(starts.len() >= 40 || world.wait(), "it says when it goes on");
    }
    assert!(
        starts[39] >= 2_900 && starts[39] <= 3_200,
        "40 at 10 a second, 10 at once: {starts:?}"
    );
    let token = world.receive(1, 1_000).first().map(|delivery| delivery.token);
    let token = token.unwrap_or_else(|| {
        world.wait();
        world.receive(1, 1_000)[0].token
    });
    world.decide(|m, _, out| m.cancel(at, job, out)).unwrap();
    assert_eq!(world.ack(token), TokenStatus::LeaseExpired);
    assert_eq!(world.decide(|m, _, out| m.cancel(at, job, out)), Err(Refused::NoSuchJob));
    world.drain();
    assert_eq!(world.machine.pins().topic, Offset(50));
}

#[test]
fn full_dead_letters_stop_deliveries() {
    let mut world = pull(|settings| settings.dead_letter_bytes = Some(250));
    world.publish_keys([0; 6]);
    for _ in 0..2 {
        let token = world.receive(1, 1_000)[0].token;
        world.decide(|machine, moment, out| machine.reject(moment, token, None, out));
    }
    let last = world.receive(10, 1_000);
    assert_eq!(last.len(), 1, "room for one more");
    assert!(world.receive(10, 1_000).is_empty());
    let token = last[0].token;
    world.decide(|machine, moment, out| machine.reject(moment, token, None, out));
    assert!(world.machine.is_out_of_room());
    assert!(world.receive(10, 1_000).is_empty());
    let at = world.now;
    let all = vec![Offset(0), Offset(1)];
    world.decide(|m, _, out| m.remove_dead_letters(at, Removal::Purged, all, out));
    assert!(!world.receive(1, 1_000).is_empty());
}

#[test]
fn smaller_limits_give_one_final_try_and_strand_nothing() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 1, 0, 0]);
    for _ in 0..5 {
        world.now += 100_000;
        for delivery in world.receive(10, 1_000) {
            world.nack(delivery.token);
        }
    }
    let mut settings = world.settings.clone();
    (settings.max_attempts, settings.in_flight, settings.parked) = (2, 1, 1);
    settings.order = Order::None;
    let at = world.now;
    world.settings = settings.clone();
    world.decide(|machine, _, out| machine.configure(at, settings, 7, out));
    assert!(world.letters.is_empty(), "nothing is judged before its next try");
    world.now += 100_000;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let leased = world.receive(10, 1_000);
        assert_eq!(leased.len(), 1, "the new limit");
        seen.push(leased[0].token.place.offset.0);
        world.nack(leased[0].token);
    }
    seen.sort_unstable();
    assert_eq!(seen[0..3], [0, 1, 2], "{seen:?}");
    assert!(world.dead().contains_key(&0));
}

#[test]
fn an_order_changes_above_the_scan_position() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 1]);
    let settings = Settings { order: Order::None, ..world.settings.clone() };
    let at = world.now;
    world.settings = settings.clone();
    world.decide(|machine, _, out| machine.configure(at, settings, 7, out));
    world.publish_keys([1, 1]);
    assert_eq!(world.offsets(1, 1_000), [0]);
    assert_eq!(world.offsets(10, 1_000), [2, 3], "1 waits for 0 still");
}

#[test]
fn lost_bytes_are_skipped_and_copies_are_kept() {
    let mut world = pull(|settings| settings.schedule = vec![0, 1_000]);
    world.publish_keys([1, 2, 1, 2, 5]);
    let leased = world.receive(2, 1_000);
    for delivery in &leased {
        world.nack(delivery.token);
    }
    assert_eq!(world.machine.pins().topic, Offset(0));
    assert_eq!(world.machine.to_park(Offset(2), 10).len(), 2);
    let first = Place::live(P0, Offset(0));
    world.decide(|machine, _, out| machine.parked(first, Offset(77), out));
    assert_eq!(world.machine.pins(), Pins { topic: Offset(1), parked: Some(Offset(77)) });
    let at = world.now;
    let range = (Offset(0), Offset(2));
    world.decide(|m, _, out| m.lose(at, (LaneId::LIVE, Loss::Dropped), range, out));
    assert_eq!(world.machine.numbers().lost, 1);
    world.advance(2_000);
    let leased = world.receive(10, 1_000);
    let mut parked: Vec<(u64, Option<Offset>)> =
        leased.iter().map(|delivery| (delivery.token.place.offset.0, delivery.parked)).collect();
    parked.sort_unstable();
    assert_eq!(parked, [(0, Some(Offset(77))), (2, None), (3, None), (4, None)]);
}

#[test]
fn a_damaged_partition_stops_and_goes_on_after_repair() {
    let mut world = pull(|_| {});
    world.publish_keys([1, 2, 3]);
    let token = world.receive(1, 1_000)[0].token;
    world.decide(|machine, moment, out| machine.release(moment, token, 0, out));
    let damage = (Offset(0), Offset(1));
    world.decide(|machine, _, out| machine.damaged(LaneId::LIVE, P0, damage, out));
    world.crash(usize::MAX);
    assert!(world.receive(10, 1_000).is_empty());
    assert_eq!(world.machine.parts(LaneId::LIVE)[0].damaged, Some(damage));
    world.decide(|machine, _, out| machine.resume(out));
    assert_eq!(world.receive(10, 1_000).len(), 3);
}

#[test]
fn a_clock_that_was_set_moves_what_waits() {
    let mut world = pull(|settings| settings.schedule = vec![0, 10_000]);
    world.publish_keys([0, 0]);
    let leased = world.receive(2, 5_000);
    world.nack(leased[0].token);
    let day = 24 * 3_600_000;
    world.now += day;
    world.decide(|machine, _, out| machine.clock_moved(24 * 3_600_000, out));
    assert!(world.receive(2, 1_000).is_empty());
    assert_eq!(world.ack(leased[1].token), TokenStatus::Ok, "leased still");
    world.advance(13_000);
    assert_eq!(world.receive(2, 1_000).len(), 1);
}
