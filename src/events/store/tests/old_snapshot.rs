//! A snapshot of the delivery state from before the start of its journal: an old copy was put back.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{super::layout::LogAt, *};
use crate::events::{
    delivery::snapshot::Snapshot,
    queue::{
        Offset,
        log::{DiskSettings, DiskWatch, Place},
        storage::Storage,
        topic::registry::Registry,
    },
    settings::Recovery,
};

impl Home {
    fn snapshots(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("state")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_one = |path: &PathBuf| {
            let name = path.file_name().unwrap().to_str().unwrap();
            name.starts_with("snapshot-")
        };
        let mut found: Vec<_> = paths.filter(is_one).collect();
        found.sort();
        found
    }

    /// Leaves only this snapshot.
    fn put_back(&self, (name, bytes): &(PathBuf, Vec<u8>)) {
        for newer in self.snapshots() {
            fs::remove_file(newer).unwrap();
        }
        fs::write(name, bytes).unwrap();
    }
}

/// Publishes this many events, and fails or settles them. Their keys differ.
async fn work(store: &Store, from: usize, count: usize, verb: Verb) {
    let ids: Vec<_> = (from..from + count).map(|n| n.to_string()).collect();
    let events = ids.iter().map(|id| Event { key: Some(id.clone().into()), ..event(id) }).collect();
    assert_eq!(store.publish("orders", events).await.unwrap().len(), count);
    let mut done = 0;
    while done < count {
        let leased = take(store).await;
        done += leased.len();
        let reason = (verb == Verb::Reject).then(|| "x".repeat(1_000));
        let item = |it: Leased| TokenItem {
            token: it.token,
            reason: reason.clone(),
            ..TokenItem::default()
        };
        store.settle("billing", verb, leased.into_iter().map(item).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn it_is_no_base_to_go_on_from_unasked_and_nothing_is_left_out_once_it_is() {
    let mut home = Home::new();
    // The journal's segments are of 64 KiB.
    home.settings.disk.reserve = 256 << 10;
    let store = home.open().await;
    work(&store, 0, 10, Verb::Ack).await;
    store.snapshot().await.unwrap();
    let name = home.snapshots().pop().unwrap();
    let old = (name.clone(), fs::read(&name).unwrap());
    let position = name.to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
    let mut count = 10;
    while store.0.journal.start() <= Offset(position) {
        assert!(count < 5_000, "the journal begins at {}", store.0.journal.start());
        work(&store, count, 100, Verb::Reject).await;
        store.snapshot().await.unwrap();
        count += 100;
    }
    until(|| async {
        let letters = store.subscription("billing").await.unwrap().dead_letters.count;
        (letters == count as u64 - 10).then_some(())
    })
    .await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);

    home.put_back(&old);
    let refused = until(|| async {
        home.try_open().await.err().filter(|it| !matches!(it, StoreError::Registry(_)))
    })
    .await;
    let told = "delivery state is lost: the latest of billing";
    assert!(matches!(&refused, StoreError::Forgotten(_)), "{refused}");
    assert!(refused.to_string().contains(told), "{refused}");

    // Whoever verifies finds the same, and a repair goes on from the old state.
    let storage: Arc<dyn Storage> = Arc::new(Real::open(home.dir.path()).unwrap());
    let registry = until(|| async { Registry::open(storage.clone(), Duration::ZERO).ok() }).await;
    let disk = DiskSettings { low_water: 0.0, min_free: 0, reserve: 0 };
    let LogAt { dir, id, .. } = layout::journal(&registry);
    let disk = Arc::new(DiskWatch::new(storage.clone(), disk));
    let place = Place { disk, storage: storage.clone(), dir, store: registry.store(), id };
    let load =
        || Snapshot::load(&*storage, Path::new(layout::STATE), place.store).unwrap().snapshot;
    let known = examine_state(&place, &load(), &registry).unwrap();
    assert_eq!(known.forgotten().to_string(), told);
    let begun = known.mend(&place, home.clock.now().wall).unwrap();
    assert!(begun["billing"].contains("goes on from before what is lost"), "{begun:?}");
    assert!(examine_state(&place, &load(), &registry).unwrap().forgotten().is_nothing());
    drop(registry);
    redelivers(&home, count - 10).await;

    // Or the gateway itself, if that was chosen.
    home.put_back(&old);
    home.settings.recovery = Recovery::Quarantine;
    redelivers(&home, count - 10).await;
}

/// Opens the store: it delivers this many events, which had been settled since the old snapshot.
async fn redelivers(home: &Home, count: usize) {
    let store = until(|| async { home.try_open().await.ok() }).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < count {
        let leased = take(&store).await;
        assert!(!leased.is_empty(), "{} of {count}", seen.len());
        seen.extend(leased.iter().map(|it| it.event.id.clone()));
        let item = |it: Leased| TokenItem { token: it.token, ..TokenItem::default() };
        store.settle("billing", Verb::Ack, leased.into_iter().map(item).collect()).await.unwrap();
    }
    assert!((0..10).all(|n: u32| !seen.contains(&n.to_string())), "these were settled before");
    assert_eq!(store.subscription("billing").await.unwrap().lag_events, 0);
    store.shutdown(Duration::ZERO).await.unwrap();
}
