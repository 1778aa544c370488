//! The model does to a program what its header says, and nothing else.

use std::{collections::HashSet, io::ErrorKind, path::Path};

use super::*;
use crate::events::queue::storage::{File, Storage};

const SEEDS: u64 = 200;

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn read(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.length().unwrap()).unwrap()];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), bytes.len());
    bytes
}

/// A file with synced bytes and a synced name.
fn lasting(model: &Model, name: &str, bytes: &[u8]) -> Box<dyn File> {
    let file = model.create(path(name)).unwrap();
    file.write_at(bytes, 0).unwrap();
    file.sync().unwrap();
    model.sync_dir(path("")).unwrap();
    file
}

fn after(model: &Model, survivors: Survivors, seed: u64, name: &str) -> Option<Vec<u8>> {
    let model = model.crash(Crash::new(survivors, seed));
    model.open(path(name)).ok().map(|file| read(&*file))
}

#[test]
fn what_is_synced_survives_every_crash() {
    let model = Model::new();
    lasting(&model, "a", b"one");
    for seed in 0..SEEDS {
        let new = model.crash(Crash::any(seed));
        assert_eq!(read(&*new.open(path("a")).unwrap()), b"one");
        assert!(model.open(path("a")).is_err(), "the old machine is off");
    }
}

#[test]
fn what_is_unsynced_survives_or_not() {
    let model = Model::new();
    let file = lasting(&model, "a", b"one");
    file.write_at(b"TWO", 0).unwrap();
    file.write_at(b"three", 3).unwrap();
    assert_eq!(read(&*model.open(path("a")).unwrap()), b"TWOthree", "the cache has it");
    assert_eq!(after(&model, Survivors::None, 0, "a").unwrap(), b"one");
    assert_eq!(after(&model, Survivors::All, 0, "a").unwrap(), b"TWOthree");
    let seen: HashSet<_> =
        (0..SEEDS).map(|seed| after(&model, Survivors::Random, seed, "a").unwrap()).collect();
    for expected in [&b"one"[..], b"TWO", b"TWOthree", b"one\0\0\0\0\0", b"TWO\0\0\0\0\0"] {
        assert!(seen.contains(expected), "{expected:?} is not in {seen:?}");
    }
}

#[test]
fn a_crash_tears_between_sectors_and_in_any_order() {
    let model = Model::new();
    let file = lasting(&model, "a", &[0; 2048]);
    file.write_at(&[1; 2048], 0).unwrap();
    let mut seen = HashSet::new();
    for seed in 0..SEEDS {
        let bytes = after(&model, Survivors::Random, seed, "a").unwrap();
        assert_eq!(bytes.len(), 2048);
        let sectors: Vec<_> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 16, "each subset of four sectors");
}

#[test]
fn a_prefix_keeps_the_order_and_a_suffix_turns_it() {
    let model = Model::new();
    let file = lasting(&model, "a", &[0; 4096]);
    for sector in 0..8 {
        file.write_at(&[1; 512], sector * 512).unwrap();
    }
    let shape = |survivors, seed| -> Vec<u8> {
        let bytes = after(&model, survivors, seed, "a").unwrap();
        bytes.chunks(512).map(|sector| sector[0]).collect()
    };
    for seed in 0..SEEDS {
        assert!(shape(Survivors::Prefix, seed).is_sorted_by(|a, b| a >= b));
        assert!(shape(Survivors::Suffix, seed).is_sorted());
    }
}

#[test]
fn a_name_lasts_after_the_sync_of_its_directory() {
    let model = Model::new();
    model.create_dir(path("d")).unwrap();
    let file = model.create(path("d/a")).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    model.sync_dir(path("d")).unwrap();
    assert_eq!(after(&model, Survivors::None, 0, "d/a"), None, "the directory has no name yet");
    assert_eq!(after(&model, Survivors::Names, 0, "d/a").unwrap(), b"x");
    let model = model.crash(Crash::new(Survivors::All, 0));
    model.sync_dir(path("")).unwrap();
    assert_eq!(after(&model, Survivors::None, 0, "d/a").unwrap(), b"x");
    let model = model.crash(Crash::new(Survivors::All, 0));
    model.remove(path("d/a")).unwrap();
    assert_eq!(model.list(path("d")).unwrap(), [""; 0]);
    assert_eq!(after(&model, Survivors::None, 0, "d/a").unwrap(), b"x", "it comes back");
    let model = model.crash(Crash::new(Survivors::All, 0));
    assert_eq!(model.list(path("d")).unwrap(), [""; 0]);
}

