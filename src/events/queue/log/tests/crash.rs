//! Crashes at every operation and of every kind: what was acknowledged exists afterwards.
//!
//! Tests 1 to 3 and 5 to 6 of the specification.

use super::{
    super::*,
    machine::{Driven, Ledger, settings},
};
use crate::events::queue::{
    Offset,
    mutation::{self, Mutation},
    storage::model::{Crash, Fault, Model, Op, Survivors},
};

/// More runs in a campaign.
fn campaign() -> u64 {
    std::env::var("SLUICE_CAMPAIGN").ok().and_then(|it| it.parse().ok()).unwrap_or(1)
}

/// A run of a log: appends of all sizes, a few files, one of them retired, a reopening.
fn live(model: &Model, ledger: &mut Ledger, appends: u64) {
    let Ok(driven) = Driven::open(model, &settings()) else { return };
    if model.is_stopped() {
        return;
    }
    driven.check(ledger);
    for n in 0..appends {
        let counts = [1 + n % 5, n % 3, 1 + n * 7 % 11];
        driven.append(ledger, &counts[..=usize::try_from(n % 3).unwrap()], n % 4 != 3);
        if n % 5 == 2 {
            driven.shared.look_after(true, false);
        }
        if n == appends / 2
            && let Some(segment) = driven.log.segments().get(1)
        {
            drop(driven.log.retire(segment.base));
        }
        if n == appends * 2 / 3 {
            drop(driven.log.reopen());
        }
    }
}

/// Runs to the end, to count the operations.
fn operations(appends: u64) -> u64 {
    let model = Model::new();
    live(&model, &mut Ledger::default(), appends);
    model.operations()
}

fn recover(model: &Model, ledger: &mut Ledger) {
    let driven = Driven::open(model, &settings()).expect("opening after a crash");
    assert_eq!(driven.log.status().state, State::Serving, "after a crash");
    driven.check(ledger);
    driven.append(ledger, &[2], true);
    driven.check(ledger);
}

/// Test 1: crash at every operation.
fn crash_everywhere(seeds: u64) {
    let appends = 18;
    for stop in 0..operations(appends) {
        for survivors in Survivors::ALL {
            for seed in 0..seeds {
                let model = Model::new();
                model.stop_at(stop);
                let mut ledger = Ledger::default();
                live(&model, &mut ledger, appends);
                let crash =
                    Crash { is_stale: seed % 2 == 1, ..Crash::new(survivors, stop * 31 + seed) };
                recover(&model.crash(crash), &mut ledger);
            }
        }
    }
}

#[test]
fn t1_what_is_acknowledged_survives_a_crash_at_every_operation() {
    crash_everywhere(campaign());
}

/// Test 2: repeated crashes, in recovery too.
#[test]
fn t2_what_is_acknowledged_survives_crash_after_crash() {
    for seed in 0..60 * campaign() {
        let mut lots = fastrand::Rng::with_seed(seed);
        let mut model = Model::new();
        let mut ledger = Ledger::default();
        for life in 0..6 {
            model.stop_at(model.operations() + lots.u64(0..60));
            live(&model, &mut ledger, 12);
            model = if lots.u8(0..4) == 0 {
                model.restart()
            } else {
                model.crash(Crash::any(seed * 100 + life))
            };
        }
        recover(&model, &mut ledger);
    }
}

/// Test 3: nothing above the watermark keeps a log from opening, whatever a crash left there.
#[test]
fn t3_a_torn_tail_is_cut_and_never_refused() {
    for seed in 0..150 * campaign() {
        let model = Model::new();
        let mut ledger = Ledger::default();
        let driven = Driven::open(&model, &settings()).unwrap();
        driven.append(&mut ledger, &[3], true);
        for n in 0..6 {
            driven.append(&mut ledger, &[1 + n], false);
        }
        let survivors = [Survivors::Random, Survivors::Suffix, Survivors::Prefix];
        let survivors = survivors[usize::try_from(seed % 3).unwrap()];
        let crash = Crash { is_stale: seed % 5 == 0, ..Crash::new(survivors, seed) };
        recover(&model.crash(crash), &mut ledger);
    }
}

/// Test 5: a sync fails, and would succeed if it were retried.
#[test]
fn t5_after_a_failed_sync_nothing_is_acknowledged_before_the_log_is_reopened() {
    for nth in 0..12 {
        for seed in 0..4 * campaign() {
            let model = Model::new();
            for _ in 0..seed {
                model.reshuffle();
            }
            let mut ledger = Ledger::default();
            let driven = Driven::open(&model, &settings()).unwrap();
            model.fail_nth(Op::Sync, nth, Fault::Io);
            for n in 0..12 {
                driven.append(&mut ledger, &[1 + n % 3], true);
            }
            let state = driven.log.status().state;
            assert!(matches!(state, State::Offline(_)), "{state:?}");
            assert_eq!(driven.log.due(), None, "the writer has to sleep: nothing can be done");
            let durable = driven.log.durable();
            let promised = ledger.promised.clone();
            driven.append(&mut ledger, &[1], true);
            assert_eq!(ledger.promised, promised, "acknowledged after a failed sync");
            assert_eq!(driven.log.durable(), durable);
            driven.check(&mut ledger);
            if seed % 2 == 0 {
                driven.log.reopen().unwrap();
                driven.check(&mut ledger);
                driven.append(&mut ledger, &[2], true);
                driven.check(&mut ledger);
            }
            recover(&model.crash(Crash::any(seed)), &mut ledger);
        }
    }
}

