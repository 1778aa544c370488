//! What a log keeps in memory for its followers.

use super::{
    machine::{Driven, Ledger, settings},
    *,
};
use crate::events::queue::storage::model::{Fault, Model, Op};

/// What is in memory from `from` on: offset and number.
fn kept(following: &Following, from: u64) -> Option<Vec<(u64, u64)>> {
    let block = following.read(Offset(from))?;
    Some(block.records().map(|(offset, record)| (offset.0, number(record.body()))).collect())
}

#[test]
fn what_is_written_is_shown_once_it_is_on_disk_and_only_to_who_was_there() {
    let driven = Driven::open(&Model::new(), &settings()).unwrap();
    let mut ledger = Ledger::default();
    driven.append(&mut ledger, &[2], true);
    let following = driven.log.follow();
    assert_eq!(kept(&following, 1), None, "nobody followed when it was written");
    driven.append(&mut ledger, &[1, 2], false);
    driven.append(&mut ledger, &[1], false);
    assert_eq!(kept(&following, 2), None, "it is not on disk");
    driven.append(&mut ledger, &[1], true);
    assert_eq!(kept(&following, 3), Some(vec![(3, 3), (4, 4)]));
    assert_eq!(kept(&following, 5), Some(vec![(5, 5)]));
    assert_eq!(kept(&following, 6), Some(vec![(6, 6)]));
    assert_eq!(kept(&following, 7), None);
    drop(following);
    assert_eq!(kept(&driven.log.follow(), 6), None, "nobody is left to keep it for");
}

#[test]
fn what_a_failed_sync_leaves_in_doubt_is_not_shown() {
    let model = Model::new();
    let driven = Driven::open(&model, &settings()).unwrap();
    let following = driven.log.follow();
    let mut ledger = Ledger::default();
    driven.append(&mut ledger, &[1], true);
    model.fail_nth(Op::Sync, 0, Fault::Io);
    driven.append(&mut ledger, &[1], true);
    assert!(driven.log.is_offline());
    assert_eq!(kept(&following, 0), Some(vec![(0, 0)]));
    assert_eq!(kept(&following, 1), None);
    // Recovered records have another place in the file, and are read there.
    driven.log.reopen().unwrap();
    driven.append(&mut ledger, &[1], true);
    let last = driven.log.durable().0 - 1;
    assert_eq!(kept(&following, last).map(|kept| kept.len()), Some(1));
    for offset in 0..last {
        let kept = kept(&following, offset);
        assert!(kept.is_none_or(|kept| all(&driven.log).ends_with(&kept)));
    }
}
