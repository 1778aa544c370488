//! Damage is detected, and the previous generation is used instead.

use proptest::prelude::*;

use super::*;
use crate::events::queue::storage::Real;

fn store() -> StoreId {
    StoreId(Uuid::from_u128(7))
}

fn section(subscription: u128, position: u64, state: &'static [u8]) -> Section {
    Section {
        subscription: Uuid::from_u128(subscription),
        position: Offset(position),
        state: Bytes::from_static(state),
    }
}

fn two() -> Snapshot {
    Snapshot { sections: vec![section(1, 30, b"one"), section(2, 20, b"")] }
}

#[test]
fn a_snapshot_comes_back_and_begins_at_its_earliest_section() {
    let file = two().encode(store());
    assert_eq!(Snapshot::decode(&file), Ok((store(), two())));
    assert_eq!((two().start(), two().floor()), (Offset(20), Offset(30)));
    assert_eq!(Snapshot::default().start(), Offset::ZERO);
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let file = two().encode(store());
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        assert!(Snapshot::decode(&bad).is_err(), "byte {at}");
        assert!(Snapshot::decode(&file[..at]).is_err(), "cut at {at}");
    }
    let mut newer = file;
    newer[6] = 2;
    assert_eq!(Snapshot::decode(&newer), Err(Malformed::Newer));
}

#[test]
fn the_format_is_what_it_was() {
    let golden = include_bytes!("golden/snapshot-1.bin");
    assert_eq!(two().encode(store()), golden);
}

proptest! {
    #[test]
    fn any_bytes_are_just_no_snapshot(bytes: Vec<u8>) {
        prop_assert!(Snapshot::decode(&bytes).is_err());
        let mut named = MAGIC.to_vec();
        named.extend_from_slice(&VERSION.to_le_bytes());
        named.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        named.extend_from_slice(&bytes);
        // With a right checksum.
        drop(Snapshot::decode(&named));
    }
}

#[test]
fn two_generations_are_kept_and_the_older_one_steps_in() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Real::open(dir.path()).unwrap();
    let at = |position| Snapshot { sections: vec![section(1, position, b"state")] };
    let root = Path::new("");
    for (position, older) in [(10, 0), (20, 10), (30, 20), (30, 20)] {
        assert_eq!(at(position).write(&storage, root, store()).unwrap(), Offset(older));
    }
    assert_eq!(offsets(&storage, root).unwrap(), [Offset(20), Offset(30)]);
    let loaded = Snapshot::load(&storage, root, store()).unwrap();
    assert_eq!(loaded.settle(&storage, root).unwrap(), at(30));

    let file = storage.open(&path(root, Offset(30))).unwrap();
    file.write_at(b"x", 40).unwrap();
    let loaded = Snapshot::load(&storage, root, store()).unwrap();
    assert_eq!(loaded.damaged.len(), 1);
    assert_eq!(loaded.settle(&storage, root).unwrap(), at(20));
    // It no longer counts as a generation: the good one stays.
    assert_eq!(at(40).write(&storage, root, store()).unwrap(), Offset(20));

    let other = StoreId(Uuid::from_u128(8));
    assert!(matches!(Snapshot::load(&storage, root, other), Err(SnapshotError::Foreign(_))));
}
