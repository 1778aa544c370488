//! A data directory that is removed under a store that is open.

use std::fs;

use super::*;

#[tokio::test]
async fn what_cannot_last_is_not_taken_any_more() {
    let home = Home::new();
    let store = home.open().await;
    publish(&store, &["a1"]).await;
    assert_eq!(store.offline(), [""; 0]);
    fs::remove_dir_all(home.dir.path()).unwrap();
    let refused = until(|| async {
        let published = store.publish("orders", vec![event(&fastrand::u64(..).to_string())]).await;
        published.err()
    });
    assert_eq!(refused.await.reason(), "queue-unavailable");
    assert_eq!(store.offline(), ["the data directory was removed"]);
    assert!(!home.dir.path().exists(), "and nothing is made in its place");
    store.shutdown(Duration::ZERO).await.ok();
}