#[test]
fn a_rename_is_whole_and_replaces() {
    let model = Model::new();
    lasting(&model, "C", b"old");
    let file = model.create(path("tmp")).unwrap();
    file.write_at(b"new", 0).unwrap();
    model.rename(path("tmp"), path("C")).unwrap();
    assert_eq!(model.list(path("")).unwrap(), ["C"]);
    assert_eq!(after(&model, Survivors::Names, 0, "C").unwrap(), b"", "the name without the data");
    let seen: HashSet<_> =
        (0..SEEDS).map(|seed| after(&model, Survivors::Random, seed, "C").unwrap()).collect();
    assert!(seen.contains(&b"old"[..]) && seen.contains(&b"new"[..]) && seen.contains(&b""[..]));
    let model = model.crash(Crash::new(Survivors::All, 0));
    model.create_dir(path("d")).unwrap();
    model.rename(path("C"), path("d/C")).unwrap();
    model.sync_dir(path("")).unwrap();
    let new = model.crash(Crash::new(Survivors::None, 0));
    assert!(new.files().is_empty(), "only the directory it left was synced");
}

#[test]
fn a_failed_sync_loses_the_bytes_and_is_told_once_to_each_handle() {
    let model = Model::new();
    let writer = lasting(&model, "a", b"one");
    let other = model.open(path("a")).unwrap();
    writer.write_at(b"TWO", 0).unwrap();
    model.fail_nth(Op::Sync, 0, Fault::Io);
    assert!(writer.sync().is_err());
    let later = model.open(path("a")).unwrap();
    writer.sync().unwrap();
    assert!(other.sync().is_err());
    other.sync().unwrap();
    later.sync().unwrap();
    assert_eq!(read(&*writer), b"TWO", "the cache shows them");
    let killed = model.fork();
    assert_eq!(read(&*killed.open(path("a")).unwrap()), b"TWO", "after the program's death too");
    let mut seen = HashSet::new();
    for seed in 0..SEEDS {
        let model = Model::new();
        let writer = lasting(&model, "a", b"one");
        for _ in 0..seed {
            model.reshuffle();
        }
        writer.write_at(b"TWO", 0).unwrap();
        model.fail_nth(Op::Sync, 0, Fault::Io);
        assert!(writer.sync().is_err());
        writer.sync().unwrap();
        seen.insert(after(&model, Survivors::All, seed, "a").unwrap());
    }
    assert_eq!(seen, HashSet::from([b"one".to_vec(), b"TWO".to_vec()]), "nothing was retried");
}

#[test]
fn a_page_that_is_written_again_takes_the_lost_bytes_along() {
    let model = Model::new();
    let file = lasting(&model, "a", &[0; 8192]);
    file.write_at(&[1; 8192], 0).unwrap();
    model.fail_nth(Op::Sync, 0, Fault::Io);
    assert!(file.sync().is_err());
    file.write_at(&[2], 0).unwrap();
    file.sync().unwrap();
    let bytes = model.bytes(path("a"));
    assert_eq!(bytes[0], 2);
    assert!(bytes[1..4096].iter().all(|byte| *byte == 1));
    model.evict();
    assert_eq!(read(&*file), bytes, "the cache is read from the disk again");
}

#[test]
fn an_error_that_nobody_heard_of_is_told_to_the_next_who_opens() {
    let model = Model::new();
    let file = lasting(&model, "a", b"one");
    file.write_at(b"TWO", 0).unwrap();
    model.fail_writeback(path("a"));
    let later = model.open(path("a")).unwrap();
    assert!(later.sync().is_err());
    model.open(path("a")).unwrap().sync().unwrap();
    assert!(file.sync().is_err());
}

