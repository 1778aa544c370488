//! A journal with a gap: whatever is lost, what it had not settled is delivered.

use std::{fs, path::Path};

use super::*;
use crate::events::{
    delivery::snapshot::Snapshot,
    queue::{
        log::{self, DiskSettings, DiskWatch, Place},
        storage,
        topic::registry::Registry,
    },
    settings::Recovery,
};

/// Events settled, leased, or neither, in separate journal records, all after the last snapshot.
async fn worked(home: &Home) {
    let store = home.open().await;
    for id in ["a", "b", "c", "d", "e", "f"] {
        publish(&store, &[id]).await;
        let leased = take(&store).await;
        assert_eq!(leased.len(), 1);
        if id < "d" {
            assert_eq!(say(&store, Verb::Ack, &leased[0]).await, TokenStatus::Ok);
        }
    }
    let closing = store.clone();
    tokio::task::spawn_blocking(move || closing.close()).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(path, target).unwrap();
        }
    }
}

/// Does what `sluice queue verify --repair` does to the journal and the state.
fn mended(dir: &Path) {
    let storage = storage::open(dir).unwrap();
    let registry = Registry::open(storage.clone(), Duration::from_secs(9)).unwrap();
    let room = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
    let layout::LogAt { dir, id, .. } = layout::journal(&registry);
    let disk = Arc::new(DiskWatch::new(storage.clone(), room));
    let place = Place { storage: storage.clone(), dir, store: registry.store(), id, disk };
    let loaded = Snapshot::load(&*storage, Path::new(layout::STATE), registry.store()).unwrap();
    let floor = floor_of_journal(&place, &loaded.snapshot, &registry).unwrap();
    log::repair(&place, &log::Settings::default(), floor).unwrap();
    let known = examine_state(&place, &loaded.snapshot, &registry).unwrap();
    if !known.forgotten().is_nothing() {
        known.mend(&place, 0).unwrap();
    }
}

/// The journal, and how much of it is used.
fn journal(dir: &Path) -> (std::path::PathBuf, Vec<u8>, usize) {
    let files = fs::read_dir(dir.join("state/journal")).unwrap().flatten();
    let newest =
        files.map(|it| it.path()).filter(|it| it.extension().is_some_and(|it| it == "log"));
    let newest = newest.max().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    (newest, bytes, used)
}

#[tokio::test]
async fn whatever_is_lost_of_the_journal_nothing_that_is_not_settled_is_lost_with_it() {
    let mut home = Home::new();
    worked(&home).await;
    home.clock.advance(60_000);
    let mut found = 0;
    for recovery in [Recovery::Strict, Recovery::Quarantine] {
        for at in (4096..).step_by(127) {
            let folder = tempfile::tempdir().unwrap();
            copy(home.dir.path(), folder.path());
            let (path, mut bytes, used) = journal(folder.path());
            if at > used {
                break;
            }
            bytes[at] ^= 0x20;
            fs::write(path, bytes).unwrap();
            home.settings.dir = folder.path().into();
            home.settings.recovery = recovery;
            let open = || {
                let storage = Arc::new(Real::open(folder.path()).unwrap());
                let clock = Arc::new(home.clock.clone());
                Store::open(storage, home.settings.clone(), clock, Arc::new(Nowhere))
            };
            let store = match open().await {
                Ok(store) => store,
                Err(error) => {
                    let message = error.to_string();
                    assert!(
                        recovery == Recovery::Strict && message.contains("--repair"),
                        "{message}"
                    );
                    found += 1;
                    mended(folder.path());
                    open().await.unwrap_or_else(|error| panic!("byte {at}: {error}"))
                }
            };
            let mut left = vec!["d", "e", "f"];
            while !left.is_empty() {
                let leased = take(&store).await;
                assert!(!leased.is_empty(), "byte {at}, {recovery:?}: {left:?} are lost");
                left.retain(|id| leased.iter().all(|it| it.event.id != *id));
            }
            store.shutdown(Duration::ZERO).await.unwrap();
        }
    }
    assert!(found > 10, "only {found} of the flips were met");
}
