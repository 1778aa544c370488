//! A disk that rejects writes although it reports space, as with a quota.

use std::time::Duration;

use super::*;
use crate::events::queue::storage::model::{Fault, Model, Op};

/// Operations that need space.
const TAKE: [Op; 2] = [Op::Write, Op::Allocate];

fn is_refused<T: std::fmt::Debug>(outcome: &Result<T, Refused>) -> bool {
    matches!(outcome, Err(Refused { reason: Reason::DiskLow, retry_after: Some(_) }))
}

/// Appends on behalf of something accepted.
fn accept(log: &Log, number: u64) -> Result<(), AppendError> {
    let draft = draft(number);
    let permit = log.permit_for(Purpose::Accepted, draft.encoded_bytes() as u64)?;
    log.append(permit, vec![draft]).wait().map(drop)
}

fn filled(model: &Model) -> (Home, Log) {
    let home = Home::on(Arc::new(model.clone()));
    let (log, _) = home.open();
    append(&log, [0]).wait().unwrap();
    for op in TAKE {
        model.fail_every(op, Fault::NoSpace);
    }
    assert!(log.permit(100).is_ok(), "nobody knows yet");
    let refused = append(&log, [1]).wait();
    assert!(matches!(refused, Err(AppendError::Refused(_))), "{refused:?}");
    assert_eq!(log.status().state, State::Full);
    (home, log)
}

#[test]
fn nothing_new_is_accepted_by_a_log_whose_disk_took_nothing() {
    let model = Model::new();
    let (_home, log) = filled(&model);
    for _ in 0..100 {
        assert!(is_refused(&log.permit(100)));
    }
    assert!(accept(&log, 2).is_err(), "the disk says it of what was accepted");
    model.heal();
    accept(&log, 3).unwrap();
    append(&log, [4]).wait().unwrap();
    let numbers: Vec<u64> = all(&log).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, [0, 3, 4]);
}

#[test]
fn a_full_log_finds_by_itself_that_there_is_room_and_stakes_no_event_on_it() {
    let model = Model::new();
    let (_home, log) = filled(&model);
    model.heal();
    let since = tokio::time::Instant::now();
    while let Err(refused) = log.permit(100) {
        assert!(is_refused::<()>(&Err(refused)));
        assert!(since.elapsed() < Duration::from_mins(1), "it stays full");
        std::thread::yield_now();
    }
    assert_eq!(log.status().state, State::Serving);
    append(&log, [1]).wait().unwrap();
    assert_eq!(all(&log), [(0, 0), (1, 1)]);
}

#[test]
fn what_is_refused_tries_the_disk_seldom() {
    let model = Model::new();
    let (_home, log) = filled(&model);
    let since = tokio::time::Instant::now();
    let before = model.operations();
    for _ in 0..1_000 {
        assert!(log.permit(100).is_err());
    }
    // Everything the writer was asked for is done.
    assert!(accept(&log, 2).is_err());
    let (tries, made) = (2 + since.elapsed().as_secs(), model.operations() - before);
    assert!(made <= tries * 8, "{made} operations");
}

#[test]
fn a_second_write_that_fails_leaves_the_log_full() {
    let model = Model::new();
    let home = Home::on(Arc::new(model.clone()));
    let (log, _) = home.open();
    append(&log, [0]).wait().unwrap();
    // The frame, and again in the new file, after its header and the old file's index.
    model.fail_nth(Op::Write, 0, Fault::NoSpace);
    model.fail_nth(Op::Write, 3, Fault::NoSpace);
    assert!(append(&log, [1]).wait().is_err());
    assert_eq!(log.status().state, State::Full);
}