#[test]
fn a_failed_sync_of_a_directory_is_not_made_good_by_another() {
    let mut seen = HashSet::new();
    for seed in 0..SEEDS {
        let model = Model::new();
        for _ in 0..seed {
            model.reshuffle();
        }
        model.create(path("a")).unwrap();
        model.fail_nth(Op::SyncDir, 0, Fault::Io);
        assert!(model.sync_dir(path("")).is_err());
        model.sync_dir(path("")).unwrap();
        seen.insert(after(&model, Survivors::All, 0, "a").is_some());
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn a_cut_is_torn_from_what_is_written_after_it() {
    let model = Model::new();
    let file = lasting(&model, "a", &[1; 1024]);
    file.truncate(512).unwrap();
    file.write_at(&[2; 512], 512).unwrap();
    let seen: HashSet<_> = (0..SEEDS)
        .map(|seed| {
            let bytes = after(&model, Survivors::Random, seed, "a").unwrap();
            bytes.chunks(512).map(|sector| sector[0]).collect::<Vec<_>>()
        })
        .collect();
    // Without the cut the new block is not visible; with it the old one is not.
    assert_eq!(seen, HashSet::from([vec![1], vec![1, 1], vec![1, 0], vec![1, 2]]));
}

#[test]
fn a_full_disk_takes_a_part_and_says_so() {
    let model = Model::new();
    let file = lasting(&model, "a", &[1; 4096]);
    model.set_capacity(8192);
    assert_eq!(model.space().unwrap().free, 4096);
    file.write_at(&[2; 4096], 0).unwrap();
    let error = file.write_at(&[3; 8192], 4096).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    assert_eq!(file.length().unwrap(), 8192);
    assert_eq!(model.space().unwrap().free, 0);
    let other = model.create(path("b")).unwrap();
    assert_eq!(other.allocate(1).unwrap_err().kind(), ErrorKind::StorageFull);
    file.truncate(4096).unwrap();
    model.set_free(4096);
    other.allocate(10).unwrap();
    assert_eq!(read(&*other), [0; 10]);
    assert_eq!(model.space().unwrap().free, 0);
    drop(other);
    model.remove(path("b")).unwrap();
    assert_eq!(model.space().unwrap().free, 4096);
}

#[test]
fn the_machine_dies_in_the_operation_it_is_told_to() {
    let work = |model: &Model| -> std::io::Result<()> {
        let file = model.create(path("a"))?;
        file.write_at(b"x", 0)?;
        file.sync()?;
        model.sync_dir(path(""))
    };
    let model = Model::new();
    work(&model).unwrap();
    assert_eq!(model.operations(), 4);
    for stop in 0..4 {
        let model = Model::new();
        model.stop_at(stop);
        assert!(work(&model).is_err());
        assert!(model.is_stopped());
        assert!(model.list(path("")).is_err());
        let new = model.crash(Crash::new(Survivors::All, 0));
        assert_eq!(new.files(), [path("a")], "what it was doing may have been done");
        let new = model.crash(Crash::new(Survivors::None, 0));
        assert!(new.files().is_empty(), "nothing was certain before the end");
    }
}

#[test]
fn a_fault_hits_the_operation_it_is_planned_for() {
    let model = Model::new();
    model.fail_at(1, Fault::NoSpace);
    let file = model.create(path("a")).unwrap();
    assert_eq!(file.write_at(b"xyz", 0).unwrap_err().kind(), ErrorKind::StorageFull);
    file.write_at(b"xyz", 0).unwrap();
    model.fail_nth(Op::Read, 1, Fault::Io);
    let mut buffer = [0; 3];
    file.read_at(&mut buffer, 0).unwrap();
    assert!(file.read_at(&mut buffer, 0).is_err());
    file.read_at(&mut buffer, 0).unwrap();
    model.fail_every(Op::Rename, Fault::Io);
    assert!(model.rename(path("a"), path("b")).is_err());
    assert!(model.rename(path("a"), path("b")).is_err());
    model.heal();
    model.rename(path("a"), path("b")).unwrap();
    let ops: Vec<_> = model.trace().into_iter().map(|(op, _)| op).collect();
    assert_eq!(ops, [Op::Create, Op::Write, Op::Write, Op::Rename, Op::Rename, Op::Rename]);
}

#[test]
fn blocks_of_a_removed_file_may_show() {
    let model = Model::new();
    drop(lasting(&model, "old", &[7; 1024]));
    model.remove(path("old")).unwrap();
    model.sync_dir(path("")).unwrap();
    let file = lasting(&model, "new", b"");
    file.write_at(&[1; 1024], 0).unwrap();
    let mut has_shown = false;
    for seed in 0..SEEDS {
        let crash = Crash { is_stale: true, ..Crash::new(Survivors::Random, seed) };
        let new = model.crash(crash);
        has_shown |= new.bytes(path("new")).contains(&7);
        assert!(!after(&model, Survivors::Random, seed, "new").unwrap().contains(&7));
    }
    assert!(has_shown);
}

#[test]
fn damage_is_seen() {
    let model = Model::new();
    lasting(&model, "a", &[1; 2000]);
    model.flip(path("a"), 3, 0x80);
    model.zero(path("a"), 10..12);
    model.cut(path("a"), 1500);
    model.spoil(path("a"), 600..601);
    let file = model.open_read(path("a")).unwrap();
    let mut bytes = [0; 600];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 600);
    assert_eq!((bytes[3], bytes[9], bytes[10], bytes[12]), (0x81, 1, 0, 1));
    assert!(file.read_at(&mut bytes, 1).is_err());
    assert_eq!(file.length().unwrap(), 1500);
    assert!(file.write_at(b"x", 0).is_err(), "it is open to read");
    model.overwrite(path("a"), b"other");
    assert_eq!(read(&*file), b"other");
}

#[test]
fn a_lock_ends_with_its_program() {
    let model = Model::new();
    let held = model.lock(path("LOCK")).unwrap();
    assert!(held.is_some());
    assert!(model.lock(path("LOCK")).unwrap().is_none());
    assert!(model.restart().lock(path("LOCK")).unwrap().is_some());
    drop(held);
}