/// Test 6: no space, at every operation that needs some.
#[test]
fn t6_a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let appends = 24;
    for at in 0..operations(appends) {
        let model = Model::new();
        let mut ledger = Ledger::default();
        if Driven::open(&model, &settings()).is_ok() && at >= model.operations() {
            let driven = Driven::open(&model, &settings()).unwrap();
            model.fail_at(at, Fault::NoSpace);
            for n in 0..appends {
                driven.append(&mut ledger, &[1 + n % 5], true);
                if matches!(driven.log.status().state, State::Offline(_)) {
                    driven.log.reopen().unwrap();
                }
            }
            driven.check(&mut ledger);
            recover(&model.crash(Crash::any(at)), &mut ledger);
        }
    }
}

/// Test 6: space runs out for good, and comes back.
#[test]
fn t6_a_log_goes_on_without_a_restart_when_there_is_room_again() {
    let model = Model::new();
    let mut ledger = Ledger::default();
    let driven = Driven::open(&model, &settings()).unwrap();
    driven.append(&mut ledger, &[2], true);
    model.set_free(0);
    for _ in 0..200 {
        driven.append(&mut ledger, &[20], true);
    }
    assert!(!ledger.refused.is_empty());
    assert_eq!(driven.log.status().state, State::Full);
    driven.check(&mut ledger);
    model.set_free(1 << 20);
    let promised = ledger.promised.len();
    driven.append(&mut ledger, &[5], true);
    assert_eq!(ledger.promised.len(), promised + 5);
    assert_eq!(driven.log.status().state, State::Serving);
    driven.check(&mut ledger);
    recover(&model.crash(Crash::new(Survivors::None, 1)), &mut ledger);
}

#[test]
fn what_is_served_after_a_killed_process_survives_power_loss_right_after_it() {
    for seed in 0..20 {
        let model = Model::new();
        let mut ledger = Ledger::default();
        let driven = Driven::open(&model, &settings()).unwrap();
        for n in 0..6 {
            driven.append(&mut ledger, &[1 + n], n % 2 == 0);
        }
        let model = model.restart();
        let driven = Driven::open(&model, &settings()).unwrap();
        driven.check(&mut ledger);
        assert_eq!(driven.log.durable(), Offset(21), "a killed process loses nothing");
        recover(&model.crash(Crash::any(seed)), &mut ledger);
    }
}

#[test]
fn t3_what_another_life_of_a_file_has_left_is_not_served() {
    let path = std::path::Path::new("log/00000000000000000000.log");
    let (old, new) = (Model::new(), Model::new());
    let driven = Driven::open(&old, &settings()).unwrap();
    driven.append(&mut Ledger::default(), &[3], true);
    drop(Driven::open(&new, &settings()).unwrap());
    // The blocks of the old file are in the new one, after its header.
    let mut bytes = new.bytes(path);
    bytes[4096..].copy_from_slice(&old.bytes(path)[4096..]);
    new.overwrite(path, &bytes);
    let driven = Driven::open(&new.restart(), &settings()).unwrap();
    assert_eq!(driven.log.status().state, State::Serving);
    assert_eq!(driven.read(), [], "records of another life");
}

/// A mutation's damage is detected by one of the tests above.
fn is_caught(mutation: Mutation, test: impl Fn() + std::panic::UnwindSafe) {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| mutation::with(mutation, test)).is_err();
    std::panic::set_hook(hook);
    assert!(caught, "{} is not caught", mutation.name());
}

#[test]
fn t18_mutations_of_the_log_are_caught() {
    is_caught(Mutation::DropTheSync, || crash_everywhere(1));
    is_caught(Mutation::DropTheDirectorySync, || crash_everywhere(1));
    is_caught(Mutation::CheckpointAheadOfTheSync, || crash_everywhere(1));
    is_caught(
        Mutation::AcknowledgeBeforeTheSync,
        t5_after_a_failed_sync_nothing_is_acknowledged_before_the_log_is_reopened,
    );
    is_caught(Mutation::EpochIgnored, t3_what_another_life_of_a_file_has_left_is_not_served);
    is_caught(
        Mutation::AcceptABadCrc,
        super::damage::t4_damage_is_found_and_named_and_costs_what_it_hit,
    );
    is_caught(
        Mutation::NoCopyForward,
        what_is_served_after_a_killed_process_survives_power_loss_right_after_it,
    );
}

#[test]
fn a_reader_s_floor_above_the_end_is_damage() {
    let model = Model::new();
    let mut ledger = Ledger::default();
    let driven = Driven::open(&model, &settings()).unwrap();
    driven.append(&mut ledger, &[5], true);
    let again = Driven::open_at(&model.restart(), &settings(), Offset(9)).unwrap();
    let State::Offline(offline) = again.log.status().state else { panic!("it serves") };
    assert_eq!(offline.range, Some(Offset(5)..Offset(9)));
    assert_eq!(again.read().len(), 5, "what is before can be read");
}
