//! A data directory that is removed while its store is open.

use std::fs;

use super::*;

const GONE: &str = "the data directory was removed or replaced while it was open";

/// Waits until a store has noticed that its directory is gone.
async fn notice(store: &Store) {
    until(|| async { (store.offline() == [GONE]).then_some(()) }).await;
}

fn unavailable<T: std::fmt::Debug>(result: Result<T, Refusal>) {
    assert_eq!(result.unwrap_err().reason(), "queue-unavailable");
}

#[tokio::test]
async fn what_cannot_last_is_not_taken_any_more() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1", "b1"]).await;
    let one = Receive { max_events: 1, max_bytes: 1 << 20, wait: Duration::ZERO, lease: None };
    let first = Receive { wait: Duration::from_secs(5), ..one };
    let leased = store.receive("billing", first).await.unwrap();
    assert_eq!(store.offline(), [""; 0]);
    fs::remove_dir_all(home.dir.path()).unwrap();
    notice(&store).await;
    unavailable(store.publish("orders", vec![event("c1")]).await);
    // Leases from here on would be forgotten, even with room that was taken before.
    for _ in 0..3 {
        unavailable(store.receive("billing", one).await);
    }
    let ack = TokenItem { token: leased[0].token.clone(), ..TokenItem::default() };
    unavailable(store.settle("billing", Verb::Ack, vec![ack]).await);
    let topic = store.topic("orders").await.unwrap();
    assert_eq!(topic.state, TopicState::Offline { reason: GONE.into(), range: None });
    unavailable(store.reopen("orders").await);
    store.shutdown(Duration::ZERO).await.ok();
    assert!(!home.dir.path().exists(), "and nothing is made in its place");
}

#[tokio::test]
async fn a_backup_that_is_put_in_its_place_is_left_as_it_is() {
    let home = Home::new();
    let path = home.dir.path().join("data");
    let open = || async {
        let storage = Arc::new(Real::open(&path).unwrap());
        let settings = Settings { dir: path.clone(), ..home.settings.clone() };
        Store::open(storage, settings, Arc::new(home.clock.clone()), Arc::new(Nowhere))
            .await
            .unwrap()
    };
    let store = open().await;
    publish(&store, &["a1"]).await;
    store.shutdown(Duration::ZERO).await.unwrap();
    drop(store);
    let backup = home.dir.path().join("backup");
    copy(&path, &backup);

    let store = open().await;
    publish(&store, &["a2", "a3"]).await;
    assert!(!take(&store).await.is_empty());
    fs::rename(&path, home.dir.path().join("aside")).unwrap();
    copy(&backup, &path);
    notice(&store).await;
    unavailable(store.publish("orders", vec![event("c1")]).await);
    // Nor does the old store's last write tell the backup how far it was.
    store.shutdown(Duration::ZERO).await.ok();
    drop(store);
    assert_eq!(listed(&path), listed(&backup));

    let store = open().await;
    assert_eq!(store.offline(), [""; 0]);
    let leased = take(&store).await;
    assert_eq!(leased.iter().map(|it| &*it.event.id).collect::<Vec<_>>(), ["a1"]);
    store.shutdown(Duration::ZERO).await.unwrap();
}

/// Every file below `dir`, with its content.
fn listed(dir: &std::path::Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(
                listed(&entry.path())
                    .into_iter()
                    .map(|(it, bytes)| (format!("{name}/{it}"), bytes)),
            );
        } else {
            found.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for (name, bytes) in listed(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}
